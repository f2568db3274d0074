//! The difference between what is and what shall be, as an ordered list of changes.

use std::{collections::BTreeSet, net::Ipv6Addr};

use masque_srv6::{
    Family, KernelPlan, LOCAL_RULE_PRIORITY, Route, RouteAction, Rule, TunLink, VrfLink,
};

use crate::observe::{Observed, ObservedLink, RouteKey};

/// One change of kernel state. Variants stand in the order in which [`diff`] puts them, which never
/// leaves a moment where a packet of a VPC could take a route outside its tables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Take a TUN down that belongs to no VPC any more: its rule is about to go.
    SetDown(String),
    /// Make a VRF interface and set it up.
    AddVrf(VrfLink),
    /// Change a kernel setting. Those with a condition come first, see [`masque_srv6::Sysctl`].
    SetSysctl {
        /// 0 for those that must come before the others.
        order: u8,
        /// The file below `/proc/sys`.
        path: String,
        /// Its new content.
        value: String,
    },
    /// Set the outer source address, or let the kernel choose again.
    SetTunnelSource(Option<Ipv6Addr>),
    /// Add a blackhole: before anything leads into its table.
    AddBlackhole(Place, Route),
    /// Add a rule.
    AddRule(Rule),
    /// Delete the kernel's own rule of the local table; ours is in place by then.
    DeleteKernelLocalRule(Family),
    /// Set a TUN up.
    SetUp(TunLink),
    /// Add a route.
    AddRoute(Place, Route),
    /// Add a local SID: after everything that it leads to.
    AddSid(Place, Route),
    /// Delete a local SID.
    DeleteSid(RouteKey),
    /// Delete a route.
    DeleteRoute(RouteKey),
    /// Make the kernel's own rule of the local table again; ours goes next.
    AddKernelLocalRule(Family),
    /// Delete a rule.
    DeleteRule(Rule),
    /// Delete a VRF interface.
    DeleteVrf(String),
}

/// What is where a route shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Nothing of ours: what stands there belongs to somebody else and stays.
    Free,
    /// An older route of ours, which is replaced without a gap.
    Taken,
}

/// What makes `observed` as `plan` says, in an order that is safe at every step. Empty if nothing
/// is to be done.
pub fn diff(observed: &Observed, plan: &KernelPlan) -> Vec<Change> {
    let mut changes = Vec::new();
    diff_links(&mut changes, observed, plan);
    diff_settings(&mut changes, observed, plan);
    diff_rules(&mut changes, observed, plan);
    diff_routes(&mut changes, observed, plan);
    changes.sort();
    changes
}

fn diff_links(changes: &mut Vec<Change>, observed: &Observed, plan: &KernelPlan) {
    for vrf in &plan.vrfs {
        let is = observed.links.get(&vrf.name);
        // The table of a VRF cannot be changed. A wrong one is made again the next time.
        match is.map(|link| link.vrf_table == Some(vrf.table) && link.up) {
            Some(true) => {}
            Some(false) if is.is_some_and(|link| link.vrf_table != Some(vrf.table)) => {
                changes.push(Change::DeleteVrf(vrf.name.clone()));
            }
            Some(false) | None => changes.push(Change::AddVrf(vrf.clone())),
        }
    }
    for (name, link) in &observed.links {
        if link.is_ours() && !plan.vrfs.iter().any(|vrf| vrf.name == *name) {
            changes.push(Change::DeleteVrf(name.clone()));
        }
    }
    for tun in &plan.tuns {
        let right = |link: &ObservedLink| link.up && link.mtu_bytes == tun.mtu_bytes;
        if !observed.links.get(&tun.name).is_some_and(right) {
            changes.push(Change::SetUp(tun.clone()));
        }
    }
}

fn diff_settings(changes: &mut Vec<Change>, observed: &Observed, plan: &KernelPlan) {
    for sysctl in &plan.sysctls {
        let is = observed.sysctls.get(&sysctl.path);
        let wanted = match &sysctl.only_from {
            Some(from) => is == Some(from),
            // A VRF that is not there yet has no settings yet.
            None => is != Some(&sysctl.value),
        };
        if wanted {
            let (path, value) = (sysctl.path.clone(), sysctl.value.clone());
            let order = u8::from(sysctl.only_from.is_none());
            changes.push(Change::SetSysctl { order, path, value });
        }
    }
    // Without anything of ours in the namespace the address is somebody else's.
    let ours = plan.tunnel_source.is_some() || !observed.routes.is_empty();
    if ours && plan.tunnel_source != observed.tunnel_source {
        changes.push(Change::SetTunnelSource(plan.tunnel_source));
    }
}

fn diff_rules(changes: &mut Vec<Change>, observed: &Observed, plan: &KernelPlan) {
    changes.extend(
        plan.rules
            .difference(&observed.rules)
            .cloned()
            .map(Change::AddRule),
    );
    for rule in observed.rules.difference(&plan.rules) {
        changes.push(Change::DeleteRule(rule.clone()));
        if let Some(iif) = rule
            .iif
            .as_ref()
            .filter(|iif| is_abandoned(iif, observed, plan))
        {
            let down = Change::SetDown(iif.clone());
            if !changes.contains(&down) {
                changes.push(down);
            }
        }
    }
    for family in Family::BOTH {
        let moved = |rule: &&Rule| rule.family == family && rule.priority == LOCAL_RULE_PRIORITY;
        let kernel_has_it = observed.kernel_local_rules.contains(&family);
        match (plan.rules.iter().any(|r| moved(&r)), kernel_has_it) {
            (true, true) => changes.push(Change::DeleteKernelLocalRule(family)),
            (false, false) if observed.rules.iter().any(|r| moved(&r)) => {
                changes.push(Change::AddKernelLocalRule(family));
            }
            _ => {}
        }
    }
}

fn is_abandoned(name: &str, observed: &Observed, plan: &KernelPlan) -> bool {
    observed.links.get(name).is_some_and(|link| link.up)
        && !plan.tuns.iter().any(|tun| tun.name == name)
}

fn diff_routes(changes: &mut Vec<Change>, observed: &Observed, plan: &KernelPlan) {
    for route in &plan.routes {
        let is = observed.routes.get(&RouteKey::of(route));
        if is != Some(&Some(route.action.clone())) {
            let place = if is.is_some() {
                Place::Taken
            } else {
                Place::Free
            };
            let route = route.clone();
            changes.push(match route.action {
                RouteAction::Blackhole => Change::AddBlackhole(place, route),
                RouteAction::Decapsulate { .. } => Change::AddSid(place, route),
                RouteAction::Device { .. } | RouteAction::Encapsulate { .. } => {
                    Change::AddRoute(place, route)
                }
            });
        }
    }
    let wanted = plan
        .routes
        .iter()
        .map(RouteKey::of)
        .collect::<BTreeSet<_>>();
    for (key, action) in observed
        .routes
        .iter()
        .filter(|(key, _)| !wanted.contains(key))
    {
        changes.push(match action {
            Some(RouteAction::Decapsulate { .. }) => Change::DeleteSid(*key),
            _ => Change::DeleteRoute(*key),
        });
    }
}

#[cfg(test)]
mod tests;
