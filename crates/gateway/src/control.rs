//! What every thread of the gateway may ask: the registry of sessions behind one mutex, the tables
//! and sites of the moment, and how to reach the shards. Packets never come here.

mod admission;
mod lookups;
mod pulse;
mod reports;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use crossbeam_queue::SegQueue;
use masque_gateway_core::{Ended, Registry, Tables};
use masque_model::ObjectName;
use masque_telemetry::MetricsError;
use masque_tun::TunQueue;
use tokio::runtime::Handle;

pub(crate) use lookups::Lookup;

use crate::{command::Command, mailbox::Mailbox, metrics::Metrics, sites::Sites};
use lookups::Lookups;

/// How long a shard may take to report; a turn takes milliseconds at most.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the gateway does not serve yet, or not any more.
#[derive(Clone, Debug, Default)]
struct Condition {
    starting: bool,
    /// What the start waits for, if that is known.
    waits_for: Option<String>,
    draining: bool,
    /// Something that the manifests want is not there.
    trouble: Option<String>,
    /// Packet threads that do not answer.
    silent: BTreeSet<u16>,
}

/// What the supervisor knows of the devices, for reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Devices {
    /// TUN device by ingress point.
    pub(crate) tun: BTreeMap<ObjectName, String>,
    /// How packets leave SRv6.
    pub(crate) decapsulation: String,
    /// Problems in the manifests, one line each; errors first.
    pub(crate) problems: Vec<String>,
    /// How many of them are errors.
    pub(crate) errors: usize,
}

/// The gateway's control half.
pub(crate) struct Control {
    registry: Mutex<Registry>,
    tables: ArcSwap<Tables>,
    sites: ArcSwap<Sites>,
    mailboxes: Vec<Arc<Mailbox>>,
    condition: Mutex<Condition>,
    devices: ArcSwap<Devices>,
    /// TUN queues that packet threads serve no more; as many at most as were opened.
    closed: SegQueue<(TunQueue, Option<Arc<()>>)>,
    metrics: Metrics,
    /// Held while somebody reads the metrics.
    scrape: tokio::sync::Mutex<()>,
    started: Instant,
    fabric_mtu_bytes: AtomicUsize,
    /// TUN devices that were opened again after somebody deleted them.
    devices_reopened: AtomicU64,
    /// The names that are being resolved.
    lookups: Arc<Lookups>,
    /// Where names are resolved.
    pub(crate) runtime: OnceLock<Handle>,
}

impl Control {
    /// A gateway that serves nothing yet.
    ///
    /// # Errors
    /// [`MetricsError`] when a metric's name is taken twice.
    pub(crate) fn new(
        registry: Registry,
        mailboxes: Vec<Arc<Mailbox>>,
        started: Instant,
    ) -> Result<Self, MetricsError> {
        Ok(Self {
            tables: ArcSwap::new(Arc::clone(registry.tables())),
            registry: Mutex::new(registry),
            sites: ArcSwap::default(),
            mailboxes,
            condition: Mutex::new(Condition {
                starting: true,
                ..Condition::default()
            }),
            devices: ArcSwap::default(),
            closed: SegQueue::new(),
            metrics: Metrics::new()?,
            scrape: tokio::sync::Mutex::new(()),
            started,
            fabric_mtu_bytes: AtomicUsize::new(usize::MAX),
            devices_reopened: AtomicU64::new(0),
            lookups: Arc::default(),
            runtime: OnceLock::new(),
        })
    }

    /// The registry. A panic elsewhere while it was held leaves it usable: every operation of the
    /// registry is complete when it returns.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tables of the moment.
    pub(crate) fn tables(&self) -> Arc<Tables> {
        self.tables.load_full()
    }

    /// The sites of the moment.
    pub(crate) fn sites(&self) -> Arc<Sites> {
        self.sites.load_full()
    }

    /// Publishes what a change of manifests made: other tables, sessions that ended by it, other sites.
    pub(crate) fn publish(&self, tables: Arc<Tables>, ended: &[Ended], sites: Sites) {
        let other_sites = self.replace_sites(sites);
        self.tables.store(Arc::clone(&tables));
        self.broadcast(|| Command::Tables(Arc::clone(&tables)));
        // Before the sites are checked: these sessions have a better reason than their listener's end.
        self.end(ended);
        if other_sites {
            self.broadcast(|| Command::Recheck);
        }
    }

    /// Publishes other sites alone.
    pub(crate) fn publish_sites(&self, sites: Sites) {
        if self.replace_sites(sites) {
            self.broadcast(|| Command::Recheck);
        }
    }

    /// Whether they are others than before.
    fn replace_sites(&self, sites: Sites) -> bool {
        let former = self.sites.swap(Arc::new(sites));
        *former != *self.sites()
    }

    /// Publishes what reports say of devices and problems.
    pub(crate) fn publish_devices(&self, devices: Devices) {
        self.devices.store(Arc::new(devices));
    }

    /// A TUN device that somebody had deleted is open again.
    pub(crate) fn device_reopened(&self) {
        self.devices_reopened.fetch_add(1, Ordering::Relaxed);
    }

    /// A packet thread serves a queue no more. Closing it may take the device away, which takes the
    /// kernel a while: [`drop_closed`](Self::drop_closed) does that.
    pub(crate) fn give_back(&self, queue: TunQueue, closing: Option<Arc<()>>) {
        self.closed.push((queue, closing));
    }

    /// Closes what was given back; not for packet threads.
    pub(crate) fn drop_closed(&self) {
        while let Some((queue, closing)) = self.closed.pop() {
            drop(queue);
            drop(closing);
        }
    }

    /// Sends a command to every shard.
    pub(crate) fn broadcast(&self, command: impl Fn() -> Command) {
        for shard in 0..self.mailboxes.len() {
            self.send(u16::try_from(shard).unwrap_or(u16::MAX), command());
        }
    }

    /// Sends a command to one shard.
    pub(crate) fn send(&self, shard: u16, command: Command) {
        let sent = self
            .mailboxes
            .get(usize::from(shard))
            .map(|m| m.send(command));
        if let Some(Err(stuck)) = sent {
            tracing::error!(shard, %stuck, "restart the gateway");
        }
    }

    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    /// The first listeners and routes are in place.
    pub(crate) fn started(&self) {
        self.condition().starting = false;
    }

    /// The first Snapshot does not run yet; after it, this says nothing more.
    pub(crate) fn starts_slowly(&self, because: String) {
        self.condition().waits_for = Some(because);
    }

    /// Whether the stream to the operator is open.
    pub(crate) fn operator_connected(&self, connected: bool) {
        self.metrics.operator_connected(connected);
    }

    /// A drain has begun.
    pub(crate) fn draining(&self) {
        self.condition().draining = true;
    }

    /// Whether devices, ports and the kernel's state are as wanted, or what is missing.
    pub(crate) fn trouble(&self, problem: Option<String>) {
        self.condition().trouble = problem;
    }

    /// Why the gateway does not serve; `None` when it does.
    pub(crate) fn not_ready_because(&self) -> Option<String> {
        if let Some(stuck) = self.stuck_because() {
            return Some(stuck);
        }
        let condition = self.condition();
        if condition.draining {
            return Some("draining".to_owned());
        }
        if condition.starting {
            let waits_for = condition.waits_for.clone();
            return Some(waits_for.unwrap_or_else(|| "starting".to_owned()));
        }
        condition.trouble.clone()
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
