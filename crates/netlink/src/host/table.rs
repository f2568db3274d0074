//! The main table: what clients made in it, and what it says beside that.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use masque_srv6::Family;
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{
        RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
        RouteType, RouteVia,
    },
};

use super::{HostRoute, MAIN_TABLE, NEEDS, ip_of};
use crate::{Kernel, NetlinkError, kernel::CLIENT_ROUTE_PROTOCOL, message, socket::DUMP};

/// One next hop: an interface's index and the router there.
type Hop = (u32, Option<IpAddr>);

/// A route as the kernel tells it.
#[derive(Debug)]
struct Entry {
    is_client: bool,
    kind: RouteType,
    destination: IpNet,
    metric: u32,
    source: Option<IpAddr>,
    /// Those that are alive.
    hops: Vec<Hop>,
}

impl Kernel {
    /// The routes of the main table that clients made, this one and others; each with its metric.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn client_routes(&self) -> Result<Vec<HostRoute>, NetlinkError> {
        let mut found = Vec::new();
        for family in Family::BOTH {
            // The kernel tells a family that it lacks as an empty table, or as an error.
            let entries = self.main_table(family, CLIENT_ROUTE_PROTOCOL.into())?;
            found.extend(entries.into_iter().filter(|entry| entry.is_client));
        }
        if found.is_empty() {
            return Ok(Vec::new());
        }
        let names = self.names()?;
        let routes = found.iter().flat_map(|entry| entry.routes(&names));
        Ok(routes.collect())
    }

    /// The way to `destination` by the main table as it would be without any client's route: the
    /// best route's next hops as routes to `destination`; none without a way. It asks no rule and
    /// no other table.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn way_beside_clients(&self, destination: IpAddr) -> Result<Vec<HostRoute>, NetlinkError> {
        let network = IpNet::from(destination);
        let entries = self.main_table(Family::of(&network), RouteProtocol::Unspec)?;
        let best = entries
            .into_iter()
            .filter(|entry| !entry.is_client && entry.destination.contains(&destination))
            .filter(|entry| entry.kind != RouteType::Unicast || !entry.hops.is_empty())
            .min_by_key(|entry| {
                let length = entry.destination.prefix_len();
                (std::cmp::Reverse(length), entry.metric)
            });
        let Some(best) = best.filter(|entry| entry.kind == RouteType::Unicast) else {
            return Ok(Vec::new());
        };
        let names = self.names()?;
        let ways = best.routes(&names).map(|route| HostRoute {
            destination: network,
            source: None,
            metric: 0,
            ..route
        });
        Ok(ways.collect())
    }

    /// Routes of the main table, those of a protocol alone where the kernel can choose.
    fn main_table(
        &self,
        family: Family,
        protocol: RouteProtocol,
    ) -> Result<Vec<Entry>, NetlinkError> {
        let mut request = RouteMessage::default();
        request.header.address_family = message::address_family(family);
        request.header.protocol = protocol;
        let replies = match self.request(&RouteNetlinkMessage::GetRoute(request), DUMP) {
            Ok(replies) => replies,
            Err(error) if matches!(error.errno(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
                return Ok(Vec::new());
            }
            Err(error) => {
                return Err(NetlinkError::from_request(error, NEEDS, || {
                    "reading the routes".into()
                }));
            }
        };
        let entries = replies.into_iter().filter_map(|reply| match reply {
            RouteNetlinkMessage::NewRoute(route) => entry_of(&route, family),
            _ => None,
        });
        Ok(entries.collect())
    }

    fn names(&self) -> Result<BTreeMap<u32, String>, NetlinkError> {
        let links = self.links()?.into_iter();
        Ok(links.map(|(name, link)| (link.index, name)).collect())
    }
}

impl Entry {
    fn routes<'a>(
        &'a self,
        names: &'a BTreeMap<u32, String>,
    ) -> impl Iterator<Item = HostRoute> + 'a {
        self.hops.iter().filter_map(|(index, gateway)| {
            let name = names.get(index)?;
            Some(HostRoute {
                gateway: *gateway,
                source: self.source,
                metric: self.metric,
                ..HostRoute::on_link(self.destination, name)
            })
        })
    }
}

/// A route of the main table; `None` for one of another, and for a copy in a cache.
fn entry_of(message: &RouteMessage, family: Family) -> Option<Entry> {
    if message.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match family {
        Family::Ipv4 => IpAddr::from([0; 4]),
        Family::Ipv6 => IpAddr::from([0; 16]),
    };
    let mut table = u32::from(message.header.table);
    let (mut address, mut metric, mut source, mut multipath) = (unspecified, 0, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(to) => address = ip_of(to)?,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::PrefSource(from) => source = ip_of(from),
            RouteAttribute::MultiPath(hops) => multipath = Some(hops),
            _ => {}
        }
    }
    if table != MAIN_TABLE {
        return None;
    }
    let hops = match multipath {
        Some(hops) => hops.iter().filter_map(hop_of).collect(),
        None if message.header.flags.contains(RouteFlags::Dead) => Vec::new(),
        None => single_hop(&message.attributes).into_iter().collect(),
    };
    Some(Entry {
        is_client: message.header.protocol == RouteProtocol::from(CLIENT_ROUTE_PROTOCOL),
        kind: message.header.kind,
        destination: IpNet::new(address, message.header.destination_prefix_length).ok()?,
        metric,
        source,
        hops,
    })
}

fn hop_of(hop: &RouteNextHop) -> Option<Hop> {
    if hop.flags.contains(RouteNextHopFlags::Dead) {
        return None;
    }
    Some((hop.interface_index, router_of(&hop.attributes)))
}

fn single_hop(attributes: &[RouteAttribute]) -> Option<Hop> {
    let link = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    Some((link?, router_of(attributes)))
}

fn router_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    })
}
