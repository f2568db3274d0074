//! What of ours is in the kernel now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use ipnet::IpNet;
use masque_srv6::{Family, KernelPlan, Route, RouteAction, Rule, SLOTS_MAX, Sysctl, TABLE_BASE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkMessage,
    route::{RouteMessage, RouteProtocol},
    rule::RuleMessage,
};

use crate::{
    Kernel, NetlinkError,
    kernel::ROUTE_PROTOCOL,
    message,
    socket::{DUMP, Reply, attribute, text_of},
    sysctl,
};

/// The kernel's state, as far as it is a gateway's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All interfaces, by name.
    pub links: BTreeMap<String, ObservedLink>,
    /// Routes with our protocol number; the action is `None` where it is none that a plan has.
    pub routes: BTreeMap<RouteKey, Option<RouteAction>>,
    /// Rules with our protocol number.
    pub rules: BTreeSet<Rule>,
    /// Families whose local table is still looked up first, as the kernel sets it up.
    pub kernel_local_rules: BTreeSet<Family>,
    /// The namespace's outer source address.
    pub tunnel_source: Option<Ipv6Addr>,
    /// What the sysctls of the plan say; those that do not exist are left out.
    pub sysctls: BTreeMap<String, String>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its index.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// Its table, if it is a VRF.
    pub vrf_table: Option<u32>,
}

impl ObservedLink {
    /// Whether a gateway made it: a VRF with one of the plan's tables.
    pub fn is_ours(&self) -> bool {
        let tables = TABLE_BASE..TABLE_BASE + 2 * u32::from(SLOTS_MAX);
        self.vrf_table.is_some_and(|table| tables.contains(&table))
    }
}

/// What tells routes of one protocol apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table.
    pub table: u32,
    /// The destination.
    pub destination: IpNet,
    /// The metric.
    pub metric: u32,
}

impl RouteKey {
    /// The key of a route.
    pub fn of(route: &Route) -> Self {
        Self {
            table: route.table,
            destination: route.destination,
            metric: route.metric,
        }
    }
}

impl Kernel {
    /// Reads all that [`crate::diff`] compares with `plan`: every interface, the routes and rules of
    /// our protocol number, and the sysctls that the plan names.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn observe(&self, plan: &KernelPlan) -> Result<Observed, NetlinkError> {
        let links = self.links()?;
        let names = links
            .iter()
            .map(|(name, link)| (link.index, name.clone()))
            .collect();
        let mut observed = Observed {
            links,
            tunnel_source: self.seg6().tunnel_source(),
            sysctls: self.observe_settings(plan)?,
            ..Observed::default()
        };
        for family in Family::BOTH {
            self.observe_routes(&mut observed, family, &names)?;
            self.observe_rules(&mut observed, family)?;
        }
        Ok(observed)
    }

    /// What the settings of the plan say. One that keeps what router advertisements gave is left
    /// out where it cannot be changed and there is nothing to keep: in pods, whose addresses and
    /// routes come from a network plugin, `/proc/sys` is read-only.
    fn observe_settings(
        &self,
        plan: &KernelPlan,
    ) -> Result<BTreeMap<String, String>, NetlinkError> {
        let keeps = |s: &Sysctl| s.only_from.is_some() && sysctl::is_read_only(&s.path);
        let needless = plan.sysctls.iter().any(keeps) && !self.has_advertised_route()?;
        let wanted = plan.sysctls.iter().filter(|s| !(needless && keeps(s)));
        Ok(wanted
            .filter_map(|s| Some((s.path.clone(), sysctl::read(&s.path)?)))
            .collect())
    }

    /// Whether a router advertisement gave a route to this namespace.
    fn has_advertised_route(&self) -> Result<bool, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = message::address_family(Family::Ipv6);
        request.header.protocol = RouteProtocol::Ra;
        let replies = self
            .request(&RouteNetlinkMessage::GetRoute(request), DUMP)
            .map_err(|e| NetlinkError::from_request(e, "IPv6", || "reading the routes".into()))?;
        Ok(replies.iter().any(|reply| {
            matches!(reply, RouteNetlinkMessage::NewRoute(route)
                if route.header.protocol == RouteProtocol::Ra)
        }))
    }

    fn observe_routes(
        &self,
        observed: &mut Observed,
        family: Family,
        names: &BTreeMap<u32, String>,
    ) -> Result<(), NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = message::address_family(family);
        // The kernel filters by it (Linux 4.20); older ones tell everything, and we do.
        request.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        let replies = self
            .request(&RouteNetlinkMessage::GetRoute(request), DUMP)
            .map_err(|e| NetlinkError::from_request(e, "IPv6", || "reading the routes".into()))?;
        for reply in replies {
            if let RouteNetlinkMessage::NewRoute(route) = reply {
                observed.routes.extend(message::route_of(&route, names));
            }
        }
        Ok(())
    }

    fn observe_rules(&self, observed: &mut Observed, family: Family) -> Result<(), NetlinkError> {
        let mut request = RuleMessage::default();
        request.header.family = message::address_family(family);
        let replies = self
            .request(&RouteNetlinkMessage::GetRule(request), DUMP)
            .map_err(|error| {
                let needs = "CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES";
                NetlinkError::from_request(error, needs, || "reading the policy rules".into())
            })?;
        for reply in replies {
            let RouteNetlinkMessage::NewRule(rule) = reply else {
                continue;
            };
            let Some((rule, protocol)) = message::rule_of(&rule) else {
                continue;
            };
            if protocol == ROUTE_PROTOCOL {
                observed.rules.insert(rule);
            } else if message::is_kernel_local_rule(&rule) {
                observed.kernel_local_rules.insert(family);
            }
        }
        Ok(())
    }

    /// All interfaces of the namespace.
    pub(crate) fn links(&self) -> Result<BTreeMap<String, ObservedLink>, NetlinkError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let replies = self.request_raw(&request, DUMP).map_err(|error| {
            NetlinkError::from_request(error, "netlink", || "reading the interfaces".into())
        })?;
        Ok(replies.iter().filter_map(link_of).collect())
    }
}

/// Length of `struct ifinfomsg`.
pub(crate) const LINK_HEADER_BYTES: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_INFO: u16 = 18;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const VRF_TABLE: u16 = 1;

/// Reads the few attributes of an interface that matter here: a full parser knows some two hundred,
/// and refuses the whole interface for one that it knows otherwise than the kernel.
fn link_of(reply: &Reply) -> Option<(String, ObservedLink)> {
    if reply.kind != libc::RTM_NEWLINK {
        return None;
    }
    let (header, attributes) = reply.body.split_first_chunk::<LINK_HEADER_BYTES>()?;
    let [_, _, _, _, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    let flags = i32::from_ne_bytes([f0, f1, f2, f3]);
    let name = text_of(attribute(attributes, LINK_NAME)?);
    let vrf_table = attribute(attributes, LINK_INFO)
        .filter(|info| attribute(info, INFO_KIND).is_some_and(|kind| text_of(kind) == "vrf"))
        .and_then(|info| attribute(info, INFO_DATA))
        .and_then(|data| attribute(data, VRF_TABLE))
        .and_then(number);
    let link = ObservedLink {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        up: flags & libc::IFF_UP != 0,
        mtu_bytes: attribute(attributes, LINK_MTU)
            .and_then(number)
            .unwrap_or(0),
        vrf_table,
    };
    Some((name, link))
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}
