//! The flow a packet belongs to: the key of every per-flow table.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::read_u16;
use crate::icmp::{self, IcmpKind};
use crate::ip::{Fragment, IpHeader, IpVersion};
use crate::protocol;

/// The 5-tuple of a packet, in 48 bytes that hash and compare fast.
///
/// Ports are those of TCP, UDP, UDP-Lite, SCTP and DCCP; for an ICMP echo request or reply both
/// hold the identifier, so that a reply has the [reversed](Self::reversed) key of its request;
/// otherwise, and for fragments without the upper-layer header, they are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    src: u128,
    dst: u128,
    /// The source port, or zero.
    pub src_port: u16,
    /// The destination port, or zero.
    pub dst_port: u16,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// The version is part of the key: an IPv6 packet with an IPv4-mapped address must not match
    /// a flow of IPv4.
    version: IpVersion,
}

impl FlowKey {
    /// The key of no flow: to fill tables with, and for what is no packet.
    pub const UNSPECIFIED: Self = Self {
        src: 0,
        dst: 0,
        src_port: 0,
        dst_port: 0,
        protocol: protocol::NO_NEXT_HEADER,
        version: IpVersion::V6,
    };

    /// The key with these parts. Both addresses must be of one family; if they are not, the IPv4
    /// one is mapped into IPv6 (RFC 4291 §2.5.5.2).
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr, protocol: u8, src_port: u16, dst_port: u16) -> Self {
        let version = match (src, dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => IpVersion::V4,
            _ => IpVersion::V6,
        };
        Self {
            src: mapped(src),
            dst: mapped(dst),
            src_port,
            dst_port,
            protocol,
            version,
        }
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        unmapped(self.src, self.version)
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        unmapped(self.dst, self.version)
    }

    /// The IP version.
    #[must_use]
    pub fn version(&self) -> IpVersion {
        self.version
    }

    /// The key of the packets that answer this flow.
    #[inline]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            src_port: self.dst_port,
            dst_port: self.src_port,
            ..*self
        }
    }
}

impl FlowKey {
    /// Two words that hold something of every part of the key.
    #[inline]
    pub(crate) fn digest(&self) -> (u64, u64) {
        let [src_high, src_low] = halves(self.src);
        let [dst_high, dst_low] = halves(self.dst);
        let ports = u64::from(self.src_port) << 48 | u64::from(self.dst_port) << 32;
        let high = src_high ^ src_low ^ ports ^ u64::from(self.protocol) << 24;
        (high, dst_high.rotate_left(7) ^ dst_low)
    }
}

impl Hash for FlowKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.src);
        state.write_u128(self.dst);
        let ports = u64::from(self.src_port) << 32 | u64::from(self.dst_port) << 16;
        let version = u64::from(self.version == IpVersion::V6);
        state.write_u64(ports | u64::from(self.protocol) << 8 | version);
    }
}

/// The flow of the packet that [`parse`](crate::ip::parse) described as `header`.
#[inline]
#[must_use]
pub fn flow_key(header: &IpHeader, packet: &[u8]) -> FlowKey {
    let (src_port, dst_port) = ports(header, packet);
    FlowKey {
        src: mapped(header.source),
        dst: mapped(header.destination),
        src_port,
        dst_port,
        protocol: header.protocol,
        version: header.version,
    }
}

#[inline]
fn ports(header: &IpHeader, packet: &[u8]) -> (u16, u16) {
    if header.fragment == Fragment::Later {
        return (0, 0);
    }
    match header.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => {
            match (
                read_u16(packet, header.upper_offset),
                read_u16(packet, header.upper_offset + 2),
            ) {
                (Some(src_port), Some(dst_port)) => (src_port, dst_port),
                _ => (0, 0),
            }
        }
        protocol::ICMP | protocol::ICMPV6 => match icmp::classify(header, packet) {
            Some(
                IcmpKind::EchoRequest { identifier, .. } | IcmpKind::EchoReply { identifier, .. },
            ) => (identifier, identifier),
            _ => (0, 0),
        },
        _ => (0, 0),
    }
}

#[inline]
fn halves(value: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, low @ ..] = value.to_be_bytes();
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes(low),
    ]
}

#[inline]
fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => MAPPED_PREFIX | u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// ::ffff:0:0/96 (RFC 4291 §2.5.5.2).
const MAPPED_PREFIX: u128 = 0xffff_0000_0000;

fn unmapped(bits: u128, version: IpVersion) -> IpAddr {
    match version {
        IpVersion::V4 => {
            let low = u32::try_from(bits ^ MAPPED_PREFIX).unwrap_or_default();
            Ipv4Addr::from_bits(low).into()
        }
        IpVersion::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

#[cfg(test)]
mod tests;
