use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::build::{build_ip, build_udp};
use crate::reference::{V4_A, V4_B, V6_A, V6_B, resum};

fn edited(packet: &[u8], edit: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = packet.to_vec();
    edit(&mut packet);
    packet
}

#[test]
fn an_ipv4_packet() {
    let mut packet = build_udp(V4_A, V4_B, 1, 2, b"hello");
    packet[1] = 0xb9;
    resum(&mut packet);
    let header = parse(&packet).unwrap();
    let expected = IpHeader {
        version: IpVersion::V4,
        source: V4_A,
        destination: V4_B,
        header_bytes: 20,
        total_bytes: 33,
        traffic_class: 0xb9,
        hop_limit: 64,
        protocol: 17,
        upper_offset: 20,
        fragment: Fragment::Whole,
        has_routing_header: false,
        has_segment_routing_header: false,
        ipv4_options: false,
    };
    assert_eq!(header, expected);
    assert_eq!(
        (header.ecn(), header.dscp(), header.upper_bytes()),
        (Ecn::Ect1, 46, 13)
    );
}

#[test]
fn an_ipv6_packet() {
    let mut packet = build_udp(V6_A, V6_B, 1, 2, b"hello");
    packet[..4].copy_from_slice(&[0x6b, 0x9f, 0xff, 0xff]);
    let header = parse(&packet).unwrap();
    let expected = IpHeader {
        version: IpVersion::V6,
        source: V6_A,
        destination: V6_B,
        header_bytes: 40,
        total_bytes: 53,
        traffic_class: 0xb9,
        hop_limit: 64,
        protocol: 17,
        upper_offset: 40,
        fragment: Fragment::Whole,
        has_routing_header: false,
        has_segment_routing_header: false,
        ipv4_options: false,
    };
    assert_eq!(header, expected);
}

#[test]
fn ipv4_options_move_the_upper_layer() {
    let mut packet = build_ip(V4_A, V4_B, 6, &[9; 30]);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    resum(&mut packet);
    let header = parse(&packet).unwrap();
    assert!(header.ipv4_options);
    assert_eq!(
        (
            header.header_bytes,
            header.upper_offset,
            header.upper_bytes()
        ),
        (24, 24, 30)
    );
}

#[test]
fn ipv4_fragments() {
    for (field, fragment) in [
        (0x4000u16, Fragment::Whole),
        (0x2000, Fragment::First { more: true }),
        (0x2001, Fragment::Later),
        (0x1fff, Fragment::Later),
        (0x0001, Fragment::Later),
    ] {
        let mut packet = build_udp(V4_A, V4_B, 1, 2, b"hello");
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        resum(&mut packet);
        assert_eq!(parse(&packet).unwrap().fragment, fragment, "{field:#x}");
    }
}

#[test]
fn every_error_has_its_packet() {
    let v4 = build_udp(V4_A, V4_B, 1, 2, b"hello");
    let v6 = build_udp(V6_A, V6_B, 1, 2, b"hello");
    let cases = [
        (vec![], PacketError::Empty),
        (edited(&v4, |p| p[0] = 0x55), PacketError::BadVersion),
        (vec![0], PacketError::BadVersion),
        (v4[..19].to_vec(), PacketError::TooShort),
        (v6[..39].to_vec(), PacketError::TooShort),
        (edited(&v4, |p| p.push(0)), PacketError::LengthMismatch),
        (
            edited(&v4, |p| p.truncate(p.len() - 1)),
            PacketError::LengthMismatch,
        ),
        (edited(&v6, |p| p.push(0)), PacketError::LengthMismatch),
        (
            edited(&v6, |p| p.truncate(p.len() - 1)),
            PacketError::LengthMismatch,
        ),
        (
            edited(&v4, |p| p[2..4].copy_from_slice(&[0, 19])),
            PacketError::LengthMismatch,
        ),
        (edited(&v4, |p| p[8] -= 1), PacketError::BadChecksum),
        (edited(&v4, |p| p[0] = 0x44), PacketError::BadHeaderLength),
        (edited(&v4, |p| p[0] = 0x4f), PacketError::BadHeaderLength),
        (edited(&v6, |p| p[6] = 60), PacketError::ExtensionChain),
        (
            edited(&build_ip(V4_A, V4_B, 6, &[0; 16]), |p| {
                p[6] = 0x20;
                resum(p);
            }),
            PacketError::TinyFragment,
        ),
    ];
    for (packet, error) in &cases {
        assert_eq!(parse(packet), Err(*error), "{packet:02x?}");
    }
    for error in PacketError::ALL {
        assert!(
            cases.iter().any(|case| case.1 == error),
            "{error:?} has no case"
        );
        assert_eq!(
            PacketError::ALL
                .iter()
                .filter(|e| e.as_str() == error.as_str())
                .count(),
            1
        );
    }
}

#[test]
fn any_flipped_bit_of_an_ipv4_header_is_noticed() {
    let packet = build_udp(V4_A, V4_B, 1, 2, b"hello");
    for bit in 0..160 {
        let broken = edited(&packet, |p| p[bit / 8] ^= 1 << (bit % 8));
        assert!(parse(&broken).is_err(), "bit {bit}");
    }
}

#[test]
fn an_ipv6_packet_may_end_with_its_header() {
    let header = parse(&build_ip(V6_A, V6_B, protocol::NO_NEXT_HEADER, &[])).unwrap();
    assert_eq!(
        (header.upper_offset, header.upper_bytes(), header.protocol),
        (40, 0, 59)
    );
}

/// One extension header of a crafted chain.
#[derive(Clone, Debug)]
struct Extension {
    kind: u8,
    /// Length field; of no meaning for a Fragment header.
    length: u8,
    /// Routing type, or fragment offset (in its low bits) and more flag.
    detail: u16,
}

fn extensions() -> impl Strategy<Value = Extension> {
    let kinds = vec![0, 43, 43, 44, 51, 60, 135, 139, 140, 253, 254];
    let detail = prop_oneof![
        Just(0u16),
        Just(1),
        Just(4 << 8),
        Just(8),
        Just(9),
        any::<u16>()
    ];
    (proptest::sample::select(kinds), 0..5u8, detail).prop_map(|(kind, length, detail)| Extension {
        kind,
        length,
        detail,
    })
}

/// The bytes of a chain that ends in `last`, and what a walk must find: protocol, offset in the
/// chain, fragment, routing headers. Built forwards from the description, not by reading bytes.
fn craft(chain: &[Extension], last: u8) -> (Vec<u8>, u8, usize, Fragment, (bool, bool)) {
    let mut bytes = Vec::new();
    let mut found = None;
    let mut fragment = Fragment::Whole;
    let mut routing = (false, false);
    for (index, extension) in chain.iter().enumerate() {
        let next = chain
            .get(index + 1)
            .map_or(last, |extension| extension.kind);
        let start = bytes.len();
        bytes.extend([next, extension.length]);
        bytes.extend(extension.detail.to_be_bytes());
        let header_bytes = match extension.kind {
            44 => 8,
            51 => (usize::from(extension.length) * 4 + 8).max(8),
            _ => usize::from(extension.length) * 8 + 8,
        };
        bytes.resize(start + header_bytes, 0xee);
        if found.is_some() {
            continue;
        }
        if extension.kind == 43 {
            routing = (true, routing.1 || extension.detail >> 8 == 4);
        }
        if extension.kind == 44 {
            let more = extension.detail & 1 == 1 || fragment == Fragment::First { more: true };
            fragment = Fragment::First { more };
            if extension.detail >> 3 != 0 {
                fragment = Fragment::Later;
                found = Some((next, bytes.len()));
            }
        }
    }
    let (protocol, offset) = found.unwrap_or((last, bytes.len()));
    (bytes, protocol, offset, fragment, routing)
}

proptest! {
    #[test]
    fn a_walk_finds_what_was_crafted(
        chain in vec(extensions(), 0..12),
        last in proptest::sample::select(vec![1u8, 4, 6, 17, 41, 50, 58, 59, 132, 143]),
        data in 0..40usize,
    ) {
        let (mut bytes, protocol, offset, fragment, routing) = craft(&chain, last);
        let chain_bytes = bytes.len();
        bytes.resize(bytes.len() + data, 0);
        let first = chain.first().map_or(last, |extension| extension.kind);
        let parsed = parse(&build_ip(V6_A, V6_B, first, &bytes));
        let walked = chain.iter().position(|e| e.kind == 44 && e.detail >> 3 != 0)
            .map_or(chain.len(), |later| later + 1);
        if walked > MAX_EXTENSION_HEADERS {
            prop_assert_eq!(parsed, Err(PacketError::ExtensionChain));
            return Ok(());
        }
        let least = match last {
            6 => 20,
            132 => 12,
            1 | 17 | 58 => 8,
            _ => 0,
        };
        if fragment == (Fragment::First { more: true }) && data < least {
            prop_assert_eq!(parsed, Err(PacketError::TinyFragment));
            return Ok(());
        }
        let header = parsed.unwrap();
        prop_assert_eq!(header.protocol, protocol);
        prop_assert_eq!(header.upper_offset, 40 + offset);
        prop_assert_eq!(header.fragment, fragment);
        prop_assert_eq!((header.has_routing_header, header.has_segment_routing_header), routing);
        // Cut anywhere inside the chain, it is an error and not a shorter chain.
        for cut in 0..offset.min(chain_bytes) {
            let parsed = parse(&build_ip(V6_A, V6_B, first, &bytes[..cut]));
            prop_assert_eq!(parsed, Err(PacketError::ExtensionChain));
        }
    }
}

#[test]
fn the_bound_of_the_chain() {
    let chain = |headers: usize| {
        let mut bytes = Vec::new();
        for index in 0..headers {
            bytes.extend([
                if index + 1 == headers { 6 } else { 60 },
                0,
                1,
                4,
                0,
                0,
                0,
                0,
            ]);
        }
        parse(&build_ip(V6_A, V6_B, 60, &bytes)).map(|header| header.protocol)
    };
    assert_eq!(chain(MAX_EXTENSION_HEADERS), Ok(6));
    assert_eq!(
        chain(MAX_EXTENSION_HEADERS + 1),
        Err(PacketError::ExtensionChain)
    );
}

#[test]
fn a_second_fragment_header_does_not_hide_the_first() {
    let chain = |first: u16, second: u16| {
        let mut bytes = vec![44, 0];
        bytes.extend(first.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 17, 0]);
        bytes.extend(second.to_be_bytes());
        bytes.extend([0, 0, 0, 1]);
        bytes.extend([0; 8]);
        parse(&build_ip(V6_A, V6_B, 44, &bytes)).unwrap().fragment
    };
    assert_eq!(chain(0, 0), Fragment::First { more: false });
    assert_eq!(chain(1, 0), Fragment::First { more: true });
    assert_eq!(chain(0, 1), Fragment::First { more: true });
    assert_eq!(chain(0, 8), Fragment::Later);
    assert_eq!(chain(8, 0), Fragment::Later);
}

/// RFC 7112 §5 and RFC 1858 §3.2.1: what a rule looks at is in the first fragment.
#[test]
fn a_first_fragment_has_its_upper_layer_header() {
    let least = [(6, 20), (17, 8), (136, 8), (132, 12), (33, 12), (50, 0)];
    let of_family = [(V4_A, V4_B, 1), (V6_A, V6_B, 58)];
    for (source, destination, icmp) in of_family {
        for (protocol, least_bytes) in least.into_iter().chain([(icmp, 8)]) {
            let with = |more: u16, data: usize| {
                let mut payload = Vec::new();
                if source.is_ipv6() {
                    payload.extend([60, 0, 0, u8::try_from(more).unwrap(), 0, 0, 0, 1]);
                    payload.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
                }
                payload.resize(payload.len() + data, 0);
                let first = if source.is_ipv6() { 44 } else { protocol };
                let mut packet = build_ip(source, destination, first, &payload);
                if source.is_ipv4() {
                    packet[6..8].copy_from_slice(&(more << 13).to_be_bytes());
                    resum(&mut packet);
                }
                parse(&packet)
            };
            assert!(with(1, least_bytes).is_ok(), "{protocol}");
            for data in 0..least_bytes {
                let tiny = Err(PacketError::TinyFragment);
                assert_eq!(with(1, data), tiny, "{protocol}: {data}");
                assert!(with(0, data).is_ok(), "nothing follows");
            }
        }
    }
}
