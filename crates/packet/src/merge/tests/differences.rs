//! What keeps two packets of one flow apart.

use super::*;
use crate::reference::resum;

const FIRST: TcpFields<'_> = TcpFields {
    sequence: 1,
    acknowledgement: 1,
    flags: tcp_flag::ACK,
    window: 9,
    options: NOPS,
};
/// What continues [`FIRST`] and its 50 bytes.
const NEXT: TcpFields<'_> = TcpFields {
    sequence: 51,
    ..FIRST
};
const NOPS: &[u8] = &[1, 1, 1, 0];

/// How many outputs [`FIRST`] and a second packet make.
fn outputs(second: Vec<u8>) -> usize {
    let packets = [build_tcp(V4_A, V4_B, 1000, 80, &FIRST, &[7; 50]), second];
    let written = merge(2, &packets);
    assert_eq!(segment(&written), packets);
    written.len()
}

fn second(fields: &TcpFields<'_>) -> Vec<u8> {
    let mut packet = build_tcp(V4_A, V4_B, 1000, 80, fields, &[7; 50]);
    number(&mut packet, 2);
    packet
}

#[test]
fn a_tcp_header_that_differs_is_not_merged() {
    assert_eq!(outputs(second(&NEXT)), 1, "nothing differs");
    let flags = |flags| TcpFields { flags, ..NEXT };
    let options = |options| TcpFields { options, ..NEXT };
    for fields in [
        TcpFields {
            sequence: 52,
            ..NEXT
        },
        TcpFields {
            sequence: 1,
            ..NEXT
        },
        TcpFields {
            acknowledgement: 2,
            ..NEXT
        },
        TcpFields { window: 10, ..NEXT },
        options(&[1, 1, 0, 0]),
        options(&[]),
        options(&[1, 1, 1, 0, 0]),
        flags(tcp_flag::ACK | tcp_flag::FIN),
        flags(tcp_flag::ACK | tcp_flag::SYN),
        flags(tcp_flag::ACK | tcp_flag::RST),
        flags(tcp_flag::ACK | tcp_flag::URG),
        flags(tcp_flag::ACK | tcp_flag::ECE),
        flags(tcp_flag::ACK | tcp_flag::CWR),
        flags(tcp_flag::PSH),
    ] {
        assert_eq!(outputs(second(&fields)), 2, "{fields:?}");
    }
}

#[test]
fn an_ipv4_header_that_differs_is_not_merged() {
    // Type of service, identification forwards and backwards, DF, TTL.
    for (at, value) in [(1, 1), (5, 3), (5, 1 << 7), (6, 0), (8, 63)] {
        let mut packet = second(&NEXT);
        packet[at] = value;
        resum(&mut packet);
        assert_eq!(outputs(packet), 2, "byte {at}");
    }
}

#[test]
fn another_flow_is_not_merged() {
    for packet in [
        build_tcp(V4_A, V4_B, 1000, 81, &NEXT, &[7; 50]),
        build_tcp(V4_B, V4_A, 1000, 80, &NEXT, &[7; 50]),
        build_tcp(V6_A, V6_B, 1000, 80, &NEXT, &[7; 50]),
        build_udp(V4_A, V4_B, 1000, 80, &[7; 50]),
    ] {
        assert_eq!(outputs(packet), 2);
    }
}

#[test]
fn ipv4_options_and_fragments_are_not_merged() {
    let edits: [fn(&mut Vec<u8>); 3] = [
        |_| {},
        |packet| {
            packet[0] = 0x46;
            packet[3] += 4;
            packet.splice(20..20, [1, 1, 1, 0]);
        },
        |packet| packet[6] = 0x20,
    ];
    let outputs = edits.map(|edit| {
        let packets = [1, 2].map(|identification| {
            let mut packet = build_udp(V4_A, V4_B, 1, 2, b"ab");
            edit(&mut packet);
            number(&mut packet, identification);
            packet
        });
        merge(2, &packets).len()
    });
    assert_eq!(outputs, [1, 2, 2]);
}

#[test]
fn what_differs_in_ipv6_is_not_merged() {
    let packets = [
        build_udp(V6_A, V6_B, 1, 2, b"ab"),
        build_udp(V6_A, V6_B, 1, 2, b"cd"),
    ];
    assert_eq!(merge(2, &packets).len(), 1);
    for at in [1, 3, 7] {
        let mut packets = packets.clone();
        packets[1][at] ^= 0x10;
        assert_eq!(merge(2, &packets).len(), 2, "byte {at}");
    }
    let mut without_checksum = packets.clone();
    without_checksum
        .iter_mut()
        .for_each(|packet| write_u16(packet, 46, 0));
    assert_eq!(merge(2, &without_checksum).len(), 2);
    let extended = packets.each_ref().map(|packet| {
        build_ip(
            V6_A,
            V6_B,
            60,
            &[&[17, 0, 1, 4, 0, 0, 0, 0][..], &packet[40..]].concat(),
        )
    });
    assert_eq!(merge(2, &extended).len(), 2);
}

#[test]
fn identifications_rise_or_stay() {
    let with = |identification: u16, may_fragment: bool| {
        let mut packet = build_udp(V4_A, V4_B, 1, 2, b"ab");
        packet[6] = if may_fragment { 0 } else { 0x40 };
        number(&mut packet, identification);
        packet
    };
    let count = |identifications: [u16; 3], may_fragment| {
        merge(3, &identifications.map(|value| with(value, may_fragment))).len()
    };
    for may_fragment in [true, false] {
        assert_eq!(count([0xfffe, 0xffff, 0], may_fragment), 1, "rising");
        assert_eq!(count([7, 8, 8], may_fragment), 2);
        assert_eq!(count([7, 9, 10], may_fragment), 2);
    }
    assert_eq!(count([0, 0, 0], false), 1, "without meaning");
    assert_eq!(count([0, 0, 2], false), 2);
    assert_eq!(count([0, 0, 0], true), 3);
}

#[test]
fn udp_without_a_checksum_is_not_merged() {
    // One whose checksum computes to zero, so that the sum is right with and without it.
    let payload = (0..=u16::MAX)
        .map(u16::to_be_bytes)
        .find(|payload| build_udp(V4_A, V4_B, 1, 2, payload)[26..28] == [0xff, 0xff])
        .unwrap();
    let mut packets = [1, 2].map(|identification| {
        let mut packet = build_udp(V4_A, V4_B, 1, 2, &payload);
        number(&mut packet, identification);
        packet
    });
    assert_eq!(merge(2, &packets).len(), 1);
    packets
        .iter_mut()
        .for_each(|packet| write_u16(packet, 26, 0));
    assert_eq!(merge(2, &packets).len(), 2);
}
