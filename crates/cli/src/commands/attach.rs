//! `datum-connect attach`.

mod background;
mod progress;
mod serve;

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use masque_client::{
    AttachConfig, AttachError, Attachment, ConnectorIdentity, Handle, Observer, ReceiveError,
    Scope, ServerTrust, Target, TunnelEvent, VpcName, attach, attach_tun,
};
use masque_netlink::NetlinkError;
use masque_tun::{TunConfig, TunDevice, TunError, TunQueue};
use nix::sys::signal::{SigSet, Signal};

use self::{progress::Progress, serve::Serving};
use crate::{
    args::{AttachArgs, AuthMethod, TunnelArgs},
    cluster::{self, Found},
    control::{Attachment as Running, ControlServer},
    dirs::{self, Dirs},
    failure::{Exit, Failure},
    host::{self, HostError, HostNetwork},
    profile::{ConnectorSettings, Profile},
};

/// Devices are named dc0, dc1, …; nobody attaches to more VPCs at once.
const DEVICES_MAX: usize = 64;
/// How often an attachment without a device looks at packets nobody reads.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// Attaches until it is told to end.
pub(crate) fn run(args: &AttachArgs, dirs: &Dirs) -> Result<(), Failure> {
    let vpc = choose_vpc(args.vpc.as_ref(), dirs)?;
    let mut profile = if args.fresh {
        Profile::default()
    } else {
        Profile::load(dirs, &vpc)?
    };
    let mut tunnel = complete(&profile, &args.tunnel, dirs)?;
    let key = dirs.key_file(tunnel.key.as_deref());
    let mut connector = ConnectorSettings::of_key(dirs, &key)?.connector();
    let in_cluster = args.cluster.kubeconfig.is_some();
    if !in_cluster {
        // Told before anything is made.
        config(&vpc, &tunnel, dirs)?;
    }
    dirs.make_state()?;
    // Before anything is sent: a second session of the same key would take over from the first.
    if Running::open(dirs, &vpc)?.found.is_some() {
        return Err(attached_already(&vpc));
    }
    if args.background && !args.child {
        return background::start();
    }
    if in_cluster {
        let found = ask_cluster(args, &vpc, &tunnel, &connector, dirs)?;
        profile.follow(&found);
        tunnel = complete(&profile, &args.tunnel, dirs)?;
        connector = found.connector;
    }
    let config = AttachConfig {
        keep_trying: args.keep_trying,
        ..config(&vpc, &tunnel, dirs)?
    };
    // Before any thread is there: they all inherit it.
    let signals = block_signals()?;
    let note = note_path(dirs, &vpc);
    let progress = Progress {
        connector,
        vpc: vpc.clone(),
        gateway: config.gateway.to_string(),
        child: args
            .child
            .then(|| dirs.state.join(format!("{}.log", vpc.file_stem()))),
        profile: Some((dirs.clone(), Profile::from(&tunnel))),
        keep_trying: args.keep_trying,
        was_up: false,
        reached: None,
        told: None,
    };
    let session = if args.no_tun {
        Session::without_device(&config, progress)?
    } else {
        Session::with_device(&config, progress, args, note)?
    };
    session.run(&vpc, dirs, signals)
}

/// What was typed and remembered, and whose key it is.
pub(crate) fn complete(
    profile: &Profile,
    typed: &TunnelArgs,
    dirs: &Dirs,
) -> Result<TunnelArgs, Failure> {
    let mut tunnel = profile.complete(typed)?;
    tunnel.key = tunnel.key.or_else(|| dirs.callers_key());
    Ok(tunnel)
}

/// Has this machine let in by a cluster, which says where its gateway is.
fn ask_cluster(
    args: &AttachArgs,
    vpc: &VpcName,
    tunnel: &TunnelArgs,
    connector: &str,
    dirs: &Dirs,
) -> Result<Found, Failure> {
    let identity = ConnectorIdentity::load(&dirs.key_file(tunnel.key.as_deref()))?;
    let cluster = &args.cluster;
    cluster::find(&cluster::Request {
        file: cluster.kubeconfig.as_ref().and_then(Option::as_ref),
        context: cluster.context.as_deref(),
        namespace: cluster.namespace.as_deref(),
        attachment: cluster.attachment.as_deref(),
        wait: Duration::from_secs(cluster.wait.into()),
        vpc,
        connector,
        id: identity.public_id(),
        need_gateway: args.tunnel.gateway.is_none(),
        need_ca: args.tunnel.ca.is_none(),
    })
}

/// An attachment and what it changed here.
struct Session {
    attachment: Attachment,
    network: Option<Arc<Mutex<HostNetwork>>>,
    device: String,
    /// Tells of events where no device follows them.
    teller: Option<thread::JoinHandle<()>>,
    setup: Arc<Setup>,
}

/// Whether this machine can use the tunnel at all; ends the attachment when it cannot.
#[derive(Debug, Default)]
struct Setup {
    failure: Mutex<Option<Failure>>,
    /// Known once the attachment was started, maybe after the failure.
    handle: OnceLock<Handle>,
}

impl Setup {
    fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.stop_if_failed();
    }

    fn started(&self, handle: &Handle) {
        let _ = self.handle.set(handle.clone());
        self.stop_if_failed();
    }

    fn stop_if_failed(&self) {
        if let Some(handle) = self.handle.get()
            && lock(&self.failure).is_some()
        {
            handle.stop();
        }
    }
}

impl Session {
    fn with_device(
        config: &AttachConfig,
        mut progress: Progress,
        args: &AttachArgs,
        note: PathBuf,
    ) -> Result<Self, Failure> {
        let (device, queue) = open_device(args.device.as_deref())?;
        // Who may have a device may take back, too; nobody else could, and the notes would be lost.
        host::recover(&note);
        let network = HostNetwork::new(&device.name, args.default_route, note)
            .map_err(|error| netlink(&error))?;
        let network = Arc::new(Mutex::new(network));
        let setup = Arc::new(Setup::default());
        let (shared, failed) = (Arc::clone(&network), Arc::clone(&setup));
        let name = device.name.clone();
        let observer: Observer = Box::new(move |event| {
            match follow(&mut lock(&shared), event) {
                Ok(()) => progress.tell(event, &name),
                // A tunnel that this machine cannot use is none.
                Err(error) if !progress.was_up => failed.fail(error.into()),
                Err(error) => {
                    say!("{name} is not as the gateway wants it: {error}");
                    progress.tell(event, &name);
                }
            }
        });
        let attachment = attach_tun(config, queue, device.offloads, observer)?;
        setup.started(attachment.handle());
        Ok(Self {
            attachment,
            network: Some(network),
            device: device.name,
            teller: None,
            setup,
        })
    }

    fn without_device(config: &AttachConfig, mut progress: Progress) -> Result<Self, Failure> {
        let attached = attach(config)?;
        let (events, receiver) = (attached.events, attached.receiver);
        let sender = attached.sender;
        let teller = thread::spawn(move || {
            // Held, so that the attachment sees an application.
            let _sender = sender;
            loop {
                let over = loop {
                    match receiver.try_receive() {
                        Ok(_) => {}
                        Err(reason) => break reason == ReceiveError::Over,
                    }
                };
                match events.next_timeout(DRAIN_EVERY) {
                    Some(event) => progress.tell(&event, "no device"),
                    None if over => return,
                    None => {}
                }
            }
        });
        Ok(Self {
            attachment: attached.attachment,
            network: None,
            device: String::new(),
            teller: Some(teller),
            setup: Arc::default(),
        })
    }

    fn run(self, vpc: &VpcName, dirs: &Dirs, signals: SigSet) -> Result<(), Failure> {
        let Self {
            attachment,
            network,
            device,
            teller,
            setup,
        } = self;
        let handle = attachment.handle().clone();
        let serving = Serving {
            vpc: vpc.to_string(),
            device,
            handle: handle.clone(),
        };
        let server = serve(serving, vpc, dirs);
        if server.is_ok() {
            thread::spawn(move || {
                while let Ok(signal) = signals.wait() {
                    tracing::info!(%signal, "ending");
                    handle.stop();
                }
            });
        } else {
            // Nobody could ask it or end it.
            handle.stop();
        }
        let reason = attachment.join();
        if let Some(teller) = teller {
            // What was told last comes before how it ended.
            let _ = teller.join();
        }
        let undone = network.map_or(Ok(()), |network| lock(&network).undo());
        let server = server?;
        if let Some(failure) = lock(&setup.failure).take() {
            return Err(failure);
        }
        undone.map_err(|error| netlink(&error))?;
        // Last, because `detach` waits for it.
        drop(server);
        reason.map_or(Ok(()), |error| Err(error.into()))
    }
}

fn serve(serving: Serving, vpc: &VpcName, dirs: &Dirs) -> Result<ControlServer, Failure> {
    let path = Running::socket(dirs, vpc);
    ControlServer::start(&path, dirs::sudo_caller(), Arc::new(serving)).map_err(|error| match error
        .kind()
    {
        io::ErrorKind::AddrInUse => attached_already(vpc),
        _ => Failure::file("make the control socket", &path, &error),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn attached_already(vpc: &VpcName) -> Failure {
    Failure::new(
        Exit::CannotCreate,
        format!("this machine is attached to {vpc} already"),
        format!("end that first: `datum-connect detach --vpc {vpc}`"),
    )
}

/// Gives the machine what an event says. Fails when it cannot use the tunnel.
fn follow(network: &mut HostNetwork, event: &TunnelEvent) -> Result<(), HostError> {
    let done = match event {
        TunnelEvent::Up(assignment) | TunnelEvent::Changed(assignment) => {
            for (what, detail) in network.apply(assignment)?.lines() {
                say!("  {what:<14}{detail}");
            }
            Ok(())
        }
        TunnelEvent::Mtu(mtu_bytes) => network.set_mtu(*mtu_bytes),
        TunnelEvent::Down { .. } | TunnelEvent::NetworkChanged => network.renew().map(drop),
        _ => Ok(()),
    };
    if let Err(error) = done {
        tracing::error!(%error, "this machine's network is not as the tunnel needs it");
    }
    Ok(())
}

/// The VPC that was named, or the only one that has a profile.
pub(crate) fn choose_vpc(named: Option<&VpcName>, dirs: &Dirs) -> Result<VpcName, Failure> {
    if let Some(vpc) = named {
        return Ok(vpc.clone());
    }
    let mut known = Profile::list(dirs);
    match (known.pop(), known.last()) {
        (Some(only), None) => Ok(only),
        (None, _) => Err(Failure::new(
            Exit::Usage,
            "no VPC is named and none was attached to before",
            "name one: `datum-connect attach --vpc NAME --gateway URL`",
        )),
        (Some(last), Some(other)) => Err(Failure::new(
            Exit::Usage,
            format!("no VPC is named and several are known, {other} and {last} among them"),
            format!("name one: `--vpc {other}`"),
        )),
    }
}

/// What the flags mean to the SDK.
pub(crate) fn config(
    vpc: &VpcName,
    args: &TunnelArgs,
    dirs: &Dirs,
) -> Result<AttachConfig, Failure> {
    let Some(gateway) = args.gateway.clone() else {
        return Err(Failure::new(
            Exit::Usage,
            format!("where the gateway of {vpc} is, is not known yet"),
            format!("say it once: `datum-connect attach --vpc {vpc} --gateway https://HOST:PORT`"),
        ));
    };
    let identity = ConnectorIdentity::load(&dirs.key_file(args.key.as_deref()))?;
    let mut config = AttachConfig::new(gateway, vpc.clone(), Arc::new(identity));
    if let Some(pem) = &args.ca_pem {
        config.trust = ServerTrust::RootsPem(pem.clone().into_bytes());
    }
    if let Some(ca) = &args.ca {
        // Read here, so that a missing file is told as what it is.
        let pem = fs::read(ca).map_err(|error| Failure::file("read", ca, &error))?;
        config.trust = ServerTrust::RootsPem(pem);
    }
    let target = args
        .target
        .map_or(Target::Any, |target| Target::Prefix(target.trunc()));
    config.scope = Scope {
        target,
        protocol: args.protocol,
    };
    config.auth = match args.auth {
        Some(AuthMethod::ClientCertificate) => masque_client::Auth::ClientCertificate,
        Some(AuthMethod::ConcealedKey) | None => masque_client::Auth::ConcealedKey,
    };
    if let Some(mtu_bytes) = args.mtu {
        config.mtu_max_bytes = mtu_bytes;
    }
    if let Some(us) = args.busy_poll_us {
        config.busy_poll = Duration::from_micros(us.into());
    }
    Ok(config)
}

fn open_device(name: Option<&str>) -> Result<(TunDevice, TunQueue), Failure> {
    let open = |name: String| {
        TunDevice::open(&TunConfig {
            name,
            queues: 1,
            offload: true,
        })
    };
    let mut opened = match name {
        Some(name) => open(name.to_owned()),
        None => open("dc0".to_owned()),
    };
    if name.is_none() {
        for number in 1..DEVICES_MAX {
            if !matches!(opened, Err(TunError::NameTaken(_))) {
                break;
            }
            opened = open(format!("dc{number}"));
        }
    }
    let (device, queues) = opened.map_err(|error| device_failure(&error))?;
    let queue = queues.into_iter().next();
    let queue = queue.ok_or_else(|| device_failure(&TunError::BadQueues(0)))?;
    Ok((device, queue))
}

/// What a refused device means; its words say what to do.
pub(crate) fn device_failure(error: &TunError) -> Failure {
    let exit = match error {
        TunError::NotPermitted | TunError::DeviceDenied => Exit::NoPermission,
        TunError::BadName(_) => Exit::Usage,
        _ => Exit::CannotCreate,
    };
    let advice = match error {
        TunError::NotPermitted => {
            "`sudo setcap cap_net_admin+ep \"$(command -v datum-connect)\"`, or attach without a \
             device: `--no-tun`"
        }
        TunError::DeviceDenied | TunError::NoDevice => "or attach without a device: `--no-tun`",
        _ => "",
    };
    Failure::new(exit, error.to_string(), advice)
}

fn netlink(error: &NetlinkError) -> Failure {
    let exit = match error {
        NetlinkError::NotPermitted { .. } => Exit::NoPermission,
        _ => Exit::Io,
    };
    Failure::new(exit, error.to_string(), "")
}

/// Signals that end the attachment are waited for by a thread, not handled anywhere.
fn block_signals() -> Result<SigSet, Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().map_err(|error| {
        Failure::from(AttachError::Local {
            reason: format!("signals cannot be blocked: {error}"),
        })
    })?;
    Ok(signals)
}

/// Where what a crash would leave is written down.
pub(crate) fn note_path(dirs: &Dirs, vpc: &VpcName) -> PathBuf {
    dirs.state.join(format!("{}.undo", vpc.file_stem()))
}
