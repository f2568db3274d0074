use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp, tcp_flag};
use crate::bytes::write_u16;
use crate::flow::flow_key;
use crate::ip::parse;
use crate::reference::{V4_A, V4_B, V6_A, V6_B, number, offload};
use crate::segment::{GsoKind, segments};

mod differences;
mod stream;

/// An output put together: what a `writev` of it gives the device.
fn gather(output: &Output<'_>, packets: &[Vec<u8>]) -> (GsoInfo, Vec<u8>) {
    let mut bytes = output.headers.to_vec();
    for piece in output.pieces {
        bytes.extend(&packets[piece.packet()][piece.range()]);
    }
    assert_eq!(bytes.len(), output.total_bytes());
    assert!(bytes.len() <= MAX_MERGED_BYTES && output.headers.len() <= MAX_HEADER_BYTES);
    assert!((1..=MAX_PIECES).contains(&output.pieces.len()));
    (output.gso, bytes)
}

/// What one batch becomes; it must fit in the slots.
fn merge(slots: usize, packets: &[Vec<u8>]) -> Vec<(GsoInfo, Vec<u8>)> {
    let mut merger = Merger::new(slots);
    for packet in packets {
        assert_ne!(merger.push(packet, &parse(packet).unwrap()), Push::Full);
    }
    merger
        .outputs()
        .map(|output| gather(&output, packets))
        .collect()
}

/// The packets the device makes of what was written to it.
fn segment(written: &[(GsoInfo, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (gso, packet) in written {
        let mut segments = segments(packet, gso).unwrap();
        let mut out = vec![0; segments.max_packet_bytes()];
        while let Some(bytes) = segments.write_next(&mut out) {
            packets.push(out[..bytes].to_vec());
        }
    }
    packets
}

fn data(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let fields = TcpFields {
        sequence,
        flags: tcp_flag::ACK | flags,
        ..TcpFields::default()
    };
    build_tcp(V6_A, V6_B, 1000, 80, &fields, payload)
}

fn kinds(written: &[(GsoInfo, Vec<u8>)]) -> Vec<(GsoKind, usize)> {
    written
        .iter()
        .map(|(gso, packet)| (gso.kind, packet.len()))
        .collect()
}

#[test]
fn a_merged_packet_in_full() {
    let packets = [
        data(1, 0, &[1; 100]),
        data(101, 0, &[2; 100]),
        data(201, 8, &[3; 31]),
    ];
    let mut merger = Merger::new(4);
    let pushes = packets
        .each_ref()
        .map(|p| merger.push(p, &parse(p).unwrap()));
    assert_eq!(pushes, [Push::New(0), Push::Merged(0), Push::Merged(0)]);
    let outputs: Vec<_> = merger.outputs().collect();
    let [output] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    let pieces: Vec<_> = output
        .pieces
        .iter()
        .map(|p| (p.packet(), p.range()))
        .collect();
    assert_eq!(pieces, [(0, 60..160), (1, 60..160), (2, 60..91)]);
    let (gso, packet) = gather(output, &packets);
    let payload = [&[1; 100][..], &[2; 100], &[3; 31]].concat();
    let mut expected = data(1, 8, &payload);
    let expected_gso = GsoInfo {
        header_bytes: 60,
        ..offload(&mut expected, 100)
    };
    assert_eq!((gso, packet), (expected_gso, expected));
}

#[test]
fn a_packet_alone_is_passed_as_it_is() {
    for (packet, push, verified) in [
        (data(1, 0, b"x"), Push::New(0), true),
        (data(1, tcp_flag::PSH, b"x"), Push::NotMergeable(0), false),
        (data(1, 0, b""), Push::NotMergeable(0), false),
        (
            build_icmp_echo(V4_A, V4_B, 1, 2, b"x"),
            Push::NotMergeable(0),
            false,
        ),
        (build_udp(V4_A, V4_B, 1, 2, b"x"), Push::New(0), true),
    ] {
        let mut merger = Merger::new(1);
        assert_eq!(merger.push(&packet, &parse(&packet).unwrap()), push);
        let output = merger.outputs().next().unwrap();
        assert_eq!(output.checksum_verified, verified);
        assert_eq!(
            gather(&output, std::slice::from_ref(&packet)),
            (GsoInfo::default(), packet)
        );
    }
}

#[test]
fn a_short_segment_and_push_end_a_merge() {
    let packets = [
        data(1, 0, &[1; 100]),
        data(101, 0, &[1; 99]),
        data(200, 0, &[1; 99]),
        data(299, tcp_flag::PSH, &[1; 99]),
        data(398, 0, &[1; 99]),
        data(497, 0, &[1; 100]),
    ];
    let written = merge(8, &packets);
    let tcp = GsoKind::TcpV6;
    let alone = GsoKind::None;
    assert_eq!(
        kinds(&written),
        [(tcp, 259), (tcp, 258), (alone, 159), (alone, 160)]
    );
    assert_eq!(segment(&written), packets);
}

#[test]
fn a_bad_checksum_is_passed_alone_and_untouched() {
    for bad in 0..3 {
        let mut packets = [
            data(1, 0, &[1; 100]),
            data(101, 0, &[2; 100]),
            data(201, 0, &[3; 100]),
        ];
        *packets[bad].last_mut().unwrap() ^= 0x40;
        let written = merge(8, &packets);
        assert_eq!(written.len(), if bad == 1 { 3 } else { 2 });
        assert!(written.contains(&(GsoInfo::default(), packets[bad].clone())));
        assert_eq!(segment(&written), packets);
        // A bad first packet takes no one into its output.
        let mut udp = [
            build_udp(V4_A, V4_B, 1, 2, b"ab"),
            build_udp(V4_A, V4_B, 1, 2, b"ab"),
        ];
        number(&mut udp[1], 2);
        udp[bad % 2][28] ^= 1;
        assert_eq!(segment(&merge(2, &udp)), udp);
    }
}

#[test]
fn udp_is_merged_unless_the_device_cannot() {
    let mut packets: Vec<_> = (0..5u8)
        .map(|index| {
            build_udp(
                V4_A,
                V4_B,
                5,
                6,
                &vec![index; if index < 4 { 99 } else { 9 }],
            )
        })
        .collect();
    for (index, packet) in packets.iter_mut().enumerate() {
        number(packet, 100 + index as u16);
    }
    let written = merge(8, &packets);
    assert_eq!(kinds(&written), [(GsoKind::UdpL4, 28 + 4 * 99 + 9)]);
    assert_eq!(segment(&written), packets);
    let mut merger = Merger::new(8);
    merger.set_merge_udp(false);
    for (index, packet) in packets.iter().enumerate() {
        let push = merger.push(packet, &parse(packet).unwrap());
        assert_eq!(push, Push::NotMergeable(index));
    }
}

#[test]
fn a_full_merger_takes_only_what_joins() {
    let other = build_udp(V4_A, V4_B, 1, 2, b"ab");
    let icmp = build_icmp_echo(V4_A, V4_B, 1, 2, b"x");
    let packets = [data(1, 0, &[1; 100]), data(101, 0, &[2; 100])];
    let mut merger = Merger::new(1);
    let mut push = |packet: &[u8]| merger.push(packet, &parse(packet).unwrap());
    assert_eq!(push(&packets[0]), Push::New(0));
    for refused in [&other, &icmp, &data(150, 0, &[2; 100])] {
        assert_eq!(push(refused), Push::Full);
    }
    assert_eq!(
        push(&packets[1]),
        Push::Merged(0),
        "a refusal changes nothing"
    );
    let written: Vec<_> = merger
        .outputs()
        .map(|output| gather(&output, &packets))
        .collect();
    assert_eq!(segment(&written), packets);
    merger.clear();
    assert!(merger.is_empty());
    assert_eq!(merger.push(&other, &parse(&other).unwrap()), Push::New(0));
    assert_eq!((merger.len(), merger.outputs().len()), (1, 1));
}

#[test]
fn nothing_joins_what_was_given_out() {
    let packets = [data(1, 0, &[1; 100]), data(101, 0, &[2; 100])];
    let mut merger = Merger::new(2);
    assert_eq!(
        merger.push(&packets[0], &parse(&packets[0]).unwrap()),
        Push::New(0)
    );
    assert_eq!(merger.outputs().count(), 1);
    assert_eq!(
        merger.push(&packets[1], &parse(&packets[1]).unwrap()),
        Push::New(1)
    );
    // Rewriting the headers a second time changes nothing.
    let mut merger = Merger::new(2);
    for packet in &packets {
        merger.push(packet, &parse(packet).unwrap());
    }
    let headers = merger.outputs().next().unwrap().headers.to_vec();
    assert_eq!(merger.outputs().next().unwrap().headers, headers);
}

#[test]
fn a_fragment_keeps_its_place_among_its_neighbours() {
    let first = build_udp(V6_A, V6_B, 1, 2, b"ab");
    let fragment = build_ip(V6_A, V6_B, 44, &[17, 0, 0, 9, 0, 0, 0, 1, 9, 9]);
    let elsewhere = build_ip(V6_B, V6_A, 44, &[17, 0, 0, 9, 0, 0, 0, 1, 9, 9]);
    let packets = [first.clone(), elsewhere, first.clone(), fragment, first];
    assert_eq!(
        kinds(&merge(8, &packets))
            .iter()
            .map(|kind| kind.1)
            .collect::<Vec<_>>(),
        [52, 50, 50, 50]
    );
}

#[test]
fn the_bounds() {
    // Pieces.
    let packets: Vec<_> = (0..=MAX_PIECES as u32)
        .map(|i| data(1 + i * 9, 0, &[1; 9]))
        .collect();
    let written = merge(2, &packets);
    assert_eq!(
        kinds(&written),
        [(GsoKind::TcpV6, 60 + 64 * 9), (GsoKind::None, 69)]
    );
    assert_eq!(segment(&written), packets);
    // Bytes: 60 and eight times 8,185 are five too many.
    let packets: Vec<_> = (0..8u32)
        .map(|i| data(1 + i * 8185, 0, &[1; 8185]))
        .collect();
    let written = merge(2, &packets);
    assert_eq!(
        kinds(&written),
        [(GsoKind::TcpV6, 60 + 7 * 8185), (GsoKind::None, 8245)]
    );
    assert_eq!(segment(&written), packets);
    // Slots, and memory.
    assert_eq!(Merger::new(0).slots.len(), 1);
    let mut merger = Merger::new(usize::MAX);
    for index in 0..=MAX_SLOTS as u16 {
        let packet = build_udp(V4_A, V4_B, index, 2, b"ab");
        let push = merger.push(&packet, &parse(&packet).unwrap());
        let fits = usize::from(index) < MAX_SLOTS;
        assert_eq!(
            push,
            if fits {
                Push::New(index.into())
            } else {
                Push::Full
            }
        );
    }
    assert!(size_of::<Slot>() < 800, "{}", size_of::<Slot>());
}

proptest! {
    #[test]
    fn what_a_device_split_is_put_together_again(
        v6: bool,
        udp: bool,
        (sequence, push) in any::<(u32, bool)>(),
        options in vec(any::<u8>(), 0..40),
        segment_bytes in 1..1500u16,
        pieces in 2..=MAX_PIECES,
        last in any::<u16>(),
    ) {
        let segment = usize::from(segment_bytes);
        let room = (MAX_MERGED_BYTES - 100) / segment;
        let bytes = (pieces.min(room) - 1) * segment + 1 + usize::from(last) % segment;
        let payload: Vec<u8> = (0..bytes).map(|index| (index * 7 / 3) as u8).collect();
        let (a, b) = if v6 { (V6_A, V6_B) } else { (V4_A, V4_B) };
        let flags = tcp_flag::ACK | if push { tcp_flag::PSH } else { 0 };
        let fields = TcpFields { sequence, flags, options: &options, ..TcpFields::default() };
        let mut packet = if udp {
            build_udp(a, b, 443, 50_000, &payload)
        } else {
            build_tcp(a, b, 443, 50_000, &fields, &payload)
        };
        let header_bytes = u16::try_from(packet.len() - bytes).unwrap();
        let gso = GsoInfo { header_bytes, ..offload(&mut packet, segment_bytes) };
        let packets = self::segment(&[(gso, packet.clone())]);
        prop_assert_eq!(merge(1, &packets), [(gso, packet)]);
    }

    #[test]
    fn nothing_is_lost_changed_or_overtaken(
        packets in stream::packets(), slots in 1..9usize, batch in 1..80usize,
    ) {
        let mut restored = Vec::new();
        let mut merger = Merger::new(slots);
        for packets in packets.chunks(batch) {
            let mut rest = packets;
            while !rest.is_empty() {
                let fits = rest.iter().position(|packet| {
                    merger.push(packet, &parse(packet).unwrap()) == Push::Full
                });
                let written: Vec<_> = merger.outputs().map(|o| gather(&o, rest)).collect();
                restored.extend(segment(&written));
                merger.clear();
                rest = fits.map_or(&[], |fits| &rest[fits..]);
            }
        }
        prop_assert_eq!(restored.len(), packets.len());
        let key = |packet: &Vec<u8>| flow_key(&parse(packet).unwrap(), packet);
        for flow in packets.iter().map(key) {
            let of_flow = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|packet| key(packet) == flow).cloned().collect()
            };
            prop_assert_eq!(of_flow(&restored), of_flow(&packets));
        }
    }
}
