use std::net::IpAddr;

use masque_packet::{
    build::{TcpFields, build_tcp},
    ip::parse,
    segment::GsoKind,
};

use super::*;
use crate::shard::tests::Bench;

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
