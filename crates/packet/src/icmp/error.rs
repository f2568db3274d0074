//! ICMP errors: RFC 792, RFC 1191, RFC 1812 §4.3 and RFC 4443.

use std::net::IpAddr;

use super::{Envelope, ICMP_HEADER_BYTES, IcmpKind, classify, is_group, is_icmp, is_single_host};
use crate::bytes::write_u32;
use crate::ip::{self, Fragment, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpHeader, IpVersion};

/// Longest error [`build_error`] writes, in bytes: the minimum IPv6 MTU (RFC 4443 §2.4(c)). An
/// IPv4 error is at most 576 bytes long (RFC 1812 §4.3.2.3).
pub const MAX_ERROR_BYTES: usize = 1280;

/// An error a gateway answers a packet with (RFC 9484 §7.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// The packet cannot be delivered.
    DestinationUnreachable(Unreachable),
    /// The packet is longer than what carries it: ICMPv6 type 2, ICMPv4 type 3 code 4.
    PacketTooBig {
        /// The longest packet that passes. Written as at least the minimum MTU of the family (68
        /// or 1280 bytes): hosts discard an IPv6 message below that (RFC 8201 §4), and zero is
        /// what routers before RFC 1191 send.
        next_hop_mtu_bytes: u32,
    },
    /// The hop limit is used up: ICMPv6 3/0, ICMPv4 11/0.
    TimeExceeded,
}

/// Why a destination is unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unreachable {
    /// No route to the destination: ICMPv6 1/0, ICMPv4 3/0.
    NoRoute,
    /// Policy forbids the packet: ICMPv6 1/1, ICMPv4 3/13.
    AdminProhibited,
    /// The destination is beyond the scope of the source address: ICMPv6 1/2, ICMPv4 3/13.
    BeyondScope,
    /// The host does not answer: ICMPv6 1/3, ICMPv4 3/1.
    AddressUnreachable,
    /// Nothing listens on the port: ICMPv6 1/4, ICMPv4 3/3.
    PortUnreachable,
    /// The source address fails the ingress policy: ICMPv6 1/5, ICMPv4 3/13.
    SourcePolicyFailed,
}

impl IcmpError {
    /// The type and code of the message.
    #[must_use]
    pub const fn type_and_code(self, version: IpVersion) -> (u8, u8) {
        match (version, self) {
            (IpVersion::V6, Self::DestinationUnreachable(reason)) => (1, reason.v6_code()),
            (IpVersion::V6, Self::PacketTooBig { .. }) => (2, 0),
            (IpVersion::V6, Self::TimeExceeded) => (3, 0),
            (IpVersion::V4, Self::DestinationUnreachable(reason)) => (3, reason.v4_code()),
            (IpVersion::V4, Self::PacketTooBig { .. }) => (3, 4),
            (IpVersion::V4, Self::TimeExceeded) => (11, 0),
        }
    }

    /// The four bytes after the checksum: the MTU, or unused and zero.
    fn parameter(self, version: IpVersion) -> u32 {
        match (version, self) {
            (IpVersion::V6, Self::PacketTooBig { next_hop_mtu_bytes }) => {
                next_hop_mtu_bytes.max(V6_MTU_BYTES_MIN)
            }
            // RFC 1191 §4: the low-order 16 bits.
            (IpVersion::V4, Self::PacketTooBig { next_hop_mtu_bytes }) => {
                next_hop_mtu_bytes.clamp(V4_MTU_BYTES_MIN, u16::MAX.into())
            }
            _ => 0,
        }
    }
}

impl Unreachable {
    const fn v6_code(self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::AdminProhibited => 1,
            Self::BeyondScope => 2,
            Self::AddressUnreachable => 3,
            Self::PortUnreachable => 4,
            Self::SourcePolicyFailed => 5,
        }
    }

    const fn v4_code(self) -> u8 {
        match self {
            Self::NoRoute => 0,
            Self::AddressUnreachable => 1,
            Self::PortUnreachable => 3,
            Self::AdminProhibited | Self::BeyondScope | Self::SourcePolicyFailed => 13,
        }
    }
}

/// Writes the error about `original` to the start of `out`, from `source` to the sender of
/// `original`, and returns its length in bytes.
///
/// `None` if `out` is shorter than the error ([`MAX_ERROR_BYTES`] always suffice), if `source` is
/// of the other family, or if no error may be sent: about something that is no valid packet, about
/// an ICMP error or a fragment that is not the first, about a packet to a group address (but RFC
/// 4443 §2.4(e.3) allows an ICMPv6 Packet Too Big there), or about a packet whose source does not
/// stand for one host (RFC 4443 §2.4(e), RFC 1812 §4.3.2.7).
#[must_use]
pub fn build_error(
    out: &mut [u8],
    original: &[u8],
    source: IpAddr,
    error: IcmpError,
) -> Option<usize> {
    let header = ip::parse(original).ok()?;
    if !may_answer(&header, original, error) || source.is_ipv4() != header.source.is_ipv4() {
        return None;
    }
    let (header_bytes, max_bytes, traffic_class) = match header.version {
        // RFC 1812 §4.3.2.5: errors SHOULD have precedence 6 (INTERNETWORK CONTROL).
        IpVersion::V4 => (IPV4_HEADER_BYTES, V4_ERROR_BYTES_MAX, 6 << 5),
        IpVersion::V6 => (IPV6_HEADER_BYTES, MAX_ERROR_BYTES, 0),
    };
    let quoted_bytes = original
        .len()
        .min(max_bytes - header_bytes - ICMP_HEADER_BYTES);
    let message_bytes = ICMP_HEADER_BYTES + quoted_bytes;
    let message = out.get_mut(header_bytes..header_bytes + message_bytes)?;
    let (kind, code) = error.type_and_code(header.version);
    message[0] = kind;
    message[1] = code;
    write_u32(message, 4, error.parameter(header.version));
    message[ICMP_HEADER_BYTES..].copy_from_slice(original.get(..quoted_bytes)?);
    let envelope = Envelope {
        source,
        destination: header.source,
        traffic_class,
    };
    super::seal(out, message_bytes, &envelope)
}

/// The minimum IPv6 MTU (RFC 8200 §5).
const V6_MTU_BYTES_MIN: u32 = 1280;

/// The packet every IPv4 link carries whole (RFC 791 §3.2).
const V4_MTU_BYTES_MIN: u32 = 68;

/// RFC 1812 §4.3.2.3: as much of the original as fits without the error exceeding 576 bytes.
const V4_ERROR_BYTES_MAX: usize = 576;

fn may_answer(header: &IpHeader, packet: &[u8], error: IcmpError) -> bool {
    let to_group_allowed =
        header.version == IpVersion::V6 && matches!(error, IcmpError::PacketTooBig { .. });
    if header.fragment == Fragment::Later
        || is_group(header.destination) && !to_group_allowed
        || !is_single_host(header.source)
    {
        return false;
    }
    // What says it is ICMP but is cut off before its type may be an error: stay silent.
    !is_icmp(header) || !matches!(classify(header, packet), None | Some(IcmpKind::Error))
}
