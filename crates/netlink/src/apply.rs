//! Making changes.

use masque_srv6::{Behaviour, Family, Route, RouteAction, Rule, TunLink, VrfLink};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVrf, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use crate::{
    Change, Kernel, NetlinkError, Place, RouteKey,
    kernel::ROUTE_PROTOCOL,
    message,
    socket::{CREATE, EXCLUSIVE, REPLACE, RequestError},
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
    /// Makes the changes that [`diff`](crate::diff) found, in their order. Stops at the first
    /// addition that fails, since what follows relies on it; deletions go on, and the first error is
    /// returned.
    ///
    /// # Errors
    /// [`NetlinkError::Busy`] if another gateway lives in this namespace, else what was refused.
    pub fn apply(&self, changes: &[Change]) -> Result<(), NetlinkError> {
        self.claim()?;
        let mut first_error = None;
        for change in changes {
            tracing::debug!(?change, "kernel state");
            match self.make(change) {
                Ok(()) => {}
                Err(error) if is_deletion(change) => {
                    first_error.get_or_insert(error);
                }
                Err(error) => return Err(first_error.unwrap_or(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn make(&self, change: &Change) -> Result<(), NetlinkError> {
        match change {
            Change::SetDown(name) => self.set_down(name),
            Change::AddVrf(vrf) => self.add_vrf(vrf),
            Change::SetSysctl { path, value, .. } => self.set_sysctl(path, value),
            Change::SetTunnelSource(source) => self.seg6().set_tunnel_source(*source),
            Change::AddBlackhole(place, route)
            | Change::AddRoute(place, route)
            | Change::AddSid(place, route) => self.add_route(*place, route),
            Change::AddRule(rule) => self.add_rule(rule),
            Change::DeleteKernelLocalRule(family) => self.delete_kernel_local_rule(*family),
            Change::SetUp(TunLink { name, mtu_bytes }) => self.set_link_up(name, *mtu_bytes),
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
