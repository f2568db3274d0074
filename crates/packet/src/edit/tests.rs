use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::build::{TcpFields, build_tcp, build_udp, tcp_flag};
use crate::ip::parse;
use crate::reference::{V4_A, V4_B, V6_A, V6_B, addresses, check_packet, packets, resum};

fn syn(a: std::net::IpAddr, b: std::net::IpAddr, flags: u8, options: &[u8]) -> Vec<u8> {
    build_tcp(
        a,
        b,
        40_000,
        443,
        &TcpFields {
            flags,
            options,
            ..TcpFields::default()
        },
        b"",
    )
}

/// The MSS option of a SYN whose first option it is.
fn mss(packet: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([packet[offset], packet[offset + 1]])
}

#[test]
fn a_hop_limit_that_is_used_up_stays() {
    for (a, b, at) in [(V4_A, V4_B, 8), (V6_A, V6_B, 7)] {
        for (hop_limit, forwards) in [(0, false), (1, false), (2, true), (255, true)] {
            let mut packet = build_udp(a, b, 1, 2, b"x");
            packet[at] = hop_limit;
            let before = packet.clone();
            assert_eq!(decrement_hop_limit(&mut packet), forwards);
            assert_eq!(packet[at], if forwards { hop_limit - 1 } else { hop_limit });
            assert_eq!(packet == before, !forwards);
        }
    }
    assert!(!decrement_hop_limit(&mut []));
    assert!(!decrement_hop_limit(&mut [0x45; 19]));
    assert!(!decrement_hop_limit(&mut [0x95; 60]));
}

#[test]
fn only_who_understands_marks_is_marked() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        for (ecn, marked) in [
            (Ecn::NotEct, false),
            (Ecn::Ect0, true),
            (Ecn::Ect1, true),
            (Ecn::Ce, true),
        ] {
            let mut packet = build_udp(a, b, 1, 2, b"x");
            set_ecn(&mut packet, ecn);
            assert_eq!(mark_congested(&mut packet), marked, "{ecn:?}");
            let after = if marked { Ecn::Ce } else { Ecn::NotEct };
            assert_eq!(parse(&packet).unwrap().ecn(), after);
            check_packet(&packet).unwrap();
        }
    }
    for mut short in [vec![], vec![0x45], vec![0x60], vec![0x97; 40]] {
        assert!(!mark_congested(&mut short));
    }
}

#[test]
fn a_clamp_lowers_and_never_raises() {
    for (a, b, offset) in [(V4_A, V4_B, 42), (V6_A, V6_B, 62)] {
        for flags in [tcp_flag::SYN, tcp_flag::SYN | tcp_flag::ACK] {
            for (had, max, has) in [(1460, 1340, 1340), (1340, 1340, 1340), (536, 1340, 536)] {
                let mut options = vec![2, 4];
                options.extend(u16::to_be_bytes(had));
                options.extend([1, 3, 3, 7]);
                let mut packet = syn(a, b, flags, &options);
                let header = parse(&packet).unwrap();
                let changed = clamp_mss(&mut packet, &header, max, ChecksumState::Complete);
                assert_eq!((changed, mss(&packet, offset)), (had != has, has));
                check_packet(&packet).unwrap();
            }
        }
    }
}

#[test]
fn only_a_syn_with_the_option_is_clamped() {
    let option = [2, 4, 5, 180];
    for (flags, options) in [
        (tcp_flag::ACK, &option[..]),
        (tcp_flag::SYN, &[]),
        (tcp_flag::SYN, &[1, 1, 1, 0, 2, 4, 5, 180]), // after the end of the options
        (tcp_flag::SYN, &[3, 1, 2, 4, 5, 180, 0, 0]), // after an option of an impossible length
        (tcp_flag::SYN, &[3, 0, 2, 4, 5, 180, 0, 0]),
        (tcp_flag::SYN, &[8, 20, 2, 4, 5, 180, 0, 0]), // after one that runs past the header
        (tcp_flag::SYN, &[2, 3, 255, 0]),              // of the wrong length
        (tcp_flag::SYN, &[1, 1, 2, 4]),                // cut off
    ] {
        let mut packet = syn(V4_A, V4_B, flags, options);
        let before = packet.clone();
        let header = parse(&packet).unwrap();
        assert!(
            !clamp_mss(&mut packet, &header, 1000, ChecksumState::Complete),
            "{options:?}"
        );
        assert_eq!(packet, before);
    }
    let mut udp = build_udp(V4_A, V4_B, 0x0204, 0x05b4, &[2; 40]);
    let header = parse(&udp).unwrap();
    assert!(!clamp_mss(&mut udp, &header, 1, ChecksumState::Complete));
}

#[test]
fn a_partial_checksum_is_left_alone_and_comes_out_right() {
    for (a, b, start, offset) in [(V4_A, V4_B, 20u16, 43), (V6_A, V6_B, 40, 63)] {
        let mut packet = syn(a, b, tcp_flag::SYN, &[1, 2, 4, 5, 180, 0]);
        let field = usize::from(start) + 16;
        let upper_bytes = packet.len() - usize::from(start);
        let pseudo = crate::checksum::pseudo_header(a, b, 6, upper_bytes).fold();
        packet[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = parse(&packet).unwrap();
        assert!(clamp_mss(
            &mut packet,
            &header,
            1200,
            ChecksumState::Partial
        ));
        assert_eq!(mss(&packet, offset), 1200);
        assert_eq!(packet[field..field + 2], pseudo.to_be_bytes());
        complete_checksum(&mut packet, PartialChecksum { start, offset: 16 }).unwrap();
        check_packet(&packet).unwrap();
    }
}

#[test]
fn a_partial_checksum_outside_the_packet_is_an_error() {
    let mut packet = build_udp(V4_A, V4_B, 1, 2, b"hello");
    let before = packet.clone();
    for (start, offset) in [(20, 12), (33, 0), (32, 0), (65_535, 65_535)] {
        let result = complete_checksum(&mut packet, PartialChecksum { start, offset });
        assert_eq!(result, Err(SegmentError::ChecksumRange));
        assert_eq!(packet, before);
    }
}

#[test]
fn the_mss_that_fits() {
    assert_eq!(mss_for_mtu(IpVersion::V4, 1500), 1460);
    assert_eq!(mss_for_mtu(IpVersion::V6, 1280), 1220);
    assert_eq!(mss_for_mtu(IpVersion::V6, 20), 0);
    assert_eq!(mss_for_mtu(IpVersion::V4, 1 << 20), u16::MAX);
}

proptest! {
    #[test]
    fn a_decrement_keeps_the_checksums(mut packet in packets(), hop_limit in 2..=255u8) {
        let at = if packet[0] >> 4 == 4 { 8 } else { 7 };
        packet[at] = hop_limit;
        if at == 8 {
            resum(&mut packet);
        }
        let before = parse(&packet).unwrap();
        prop_assert!(decrement_hop_limit(&mut packet));
        let after = parse(&packet).unwrap();
        prop_assert_eq!(after, IpHeader { hop_limit: hop_limit - 1, ..before });
    }

    #[test]
    fn ecn_keeps_the_rest(mut packet in packets(), traffic_class: u8, index in 0..4usize) {
        if packet[0] >> 4 == 4 {
            packet[1] = traffic_class;
            resum(&mut packet);
        } else {
            packet[0] = 0x60 | traffic_class >> 4;
            packet[1] = traffic_class << 4 | 0x0d;
        }
        let ecn = [Ecn::NotEct, Ecn::Ect1, Ecn::Ect0, Ecn::Ce][index];
        let before = parse(&packet).unwrap();
        set_ecn(&mut packet, ecn);
        let after = parse(&packet).unwrap();
        let expected = traffic_class & !3 | index as u8;
        prop_assert_eq!(after, IpHeader { traffic_class: expected, ..before });
        prop_assert_eq!(after.ecn(), ecn);
        prop_assert!(packet[0] >> 4 == 4 || packet[1] & 0x0f == 0x0d);
    }

    #[test]
    fn a_clamp_keeps_the_checksum(
        (a, b) in addresses(),
        before in vec(prop_oneof![Just(vec![1]), Just(vec![4, 2]), Just(vec![3, 3, 7])], 0..4),
        had: u16,
        max: u16,
    ) {
        let mut options = before.concat();
        let at = options.len() + 2;
        options.extend([2, 4]);
        options.extend(had.to_be_bytes());
        let mut packet = syn(a, b, tcp_flag::SYN | tcp_flag::ECE | tcp_flag::CWR, &options);
        let header = parse(&packet).unwrap();
        let changed = clamp_mss(&mut packet, &header, max, ChecksumState::Complete);
        prop_assert_eq!(mss(&packet, header.upper_offset + 20 + at), had.min(max));
        prop_assert_eq!(changed, max < had);
        check_packet(&packet).unwrap();
    }

    #[test]
    fn any_options_are_survived(options in vec(any::<u8>(), 0..40), max: u16) {
        let mut packet = syn(V6_A, V6_B, tcp_flag::SYN, &options);
        let header = parse(&packet).unwrap();
        clamp_mss(&mut packet, &header, max, ChecksumState::Complete);
        check_packet(&packet).unwrap();
    }
}
