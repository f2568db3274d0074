//! The kernel's half: rules, tables, routes and SIDs.

use std::collections::BTreeMap;

use masque_controller::Snapshot;
use masque_model::{Fabric, ObjectName};
use masque_netlink::{Change, LinkState, NetlinkError, Refusal, Refusals, diff};
use masque_srv6::{Decapsulation, KernelPlan, Slot, VpcLinks, decapsulation, plan};

use super::{Supervisor, netlink_fatal};
use crate::exit::Fatal;

/// The outer IPv6 header, and nothing else (decision D8 of the architecture).
const OUTER_HEADER_BYTES: usize = 40;
/// The MTU of an underlay that does not tell.
const UNDERLAY_MTU_BYTES: usize = 1500;

/// What of the kernel's state is not there, although the rest is.
#[derive(Debug, Default)]
struct Missing {
    /// Of one ingress point.
    points: BTreeMap<ObjectName, String>,
    /// What a VPC that is gone has left, and cannot be removed.
    left_over: BTreeMap<Slot, String>,
    /// Of all.
    all: Option<Fatal>,
}

impl Missing {
    /// The first refusal of each counts: what follows may come of it. `owner` is the ingress point that
    /// has the refusal's slot.
    fn note(&mut self, refusal: &Refusal, owner: Option<&ObjectName>) {
        let sentence = || refusal.error.to_string();
        match (refusal.slot, owner) {
            (Some(_), Some(name)) => {
                self.points.entry(name.clone()).or_insert_with(sentence);
            }
            (Some(slot), None) => {
                self.left_over.entry(slot).or_insert_with(sentence);
            }
            (None, _) => {
                self.all
                    .get_or_insert_with(|| netlink_fatal(&refusal.error));
            }
        }
    }
}

impl Supervisor {
    /// Brings the kernel's state about, or says in the trouble why not, and of which ingress point.
    ///
    /// # Errors
    /// [`Fatal`] only the first time, when no ingress point is left.
    pub(super) fn settle_kernel(
        &mut self,
        snapshots: &[Snapshot],
        first: bool,
    ) -> Result<(), Fatal> {
        // Before the kernel is looked at: what changes meanwhile is a change that the next look sees.
        self.note_links();
        let missing = self
            .apply_kernel(snapshots, first)
            .unwrap_or_else(|fatal| Missing {
                all: Some(fatal),
                ..Missing::default()
            });
        self.offload.settle(&self.kernel);
        let runs = |name| self.vpcs.contains_key(name) && !missing.points.contains_key(name);
        let none_is_left = !snapshots
            .iter()
            .any(|snapshot| runs(&snapshot.ingress_point));
        match (missing.all, missing.points.first_key_value()) {
            (Some(fatal), _) if first => return Err(fatal),
            (_, Some((name, sentence))) if first && none_is_left => {
                return Err(Fatal::Kernel(format!("VPCIngressPoint {name}: {sentence}")));
            }
            (all, _) => self.trouble.kernel = all.map(|fatal| fatal.to_string()),
        }
        self.trouble.points = missing.points;
        self.trouble.left_over = missing.left_over;
        Ok(())
    }

    /// Rules, tables, routes and SIDs: observe, compare, change.
    fn apply_kernel(&mut self, snapshots: &[Snapshot], first: bool) -> Result<Missing, Fatal> {
        let mut missing = Missing::default();
        // Without any VPC there is no fabric to look for: everything goes.
        let underlay = if snapshots.is_empty() {
            String::new()
        } else {
            self.check_capabilities()?;
            match self.find_underlay(snapshots) {
                // What is to go does not wait for the fabric: the rest stays as it was planned.
                Err(fatal) if !first && !self.underlay.is_empty() => {
                    missing.all = Some(fatal);
                    self.underlay.clone()
                }
                found => found?,
            }
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
        let planned = plan(&links, &self.capabilities).map_err(|e| Fatal::Kernel(e.to_string()))?;
        let observed = self
            .kernel
            .observe(&planned.state)
            .map_err(|e| netlink_fatal(&e))?;
        let changes = diff(&observed, &planned.state);
        if !changes.is_empty() {
            tracing::info!(changes = changes.len(), underlay, "kernel state");
        }
        let (source, others): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|change| matches!(change, Change::SetTunnelSource(_)));
        self.set_tunnel_source(&source, &planned.state)?;
        let refused = self.kernel.apply(&others, &planned.state).err();
        let left_out = planned.left_out.into_iter();
        missing.points = left_out.map(|(name, e)| (name, e.to_string())).collect();
        for refusal in refused.iter().flat_map(Refusals::iter) {
            let mut devices = self.vpcs.iter();
            let owner = devices.find(|(_, device)| Some(device.slot) == refusal.slot);
            missing.note(refusal, owner.map(|(name, _)| name));
        }
        self.decapsulation = match planned.state.decapsulation {
            Decapsulation::EndDt46 => "End.DT46",
            Decapsulation::EndDt6AndDx4 => "End.DT6 and End.DX4",
        };
        Ok(missing)
    }

    /// Before anything is looked for: without IPv6 there is no route to any SID either, and adding one
    /// would not help. A kernel that could not do it may be able by now.
    fn check_capabilities(&mut self) -> Result<(), Fatal> {
        if decapsulation(&self.capabilities).is_ok() {
            return Ok(());
        }
        self.capabilities = self.kernel.probe().map_err(|e| netlink_fatal(&e))?;
        decapsulation(&self.capabilities)
            .map(drop)
            .map_err(|error| Fatal::Kernel(error.to_string()))
    }

    /// The outer source address. A kernel refuses to set it in a user namespace, whatever the
    /// capabilities; it then takes the underlay's address, which is right if the manifest says so.
    fn set_tunnel_source(&self, changes: &[Change], plan: &KernelPlan) -> Result<(), Fatal> {
        let applied = self.kernel.apply(changes, plan);
        match applied.map_err(Refusals::into_first) {
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
            Some(name) if LinkState::of(name).is_ok() => name.clone(),
            Some(name) => {
                let absent = format!("there is no interface {name} (--underlay)");
                return Err(Fatal::Kernel(absent));
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a VPC has left behind, it is no fault of those that run.
    #[test]
    fn what_a_removed_vpc_left_concerns_no_other() {
        let refusal = |slot, what: &str| Refusal {
            slot,
            error: NetlinkError::NoInterface(what.to_owned()),
        };
        let owner = ObjectName::new("default", "a");
        let mut missing = Missing::default();
        missing.note(&refusal(Some(Slot(1)), "left"), None);
        missing.note(&refusal(Some(Slot(1)), "follows"), None);
        assert!(missing.all.is_none() && missing.points.is_empty());
        assert!(missing.left_over[&Slot(1)].contains("left"));
        missing.note(&refusal(Some(Slot(0)), "of a"), Some(&owner));
        assert!(missing.points[&owner].contains("of a"));
        missing.note(&refusal(None, "of all"), None);
        assert!(missing.all.is_some());
    }
}
