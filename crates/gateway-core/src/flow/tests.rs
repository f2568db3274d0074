//! The flow table against a map, and its fairness.

use std::collections::BTreeMap;
use std::net::IpAddr;

use masque_model::Direction;
use masque_packet::build::{TcpFields, build_ip, build_tcp, build_udp, tcp_flag};
use masque_packet::flow::FlowKey;
use masque_packet::ip::parse;
use masque_packet::protocol;
use proptest::prelude::*;

use super::table::{MAX_ENTRIES, MIN_ENTRIES};
use super::*;
use crate::fixture::ip;

const JUDGED: Judged = Judged {
    epoch: 1,
    generation: 1,
    audit_denied: false,
    until_unix_s: u64::MAX,
};

fn id(owner: u32, number: u32) -> FlowId {
    let client = IpAddr::from([10, 200, 0, 1]);
    let remote = IpAddr::from((10 << 24 | number >> 16).to_be_bytes());
    let port = u16::try_from(number & 0xffff).unwrap();
    let key = FlowKey::new(client, remote, protocol::UDP, port, 53);
    FlowId {
        key,
        owner,
        echo: None,
    }
}

fn udp() -> FlowState {
    FlowState::new(protocol::UDP, Direction::ToVpc)
}

fn table(entries: u32, owners: u32) -> FlowTable {
    let mut table = FlowTable::new(entries, 7);
    (0..owners).for_each(|owner| table.add_owner(owner));
    table
}

#[test]
fn sizes_are_bounded() {
    assert_eq!(FlowTable::new(0, 0).capacity(), MIN_ENTRIES);
    const { assert!(MAX_ENTRIES < u32::MAX / 4) };
}

#[test]
fn one_owner_has_no_more_than_its_share() {
    let mut table = table(1_024, 2);
    for number in 0..10 {
        table.insert(0, id(1, number), JUDGED, udp());
    }
    for number in 0..5_000 {
        table.insert(u64::from(number), id(0, number), JUDGED, udp());
        assert!(table.count(0) <= table.share());
    }
    assert_eq!(table.count(0), table.share());
    for number in 0..10 {
        assert!(table.find(5_000, &id(1, number)).is_some());
    }
}

#[test]
fn a_flood_of_many_owners_leaves_a_small_one_alone() {
    let mut table = table(1_024, 21);
    for number in 0..20 {
        table.insert(0, id(20, number), JUDGED, udp());
    }
    for number in 0..3_000 {
        for owner in 0..20 {
            table.insert(1, id(owner, number), JUDGED, udp());
        }
    }
    assert_eq!(table.len(), table.capacity());
    for number in 0..20 {
        assert!(table.find(2, &id(20, number)).is_some(), "flow {number}");
    }
    // A newcomer gets its place although the table is full.
    table.add_owner(21);
    table.insert(2, id(21, 0), JUDGED, udp());
    assert!(table.find(2, &id(21, 0)).is_some());
}

#[test]
fn a_flood_of_openings_leaves_answered_flows_of_the_same_owner() {
    let mut table = table(256, 1);
    let established = id(0, 60_000);
    table.insert(0, established, JUDGED, udp());
    let at = table.find(0, &established).unwrap();
    table
        .flow_mut(at)
        .unwrap()
        .state
        .see(Direction::FromVpc, TcpFlags::default());
    for number in 0..10_000 {
        table.insert(1, id(0, number), JUDGED, udp());
    }
    assert!(table.find(1, &established).is_some());
}

#[test]
fn an_owner_that_goes_takes_its_flows_with_it() {
    let mut table = table(256, 2);
    for number in 0..20 {
        table.insert(0, id(0, number), JUDGED, udp());
        table.insert(0, id(1, number), JUDGED, udp());
    }
    table.remove_owner(0);
    assert_eq!((table.len(), table.count(0), table.count(1)), (20, 0, 20));
    assert!(table.find(0, &id(0, 3)).is_none());
    assert!(table.find(0, &id(1, 3)).is_some());
}

#[test]
fn flows_live_as_long_as_their_protocol_says() {
    let tcp = |flags: &[(Direction, u8)]| {
        let mut state = FlowState::new(protocol::TCP, Direction::ToVpc);
        for (direction, flags) in flags {
            let fields = TcpFields {
                flags: *flags,
                ..TcpFields::default()
            };
            let packet = build_tcp(ip("10.0.0.1"), ip("10.0.0.2"), 1, 2, &fields, &[]);
            let header = parse(&packet).unwrap();
            state.see(*direction, TcpFlags::of(&header, &packet));
        }
        state.timeout_ms()
    };
    let (up, down) = (Direction::ToVpc, Direction::FromVpc);
    let (syn, ack, fin, rst) = (tcp_flag::SYN, tcp_flag::ACK, tcp_flag::FIN, tcp_flag::RST);
    let hours = 2 * 3_600_000 + 4 * 60_000;
    assert!(tcp(&[(up, syn)]) < 120_000);
    assert!(tcp(&[(up, syn), (down, syn | ack), (up, ack)]) >= hours);
    assert!(tcp(&[(up, syn), (down, syn | ack), (up, fin | ack)]) >= hours);
    assert!(
        tcp(&[
            (up, syn),
            (down, syn | ack),
            (up, fin | ack),
            (down, fin | ack)
        ]) < 60_000
    );
    assert!(tcp(&[(up, syn), (down, rst)]) < 60_000);
    assert!(tcp(&[(up, syn), (down, rst), (up, syn), (down, syn | ack)]) >= hours);
    let timeout = |number| FlowState::new(number, up).timeout_ms();
    assert!(timeout(protocol::UDP) >= 120_000);
    assert!(timeout(protocol::ICMP) >= 60_000);
    assert!(timeout(protocol::ESP) >= 60_000);
}

fn fragment(source: &str, identification: u16, offset: u16, more: bool) -> Vec<u8> {
    let mut packet = build_ip(ip(source), ip("10.0.0.9"), protocol::UDP, &[0; 16]);
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    let field = offset | if more { 0x2000 } else { 0 };
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    packet
}

#[test]
fn fragments_are_told_by_their_identification() {
    let of = |packet: &[u8]| {
        // The edit broke the header checksum; what counts here is what `of` reads.
        let mut header = parse(&build_udp(ip("10.0.0.1"), ip("10.0.0.9"), 1, 2, &[])).unwrap();
        header.total_bytes = packet.len();
        Piece::of(Direction::ToVpc, &header, packet).unwrap()
    };
    let first = of(&fragment("10.0.0.1", 7, 0, true));
    let later = of(&fragment("10.0.0.1", 7, 2, false));
    let other = of(&fragment("10.0.0.1", 8, 2, false));
    assert_eq!(first.id, later.id);
    let mut ring = FragmentRing::default();
    ring.allow(0, &first);
    assert_eq!(ring.follows(29_999, &later), Follows::Yes);
    assert_eq!(ring.follows(30_000, &later), Follows::Nothing);
    assert_eq!(ring.follows(0, &other), Follows::Nothing);
    for number in 100..100 + u16::try_from(fragment::FRAGMENTS_PER_OWNER).unwrap() {
        ring.allow(0, &of(&fragment("10.0.0.1", number, 0, true)));
    }
    let follows = ring.follows(0, &later);
    assert_eq!(follows, Follows::Nothing, "the ring is bounded");
}

#[test]
fn ipv6_fragments_are_told_behind_other_headers() {
    // Hop-by-hop, fragment, destination options, UDP.
    let chain = |offset_and_more: u16| {
        let mut payload = vec![44, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([60, 0]);
        payload.extend(offset_and_more.to_be_bytes());
        payload.extend([0xde, 0xad, 0xbe, 0xef]);
        payload.extend([17, 0, 1, 4, 0, 0, 0, 0]);
        payload.extend([0; 16]);
        build_ip(ip("fd00::1"), ip("fd00::2"), protocol::HOP_BY_HOP, &payload)
    };
    let of = |packet: &[u8]| Piece::of(Direction::ToVpc, &parse(packet).unwrap(), packet);
    let (first, later) = (of(&chain(1)).unwrap(), of(&chain(8)).unwrap());
    assert_eq!(first.id, later.id);
    assert_eq!((first.start_bytes, first.end_bytes), (0, 24));
    assert_eq!((later.start_bytes, later.end_bytes), (8, 32));
    assert!(format!("{first:?}").contains(&0xdead_beef_u32.to_string()));
}

#[test]
fn a_later_fragment_begins_behind_the_longest_first_one() {
    let header = parse(&build_udp(ip("10.0.0.1"), ip("10.0.0.9"), 1, 2, &[])).unwrap();
    let numbered = |identification, start_bytes, end_bytes| {
        let packet = fragment("10.0.0.1", identification, 0, true);
        Piece {
            start_bytes,
            end_bytes,
            ..Piece::of(Direction::ToVpc, &header, &packet).unwrap()
        }
    };
    let piece = |start_bytes, end_bytes| numbered(7, start_bytes, end_bytes);
    let mut ring = FragmentRing::default();
    for first_bytes in [24, 8] {
        ring.allow(0, &piece(0, first_bytes));
        assert_eq!(ring.follows(0, &piece(8, 16)), Follows::Overlaps);
        assert_eq!(ring.follows(0, &piece(16, 32)), Follows::Overlaps);
        assert_eq!(ring.follows(0, &piece(24, 32)), Follows::Yes);
    }
    // The longer one leaves the ring before the shorter one.
    for other in 101..100 + u16::try_from(fragment::FRAGMENTS_PER_OWNER).unwrap() {
        ring.allow(0, &numbered(other, 0, 8));
    }
    assert_eq!(ring.follows(0, &piece(8, 16)), Follows::Overlaps);
}

#[test]
fn the_fragment_of_a_fragment_has_no_identity() {
    let chain = |second: u16| {
        let mut payload = vec![44, 0, 0, 1, 0, 0, 0, 1, 17, 0];
        payload.extend(second.to_be_bytes());
        payload.extend([0, 0, 0, 2]);
        payload.extend([0; 16]);
        build_ip(ip("fd00::1"), ip("fd00::2"), protocol::FRAGMENT, &payload)
    };
    for packet in [chain(0), chain(1), chain(8)] {
        let header = parse(&packet).unwrap();
        assert_eq!(Piece::of(Direction::ToVpc, &header, &packet), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Below its bounds the table is a map.
    #[test]
    fn agrees_with_a_map(
        operations in prop::collection::vec((0u8..4, 0u32..4, 0u32..30), 1..400),
    ) {
        let mut table = table(4_096, 4);
        let mut map = BTreeMap::new();
        for (operation, owner, number) in operations {
            let (id, key) = (id(owner, number), (owner, number));
            let found = table.find(0, &id);
            prop_assert_eq!(found.is_some(), map.contains_key(&key));
            match (operation, found) {
                (0 | 1, None) => {
                    let judged = Judged { epoch: u64::from(number), ..JUDGED };
                    table.insert(0, id, judged, udp());
                    map.insert(key, u64::from(number));
                }
                (2, Some(at)) => {
                    table.remove(at);
                    map.remove(&key);
                }
                (3, _) if number == 0 => {
                    table.remove_owner(owner);
                    map.retain(|(other, _), _| *other != owner);
                }
                (_, Some(at)) => {
                    let flow = table.flow_mut(at).unwrap();
                    prop_assert_eq!(*flow.id(), id);
                    prop_assert_eq!(flow.judged.epoch, map[&key]);
                }
                _ => {}
            }
            prop_assert_eq!(table.len() as usize, map.len());
            for owner in 0..4 {
                let count = map.keys().filter(|(other, _)| *other == owner).count();
                prop_assert_eq!(table.count(owner) as usize, count);
            }
        }
    }

    /// At its bounds nothing is lost but what was evicted: counts and lists stay right.
    #[test]
    fn stays_whole_when_full(
        operations in prop::collection::vec((0u32..6, 0u32..200, 0u64..200_000), 1..1_500),
    ) {
        let mut table = table(MIN_ENTRIES, 6);
        let mut now_ms = 0;
        for (owner, number, wait_ms) in operations {
            now_ms += wait_ms / 100;
            let id = id(owner, number);
            if table.find(now_ms, &id).is_none() {
                table.insert(now_ms, id, JUDGED, udp());
            }
            prop_assert!(table.find(now_ms, &id).is_some(), "what was put in is there");
            prop_assert!(table.len() <= table.capacity());
            let sum: u32 = (0..6).map(|owner| table.count(owner)).sum();
            prop_assert_eq!(sum, table.len());
        }
        for owner in 0..6 {
            table.remove_owner(owner);
        }
        prop_assert_eq!(table.len(), 0);
    }
}
