//! What a client lets through its end of the tunnel, both ways (RFC 9484 §7.2).
//!
//! Pure: no clock, no device. Hop limits are left alone: packets of this machine are its own, and
//! those it forwards were decremented by its kernel ("MUST NOT decrement … for packets that it
//! originates", RFC 9484 §7.2).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use masque_packet::{
    icmp::{self, IcmpError, IcmpKind, Unreachable},
    ip::{self, IpHeader},
    protocol,
};
use masque_protocol::IpRange;

use crate::DropReason;

/// Every node on the link; its echo is how peers probe a tunnel (RFC 9484 §7.2).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Our own end of the link, for probes of a tunnel without an IPv6 address; a gateway's is fe80::1.
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The addresses and routes of an open tunnel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    assigned: Vec<IpNet>,
    routes: RouteTable,
    mtu_bytes: usize,
}

/// What to do with a packet on its way to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    Send,
    /// Dropped without a word.
    Drop(DropReason),
    /// Dropped, and its sender is told.
    Answer(DropReason, IcmpError),
}

/// What to do with a packet from the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    Deliver,
    /// An echo request to a link-local group: answered here (RFC 9484 §7.2).
    Echo,
    /// An echo reply to this machine that may answer a probe of ours.
    EchoReply {
        identifier: u16,
        sequence: u16,
        /// Whether it may also be delivered.
        deliver: bool,
    },
    Drop(DropReason),
}

impl Guard {
    pub(crate) fn new(assigned: Vec<IpNet>, ranges: &[IpRange], mtu_bytes: usize) -> Self {
        Self {
            assigned,
            routes: RouteTable::new(ranges),
            mtu_bytes,
        }
    }

    pub(crate) fn mtu_bytes(&self) -> usize {
        self.mtu_bytes
    }

    pub(crate) fn is_assigned(&self, address: IpAddr) -> bool {
        self.assigned.iter().any(|prefix| prefix.contains(&address))
    }

    /// An address of ours of the same family, to answer from.
    pub(crate) fn address_like(&self, peer: IpAddr) -> Option<IpAddr> {
        let same = |address: &IpAddr| address.is_ipv4() == peer.is_ipv4();
        self.assigned.iter().map(IpNet::addr).find(same)
    }

    /// `longest_bytes` is the longest packet that `packet` becomes: of a super-packet, its segments.
    pub(crate) fn outgoing(&self, packet: &IpHeader, longest_bytes: usize) -> Outgoing {
        if stays_on_link(packet.destination) || stays_on_link(packet.source) {
            return Outgoing::Drop(DropReason::SendLinkLocal);
        }
        let unreachable =
            |reason, why| Outgoing::Answer(reason, IcmpError::DestinationUnreachable(why));
        if !self.is_assigned(packet.source) {
            let reason = DropReason::SendSourceNotAssigned;
            return unreachable(reason, Unreachable::SourcePolicyFailed);
        }
        if !self.routes.permits(packet.destination, packet.protocol) {
            let why = match self.routes.contains(packet.destination) {
                true => Unreachable::AdminProhibited,
                false => Unreachable::NoRoute,
            };
            return unreachable(DropReason::SendDestinationNotRouted, why);
        }
        if longest_bytes > self.mtu_bytes {
            let next_hop_mtu_bytes = u32::try_from(self.mtu_bytes).unwrap_or(u32::MAX);
            let error = IcmpError::PacketTooBig { next_hop_mtu_bytes };
            return Outgoing::Answer(DropReason::SendTooBig, error);
        }
        Outgoing::Send
    }

    pub(crate) fn incoming(&self, packet: &[u8]) -> Result<(IpHeader, Incoming), DropReason> {
        let header = ip::parse(packet).map_err(|_| DropReason::ReceiveMalformed)?;
        let ours = self.is_assigned(header.destination);
        let is_icmp = matches!(header.protocol, protocol::ICMP | protocol::ICMPV6);
        if !is_icmp {
            return Ok((header, self.deliver(&header, ours)));
        }
        let verdict = match icmp::classify(&header, packet) {
            Some(IcmpKind::EchoRequest { .. }) if header.destination == ALL_NODES => Incoming::Echo,
            Some(IcmpKind::EchoReply {
                identifier,
                sequence,
            }) if ours || header.destination == LINK_LOCAL => {
                let deliver = self.deliver(&header, ours) == Incoming::Deliver;
                Incoming::EchoReply {
                    identifier,
                    sequence,
                    deliver,
                }
            }
            // Routers on the way are no part of the advertised routes, and their errors are how
            // path MTU discovery and traceroute work.
            Some(IcmpKind::Error) if ours && self.quotes_us(&header, packet) => Incoming::Deliver,
            _ => self.deliver(&header, ours),
        };
        Ok((header, verdict))
    }

    fn deliver(&self, header: &IpHeader, ours: bool) -> Incoming {
        if !ours {
            return Incoming::Drop(DropReason::ReceiveDestinationNotAssigned);
        }
        if !self.routes.permits(header.source, header.protocol) {
            return Incoming::Drop(DropReason::ReceiveSourceNotRouted);
        }
        Incoming::Deliver
    }

    fn quotes_us(&self, header: &IpHeader, packet: &[u8]) -> bool {
        icmp::quoted_flow(header, packet).is_some_and(|flow| self.is_assigned(flow.src()))
    }
}

/// Link-local and multicast addresses, and those that stand for no host.
fn stays_on_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.is_multicast() || address.is_unspecified()
        }
    }
}

/// Advertised ranges, arranged so that a packet costs a binary search.
#[derive(Clone, Debug, Default)]
struct RouteTable {
    /// Of every protocol: first and last address as numbers, sorted, disjoint.
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
    /// Of a single protocol.
    scoped: Vec<IpRange>,
}

impl RouteTable {
    /// `ranges` in the order RFC 9484 §4.7.3 demands, which the session has checked.
    fn new(ranges: &[IpRange]) -> Self {
        let mut table = Self::default();
        for range in ranges {
            match (range.protocol(), range.start(), range.end()) {
                (0, IpAddr::V4(start), IpAddr::V4(end)) => {
                    table.v4.push((start.to_bits(), end.to_bits()));
                }
                (0, IpAddr::V6(start), IpAddr::V6(end)) => {
                    table.v6.push((start.to_bits(), end.to_bits()));
                }
                _ => table.scoped.push(*range),
            }
        }
        table.v4.sort_unstable();
        table.v6.sort_unstable();
        table
    }

    fn permits(&self, address: IpAddr, protocol: u8) -> bool {
        self.in_full(address) || self.scoped.iter().any(|r| r.permits(address, protocol))
    }

    fn contains(&self, address: IpAddr) -> bool {
        self.in_full(address) || self.scoped.iter().any(|range| range.contains(address))
    }

    fn in_full(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }
}

fn within<T: PartialOrd + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= address);
    after > 0 && address <= ranges[after - 1].1
}

#[cfg(test)]
mod tests;
