//! Makes the machine what the manifests say: TUN devices, kernel routes, listeners, tables; and
//! takes it all away at the end. Lives on the main thread; the only one that changes anything
//! outside of the process.

mod devices;
mod gro;
mod kernel;
mod ports;
#[cfg(test)]
mod tests;
mod trouble;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use masque_controller::{Secret, Snapshot};
use masque_gateway_core::{Changes, Now};
use masque_model::ObjectName;
use masque_netlink::{Kernel, LinkState, NetlinkError};
use masque_srv6::KernelCapabilities;
use masque_transport::tls::ServerCertificate;

use crate::{
    args::RunArgs,
    certificates::{self, LastGood, PortTls},
    control::{Control, Devices},
    exit::Fatal,
    sites::Sites,
    source::Origin,
    state::StateDir,
};
use devices::{Closing, VpcDevice};
use gro::ReceiveOffload;
use trouble::{Retry, Trouble};

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
    /// What every port is to show, as far as it is there.
    wanted_ports: BTreeMap<u16, Vec<ServerCertificate>>,
    certificates: LastGood,
    decapsulation: &'static str,
    /// What is wrong with the manifests and certificates, and whether it is an error.
    problems: Vec<(bool, String)>,
    trouble: Trouble,
    retry: Retry,
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
        // What a killed gateway has changed is wanted again in a moment, and restored at the end.
        kernel
            .remember_settings(&StateDir::sysctls(&state_dir))
            .map_err(|e| netlink_fatal(&e))?;
        kernel.sweep().map_err(|e| netlink_fatal(&e))?;
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
            wanted_ports: BTreeMap::new(),
            certificates: LastGood::new(),
            decapsulation: "",
            problems: Vec::new(),
            trouble: Trouble::default(),
            retry: Retry::default(),
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
        self.problems = loaded
            .compiled
            .problems
            .iter()
            .map(|problem| (problem.is_error(), problem.to_string()))
            .collect();
        let errors = loaded.errors();
        let snapshots = loaded.compiled.snapshots;
        if first && snapshots.is_empty() {
            self.tell_problems();
            return Err(match loaded.denied {
                Some(denied) if errors == 0 => Fatal::Unreadable(denied),
                _ => Fatal::nothing_to_run(self.origin.dir(), &self.problems),
            });
        }
        self.find_certificates(&loaded.secrets, &snapshots, first)?;
        let changes = self.apply(&snapshots);
        // A snapshot that the registry refuses runs in its former version, everywhere.
        let running: Vec<Snapshot> = self
            .control
            .registry()
            .snapshots()
            .map(|snapshot| Snapshot::clone(snapshot))
            .collect();
        self.publish(&changes, &running);
        self.open_devices(&changes.tables, first)?;
        self.settle_kernel(&running, first)?;
        self.control.publish_sites(Sites::new(&running));
        self.open_ports(first)?;
        self.close_devices(&running);
        self.snapshots = running;
        self.tell();
        Ok(())
    }

    /// What the listeners are to show.
    fn find_certificates(
        &mut self,
        secrets: &BTreeMap<ObjectName, Secret>,
        snapshots: &[Snapshot],
        first: bool,
    ) -> Result<(), Fatal> {
        let folder = self.origin.certificates();
        let development = Some(self.state_dir.as_path()).filter(|_| self.origin.is_development());
        let (certificates, wrong) = certificates::by_port(
            (&folder, development),
            secrets,
            snapshots,
            &mut self.certificates,
        );
        if first && certificates.is_empty() {
            return Err(match wrong.into_iter().next() {
                Some(lacking) if lacking.is_denied => Fatal::Permission(lacking.line),
                Some(lacking) => Fatal::Certificate(lacking.line),
                None => Fatal::Certificate("no HTTP3 listener".to_owned()),
            });
        }
        self.wanted_ports = certificates;
        self.problems
            .extend(wrong.into_iter().map(|lacking| (true, lacking.line)));
        Ok(())
    }

    /// Tells the shards at once what the manifests say now: who is revoked does not wait for devices.
    /// An ingress point that is new is found by clients once its device is there.
    fn publish(&self, changes: &Changes, running: &[Snapshot]) {
        let former = self.control.tables();
        let new: BTreeSet<&ObjectName> = changes
            .tables
            .vpcs()
            .filter(|table| former.vpc(table.index()).is_none())
            .map(|table| table.ingress_point())
            .collect();
        let known = running
            .iter()
            .filter(|snapshot| !new.contains(&snapshot.ingress_point));
        self.control.publish(
            Arc::clone(&changes.tables),
            &changes.ended,
            Sites::new(known),
        );
        self.control.update_all(&changes.updated);
    }

    /// Puts back what somebody else took away, and tries again what failed: devices, the kernel's
    /// state, ports.
    pub(crate) fn repair(&mut self) {
        self.reopen_devices();
        let tables = self.control.tables();
        let snapshots = std::mem::take(&mut self.snapshots);
        // Not the first time: what fails is told in the status.
        let _told = self.open_devices(&tables, false);
        let _told = self.settle_kernel(&snapshots, false);
        self.snapshots = snapshots;
        self.open_missing_ports();
        self.tell();
    }

    /// [`repair`](Self::repair), if something is missing and its next try is due.
    pub(crate) fn retry(&mut self) {
        if self.retry.is_due(Instant::now()) {
            self.repair();
        }
    }

    /// Tells everybody how it stands: log, reports, readiness.
    fn tell(&mut self) {
        let manifests = self.problems.len();
        let trouble: Vec<String> = self.trouble.lines().collect();
        self.control.trouble(trouble.first().cloned());
        self.retry.settle(Instant::now(), !trouble.is_empty());
        self.problems
            .extend(trouble.into_iter().map(|line| (true, line)));
        self.tell_problems();
        self.control.publish_devices(Devices {
            tun: self
                .vpcs
                .iter()
                .map(|(name, vpc)| (name.clone(), vpc.name.clone()))
                .collect(),
            decapsulation: self.decapsulation.to_owned(),
            errors: self.problems.iter().filter(|(error, _)| *error).count(),
            problems: self.told.clone(),
        });
        self.problems.truncate(manifests);
    }

    /// Logs the problems that are new, and remembers all.
    fn tell_problems(&mut self) {
        let told: BTreeSet<&str> = self.told.iter().map(String::as_str).collect();
        for (is_error, line) in &self.problems {
            if told.contains(line.as_str()) {
                continue;
            }
            if *is_error {
                tracing::error!("{line}");
            } else {
                tracing::warn!("{line}");
            }
        }
        self.told = self.problems.iter().map(|(_, line)| line.clone()).collect();
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

    fn apply(&mut self, snapshots: &[Snapshot]) -> Changes {
        let shared = snapshots.iter().cloned().map(Arc::new).collect();
        let changes = self.control.registry().apply(self.now(), shared);
        for (name, error) in &changes.refused {
            let line = format!("VPCIngressPoint {name}: {error}; what ran before goes on");
            self.problems.push((true, line));
        }
        for conflict in &changes.conflicts {
            let line = format!(
                "ConnectorAttachment {}: its fixed address cannot be given: {}",
                conflict.attachment, conflict.error
            );
            self.problems.push((true, line));
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
