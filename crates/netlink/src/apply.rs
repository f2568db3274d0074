//! Making changes.

use std::collections::BTreeSet;

use masque_srv6::{
    Behaviour, Family, KernelPlan, Route, RouteAction, Rule, Slot, TunLink, VrfLink,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use crate::{
    Change, Kernel, NetlinkError, Place, Refusal, Refusals, RouteKey,
    kernel::ROUTE_PROTOCOL,
    message,
    owner::Owners,
    socket::{CREATE, EXCLUSIVE, REPLACE, RequestError},
    tx_queue::GATEWAY_TX_QUEUE_PACKETS,
};

/// What an encapsulating route needs.
const NEEDS_ENCAP: &str = "Linux 6.0 with CONFIG_IPV6_SEG6_LWTUNNEL";
/// What End.DT46 needs.
const NEEDS_DT46: &str = "Linux 5.14 with CONFIG_IPV6_SEG6_LWTUNNEL and CONFIG_NET_VRF, and \
                          net.vrf.strict_mode=1";
/// What a VRF interface needs.
const NEEDS_VRF: &str = "CONFIG_NET_VRF (kernel module vrf)";
/// What policy rules need.
const NEEDS_RULES: &str = "CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES";
/// What the rest needs.
const NEEDS_NETLINK: &str = "a Linux kernel with IPv4 and IPv6 routing";

impl Kernel {
    /// Makes the changes that [`diff`](crate::diff) found on the way to `plan`, in their order, and
    /// goes on after one that the kernel refuses: with the deletions, and with what other VPCs need.
    /// What relies on the refused one is left out: later additions of the same VPC, or of all if it
    /// was for all; and the tables of a TUN that could not be set down stay around its packets.
    ///
    /// # Errors
    /// [`Refusals`]; [`NetlinkError::Busy`] alone if another gateway lives in this namespace, and
    /// nothing is changed then.
    pub fn apply(&self, changes: &[Change], plan: &KernelPlan) -> Result<(), Refusals> {
        self.claim().map_err(Refusals::of_all)?;
        let owners = Owners::new(changes, plan);
        let mut refused = Vec::new();
        let mut gate = Gate::default();
        for change in changes {
            let slot = owners.of(change);
            if !gate.lets(change, slot) {
                continue;
            }
            tracing::debug!(?change, "kernel state");
            if let Err(error) = self.make(change, slot) {
                gate.refused(change, slot);
                refused.push(Refusal { slot, error });
            }
        }
        Refusals::unless_none(refused)
    }

    fn make(&self, change: &Change, slot: Option<Slot>) -> Result<(), NetlinkError> {
        match change {
            Change::SetDown(name) => self.set_down(name),
            Change::AddVrf(vrf) => self.add_vrf(vrf),
            Change::SetSysctl { path, value, .. } => self.set_sysctl(path, value, slot.is_some()),
            Change::SetTunnelSource(source) => self.set_tunnel_source(*source),
            Change::AddBlackhole(place, route)
            | Change::AddRoute(place, route)
            | Change::AddSid(place, route) => self.add_route(*place, route),
            Change::AddRule(rule) => self.add_rule(rule),
            Change::DeleteKernelLocalRule(family) => self.delete_kernel_local_rule(*family),
            Change::SetUp(TunLink {
                name, mtu_bytes, ..
            }) => {
                self.set_noqueue(name);
                self.set_tx_queue(name, GATEWAY_TX_QUEUE_PACKETS);
                self.set_link_up(name, *mtu_bytes)
            }
            Change::DeleteSid(key) | Change::DeleteRoute(key) => {
                self.delete_route_key(key, ROUTE_PROTOCOL)
            }
            Change::AddKernelLocalRule(family) => self.add_kernel_local_rule(*family),
            Change::DeleteRule(rule) => self.delete_rule(rule),
            Change::DeleteVrf(name) => self.delete_link(name),
        }
    }

    pub(crate) fn add_vrf(&self, vrf: &VrfLink) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes = vec![
            LinkAttribute::IfName(vrf.name.clone()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vrf),
                LinkInfo::Data(InfoData::Vrf(vec![InfoVrf::TableId(vrf.table)])),
            ]),
        ];
        // Without EXCL: one that exists with the same table is set up.
        self.send(
            &RouteNetlinkMessage::NewLink(link),
            CREATE,
            NEEDS_VRF,
            || format!("making the VRF {}", vrf.name),
        )
    }

    fn set_down(&self, name: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let sent = self
            .request_raw(&RouteNetlinkMessage::SetLink(link), 0)
            .map(drop);
        unless_gone(sent, NEEDS_NETLINK, || format!("setting {name} down"))
    }

    pub(crate) fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let sent = self
            .request_raw(&RouteNetlinkMessage::DelLink(link), 0)
            .map(drop);
        unless_gone(sent, NEEDS_NETLINK, || {
            format!("deleting the interface {name}")
        })
    }

    pub(crate) fn add_route(&self, place: Place, route: &Route) -> Result<(), NetlinkError> {
        let link = match &route.action {
            RouteAction::Blackhole => None,
            RouteAction::Device { link }
            | RouteAction::Encapsulate { link, .. }
            | RouteAction::Decapsulate { link, .. } => Some(self.require_link(link)?),
        };
        let (flags, needs) = (
            CREATE
                | if place == Place::Taken {
                    REPLACE
                } else {
                    EXCLUSIVE
                },
            match &route.action {
                RouteAction::Blackhole | RouteAction::Device { .. } => NEEDS_NETLINK,
                RouteAction::Decapsulate {
                    behaviour: Behaviour::EndDt46 { .. },
                    ..
                } => NEEDS_DT46,
                RouteAction::Encapsulate { .. } | RouteAction::Decapsulate { .. } => NEEDS_ENCAP,
            },
        );
        let message = RouteNetlinkMessage::NewRoute(message::route_message(route, link));
        self.send(&message, flags, needs, || {
            format!(
                "adding the route {} to table {}",
                route.destination, route.table
            )
        })
    }

    pub(crate) fn delete_route_key(
        &self,
        key: &RouteKey,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(message::delete_message(key, protocol));
        unless_gone(
            self.request_raw(&message, 0).map(drop),
            NEEDS_NETLINK,
            || {
                format!(
                    "deleting the route {} from table {}",
                    key.destination, key.table
                )
            },
        )
    }

    fn add_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(message::rule_message(rule));
        self.send(&message, CREATE | EXCLUSIVE, NEEDS_RULES, || {
            format!(
                "adding the rule of priority {} to table {}",
                rule.priority, rule.table
            )
        })
    }

    fn delete_rule(&self, rule: &Rule) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRule(message::rule_message(rule));
        unless_gone(self.request_raw(&message, 0).map(drop), NEEDS_RULES, || {
            format!("deleting the rule of priority {}", rule.priority)
        })
    }

    fn delete_kernel_local_rule(&self, family: Family) -> Result<(), NetlinkError> {
        let mut rule = message::kernel_local_rule(family);
        // Old kernels and some programs made it with another number.
        rule.attributes
            .retain(|a| !matches!(a, netlink_packet_route::rule::RuleAttribute::Protocol(_)));
        let sent = self
            .request_raw(&RouteNetlinkMessage::DelRule(rule), 0)
            .map(drop);
        unless_gone(sent, NEEDS_RULES, || "moving the local table's rule".into())
    }

    fn add_kernel_local_rule(&self, family: Family) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRule(message::kernel_local_rule(family));
        self.send(&message, CREATE | EXCLUSIVE, NEEDS_RULES, || {
            "moving the local table's rule back".into()
        })
    }

    /// Sends a request whose answer is only yes or no.
    pub(crate) fn send(
        &self,
        message: &RouteNetlinkMessage,
        flags: u16,
        needs: &'static str,
        action: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.request_raw(message, flags)
            .map(drop)
            .map_err(|error| NetlinkError::from_request(error, needs, action))
    }
}

/// What is already gone was deleted.
pub(crate) fn unless_gone(
    sent: Result<(), RequestError>,
    needs: &'static str,
    action: impl FnOnce() -> String,
) -> Result<(), NetlinkError> {
    match sent {
        Err(error) if matches!(error.errno(), libc::ESRCH | libc::ENOENT | libc::ENODEV) => Ok(()),
        Err(error) => Err(NetlinkError::from_request(error, needs, action)),
        Ok(()) => Ok(()),
    }
}

/// What may still be done after something was refused.
#[derive(Default)]
struct Gate {
    /// An addition that all rely on was refused.
    closed: bool,
    /// VPCs of which an addition was refused.
    unbuilt: BTreeSet<Slot>,
    /// VPCs whose TUN is still up although they are to go.
    up: BTreeSet<Slot>,
}

impl Gate {
    fn lets(&self, change: &Change, slot: Option<Slot>) -> bool {
        if is_deletion(change) {
            return !slot.is_some_and(|slot| self.up.contains(&slot));
        }
        matches!(change, Change::SetDown(_))
            || !self.closed && !slot.is_some_and(|slot| self.unbuilt.contains(&slot))
    }

    fn refused(&mut self, change: &Change, slot: Option<Slot>) {
        match (change, slot) {
            (Change::SetDown(_), slot) => self.up.extend(slot),
            // Nothing relies on a SID: the VPC's other one may serve its family.
            (Change::AddSid(..), _) => {}
            (change, _) if is_deletion(change) => {}
            (_, Some(slot)) => {
                self.unbuilt.insert(slot);
            }
            (_, None) => self.closed = true,
        }
    }
}

fn is_deletion(change: &Change) -> bool {
    matches!(
        change,
        Change::DeleteSid(_)
            | Change::DeleteRoute(_)
            | Change::DeleteRule(_)
            | Change::DeleteVrf(_)
            | Change::AddKernelLocalRule(_)
    )
}
