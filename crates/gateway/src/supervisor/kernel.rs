//! The kernel's half: rules, tables, routes and SIDs.

use masque_controller::Snapshot;
use masque_model::Fabric;
use masque_netlink::{Change, NetlinkError, diff};
use masque_srv6::{Decapsulation, VpcLinks, plan};

use super::{Supervisor, netlink_fatal};
use crate::exit::Fatal;

/// The outer IPv6 header, and nothing else (decision D8 of the architecture).
const OUTER_HEADER_BYTES: usize = 40;
/// The MTU of an underlay that does not tell.
const UNDERLAY_MTU_BYTES: usize = 1500;

impl Supervisor {
    /// Brings the kernel's state about, or says in the status why not.
    pub(super) fn settle_kernel(
        &mut self,
        snapshots: &[Snapshot],
        first: bool,
    ) -> Result<(), Fatal> {
        let applied = self.apply_kernel(snapshots);
        self.note_links();
        self.offload.settle(&self.kernel);
        match applied {
            Ok(decapsulation) => {
                self.decapsulation = decapsulation;
                self.control.kernel_state(None);
            }
            Err(fatal) if first => return Err(fatal),
            Err(fatal) => {
                tracing::error!(%fatal, "the kernel's routes are not what the manifests say");
                self.control.kernel_state(Some(fatal.to_string()));
            }
        }
        Ok(())
    }

    /// Puts back what somebody else took away: devices, and the kernel's state.
    pub(crate) fn repair(&mut self) {
        self.reopen_devices();
        let snapshots = std::mem::take(&mut self.snapshots);
        // Not the first time: what fails is told in the status.
        let _told_in_the_status = self.settle_kernel(&snapshots, false);
        self.snapshots = snapshots;
    }

    /// Rules, tables, routes and SIDs: observe, compare, change.
    fn apply_kernel(&mut self, snapshots: &[Snapshot]) -> Result<&'static str, Fatal> {
        // Without any VPC there is no fabric to look for: everything goes.
        let underlay = if snapshots.is_empty() {
            String::new()
        } else {
            self.find_underlay(snapshots)?
        };
        self.underlay.clone_from(&underlay);
        let links: Vec<VpcLinks<'_>> = snapshots
            .iter()
            .filter_map(|snapshot| {
                let device = self.vpcs.get(&snapshot.ingress_point)?;
                let (slot, tun) = (device.slot, device.name.as_str());
                Some(VpcLinks {
                    snapshot,
                    slot,
                    tun,
                    underlay: &underlay,
                })
            })
            .collect();
        let plan = plan(&links, &self.capabilities).map_err(|e| Fatal::Kernel(e.to_string()))?;
        let observed = self.kernel.observe(&plan).map_err(|e| netlink_fatal(&e))?;
        let changes = diff(&observed, &plan);
        if !changes.is_empty() {
            tracing::info!(changes = changes.len(), underlay, "kernel state");
        }
        let (source, others): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::SetTunnelSource(_)));
        self.set_tunnel_source(&source)?;
        self.kernel.apply(&others).map_err(|e| netlink_fatal(&e))?;
        Ok(match plan.decapsulation {
            Decapsulation::EndDt46 => "End.DT46",
            Decapsulation::EndDt6AndDx4 => "End.DT6 and End.DX4",
        })
    }

    /// The outer source address. A kernel refuses to set it in a user namespace, whatever the
    /// capabilities; it then takes the underlay's address, which is right if the manifest says so.
    fn set_tunnel_source(&self, changes: &[Change]) -> Result<(), Fatal> {
        match self.kernel.apply(changes) {
            Err(NetlinkError::NotPermitted { .. }) => {
                tracing::warn!(
                    "the kernel does not let this user namespace set the outer source address: \
                     sourceAddress must be the underlay device's own address"
                );
                Ok(())
            }
            result => result.map_err(|e| netlink_fatal(&e)),
        }
    }

    /// The device towards the fabric, and its MTU.
    fn find_underlay(&self, snapshots: &[Snapshot]) -> Result<String, Fatal> {
        let name = match &self.args.underlay {
            Some(name) => name.clone(),
            None => self.underlay_by_route(snapshots)?,
        };
        let mtu = masque_netlink::link_mtu(&name).unwrap_or(UNDERLAY_MTU_BYTES);
        self.control
            .set_fabric_mtu_bytes(mtu.saturating_sub(OUTER_HEADER_BYTES));
        Ok(name)
    }

    fn underlay_by_route(&self, snapshots: &[Snapshot]) -> Result<String, Fatal> {
        let sids = snapshots
            .iter()
            .flat_map(|snapshot| match &snapshot.fabric {
                Fabric::Static(fabric) => fabric.routes.iter().map(|route| route.sid),
            });
        for sid in sids {
            let found = self
                .kernel
                .route_to(sid.0.into())
                .map_err(|e| netlink_fatal(&e))?;
            if let Some(route) = found
                && route.link != "lo"
            {
                return Ok(route.link);
            }
        }
        Err(Fatal::Kernel(
            "no route leads to any SID of the fabric, so the underlay device is unknown: add the \
             route (ip -6 route add LOCATOR via NODE dev DEVICE) or name it with --underlay"
                .to_owned(),
        ))
    }
}
