//! Makes the machine what the manifests say: TUN devices, kernel routes, listeners, tables; and
//! takes it all away at the end. Lives on the main thread; the only one that changes anything
//! outside of the process.

mod devices;
mod gro;
mod kernel;
mod verdict;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use masque_controller::Snapshot;
use masque_gateway_core::{Changes, Now};
use masque_model::ObjectName;
use masque_netlink::{Kernel, LinkState, NetlinkError};
use masque_srv6::KernelCapabilities;
use masque_transport::{
    MachineConfig, ShardId,
    sockets::{SocketOptions, UdpSocket},
};

use crate::{
    args::RunArgs,
    certificates::{self, LastGood, PortTls},
    command::{Command, PortSetup},
    control::{Control, Devices},
    exit::Fatal,
    sites::Sites,
    source::Origin,
};
use devices::{Closing, VpcDevice};
use gro::ReceiveOffload;

/// Secrets of this process.
#[derive(Clone)]
pub(crate) struct Secrets {
    /// Keys Retry tokens of all shards.
    pub(crate) token: [u8; 32],
    /// Keys stateless resets; the same after a restart.
    pub(crate) reset: [u8; 32],
}

/// What exists outside of the process, and how to change it.
pub(crate) struct Supervisor {
    args: RunArgs,
    origin: Origin,
    state_dir: PathBuf,
    control: Arc<Control>,
    kernel: Kernel,
    capabilities: KernelCapabilities,
    secrets: Secrets,
    snapshots: Vec<Snapshot>,
    vpcs: BTreeMap<ObjectName, VpcDevice>,
    /// Slots whose queues some packet thread has yet to close.
    closing: Vec<Closing>,
    /// The device towards the fabric; empty before the first look.
    underlay: String,
    /// How the devices were when the kernel's state was last settled.
    links: BTreeMap<String, Option<LinkState>>,
    offload: ReceiveOffload,
    ports: BTreeMap<u16, PortTls>,
    certificates: LastGood,
    decapsulation: &'static str,
    /// Problems that the log has, so that a look that finds nothing new says nothing.
    told: Vec<String>,
    epoch: Instant,
}

impl Supervisor {
    /// Looks at the kernel, and clears what a crashed gateway left.
    ///
    /// # Errors
    /// [`Fatal`] when the kernel or its permissions do not allow a gateway.
    pub(crate) fn new(
        args: RunArgs,
        (origin, state_dir): (Origin, PathBuf),
        control: Arc<Control>,
        secrets: Secrets,
        epoch: Instant,
    ) -> Result<Self, Fatal> {
        let kernel = Kernel::open().map_err(|e| netlink_fatal(&e))?;
        kernel.clear().map_err(|e| netlink_fatal(&e))?;
        let capabilities = kernel.probe().map_err(|e| netlink_fatal(&e))?;
        tracing::info!(
            vrf = capabilities.vrf,
            end_dt46 = capabilities.end_dt46,
            end_dt6 = capabilities.end_dt6,
            end_dx4 = capabilities.end_dx4,
            encap_red = capabilities.encap_red,
            "what the kernel can do"
        );
        Ok(Self {
            offload: ReceiveOffload::new(args.gro),
            args,
            origin,
            state_dir,
            control,
            kernel,
            capabilities,
            secrets,
            snapshots: Vec::new(),
            vpcs: BTreeMap::new(),
            closing: Vec::new(),
            underlay: String::new(),
            links: BTreeMap::new(),
            ports: BTreeMap::new(),
            certificates: LastGood::new(),
            decapsulation: "",
            told: Vec::new(),
            epoch,
        })
    }

    /// Reads the folder, or looks at what the operator sent, and carries out what changed. What cannot be carried out is a problem in
    /// the status; the former state goes on.
    ///
    /// # Errors
    /// [`Fatal`] only the first time, when nothing can run at all.
    pub(crate) fn reload(&mut self, first: bool) -> Result<(), Fatal> {
        let loaded = match self.origin.load(&self.snapshots) {
            Ok(loaded) => loaded,
            Err(fatal) if first => return Err(fatal),
            Err(fatal) => {
                tracing::error!(%fatal, "the manifests cannot be read; the last good state goes on");
                return Ok(());
            }
        };
        let mut problems: Vec<(bool, String)> = loaded
            .compiled
            .problems
            .iter()
            .map(|problem| (problem.is_error(), problem.to_string()))
            .collect();
        let snapshots = loaded.compiled.snapshots;
        if first && snapshots.is_empty() {
            self.tell_problems(&problems);
            return Err(Fatal::nothing_to_run(self.origin.dir(), &problems));
        }
        let folder = self.origin.certificates();
        let development = Some(self.state_dir.as_path()).filter(|_| self.origin.is_development());
        let (certificates, wrong) = certificates::by_port(
            (&folder, development),
            &loaded.secrets,
            &snapshots,
            &mut self.certificates,
        );
        if first && certificates.is_empty() {
            let all = wrong
                .first()
                .cloned()
                .unwrap_or_else(|| "no HTTP3 listener".to_owned());
            return Err(Fatal::Certificate(all));
        }
        let mut trouble = wrong;

        let changes = self.apply(&snapshots, &mut trouble);
        // A snapshot that the registry refuses runs in its former version, everywhere.
        let running: Vec<Snapshot> = self
            .control
            .registry()
            .snapshots()
            .map(|snapshot| Snapshot::clone(snapshot))
            .collect();
        self.open_devices(&changes, first, &mut trouble)?;
        self.settle_kernel(&running, first)?;
        self.control.publish(
            Arc::clone(&changes.tables),
            &changes.ended,
            Sites::new(&running),
        );
        self.control.update_all(&changes.updated);
        self.open_ports(certificates, first, &mut trouble)?;
        self.close_devices(&running);
        problems.extend(trouble.into_iter().map(|sentence| (true, sentence)));
        self.tell_problems(&problems);
        self.control.publish_devices(Devices {
            tun: self
                .vpcs
                .iter()
                .map(|(name, vpc)| (name.clone(), vpc.name.clone()))
                .collect(),
            decapsulation: self.decapsulation.to_owned(),
            errors: problems.iter().filter(|(is_error, _)| *is_error).count(),
            problems: self.told.clone(),
        });
        self.snapshots = running;
        Ok(())
    }

    /// Logs the problems that are new, and remembers all.
    fn tell_problems(&mut self, problems: &[(bool, String)]) {
        for (is_error, line) in problems {
            if self.told.contains(line) {
                continue;
            }
            if *is_error {
                tracing::error!("{line}");
            } else {
                tracing::warn!("{line}");
            }
        }
        self.told = problems.iter().map(|(_, line)| line.clone()).collect();
    }

    /// Removes what was made in the kernel.
    pub(crate) fn clear(&mut self) {
        self.offload.restore();
        if let Err(error) = self.kernel.clear() {
            tracing::error!(%error, "the kernel keeps some of what this gateway made");
        }
    }

    /// When the gateway started.
    pub(crate) const fn epoch(&self) -> Instant {
        self.epoch
    }

    /// How long a drain may take: the longest that any ingress point grants.
    pub(crate) fn drain_deadline(&self) -> Duration {
        let longest = self.snapshots.iter().map(|s| s.drain_deadline_ms).max();
        Duration::from_millis(longest.unwrap_or_default())
    }

    /// The time as the registry counts it.
    pub(crate) fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Now { mono_ms, unix_s }
    }

    fn apply(&self, snapshots: &[Snapshot], trouble: &mut Vec<String>) -> Changes {
        let shared = snapshots.iter().cloned().map(Arc::new).collect();
        let changes = self.control.registry().apply(self.now(), shared);
        for (name, error) in &changes.refused {
            trouble.push(format!(
                "VPCIngressPoint {name}: {error}; what ran before goes on"
            ));
        }
        for conflict in &changes.conflicts {
            trouble.push(format!(
                "ConnectorAttachment {}: its fixed address cannot be given: {}",
                conflict.attachment, conflict.error
            ));
        }
        if !changes.touched.is_empty() {
            let touched: Vec<String> = changes.touched.iter().map(ToString::to_string).collect();
            tracing::info!(
                ingress_points = touched.join(","),
                sessions_ended = changes.ended.len(),
                sessions_updated = changes.updated.len(),
                "manifests applied"
            );
        }
        changes
    }

    /// Sockets for new ports, certificates for all.
    fn open_ports(
        &mut self,
        certificates: BTreeMap<u16, Vec<masque_transport::tls::ServerCertificate>>,
        first: bool,
        trouble: &mut Vec<String>,
    ) -> Result<(), Fatal> {
        let gone: Vec<u16> = self
            .ports
            .keys()
            .filter(|port| !certificates.contains_key(port))
            .copied()
            .collect();
        for port in gone {
            // A port whose certificates became unreadable keeps the ones it has.
            if self.control.sites().ports().any(|wanted| wanted == port) {
                continue;
            }
            self.ports.remove(&port);
            self.control.broadcast(|| Command::ClosePort(port));
            tracing::info!(port, "listener closed");
        }
        for (port, certificates) in certificates {
            let result = match self.ports.get(&port) {
                Some(tls) => tls.replace(certificates).map_err(Fatal::Certificate),
                None => self.open_port(port, certificates),
            };
            match result {
                Err(fatal) if first => return Err(fatal),
                Err(fatal) => trouble.push(fatal.to_string()),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    fn open_port(
        &mut self,
        port: u16,
        certificates: Vec<masque_transport::tls::ServerCertificate>,
    ) -> Result<(), Fatal> {
        let (tls, server) =
            PortTls::new(certificates, &self.secrets.token).map_err(Fatal::Certificate)?;
        let shards = u8::try_from(self.control.shards()).unwrap_or(u8::MAX);
        let options = SocketOptions::new(SocketAddr::new(self.args.listen_address, port));
        refuse_taken(&options, port)?;
        let sockets = UdpSocket::bind_shards(&options, shards).map_err(|e| Fatal::Listen {
            port,
            error: std::io::Error::other(e.to_string()),
        })?;
        for (index, socket) in (0..shards).zip(sockets) {
            let Some(shard) = ShardId::new(index, shards) else {
                continue;
            };
            let mut machine = MachineConfig::new(crate::run::random()?, self.secrets.reset);
            machine.tuning.max_udp_payload_bytes = masque_transport::JUMBO_UDP_PAYLOAD_BYTES;
            let server = Arc::clone(&server);
            let setup = PortSetup {
                port,
                shard,
                socket,
                server,
                machine,
            };
            self.control
                .send(u16::from(index), Command::OpenPort(Box::new(setup)));
        }
        self.ports.insert(port, tls);
        tracing::info!(port, shards, "listening for HTTP/3");
        Ok(())
    }
}

/// SO_REUSEPORT would let two gateways of one user share a port and split their clients between
/// them; a plain bind finds the other one.
fn refuse_taken(options: &SocketOptions, port: u16) -> Result<(), Fatal> {
    std::net::UdpSocket::bind(options.address)
        .map(drop)
        .map_err(|error| Fatal::listen(port, error))
}

fn netlink_fatal(error: &NetlinkError) -> Fatal {
    match error {
        NetlinkError::NotPermitted { .. } | NetlinkError::Sysctl { .. } => {
            Fatal::Permission(error.to_string())
        }
        NetlinkError::Busy => Fatal::AnotherRuns,
        other => Fatal::Kernel(other.to_string()),
    }
}
