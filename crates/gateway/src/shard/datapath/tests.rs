use std::net::IpAddr;

use masque_gateway_core::DropReason;
use masque_packet::{
    build::{TcpFields, build_tcp, build_udp},
    ip::parse,
    segment::GsoKind,
};

use super::*;
use crate::shard::tests::{
    Bench,
    served::{HOST, OTHER, PORT, Served},
};

/// How many packets wait after a super-packet of 45, from this address to itself, came for a client in
/// whose connection so many bytes may wait, and nothing does.
fn waiting(address: IpAddr, room_bytes: usize) -> usize {
    let mut bench = Bench::with_room(room_bytes);
    let (key, slot) = bench.tunnel();
    let shard = &mut bench.shard;
    let fields = TcpFields::default();
    let packet = build_tcp(address, address, 443, 5, &fields, &[0; 45 * 1360]);
    let header = parse(&packet).unwrap();
    let gso = GsoInfo {
        kind: if address.is_ipv4() {
            GsoKind::TcpV4
        } else {
            GsoKind::TcpV6
        },
        segment_bytes: 1360,
        ..GsoInfo::default()
    };
    let mut outward = Outward {
        at: Instant::now(),
        plane: &mut shard.plane,
        whole: &mut shard.scratch.whole,
        tunnels: &shard.tunnels,
        ports: &mut shard.ports,
        peers: &shard.peers,
        waiting: &mut shard.waiting,
        figures: &mut shard.figures,
    };
    outward.give((slot, key), &header, &packet, &gso, None);
    shard.waiting.len()
}

#[test]
fn a_super_packet_longer_than_may_wait_in_a_connection_waits_in_its_segments() {
    for address in ["10.0.0.1", "2001:db8::1"] {
        let address = address.parse().unwrap();
        assert_eq!(waiting(address, 8 * 1024), 45);
        assert_eq!(waiting(address, 1024 * 1024), 0, "it goes at once");
    }
}

#[test]
fn a_packet_that_a_full_ring_does_not_take_is_counted() {
    let Some(mut served) = Served::new(1024 * 1024) else {
        return;
    };
    let shard = &mut served.bench.shard;
    assert!(shard.plane.attach_elsewhere(&served.other).is_none());
    shard.peers.push(Mailbox::new().unwrap());
    let (at, now, gso) = (Instant::now(), Now::default(), GsoInfo::default());
    let mut packet = build_udp(HOST.into(), OTHER.into(), PORT, PORT, &[7; 100]);
    // One VPC has half of the ring.
    for _ in 0..MAX_HANDED_PACKETS / 2 + 3 {
        shard.forward_to_client(VpcIndex(0), false, (&mut packet, &gso), at, now);
    }
    assert_eq!(shard.figures.handovers, MAX_HANDED_PACKETS as u64 / 2);
    assert_eq!(shard.figures.handovers_lost, 3);
    let counters = shard.plane.vpc_counters(VpcIndex(0)).unwrap();
    let dropped = counters.dropped_to_client[DropReason::HandOverFull.index()];
    assert_eq!(dropped, 3);
}
