//! A running gateway: starts the threads, watches the manifests, obeys signals, cleans up.

use std::{
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use masque_gateway_core::{DataplaneConfig, HopLimit, Now, Registry, RegistryConfig};
use masque_netlink::LinkMonitor;
use masque_transport::sockets::BusyPoll;
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior},
};

use crate::{
    admin,
    args::RunArgs,
    command::Command,
    control::Control,
    exit::Fatal,
    local,
    mailbox::Mailbox,
    operator_source::OperatorSource,
    shard::Shard,
    source::Origin,
    state::StateDir,
    supervisor::{Secrets, Supervisor},
    watch::{INTERVAL_MS, Watch},
};

/// After GOAWAY, and after the last session or the deadline, packets in flight get so long.
const LINGER: Duration = Duration::from_millis(100);
/// How often the kernel's state is compared with what it shall be: somebody else may have flushed it.
const REPAIR_INTERVAL: Duration = Duration::from_secs(30);
/// How often the folder is carried out though nothing in it changed: what failed is tried again, and
/// certificates that expired are told.
const RESYNC: Duration = Duration::from_secs(600);
/// A packet thread that was told to stop gets so long; a turn takes milliseconds. One that is stuck
/// must not keep the kernel's state from being cleared: a supervisor's SIGKILL would leave it.
const STOP_MAX: Duration = Duration::from_secs(5);
/// How often the end looks whether the packet threads have stopped.
const STOP_POLL: Duration = Duration::from_millis(5);
/// At the end, what blocks a thread gets so long: a Snapshot is written by then, and the system's
/// resolver, which nothing can stop, does not keep the process.
const RUNTIME_END_MAX: Duration = Duration::from_secs(2);
/// Addresses that could not be saved are saved again so late; the disk may have room by then.
const SAVE_RETRY: Duration = Duration::from_secs(10);
/// How often a drain looks whether sessions are left.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Runs until a signal ends it.
///
/// # Errors
/// [`Fatal`] when it cannot start.
pub(crate) fn run(args: &RunArgs) -> Result<(), Fatal> {
    let origin = origin(args)?;
    masque_telemetry::init_logs(args.log, &args.log_filter)
        .map_err(|e| Fatal::Usage(e.to_string()))?;
    // This thread changes the machine and may take its time over it; what others wait for (health,
    // metrics, names being resolved) has a thread of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| Fatal::Os {
            what: "cannot start the control runtime",
            error,
        })?;
    let ended = runtime.block_on(start(args, origin));
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    ended
}

async fn start(args: &RunArgs, origin: Origin) -> Result<(), Fatal> {
    let epoch = Instant::now();
    // Missing or unreadable folders are told before anything is touched.
    origin.load(&[])?;
    let state_path = args
        .state_dir()
        .unwrap_or_else(|| origin.dir().join(".state"));
    let state = StateDir::open(&state_path).map_err(|error| Fatal::Write {
        path: state_path.clone(),
        error,
    })?;
    let socket_path = state.control_socket();
    let listener = local::bind(&socket_path)?;

    let shards = args.shards.unwrap_or_else(default_shards);
    let mailboxes = mailboxes(shards)?;
    let registry = registry(&origin, &state, epoch);
    let control = Control::new(registry, mailboxes.clone(), epoch)
        .map_err(|e| Fatal::Usage(e.to_string()))?;
    let control = Arc::new(control);
    let runtime_is_set = control.runtime.set(tokio::runtime::Handle::current());
    debug_assert!(runtime_is_set.is_ok());
    let admin = TcpListener::bind(args.admin)
        .await
        .map_err(|error| Fatal::Admin {
            address: args.admin,
            error,
        })?;

    let reset = state.reset_secret(random()?);
    let secrets = Secrets {
        token: random()?,
        reset: reset.map_err(|error| Fatal::Write {
            path: state_path.clone(),
            error,
        })?,
    };
    let mut supervisor = Supervisor::new(
        args.clone(),
        (origin.clone(), state_path.clone()),
        Arc::clone(&control),
        secrets,
        epoch,
    )?;
    // Signals and changes that come while the first manifests are carried out count as well.
    let mut events = Events::new(origin.dir())?;
    let busy_poll = Duration::from_micros(args.busy_poll_us.into());
    let threads = spawn_shards(&control, &mailboxes, busy_poll, epoch)?;
    // What is asked of a gateway that starts is answered: it may wait long for its first Snapshot.
    tokio::spawn(local::serve(listener, Arc::clone(&control)));
    for shard in 0..shards {
        tokio::spawn(Arc::clone(&control).watch_shard(shard));
    }
    tokio::spawn(admin::serve(admin, Arc::clone(&control)));
    let ended = match begin(args, &state_path, &mut supervisor, &control) {
        Ok(operator) => {
            tracing::info!(shards, admin = %args.admin, "started");
            let machine = (&mut supervisor, operator);
            serve(machine, &control, &state, &mut events, &threads).await
        }
        Err(fatal) => Err(fatal),
    };
    control.broadcast(|| Command::Stop);
    let joined = join(threads, STOP_MAX);
    supervisor.clear();
    if origin.is_development() {
        save(&control, &state, epoch);
    }
    // A socket file that is gone already is what we want.
    let _gone_already = std::fs::remove_file(socket_path);
    ended.and(joined)
}

fn mailboxes(shards: u16) -> Result<Vec<Arc<Mailbox>>, Fatal> {
    let made: std::io::Result<_> = (0..shards).map(|_| Mailbox::new()).collect();
    made.map_err(|error| Fatal::Os {
        what: "cannot make an eventfd",
        error,
    })
}

/// Waits for the packet threads to end, but not for ever.
///
/// # Errors
/// [`Fatal::ThreadStuck`] when one goes on; it ends with the process.
fn join(threads: Vec<JoinHandle<()>>, limit: Duration) -> Result<(), Fatal> {
    let end = Instant::now() + limit;
    let mut stuck = 0;
    for thread in threads {
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(STOP_POLL);
        }
        if !thread.is_finished() {
            stuck += 1;
        } else if thread.join().is_err() {
            tracing::error!("a packet thread had panicked");
        }
    }
    if stuck > 0 {
        return Err(Fatal::ThreadStuck { threads: stuck });
    }
    Ok(())
}

/// What this gateway runs on.
fn origin(args: &RunArgs) -> Result<Origin, Fatal> {
    match (&args.operator.url, &args.operator.tls_dir, &args.manifests) {
        (Some(_), Some(tls_dir), _) => Ok(Origin::Operator {
            tls_dir: tls_dir.clone(),
            snapshot: None,
        }),
        (_, _, Some(dir)) => Ok(Origin::Folder(dir.clone())),
        _ => Err(Fatal::Usage(
            "nothing to run on: give --manifests DIR (`masque-gateway init DIR` writes one)"
                .to_owned(),
        )),
    }
}

/// Carries out the first manifests, or the Snapshot that was kept.
fn begin(
    args: &RunArgs,
    state_dir: &Path,
    supervisor: &mut Supervisor,
    control: &Control,
) -> Result<Option<OperatorSource>, Fatal> {
    if args.operator.url.is_some() {
        return OperatorSource::start(&args.operator, state_dir, supervisor, control).map(Some);
    }
    supervisor.reload(true)?;
    control.started();
    Ok(None)
}

/// With the addresses that an earlier process remembered. Those of a gateway in Kubernetes come from
/// its operator alone.
fn registry(origin: &Origin, state: &StateDir, epoch: Instant) -> Registry {
    let remembered = match origin {
        Origin::Folder(_) => state.load_addresses(),
        Origin::Operator { .. } => None,
    };
    match remembered {
        Some(remembered) => {
            Registry::with_addresses(RegistryConfig::default(), now(epoch), &remembered)
        }
        None => Registry::new(RegistryConfig::default()),
    }
}

/// What the main thread waits for.
struct Events {
    ends: Ends,
    hangup: Signal,
    watch: Watch,
    links: LinkMonitor,
}

impl Events {
    /// From now on nothing is missed.
    fn new(dir: &Path) -> Result<Self, Fatal> {
        Ok(Self {
            ends: Ends {
                terminate: on(SignalKind::terminate())?,
                interrupt: on(SignalKind::interrupt())?,
            },
            hangup: on(SignalKind::hangup())?,
            watch: Watch::new(dir),
            links: LinkMonitor::open().map_err(|error| Fatal::Os {
                what: "cannot watch the network devices",
                error,
            })?,
        })
    }
}

/// The signals that end the gateway.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    /// One of them came. May be cancelled.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// What happens again and again.
struct Timers {
    look: Interval,
    resync: Interval,
    repair: Interval,
    /// Only during a drain.
    drain: Interval,
}

impl Timers {
    fn new() -> Self {
        let every = |period| {
            let mut interval = tokio::time::interval(period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval.reset();
            interval
        };
        Self {
            look: every(Duration::from_millis(INTERVAL_MS)),
            resync: every(RESYNC),
            repair: every(REPAIR_INTERVAL),
            drain: every(DRAIN_POLL),
        }
    }
}

/// When the addresses were last saved.
#[derive(Debug, Default)]
struct Saved {
    version: Option<u64>,
    retry_at: Option<Instant>,
}

impl Saved {
    /// Whether to save this version now.
    fn is_due(&self, version: u64, now: Instant) -> bool {
        self.version != Some(version) && self.retry_at.is_none_or(|at| at <= now)
    }

    fn note(&mut self, version: u64, saved: bool, now: Instant) {
        if saved {
            self.version = Some(version);
        }
        self.retry_at = (!saved).then(|| now + SAVE_RETRY);
    }
}

/// Watches and obeys until a drain is over. A drain may take hours: until its end, who may reach what
/// is followed, and what breaks is mended.
async fn serve(
    (supervisor, mut operator): (&mut Supervisor, Option<OperatorSource>),
    control: &Arc<Control>,
    state: &StateDir,
    events: &mut Events,
    threads: &[JoinHandle<()>],
) -> Result<(), Fatal> {
    let mut timers = Timers::new();
    let mut saved = Saved::default();
    // The end of the drain, once one has begun.
    let mut deadline: Option<Instant> = None;
    while !deadline.is_some_and(|deadline| is_drained(control, deadline)) {
        if let Some(operator) = &mut operator {
            operator.settle(supervisor, control).await;
        }
        tokio::select! {
            () = events.ends.next() => {
                if deadline.is_some() {
                    tracing::warn!("second signal: ending at once");
                    break;
                }
                deadline = Some(begin_drain(supervisor, control));
            }
            _ = events.hangup.recv() => supervisor.reload(false)?,
            _ = timers.resync.tick() => supervisor.reload(false)?,
            received = OperatorSource::next(&mut operator) => {
                if let Some(operator) = &mut operator {
                    operator.take(received, supervisor)?;
                }
            }
            _ = timers.repair.tick() => supervisor.repair(),
            _ = timers.drain.tick(), if deadline.is_some() => {}
            _ = timers.look.tick() => {
                look(supervisor, events, threads)?;
                // With the look, not with each session: thousands may come at one time.
                if operator.is_none() {
                    save_news(control, state, supervisor.epoch(), &mut saved);
                }
            }
        }
    }
    tokio::time::sleep(LINGER).await;
    Ok(())
}

/// Looks whether anything has changed outside.
fn look(
    supervisor: &mut Supervisor,
    events: &mut Events,
    threads: &[JoinHandle<()>],
) -> Result<(), Fatal> {
    if threads.iter().any(JoinHandle::is_finished) {
        return Err(Fatal::ThreadEnded);
    }
    supervisor.close_queues();
    if events.watch.changed() {
        supervisor.reload(false)?;
    }
    // With the look, not with each change: those of one cause come together.
    if !matches!(events.links.changed(), Ok(false)) {
        supervisor.links_changed();
    }
    supervisor.retry();
    Ok(())
}

fn save_news(control: &Control, state: &StateDir, epoch: Instant, saved: &mut Saved) {
    let (version, now) = (control.registry().addresses_version(), Instant::now());
    if saved.is_due(version, now) {
        saved.note(version, save(control, state, epoch), now);
    }
}

/// GOAWAY; the sessions have until the deadline that this gives to leave.
fn begin_drain(supervisor: &Supervisor, control: &Control) -> Instant {
    control.draining();
    control.broadcast(|| Command::Drain);
    let deadline = supervisor.drain_deadline();
    let sessions = control.registry().session_count();
    tracing::info!(sessions, deadline_s = deadline.as_secs(), "draining");
    Instant::now() + deadline
}

/// Whether the last session has left, or the deadline has passed.
fn is_drained(control: &Control, deadline: Instant) -> bool {
    let sessions = control.registry().session_count();
    if sessions > 0 && Instant::now() >= deadline {
        tracing::warn!(sessions, "drain deadline passed");
        return true;
    }
    sessions == 0
}

fn spawn_shards(
    control: &Arc<Control>,
    mailboxes: &[Arc<Mailbox>],
    busy_poll: Duration,
    epoch: Instant,
) -> Result<Vec<JoinHandle<()>>, Fatal> {
    let mut threads = Vec::new();
    for id in (0..mailboxes.len()).filter_map(|id| u16::try_from(id).ok()) {
        let config = DataplaneConfig {
            shard: id,
            hop_limit: HopLimit::KernelDecrements,
            hash_seed: u64::from_le_bytes(*random()?.first_chunk().unwrap_or(&[0; 8])),
            ..DataplaneConfig::default()
        };
        let busy = BusyPoll::new(busy_poll);
        let shard = Shard::new(id, Arc::clone(control), mailboxes, config, busy, epoch).map_err(
            |error| Fatal::Os {
                what: "cannot make a poller",
                error,
            },
        )?;
        let thread = std::thread::Builder::new()
            .name(format!("shard-{id}"))
            .spawn(move || shard.run())
            .map_err(|error| Fatal::Os {
                what: "cannot start a packet thread",
                error,
            })?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Whether it could be done.
fn save(control: &Control, state: &StateDir, epoch: Instant) -> bool {
    let addresses = control.registry().export_addresses(now(epoch));
    state
        .save_addresses(&addresses)
        .inspect_err(|error| {
            tracing::error!(%error, "addresses are not remembered; free space or mend permissions");
        })
        .is_ok()
}

fn on(kind: SignalKind) -> Result<Signal, Fatal> {
    signal(kind).map_err(|error| Fatal::Os {
        what: "cannot wait for signals",
        error,
    })
}

fn now(epoch: Instant) -> Now {
    let mono_ms = u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
    let unix_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    Now { mono_ms, unix_s }
}

/// One packet thread a core.
fn default_shards() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.min(64)).unwrap_or(1)
}

/// 32 bytes nobody can guess.
///
/// # Errors
/// [`Fatal::Os`] when the system has no random numbers.
pub(crate) fn random() -> Result<[u8; 32], Fatal> {
    let mut bytes = [0; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Fatal::Os {
            what: "the system's random generator failed",
            error: std::io::Error::other("unspecified"),
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_thread_does_not_keep_the_end_from_coming() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let stuck = std::thread::spawn(move || {
            let _the_end = held.recv();
        });
        let good = std::thread::spawn(|| ());
        while !good.is_finished() {
            std::thread::yield_now();
        }
        let ended = join(vec![stuck, good], Duration::from_millis(20));
        assert!(matches!(ended, Err(Fatal::ThreadStuck { threads: 1 })));
        drop(hold);
        assert!(join(vec![std::thread::spawn(|| ())], STOP_MAX).is_ok());
    }

    #[test]
    fn what_could_not_be_saved_is_saved_later() {
        let (mut saved, now) = (Saved::default(), Instant::now());
        assert!(saved.is_due(7, now));
        saved.note(7, false, now);
        assert!(!saved.is_due(7, now), "not at every look");
        assert!(saved.is_due(7, now + SAVE_RETRY));
        saved.note(7, true, now);
        assert!(!saved.is_due(7, now + SAVE_RETRY));
        assert!(saved.is_due(8, now));
    }
}
