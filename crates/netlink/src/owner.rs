//! Which VPC a change belongs to.

use std::collections::BTreeMap;

use masque_srv6::{Behaviour, KernelPlan, Route, RouteAction, Rule, Slot};

use crate::{Change, RouteKey};

/// Knows the VPCs of a list of changes.
pub(crate) struct Owners<'a> {
    /// By the name of the TUN.
    tuns: BTreeMap<&'a str, Slot>,
}

impl<'a> Owners<'a> {
    /// Of the changes that lead to `plan`. A TUN that the plan does not have is known by the rule of
    /// its table that goes.
    pub(crate) fn new(changes: &'a [Change], plan: &'a KernelPlan) -> Self {
        let planned = plan.tuns.iter().map(|tun| (tun.name.as_str(), tun.slot));
        let abandoned = changes.iter().filter_map(|change| match change {
            Change::DeleteRule(rule) => Some((rule.iif.as_deref()?, Slot::of_table(rule.table)?)),
            _ => None,
        });
        Self {
            tuns: abandoned.chain(planned).collect(),
        }
    }

    /// The VPC's place; `None` for what all have together.
    pub(crate) fn of(&self, change: &Change) -> Option<Slot> {
        match change {
            Change::AddVrf(vrf) => Slot::of_table(vrf.table),
            Change::SetUp(tun) => Some(tun.slot),
            Change::SetDown(name) => self.tuns.get(name.as_str()).copied(),
            Change::DeleteVrf(name) => of_vrf(name),
            Change::SetSysctl { path, .. } => path.split('/').find_map(|part| {
                let tun = self.tuns.get(part).copied();
                tun.or_else(|| of_vrf(part))
            }),
            Change::AddBlackhole(_, route)
            | Change::AddRoute(_, route)
            | Change::AddSid(_, route) => of_route(route),
            Change::DeleteSid(key) | Change::DeleteRoute(key) => of_key(key),
            Change::AddRule(rule) | Change::DeleteRule(rule) => self.of_rule(rule),
            Change::SetTunnelSource(_)
            | Change::DeleteKernelLocalRule(_)
            | Change::AddKernelLocalRule(_) => None,
        }
    }

    fn of_rule(&self, rule: &Rule) -> Option<Slot> {
        let tun = || self.tuns.get(rule.iif.as_deref()?).copied();
        Slot::of_table(rule.table).or_else(tun)
    }
}

fn of_route(route: &Route) -> Option<Slot> {
    match route.action {
        RouteAction::Decapsulate { behaviour, .. } => match behaviour {
            Behaviour::EndDt46 { vrf_table: table } | Behaviour::EndDt6 { table } => {
                Slot::of_table(table)
            }
            Behaviour::EndDx4 { next_hop } => Slot::of_next_hop(next_hop),
        },
        _ => of_key(&RouteKey::of(route)),
    }
}

/// The next hop of End.DX4 stands in the main table.
fn of_key(key: &RouteKey) -> Option<Slot> {
    let next_hop = || match key.destination {
        ipnet::IpNet::V4(net) if net.prefix_len() == 32 => Slot::of_next_hop(net.addr()),
        _ => None,
    };
    Slot::of_table(key.table).or_else(next_hop)
}

fn of_vrf(name: &str) -> Option<Slot> {
    let slot = Slot(name.strip_prefix("mqvrf")?.parse().ok()?);
    (slot.vrf_name() == name).then_some(slot)
}
