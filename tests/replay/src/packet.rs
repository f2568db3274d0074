//! One packet: parse it, read it, edit it, answer it, segment it, fragment it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use masque_packet::{
    checksum::{Sum, pseudo_header},
    edit::{ChecksumState, clamp_mss, complete_checksum, decrement_hop_limit, set_ecn},
    flow::flow_key,
    fragment::fragments,
    icmp::{
        IcmpError, IcmpKind, MAX_ERROR_BYTES, Unreachable, build_echo_reply, build_error, classify,
        quoted_flow,
    },
    ip::{Ecn, Fragment, IpHeader, IpVersion, parse},
    protocol,
    segment::{GsoInfo, GsoKind, PartialChecksum, segments},
};

use crate::input::Input;

const OUR_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OUR_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let gso = gso_info(&mut input);
    let mss = input.u16();
    let packet = input.rest();
    let split = check_segments(packet, &gso);
    answer(packet);
    let mut copy = packet.to_vec();
    if let Some(partial) = gso.checksum {
        let done = complete_checksum(&mut copy, partial);
        assert!(done.is_ok() || copy == packet);
    }
    let Ok(header) = parse(packet) else {
        let mut copy = packet.to_vec();
        let _ = decrement_hop_limit(&mut copy);
        set_ecn(&mut copy, Ecn::Ce);
        return split;
    };
    assert!(header.header_bytes <= header.upper_offset);
    assert!(header.upper_offset <= header.total_bytes);
    assert_eq!(header.total_bytes, packet.len());
    let key = flow_key(&header, packet);
    assert_eq!((key.src(), key.dst()), (header.source, header.destination));
    assert_eq!(key.reversed().reversed(), key);
    let _ = quoted_flow(&header, packet);
    edit(packet, &header, mss);
    check_fragments(packet, &header, mss.into());
    true
}

fn gso_info(input: &mut Input<'_>) -> GsoInfo {
    let flags = input.u8();
    let kinds = [
        GsoKind::None,
        GsoKind::TcpV4,
        GsoKind::TcpV6,
        GsoKind::UdpL4,
    ];
    let partial = PartialChecksum {
        start: input.u16(),
        offset: input.u8().into(),
    };
    GsoInfo {
        kind: kinds[usize::from(flags & 3)],
        segment_bytes: input.u16(),
        header_bytes: partial.start,
        checksum: (flags & 4 != 0).then_some(partial),
    }
}

/// A super-packet becomes valid packets that hold all of its payload.
fn check_segments(packet: &[u8], gso: &GsoInfo) -> bool {
    let Ok(mut segments) = segments(packet, gso) else {
        return false;
    };
    let mut out = vec![0; segments.max_packet_bytes()];
    let (mut written, mut headers) = (0, 0);
    let mut total = 0;
    while let Some(expected) = segments.next_packet_bytes() {
        let bytes = segments.write_next(&mut out).expect("room for the longest");
        assert_eq!(bytes, expected);
        if gso.kind != GsoKind::None {
            let header = parse(&out[..bytes]).expect("a segment is a valid packet");
            let upper = &out[header.upper_offset..bytes];
            headers = match gso.kind {
                GsoKind::UdpL4 => header.upper_offset + 8,
                _ => header.upper_offset + usize::from(upper[12] >> 4) * 4,
            };
            let pseudo = pseudo_header(
                header.source,
                header.destination,
                header.protocol,
                upper.len(),
            );
            // RFC 768: zero in UDP says that the sender computed none.
            let has_none = gso.kind == GsoKind::UdpL4 && upper[6..8] == [0; 2];
            if has_none {
                assert!(gso.checksum.is_none());
                assert_eq!(packet[header.upper_offset + 6..][..2], [0; 2]);
            } else {
                assert!((pseudo + Sum::of(upper)).is_valid());
            }
            total += bytes - headers;
        }
        written += 1;
    }
    assert_eq!((written, segments.remaining()), (segments.count(), 0));
    if gso.kind != GsoKind::None {
        assert_eq!(total, packet.len() - headers);
    }
    true
}

/// A packet that is cut holds the same data, in pieces that fit.
fn check_fragments(packet: &[u8], header: &IpHeader, mtu_bytes: usize) {
    let Ok(mut fragments) = fragments(packet, mtu_bytes) else {
        return;
    };
    let whole = fragments.count() == 1;
    assert_eq!(whole, packet.len() <= mtu_bytes);
    let mut out = vec![0; mtu_bytes];
    let mut data = Vec::new();
    while let Some(expected) = fragments.next_packet_bytes() {
        let bytes = fragments.write_next(&mut out).expect("room for the MTU");
        assert_eq!(bytes, expected);
        let header_bytes = if whole {
            header.header_bytes
        } else {
            let header_bytes = usize::from(out[0] & 15) * 4;
            assert!(Sum::of(&out[..header_bytes]).is_valid());
            assert_eq!(usize::from(u16::from_be_bytes([out[2], out[3]])), bytes);
            header_bytes
        };
        data.extend_from_slice(&out[header_bytes..bytes]);
    }
    assert_eq!(data, &packet[header.header_bytes..]);
}

/// What we would answer is a valid packet back to the sender.
fn answer(packet: &[u8]) {
    let mut out = [0; MAX_ERROR_BYTES];
    for source in [OUR_V4, OUR_V6] {
        for error in [
            IcmpError::DestinationUnreachable(Unreachable::NoRoute),
            IcmpError::PacketTooBig {
                next_hop_mtu_bytes: 1280,
            },
            IcmpError::TimeExceeded,
        ] {
            let _ = build_error(&mut out[..40], packet, source, error);
            let Some(bytes) = build_error(&mut out, packet, source, error) else {
                continue;
            };
            let original = parse(packet).expect("errors are about packets only");
            let header = parse(&out[..bytes]).expect("an error is a valid packet");
            assert_eq!(
                (header.source, header.destination),
                (source, original.source)
            );
            assert_eq!(
                classify(&header, &out[..bytes]),
                Some(IcmpKind::Error),
                "and never answered by an error itself"
            );
            assert!(bytes <= if source.is_ipv4() { 576 } else { 1280 });
            let quoted = quoted_flow(&header, &out[..bytes]);
            if bytes - header.upper_offset - 8 == packet.len() {
                assert_eq!(quoted, Some(flow_key(&original, packet)));
            }
        }
    }
    let mut out = vec![0; packet.len()];
    if let Some(bytes) = build_echo_reply(&mut out, packet) {
        let request = parse(packet).expect("a valid request");
        let reply = parse(&out[..bytes]).expect("a reply is a valid packet");
        assert_eq!(
            (reply.source, reply.destination),
            (request.destination, request.source)
        );
        assert_eq!(
            flow_key(&reply, &out[..bytes]),
            flow_key(&request, packet).reversed()
        );
    }
}

/// Edits leave a valid packet that differs in what was edited.
fn edit(packet: &[u8], header: &IpHeader, mss: u16) {
    let mut copy = packet.to_vec();
    if decrement_hop_limit(&mut copy) {
        let expected = IpHeader {
            hop_limit: header.hop_limit - 1,
            ..*header
        };
        assert_eq!(parse(&copy), Ok(expected));
    } else {
        assert!(header.hop_limit <= 1 && copy == packet);
    }
    let mut copy = packet.to_vec();
    set_ecn(&mut copy, Ecn::Ce);
    let marked = parse(&copy).expect("still valid");
    assert_eq!((marked.ecn(), marked.dscp()), (Ecn::Ce, header.dscp()));
    let mut copy = packet.to_vec();
    let is_clamped = clamp_mss(&mut copy, header, mss, ChecksumState::Complete);
    assert_eq!(is_clamped, copy != packet, "{mss}");
    assert_eq!(parse(&copy), Ok(*header));
    if is_clamped && header.fragment == Fragment::Whole {
        assert_eq!(header.protocol, protocol::TCP);
        assert_eq!(tcp_is_valid(header, packet), tcp_is_valid(header, &copy));
        assert!(!clamp_mss(&mut copy, header, mss, ChecksumState::Complete));
    }
    if header.version == IpVersion::V4 {
        assert!(Sum::of(&packet[..header.header_bytes]).is_valid());
    }
}

fn tcp_is_valid(header: &IpHeader, packet: &[u8]) -> bool {
    let upper = &packet[header.upper_offset..];
    let pseudo = pseudo_header(
        header.source,
        header.destination,
        header.protocol,
        upper.len(),
    );
    (pseudo + Sum::of(upper)).is_valid()
}
