use proptest::prelude::*;

use super::*;
use crate::reference::{V4_A, V6_B, check_packet, packets};

#[test]
fn a_mixed_pair_becomes_ipv6() {
    for packet in [
        build_udp(V4_A, V6_B, 1, 2, b"x"),
        build_tcp(V6_B, V4_A, 1, 2, &TcpFields::default(), b"x"),
        build_icmp_echo(V4_A, V6_B, 1, 2, b"x"),
    ] {
        assert_eq!(packet[0] >> 4, 6);
        check_packet(&packet).unwrap();
    }
}

#[test]
fn options_are_padded_and_bounded() {
    for (length, header_bytes) in [(0, 20), (1, 24), (4, 24), (40, 60), (60, 60)] {
        let options = vec![1; length];
        let fields = TcpFields {
            options: &options,
            ..TcpFields::default()
        };
        let packet = build_tcp(V4_A, V4_A, 1, 2, &fields, b"");
        assert_eq!(usize::from(packet[32] >> 4) * 4, header_bytes);
        assert_eq!(packet.len(), 20 + header_bytes);
        check_packet(&packet).unwrap();
    }
}

proptest! {
    #[test]
    fn what_is_built_is_right(packet in packets()) {
        check_packet(&packet).unwrap();
    }
}
