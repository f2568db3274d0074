//! Whole packets with right checksums, for tests and probes. The only module that allocates per
//! packet: keep it off the packet path.

use std::net::{IpAddr, Ipv4Addr};

use crate::bytes::write_u16;
use crate::checksum::{Sum, checksum, pseudo_header};
use crate::ip::{IPV4_HEADER_BYTES, IPV6_HEADER_BYTES};
use crate::protocol;

/// Flags of a TCP header (RFC 9293 §3.1).
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Deliver at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer counts.
    pub const URG: u8 = 0x20;
    /// ECN echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// The fields of a TCP header other than its ports.
#[derive(Clone, Copy, Debug)]
pub struct TcpFields<'a> {
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// A sum of [`tcp_flag`]s.
    pub flags: u8,
    /// The window as it is on the wire, unscaled.
    pub window: u16,
    /// The options; at most 40 bytes count, padded with zero to a multiple of four.
    pub options: &'a [u8],
}

impl Default for TcpFields<'_> {
    fn default() -> Self {
        Self {
            sequence: 1,
            acknowledgement: 1,
            flags: tcp_flag::ACK,
            window: 512,
            options: &[],
        }
    }
}

/// A UDP datagram (RFC 768) in an IP packet. If one address is IPv6, so is the packet.
#[must_use]
pub fn build_udp(
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut udp = Vec::with_capacity(8 + payload.len());
    udp.extend(src_port.to_be_bytes());
    udp.extend(dst_port.to_be_bytes());
    udp.extend(length_field(8 + payload.len()).to_be_bytes());
    udp.extend([0; 2]);
    udp.extend(payload);
    let (src, dst) = one_family(src, dst);
    let sum = pseudo_header(src, dst, protocol::UDP, udp.len()) + Sum::of(&udp);
    // RFC 768: a computed zero is sent as all ones.
    write_u16(
        &mut udp,
        6,
        if sum.checksum() == 0 {
            0xffff
        } else {
            sum.checksum()
        },
    );
    build_ip(src, dst, protocol::UDP, &udp)
}

/// A TCP segment (RFC 9293 §3.1) in an IP packet. If one address is IPv6, so is the packet.
#[must_use]
pub fn build_tcp(
    src: IpAddr,
    dst: IpAddr,
    src_port: u16,
    dst_port: u16,
    fields: &TcpFields<'_>,
    payload: &[u8],
) -> Vec<u8> {
    let options = fields.options.get(..40).unwrap_or(fields.options);
    let header_bytes = 20 + options.len().next_multiple_of(4);
    let mut tcp = Vec::with_capacity(header_bytes + payload.len());
    tcp.extend(src_port.to_be_bytes());
    tcp.extend(dst_port.to_be_bytes());
    tcp.extend(fields.sequence.to_be_bytes());
    tcp.extend(fields.acknowledgement.to_be_bytes());
    tcp.extend([
        u8::try_from(header_bytes << 2).unwrap_or(u8::MAX),
        fields.flags,
    ]);
    tcp.extend(fields.window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.resize(header_bytes, 0);
    tcp.extend(payload);
    let (src, dst) = one_family(src, dst);
    let sum = pseudo_header(src, dst, protocol::TCP, tcp.len()) + Sum::of(&tcp);
    write_u16(&mut tcp, 16, sum.checksum());
    build_ip(src, dst, protocol::TCP, &tcp)
}

/// An ICMP or ICMPv6 echo request (RFC 792, RFC 4443 §4.1) in an IP packet. If one address is IPv6,
/// so is the packet.
#[must_use]
pub fn build_icmp_echo(
    src: IpAddr,
    dst: IpAddr,
    identifier: u16,
    sequence: u16,
    payload: &[u8],
) -> Vec<u8> {
    let (src, dst) = one_family(src, dst);
    let (protocol, kind) = match src {
        IpAddr::V4(_) => (protocol::ICMP, 8),
        IpAddr::V6(_) => (protocol::ICMPV6, 128),
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(identifier.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    let pseudo = match src {
        IpAddr::V4(_) => Sum::ZERO,
        IpAddr::V6(_) => pseudo_header(src, dst, protocol, message.len()),
    };
    let sum = pseudo + Sum::of(&message);
    write_u16(&mut message, 2, sum.checksum());
    build_ip(src, dst, protocol, &message)
}

/// An IP packet around `payload`, with hop limit 64 and for IPv4 the DF bit and identification 1.
/// If one address is IPv6, so is the packet. A payload of more than 65,515 bytes (IPv4) or 65,535
/// bytes (IPv6) gives a packet with a wrong length field.
#[must_use]
pub fn build_ip(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match one_family(src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => build_v4(src, dst, protocol, payload),
        (src, dst) => {
            let mut packet = Vec::with_capacity(IPV6_HEADER_BYTES + payload.len());
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length_field(payload.len()).to_be_bytes());
            packet.extend([protocol, HOP_LIMIT]);
            for address in [src, dst] {
                match address {
                    IpAddr::V4(address) => packet.extend(address.to_ipv6_mapped().octets()),
                    IpAddr::V6(address) => packet.extend(address.octets()),
                }
            }
            packet.extend(payload);
            packet
        }
    }
}

const HOP_LIMIT: u8 = 64;

fn build_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let total_bytes = IPV4_HEADER_BYTES + payload.len();
    let mut packet = Vec::with_capacity(total_bytes);
    packet.extend([0x45, 0]);
    packet.extend(length_field(total_bytes).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, HOP_LIMIT, protocol, 0, 0]);
    packet.extend(src.octets());
    packet.extend(dst.octets());
    let sum = checksum(&packet);
    write_u16(&mut packet, 10, sum);
    packet.extend(payload);
    packet
}

fn length_field(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

fn one_family(src: IpAddr, dst: IpAddr) -> (IpAddr, IpAddr) {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V6(_)) => (src.to_ipv6_mapped().into(), dst),
        (IpAddr::V6(_), IpAddr::V4(dst)) => (src, dst.to_ipv6_mapped().into()),
        same => same,
    }
}

#[cfg(test)]
mod tests;
