//! ICMP for both families: what a message is, which flow an error is about, and the messages a
//! gateway sends.

mod echo;
mod error;

use std::net::{IpAddr, Ipv4Addr};

pub use echo::{build_echo_reply, build_echo_reply_from};
pub use error::{IcmpError, MAX_ERROR_BYTES, Unreachable, build_error};

use crate::bytes::write_u16;
use crate::checksum::{Sum, checksum, pseudo_header};
use crate::flow::{FlowKey, flow_key};
use crate::ip::{self, Fragment, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpHeader, IpVersion};
use crate::protocol;

/// What an ICMP or ICMPv6 message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpKind {
    /// An echo request (RFC 792, RFC 4443 §4.1).
    EchoRequest {
        /// The identifier, which stands where other protocols have ports.
        identifier: u16,
        /// The sequence number.
        sequence: u16,
    },
    /// An echo reply (RFC 792, RFC 4443 §4.2).
    EchoReply {
        /// The identifier of the request.
        identifier: u16,
        /// The sequence number of the request.
        sequence: u16,
    },
    /// An error or redirect: a message that quotes a packet and must never be answered.
    Error,
    /// Anything else.
    Other,
}

/// What the ICMP message in a packet is; `None` if the packet is not ICMP of its own family, is a
/// fragment without the ICMP header, or has no complete ICMP header.
#[inline]
#[must_use]
pub fn classify(header: &IpHeader, packet: &[u8]) -> Option<IcmpKind> {
    if !is_icmp(header) || header.fragment == Fragment::Later {
        return None;
    }
    let message: &[u8; ICMP_HEADER_BYTES] = packet.get(header.upper_offset..)?.first_chunk()?;
    let identifier = u16::from_be_bytes([message[4], message[5]]);
    let sequence = u16::from_be_bytes([message[6], message[7]]);
    Some(match (header.version, message[0]) {
        (IpVersion::V4, V4_ECHO_REQUEST) | (IpVersion::V6, V6_ECHO_REQUEST) => {
            IcmpKind::EchoRequest {
                identifier,
                sequence,
            }
        }
        (IpVersion::V4, V4_ECHO_REPLY) | (IpVersion::V6, V6_ECHO_REPLY) => IcmpKind::EchoReply {
            identifier,
            sequence,
        },
        // RFC 1122 §3.2.2: destination unreachable, source quench, redirect, time exceeded and
        // parameter problem are the error messages.
        (IpVersion::V4, 3 | 4 | 5 | 11 | 12) => IcmpKind::Error,
        // RFC 4443 §2.1: error messages have a zero in the high-order bit of the type. 137 is
        // Redirect, which §2.4(e.2) puts beside them.
        (IpVersion::V6, 0..128 | 137) => IcmpKind::Error,
        _ => IcmpKind::Other,
    })
}

/// The flow of the packet that an ICMP error quotes, as that packet was sent: its source is the
/// host the error is meant for. `None` if the packet is no ICMP error, or what it quotes cannot be
/// read.
///
/// The quotation may be cut short; ports that are cut off are zero.
#[must_use]
pub fn quoted_flow(header: &IpHeader, packet: &[u8]) -> Option<FlowKey> {
    let quoted = quoted_packet(header, packet)?;
    let inner = ip::describe(quoted).ok()?;
    Some(flow_key(&inner, quoted))
}

/// The packet an ICMP error quotes, as far as it is quoted.
fn quoted_packet<'a>(header: &IpHeader, packet: &'a [u8]) -> Option<&'a [u8]> {
    if classify(header, packet)? != IcmpKind::Error {
        return None;
    }
    // An ICMPv6 redirect quotes a packet only inside an option (RFC 4861 §4.5).
    let message = packet.get(header.upper_offset..)?;
    if header.version == IpVersion::V6 && *message.first()? >= 128 {
        return None;
    }
    let quoted = message.get(ICMP_HEADER_BYTES..)?;
    // RFC 792 and RFC 4443 §3 have a message quote a packet of their own family.
    let same_family = match header.version {
        IpVersion::V4 => 4,
        IpVersion::V6 => 6,
    } == quoted.first()? >> 4;
    same_family.then_some(quoted)
}

/// Length of the header that every message this crate writes has, in bytes.
const ICMP_HEADER_BYTES: usize = 8;

/// Hop limit of the messages this crate writes.
const HOP_LIMIT: u8 = 64;

const V4_ECHO_REPLY: u8 = 0;
const V4_ECHO_REQUEST: u8 = 8;
const V6_ECHO_REQUEST: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;

#[inline]
fn is_icmp(header: &IpHeader) -> bool {
    match header.version {
        IpVersion::V4 => header.protocol == protocol::ICMP,
        IpVersion::V6 => header.protocol == protocol::ICMPV6,
    }
}

/// Whether an address stands for exactly one host, so that a message may be sent to it: RFC 4443
/// §2.4(e.6) and RFC 1812 §4.3.2.7, §5.3.7.
fn is_single_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // 0/8, loopback, multicast, class E and the limited broadcast.
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
        }
    }
}

/// Whether a packet to this address reaches more than one host.
fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// The addresses and IP fields of a message to write.
struct Envelope {
    source: IpAddr,
    destination: IpAddr,
    traffic_class: u8,
}

/// Writes the IP header and the ICMP checksum around a message that already lies in `out` behind
/// the room for its IP header, and says how long the packet is. `None` if the addresses are of two
/// families or the packet does not fit in a length field.
fn seal(out: &mut [u8], message_bytes: usize, envelope: &Envelope) -> Option<usize> {
    match (envelope.source, envelope.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total_bytes = IPV4_HEADER_BYTES + message_bytes;
            let packet = out.get_mut(..total_bytes)?;
            let (header, message) = packet.split_at_mut_checked(IPV4_HEADER_BYTES)?;
            header.fill(0);
            header[0] = 0x45;
            header[1] = envelope.traffic_class;
            write_u16(header, 2, u16::try_from(total_bytes).ok()?);
            // RFC 6864 §4.1: with DF set the identification has no meaning and may be zero.
            write_u16(header, 6, 0x4000);
            header[8] = HOP_LIMIT;
            header[9] = protocol::ICMP;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            write_u16(header, 10, checksum(header));
            write_u16(message, 2, 0);
            write_u16(message, 2, checksum(message));
            Some(total_bytes)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let total_bytes = IPV6_HEADER_BYTES + message_bytes;
            let packet = out.get_mut(..total_bytes)?;
            let (header, message) = packet.split_at_mut_checked(IPV6_HEADER_BYTES)?;
            header.fill(0);
            header[0] = 0x60 | envelope.traffic_class >> 4;
            header[1] = envelope.traffic_class << 4;
            write_u16(header, 4, u16::try_from(message_bytes).ok()?);
            header[6] = protocol::ICMPV6;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            write_u16(message, 2, 0);
            let sum = pseudo_header(
                envelope.source,
                envelope.destination,
                protocol::ICMPV6,
                message_bytes,
            ) + Sum::of(message);
            write_u16(message, 2, sum.checksum());
            Some(total_bytes)
        }
        _ => None,
    }
}

/// Whether the checksum of a whole ICMP message is right.
fn message_is_valid(header: &IpHeader, packet: &[u8]) -> bool {
    let Some(message) = packet.get(header.upper_offset..) else {
        return false;
    };
    let sum = Sum::of(message);
    match header.version {
        IpVersion::V4 => sum.is_valid(),
        IpVersion::V6 => {
            let bytes = message.len();
            let pseudo = pseudo_header(header.source, header.destination, protocol::ICMPV6, bytes);
            (sum + pseudo).is_valid()
        }
    }
}

#[cfg(test)]
mod tests;
