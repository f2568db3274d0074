//! Slow and plain second opinions that the tests compare this crate with, and strategies for
//! packets. What checks a packet uses none of the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp};
use crate::bytes::write_u16;
use crate::checksum::pseudo_header;
use crate::ip::{IpVersion, parse};
use crate::protocol;
use crate::segment::{GsoInfo, GsoKind, PartialChecksum};

/// The one's-complement sum of RFC 1071, word by word.
pub(crate) fn naive_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum -= 0xffff;
        }
    }
    sum as u16
}

/// Checks every length and checksum of a whole packet without options it does not know, and says
/// what is wrong.
pub(crate) fn check_packet(packet: &[u8]) -> Result<(), String> {
    let field = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let (addresses, protocol, upper) = match packet[0] >> 4 {
        4 => {
            let header_bytes = usize::from(packet[0] & 15) * 4;
            if field(2) != packet.len() {
                return Err(format!(
                    "IPv4 total length {} of {}",
                    field(2),
                    packet.len()
                ));
            }
            if naive_sum(&packet[..header_bytes]) != 0xffff {
                return Err("IPv4 header checksum".into());
            }
            (&packet[12..20], packet[9], &packet[header_bytes..])
        }
        6 => {
            if field(4) + 40 != packet.len() {
                return Err(format!(
                    "IPv6 payload length {} of {}",
                    field(4),
                    packet.len()
                ));
            }
            let (protocol, offset) = naive_walk(packet);
            (&packet[8..40], protocol, &packet[offset..])
        }
        version => return Err(format!("version {version}")),
    };
    let mut covered = Vec::new();
    if protocol != 1 {
        covered.extend(addresses);
        covered.extend((upper.len() as u32).to_be_bytes());
        covered.extend([0, 0, 0, protocol]);
    }
    covered.extend(upper);
    match protocol {
        17 if upper[4..6] != (upper.len() as u16).to_be_bytes() => Err("UDP length".into()),
        17 if upper[6..8] == [0, 0] && packet[0] >> 4 == 4 => Ok(()),
        1 | 6 | 17 | 58 if naive_sum(&covered) != 0xffff => {
            Err(format!("checksum of protocol {protocol}"))
        }
        17 if upper[6..8] == [0, 0] => Err("UDP over IPv6 without checksum".into()),
        _ => Ok(()),
    }
}

/// The upper-layer protocol of an IPv6 packet without fragments, and where it begins.
fn naive_walk(packet: &[u8]) -> (u8, usize) {
    let (mut protocol, mut offset) = (packet[6], 40);
    while [0, 43, 51, 60, 135, 139, 140, 253, 254].contains(&protocol) {
        let units = usize::from(packet[offset + 1]);
        protocol = packet[offset];
        offset += if protocol == 51 {
            (units + 2) * 4
        } else {
            (units + 1) * 8
        };
    }
    (protocol, offset)
}

/// Whether the ICMP message in a packet is an error or a redirect.
pub(crate) fn is_icmp_error(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => {
            // A packet may end behind its header.
            let kind = packet.get(usize::from(packet[0] & 15) * 4);
            packet[9] == 1 && kind.is_some_and(|kind| [3, 4, 5, 11, 12].contains(kind))
        }
        _ => {
            let (protocol, offset) = naive_walk(packet);
            let kind = packet.get(offset);
            protocol == 58 && kind.is_some_and(|kind| *kind < 128 || *kind == 137)
        }
    }
}

pub(crate) const V4_A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3));
pub(crate) const V4_B: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));
pub(crate) const V6_A: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6));
pub(crate) const V6_B: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 9, 0, 0xffff, 0, 0xa));

/// Both ends of a flow, of one family.
pub(crate) fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(u32, u32)>()
            .prop_map(|(a, b)| { (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into()) }),
        any::<(u128, u128)>()
            .prop_map(|(a, b)| { (Ipv6Addr::from_bits(a).into(), Ipv6Addr::from_bits(b).into()) }),
        Just((V4_A, V4_B)),
        Just((V6_A, V6_B)),
    ]
}

/// The GSO information that a kernel gives with a packet, and the packet with its checksum made
/// partial.
pub(crate) fn offload(packet: &mut [u8], segment_bytes: u16) -> GsoInfo {
    let header = parse(packet).unwrap();
    let (kind, offset) = match (header.protocol, header.version) {
        (protocol::UDP, _) => (GsoKind::UdpL4, 6),
        (_, IpVersion::V4) => (GsoKind::TcpV4, 16),
        (_, IpVersion::V6) => (GsoKind::TcpV6, 16),
    };
    let start = u16::try_from(header.upper_offset).unwrap();
    let pseudo = pseudo_header(
        header.source,
        header.destination,
        header.protocol,
        header.upper_bytes(),
    );
    write_u16(packet, header.upper_offset + offset, pseudo.fold());
    let checksum = Some(PartialChecksum {
        start,
        offset: u16::try_from(offset).unwrap(),
    });
    GsoInfo {
        kind,
        segment_bytes,
        header_bytes: 0,
        checksum,
    }
}

/// Sets the identification of an IPv4 packet.
pub(crate) fn number(packet: &mut [u8], identification: u16) {
    if packet[0] >> 4 == 4 {
        write_u16(packet, 4, identification);
        resum(packet);
    }
}

/// Writes the right header checksum into an IPv4 packet.
pub(crate) fn resum(packet: &mut [u8]) {
    let header_bytes = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = !naive_sum(&packet[..header_bytes]);
    write_u16(packet, 10, sum);
}

/// Protocols that are no IPv6 extension header.
const OTHER_PROTOCOLS: &[u8] = &[2, 4, 33, 41, 50, 59, 89, 132, 136, 143, 250];

/// A whole valid packet of any protocol this crate knows, and of some it does not.
pub(crate) fn packets() -> impl Strategy<Value = Vec<u8>> {
    let data = || vec(any::<u8>(), 0..600);
    prop_oneof![
        (addresses(), any::<(u16, u16)>(), data())
            .prop_map(|((a, b), (s, d), data)| build_udp(a, b, s, d, &data)),
        (
            addresses(),
            any::<(u16, u16)>(),
            any::<(u32, u32, u8)>(),
            vec(any::<u8>(), 0..40),
            data()
        )
            .prop_map(
                |((a, b), (s, d), (sequence, acknowledgement, flags), options, data)| {
                    let fields = TcpFields {
                        sequence,
                        acknowledgement,
                        flags,
                        options: &options,
                        ..TcpFields::default()
                    };
                    build_tcp(a, b, s, d, &fields, &data)
                }
            ),
        (addresses(), any::<(u16, u16)>(), data())
            .prop_map(|((a, b), (i, s), data)| build_icmp_echo(a, b, i, s, &data)),
        (addresses(), select(OTHER_PROTOCOLS), data())
            .prop_map(|((a, b), p, data)| build_ip(a, b, p, &data)),
    ]
}

/// A valid packet with some bytes changed, cut or added: what fuzzing finds slowly.
pub(crate) fn broken_packets() -> impl Strategy<Value = Vec<u8>> {
    (
        packets(),
        vec((0..80usize, any::<u8>()), 0..4),
        0..90usize,
        any::<bool>(),
    )
        .prop_map(|(mut packet, changes, length, cut)| {
            for (at, value) in changes {
                if let Some(byte) = packet.get_mut(at) {
                    *byte = value;
                }
            }
            if cut {
                packet.truncate(length);
            }
            packet
        })
}
