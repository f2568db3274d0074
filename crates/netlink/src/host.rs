//! Plain operations on a host's links, addresses and routes, for clients.

mod table;

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{
        RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType, RouteVia,
    },
};

use masque_srv6::Family;

use crate::{
    Kernel, NetlinkError, RouteKey,
    apply::unless_gone,
    kernel::CLIENT_ROUTE_PROTOCOL,
    message,
    socket::{CREATE, DUMP, EXCLUSIVE, REPLACE},
};

const NEEDS: &str = "a Linux kernel with IPv4 and IPv6";
/// What the kernel calls `RT_TABLE_MAIN`.
const MAIN_TABLE: u32 = libc::RT_TABLE_MAIN as u32;

/// A route of a client: to a prefix through an interface, with or without a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRoute {
    /// What it matches.
    pub destination: IpNet,
    /// Name of the interface.
    pub link: String,
    /// The next router; `None` if the prefix is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address that local programs use.
    pub source: Option<IpAddr>,
    /// Lower ones win. 0 is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: u32,
    /// The table; 254 is the main one.
    pub table: u32,
    /// The path MTU, if it is lower than the interface's.
    pub mtu_bytes: Option<u32>,
}

impl HostRoute {
    /// A route of the main table straight through an interface.
    pub fn on_link(destination: IpNet, link: &str) -> Self {
        Self {
            destination: destination.trunc(),
            link: link.to_owned(),
            gateway: None,
            source: None,
            metric: 0,
            table: MAIN_TABLE,
            mtu_bytes: None,
        }
    }
}

/// How the kernel would send a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteLookup {
    /// Index of the interface.
    pub link_index: u32,
    /// Name of the interface.
    pub link: String,
    /// The next router, if the destination is not on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub source: Option<IpAddr>,
}

impl Kernel {
    /// The index of an interface; `None` if there is none of that name.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn link_index(&self, name: &str) -> Result<Option<u32>, NetlinkError> {
        // struct ifinfomsg: the index is its second word.
        let index = |body: Vec<u8>| body.get(4..8)?.try_into().ok().map(u32::from_ne_bytes);
        Ok(self.link_body(name)?.and_then(index))
    }

    /// What the kernel tells of an interface: `struct ifinfomsg` and attributes. `None` if there is
    /// none of that name.
    pub(crate) fn link_body(&self, name: &str) -> Result<Option<Vec<u8>>, NetlinkError> {
        let mut request = LinkMessage::default();
        request
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        match self.request_raw(&RouteNetlinkMessage::GetLink(request), 0) {
            Ok(replies) => Ok(replies.into_iter().next().map(|reply| reply.body)),
            Err(error) if matches!(error.errno(), libc::ENODEV | libc::ENOENT) => Ok(None),
            // Longer than any interface name.
            Err(error) if matches!(error.errno(), libc::ERANGE | libc::EINVAL) => Ok(None),
            Err(error) => Err(NetlinkError::from_request(error, NEEDS, || {
                format!("looking for {name}")
            })),
        }
    }

    pub(crate) fn require_link(&self, name: &str) -> Result<u32, NetlinkError> {
        self.link_index(name)?
            .ok_or_else(|| NetlinkError::NoInterface(name.to_owned()))
    }

    /// Sets an interface up and its MTU.
    ///
    /// # Errors
    /// [`NetlinkError::NoInterface`], or what the kernel refused.
    pub fn set_link_up(&self, name: &str, mtu_bytes: u32) -> Result<(), NetlinkError> {
        let mut link = LinkMessage::default();
        link.header.index = self.require_link(name)?;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.push(LinkAttribute::Mtu(mtu_bytes));
        self.send(&RouteNetlinkMessage::SetLink(link), 0, NEEDS, || {
            format!("setting {name} up with MTU {mtu_bytes}")
        })
    }

    /// Adds an address to an interface, without duplicate address detection. One that is there
    /// already is no error. Packets to a new IPv6 address are dropped for some milliseconds more,
    /// until the kernel has made its local route.
    ///
    /// # Errors
    /// [`NetlinkError::NoInterface`], or what the kernel refused.
    pub fn add_address(&self, link: &str, address: IpNet) -> Result<(), NetlinkError> {
        let mut message = self.address_message(link, address)?;
        if address.addr().is_ipv6() {
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        self.send(&message, CREATE | REPLACE, NEEDS, || {
            format!("adding {address} to {link}")
        })
    }

    /// Removes an address from an interface. One that is not there is no error.
    ///
    /// # Errors
    /// [`NetlinkError::NoInterface`], or what the kernel refused.
    pub fn remove_address(&self, link: &str, address: IpNet) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelAddress(self.address_message(link, address)?);
        match self.request_raw(&message, 0) {
            Err(error) if error.errno() == libc::EADDRNOTAVAIL => Ok(()),
            sent => unless_gone(sent.map(drop), NEEDS, || {
                format!("removing {address} from {link}")
            }),
        }
    }

    fn address_message(&self, link: &str, address: IpNet) -> Result<AddressMessage, NetlinkError> {
        let mut message = AddressMessage::default();
        message.header.family = message::address_family(Family::of(&address));
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.require_link(link)?;
        message
            .attributes
            .push(AddressAttribute::Local(address.addr()));
        message
            .attributes
            .push(AddressAttribute::Address(address.addr()));
        Ok(message)
    }

    /// Adds a client's route, or replaces the one of the same destination, metric and table, whoever
    /// made it.
    ///
    /// # Errors
    /// [`NetlinkError::NoInterface`], or what the kernel refused.
    pub fn replace_route(&self, route: &HostRoute) -> Result<(), NetlinkError> {
        self.set_route(route, REPLACE)
    }

    /// Adds a client's route, and says whether it could: `false` when there is one of the same
    /// destination, metric and table, which stays as it is.
    ///
    /// # Errors
    /// [`NetlinkError::NoInterface`], or what the kernel refused.
    pub fn claim_route(&self, route: &HostRoute) -> Result<bool, NetlinkError> {
        match self.set_route(route, EXCLUSIVE) {
            Ok(()) => Ok(true),
            Err(NetlinkError::Exists { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn set_route(&self, route: &HostRoute, how: u16) -> Result<(), NetlinkError> {
        let mut message = message::key_message(&route_key(route), CLIENT_ROUTE_PROTOCOL);
        message.header.kind = RouteType::Unicast;
        let on_link = route.gateway.is_none() && route.destination.addr().is_ipv4();
        message.header.scope = if on_link {
            RouteScope::Link
        } else {
            RouteScope::Universe
        };
        message
            .attributes
            .push(RouteAttribute::Oif(self.require_link(&route.link)?));
        message.attributes.extend(route.gateway.map(|gateway| {
            match (gateway, route.destination.addr().is_ipv4()) {
                (IpAddr::V6(gateway), true) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
                _ => RouteAttribute::Gateway(gateway.into()),
            }
        }));
        message
            .attributes
            .extend(route.source.map(|s| RouteAttribute::PrefSource(s.into())));
        message.attributes.extend(
            route
                .mtu_bytes
                .map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])),
        );
        let message = RouteNetlinkMessage::NewRoute(message);
        self.send(&message, CREATE | how, NEEDS, || {
            format!(
                "adding the route {} through {}",
                route.destination, route.link
            )
        })
    }

    /// Deletes a client's route through this interface. One that is not there is no error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn delete_route(&self, route: &HostRoute) -> Result<(), NetlinkError> {
        // The routes of an interface went with it.
        let Some(link) = self.link_index(&route.link)? else {
            return Ok(());
        };
        let mut message = message::delete_message(&route_key(route), CLIENT_ROUTE_PROTOCOL);
        message.attributes.push(RouteAttribute::Oif(link));
        let message = RouteNetlinkMessage::DelRoute(message);
        unless_gone(self.request_raw(&message, 0).map(drop), NEEDS, || {
            format!(
                "deleting the route {} through {}",
                route.destination, route.link
            )
        })
    }

    /// Deletes the routes that a client left, by their protocol number. Those through its TUN
    /// vanished with it; those that kept its own packets out of the tunnel did not.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn clear_client_routes(&self) -> Result<(), NetlinkError> {
        for family in Family::BOTH {
            let mut request = RouteMessage::default();
            request.header.address_family = message::address_family(family);
            request.header.protocol = RouteProtocol::from(CLIENT_ROUTE_PROTOCOL);
            let replies = self
                .request(&RouteNetlinkMessage::GetRoute(request), DUMP)
                .map_err(|error| {
                    NetlinkError::from_request(error, NEEDS, || "reading the routes".into())
                })?;
            for reply in replies {
                let RouteNetlinkMessage::NewRoute(mut route) = reply else {
                    continue;
                };
                if route.header.protocol == RouteProtocol::from(CLIENT_ROUTE_PROTOCOL) {
                    route
                        .attributes
                        .retain(|a| !matches!(a, RouteAttribute::CacheInfo(_)));
                    let message = RouteNetlinkMessage::DelRoute(route);
                    unless_gone(self.request_raw(&message, 0).map(drop), NEEDS, || {
                        "deleting a client's route".into()
                    })?;
                }
            }
        }
        Ok(())
    }

    /// How the kernel would send a packet to `destination`; `None` if it would not.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn route_to(&self, destination: IpAddr) -> Result<Option<RouteLookup>, NetlinkError> {
        let network = IpNet::from(destination);
        let mut request = RouteMessage::default();
        request.header.address_family = message::address_family(Family::of(&network));
        request.header.destination_prefix_length = network.prefix_len();
        request
            .attributes
            .push(RouteAttribute::Destination(destination.into()));
        let replies = match self.request(&RouteNetlinkMessage::GetRoute(request), 0) {
            Ok(replies) => replies,
            Err(error)
                if matches!(
                    error.errno(),
                    libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL
                ) =>
            {
                return Ok(None);
            }
            Err(error) => {
                return Err(NetlinkError::from_request(error, NEEDS, || {
                    format!("looking up the route to {destination}")
                }));
            }
        };
        let Some(RouteNetlinkMessage::NewRoute(route)) = replies.into_iter().next() else {
            return Ok(None);
        };
        self.lookup_of(&route)
    }

    fn lookup_of(&self, route: &RouteMessage) -> Result<Option<RouteLookup>, NetlinkError> {
        if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
            return Ok(None);
        }
        let (mut link_index, mut gateway, mut source) = (None, None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => link_index = Some(*index),
                RouteAttribute::Gateway(address) => gateway = ip_of(address),
                RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some((*address).into()),
                RouteAttribute::PrefSource(address) => source = ip_of(address),
                _ => {}
            }
        }
        let Some(link_index) = link_index else {
            return Ok(None);
        };
        let link = self.link_name(link_index)?;
        Ok(link.map(|link| RouteLookup {
            link_index,
            link,
            gateway,
            source,
        }))
    }

    /// The name of an interface; `None` if there is none with that index.
    ///
    /// # Errors
    /// What the kernel refused to tell.
    pub fn link_name(&self, index: u32) -> Result<Option<String>, NetlinkError> {
        let links = self.links()?;
        Ok(links
            .into_iter()
            .find(|(_, link)| link.index == index)
            .map(|(name, _)| name))
    }
}

fn route_key(route: &HostRoute) -> RouteKey {
    let destination = route.destination.trunc();
    RouteKey {
        table: route.table,
        destination,
        metric: route.metric,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
