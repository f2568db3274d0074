use std::net::IpAddr;
use std::slice;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::build::{TcpFields, build_ip, build_tcp, build_udp, tcp_flag};
use crate::reference::{V4_A, V4_B, V6_A, V6_B, addresses, check_packet, number, offload};

fn split(packet: &[u8], gso: &GsoInfo) -> Vec<Vec<u8>> {
    let mut segments = segments(packet, gso).unwrap();
    let mut out = vec![0xaa; segments.max_packet_bytes()];
    let mut packets = Vec::new();
    while let Some(bytes) = segments.write_next(&mut out) {
        packets.push(out[..bytes].to_vec());
    }
    assert_eq!((segments.count(), segments.remaining()), (packets.len(), 0));
    assert_eq!(
        packets.iter().map(Vec::len).max(),
        Some(segments.max_packet_bytes())
    );
    packets
}

#[test]
fn a_packet_can_be_left_out() {
    let (a, b) = (V4_A, V4_B);
    let fields = TcpFields::default();
    let packet = build_tcp(a, b, 443, 50_000, &fields, &[7; 250]);
    let gso = GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes: 100,
        ..GsoInfo::default()
    };
    let whole = split(&packet, &gso);
    assert!(whole.len() <= gso.packets_at_most(packet.len()));
    let mut parts = segments(&packet, &gso).unwrap();
    parts.skip_next();
    let mut out = vec![0; parts.max_packet_bytes()];
    for left in &whole[1..] {
        let bytes = parts.write_next(&mut out).unwrap();
        assert_eq!(&out[..bytes], left);
    }
    parts.skip_next();
    assert_eq!((parts.remaining(), parts.write_next(&mut out)), (0, None));
    assert_eq!(GsoInfo::default().packets_at_most(9_000), 1);
}

/// What each segment of a TCP super-packet must be, built from scratch.
fn expected_tcp(
    (a, b): (IpAddr, IpAddr),
    fields: &TcpFields<'_>,
    payload: &[u8],
    segment_bytes: usize,
) -> Vec<Vec<u8>> {
    let count = payload.len().div_ceil(segment_bytes).max(1);
    (0..count)
        .map(|index| {
            let start = index * segment_bytes;
            let mut flags = fields.flags;
            if index > 0 {
                flags &= !tcp_flag::CWR;
            }
            if index + 1 < count {
                flags &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            let sequence = fields.sequence.wrapping_add(start as u32);
            let end = payload.len().min(start + segment_bytes);
            let fields = TcpFields {
                sequence,
                flags,
                ..*fields
            };
            let mut packet = build_tcp(a, b, 443, 50_000, &fields, &payload[start..end]);
            number(&mut packet, 1 + index as u16);
            packet
        })
        .collect()
}

#[test]
fn a_packet_without_gso_comes_out_whole() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let complete = build_tcp(a, b, 1, 2, &TcpFields::default(), b"odd");
        assert_eq!(
            split(&complete, &GsoInfo::default()),
            slice::from_ref(&complete)
        );
        let mut partial = complete.clone();
        let gso = offload(&mut partial, 0);
        assert_ne!(partial, complete);
        assert_eq!(
            split(
                &partial,
                &GsoInfo {
                    kind: GsoKind::None,
                    ..gso
                }
            ),
            [complete]
        );
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    // Find a payload whose checksum computes to zero, which the builder shows as ones.
    let payload = (0..=u16::MAX)
        .map(u16::to_be_bytes)
        .find(|payload| build_udp(V4_A, V4_B, 1, 2, payload)[26..28] == [0xff, 0xff])
        .unwrap();
    let complete = build_udp(V4_A, V4_B, 1, 2, &payload);
    let mut partial = complete.clone();
    let gso = offload(&mut partial, 2);
    assert_eq!(split(&partial, &gso), slice::from_ref(&complete));
    assert_eq!(
        split(
            &partial,
            &GsoInfo {
                kind: GsoKind::None,
                ..gso
            }
        ),
        [complete]
    );
}

#[test]
fn an_absent_udp_checksum_stays_absent() {
    let mut packet = build_udp(V4_A, V4_B, 1, 2, &[5; 100]);
    write_u16(&mut packet, 26, 0);
    let gso = GsoInfo {
        kind: GsoKind::UdpL4,
        segment_bytes: 40,
        ..GsoInfo::default()
    };
    let packets = split(&packet, &gso);
    assert_eq!(
        packets.iter().map(Vec::len).collect::<Vec<_>>(),
        [68, 68, 48]
    );
    for packet in packets {
        assert_eq!(packet[26..28], [0, 0]);
        check_packet(&packet).unwrap();
    }
}

#[test]
fn a_short_buffer_takes_nothing() {
    let mut packet = build_tcp(V4_A, V4_B, 1, 2, &TcpFields::default(), &[5; 100]);
    let gso = offload(&mut packet, 60);
    let mut segments = segments(&packet, &gso).unwrap();
    assert_eq!(segments.write_next(&mut [0; 99]), None);
    assert_eq!(segments.remaining(), 2);
    assert_eq!(segments.write_next(&mut [0; 100]), Some(100));
    assert_eq!(segments.write_next(&mut [0; 80]), Some(80));
    assert_eq!(segments.write_next(&mut [0; 80]), None);
    let whole = GsoInfo {
        kind: GsoKind::None,
        ..gso
    };
    let mut segments = super::segments(&packet, &whole).unwrap();
    assert_eq!(segments.write_next(&mut [0; 139]), None);
    assert_eq!(segments.remaining(), 1);
}

#[test]
fn extension_headers_are_kept() {
    let tcp = build_tcp(V6_A, V6_B, 443, 50_000, &TcpFields::default(), &[6; 3001]);
    let options = [6, 0, 1, 4, 0, 0, 0, 0];
    let mut packet = build_ip(V6_A, V6_B, 60, &[&options[..], &tcp[40..]].concat());
    let gso = offload(&mut packet, 1000);
    let packets = split(&packet, &gso);
    assert_eq!(packets.len(), 4);
    for packet in packets {
        check_packet(&packet).unwrap();
        assert_eq!(packet[40..48], options);
    }
}

#[test]
fn what_cannot_be_split_says_why() {
    let tcp = build_tcp(V4_A, V4_B, 1, 2, &TcpFields::default(), &[5; 3000]);
    let udp = build_udp(V6_A, V6_B, 1, 2, &[5; 3000]);
    let gso = |kind, segment_bytes| GsoInfo {
        kind,
        segment_bytes,
        ..GsoInfo::default()
    };
    let error = |packet: &[u8], gso: GsoInfo| segments(packet, &gso).unwrap_err();
    let good = gso(GsoKind::TcpV4, 1000);
    assert_eq!(error(&tcp[..100], good), PacketError::LengthMismatch.into());
    for kind in [GsoKind::TcpV6, GsoKind::UdpL4] {
        assert_eq!(error(&tcp, gso(kind, 1000)), SegmentError::WrongProtocol);
    }
    assert_eq!(
        error(&udp, gso(GsoKind::TcpV6, 1000)),
        SegmentError::WrongProtocol
    );
    assert_eq!(
        error(&tcp, gso(GsoKind::TcpV4, 0)),
        SegmentError::SegmentSize
    );
    let routed = build_ip(
        V6_A,
        V6_B,
        43,
        &[&[17, 0, 2, 0, 0, 0, 0, 0][..], &udp[40..]].concat(),
    );
    assert_eq!(
        error(&routed, gso(GsoKind::UdpL4, 1000)),
        SegmentError::RoutingHeader
    );
    let fragment = build_ip(
        V6_A,
        V6_B,
        44,
        &[&[17, 0, 0, 1, 0, 0, 0, 0][..], &udp[40..]].concat(),
    );
    assert_eq!(
        error(&fragment, gso(GsoKind::UdpL4, 1000)),
        SegmentError::Fragmented
    );
    for (protocol, upper) in [
        (6, &[0; 19][..]),
        (6, &[0x40; 60]),
        (6, &[0xf0; 59]),
        (17, &[1; 7]),
    ] {
        let kind = if protocol == 6 {
            GsoKind::TcpV6
        } else {
            GsoKind::UdpL4
        };
        let packet = build_ip(V6_A, V6_B, protocol, upper);
        assert_eq!(
            error(&packet, gso(kind, 1000)),
            SegmentError::UpperHeader,
            "{upper:?}"
        );
    }
    let partial = Some(PartialChecksum {
        start: 3039,
        offset: 0,
    });
    let whole = GsoInfo {
        checksum: partial,
        ..GsoInfo::default()
    };
    assert_eq!(error(&tcp, whole), SegmentError::ChecksumRange);
}

#[test]
fn the_bound_of_segments() {
    for (payload_bytes, count) in [
        (2 * MAX_SEGMENTS, Ok(MAX_SEGMENTS)),
        (2 * MAX_SEGMENTS + 1, { Err(SegmentError::TooMany) }),
    ] {
        let mut packet = build_udp(V6_A, V6_B, 1, 2, &vec![0; payload_bytes]);
        let gso = offload(&mut packet, 2);
        assert_eq!(
            segments(&packet, &gso).map(|segments| segments.count()),
            count
        );
    }
}

proptest! {
    #[test]
    fn tcp_segments_are_what_a_host_would_have_sent(
        ends in addresses(),
        (sequence, flags) in any::<(u32, u8)>(),
        options in vec(any::<u8>(), 0..10).prop_map(|options| options.repeat(4)),
        payload in vec(any::<u8>(), 0..5000),
        segment_bytes in prop_oneof![1..200u16, 500..1500u16, Just(u16::MAX)],
    ) {
        prop_assume!(payload.len().div_ceil(segment_bytes.into()) <= MAX_SEGMENTS);
        let fields = TcpFields { sequence, flags, options: &options, ..TcpFields::default() };
        let mut packet = build_tcp(ends.0, ends.1, 443, 50_000, &fields, &payload);
        let gso = offload(&mut packet, segment_bytes);
        let packets = split(&packet, &gso);
        prop_assert_eq!(&packets, &expected_tcp(ends, &fields, &payload, segment_bytes.into()));
        packets.iter().try_for_each(|packet| check_packet(packet)).unwrap();
    }

    #[test]
    fn udp_segments_are_what_a_host_would_have_sent(
        (a, b) in addresses(),
        ports in any::<(u16, u16)>(),
        payload in vec(any::<u8>(), 1..5000),
        segment_bytes in prop_oneof![3..200u16, 500..1500u16],
    ) {
        let mut packet = build_udp(a, b, ports.0, ports.1, &payload);
        let gso = offload(&mut packet, segment_bytes);
        let packets = split(&packet, &gso);
        for (index, (packet, data)) in
            packets.iter().zip(payload.chunks(segment_bytes.into())).enumerate()
        {
            let mut expected = build_udp(a, b, ports.0, ports.1, data);
            number(&mut expected, 1 + index as u16);
            prop_assert_eq!(packet, &expected);
            check_packet(packet).unwrap();
        }
        prop_assert_eq!(packets.len(), payload.len().div_ceil(segment_bytes.into()));
    }
}
