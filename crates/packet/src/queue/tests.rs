mod memory;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::codel::{INTERVAL_US, TARGET_US};
use super::*;
use crate::build::{build_ip, build_udp};
use crate::fragment::fragments;
use crate::protocol;
use crate::reference::{V4_A, V4_B, V6_A, V6_B, resum};
use crate::segment::GsoKind;

const MEMORY_BYTES: usize = 1 << 20;
const SALT: u64 = 7;

fn flow(number: u16) -> FlowKey {
    let address = |last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last));
    FlowKey::new(address(1), address(2), protocol::TCP, number, 443)
}

/// Flows that do not share a bucket.
fn flows(count: usize) -> Vec<FlowKey> {
    let mut taken = [false; FLOWS_A_SESSION];
    let hasher = FixedState::with_seed(SALT);
    let apart = (0..).map(flow).filter(|key| {
        let bucket = bucket(&hasher, key);
        !std::mem::replace(&mut taken[bucket], true)
    });
    apart.take(count).collect()
}

fn queue() -> FairQueue<u32> {
    FairQueue::new(MEMORY_BYTES, SALT)
}

fn push(queue: &mut FairQueue<u32>, at_us: u64, session: u32, flow: &FlowKey, packet: &[u8]) {
    queue.push(at_us, session, flow, packet, &GsoInfo::default());
}

fn pop(queue: &mut FairQueue<u32>, at_us: u64) -> Option<(u32, Vec<u8>, bool)> {
    let queued = queue.pop(at_us, |_, _, _| true)?;
    Some((queued.session, queued.packet.to_vec(), queued.congested))
}

#[test]
fn a_flow_keeps_its_order_and_its_bytes() {
    let mut queue = queue();
    let gso = GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes: 1000,
        ..GsoInfo::default()
    };
    for (number, length) in [(1, 60), (2, 3_000), (3, 65_535), (4, 1)] {
        queue.push(0, 7, &flow(1), &vec![number; length], &gso);
    }
    for (number, length) in [(1, 60), (2, 3_000), (3, 65_535), (4, 1)] {
        let queued = queue.pop(0, |_, _, _| true).unwrap();
        assert_eq!((queued.session, queued.gso), (7, gso));
        assert_eq!(queued.packet, vec![number; length]);
    }
    assert!(queue.is_empty() && queue.pop(0, |_, _, _| true).is_none());
}

#[test]
fn who_sends_little_goes_before_who_sends_much() {
    let mut queue = queue();
    let [bulk, sparse] = flows(2)[..] else {
        unreachable!()
    };
    for _ in 0..100 {
        push(&mut queue, 0, 1, &bulk, &[0; 1400]);
    }
    // Bulk has used its first quantum.
    for _ in 0..4 {
        pop(&mut queue, 0).unwrap();
    }
    push(&mut queue, 0, 1, &sparse, &[1; 100]);
    assert_eq!(pop(&mut queue, 0).unwrap().1, [1; 100]);
    push(&mut queue, 0, 2, &bulk, &[2; 100]);
    assert_eq!(pop(&mut queue, 0).unwrap().1, [2; 100], "another session");
}

/// The fragments of an IPv4 datagram of UDP.
fn ipv4_fragments(src_port: u16) -> Vec<Vec<u8>> {
    let mut datagram = build_udp(V4_A, V4_B, src_port, 443, &[3; 3000]);
    // It may be fragmented.
    datagram[6] = 0;
    resum(&mut datagram);
    let mut fragments = fragments(&datagram, 1400).unwrap();
    let mut made = Vec::new();
    let mut buffer = [0; 1400];
    while let Some(bytes) = fragments.write_next(&mut buffer) {
        made.push(buffer[..bytes].to_vec());
    }
    made
}

/// Three IPv6 fragments of a UDP datagram with Destination Options, which the Next Header of the
/// later ones names.
fn ipv6_fragments(src_port: u16) -> Vec<Vec<u8>> {
    let piece = |next: u8, units: u16, more: u16, data: &[u8]| {
        let place = (units << 3 | more).to_be_bytes();
        let header = [next, 0, place[0], place[1], 0, 0, 0, 7];
        build_ip(V6_A, V6_B, protocol::FRAGMENT, &[&header, data].concat())
    };
    let ports = [src_port.to_be_bytes(), 443_u16.to_be_bytes()].concat();
    let options = [protocol::UDP, 0, 1, 4, 0, 0, 0, 0];
    let first = [&options[..], &ports, &[0; 1004]].concat();
    vec![
        piece(protocol::DESTINATION_OPTIONS, 0, 1, &first),
        piece(protocol::DESTINATION_OPTIONS, 127, 1, &[1; 1016]),
        piece(protocol::DESTINATION_OPTIONS, 254, 0, &[2; 100]),
    ]
}

/// A flow that waits since long, and a datagram of the same one in fragments: who judges them behind
/// the queue needs the first one first.
#[test]
fn fragments_leave_in_the_order_they_came() {
    for (src, dst) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let whole = build_udp(src, dst, 5, 443, &[0; 1300]);
        let fragments = if src.is_ipv4() {
            ipv4_fragments(5)
        } else {
            ipv6_fragments(5)
        };
        assert_eq!(fragments.len(), 3);
        let mut queue = FairQueue::new(1 << 24, SALT);
        for _ in 0..20 {
            push(&mut queue, 0, 1, &queue_key_of(&whole), &whole);
        }
        for _ in 0..5 {
            assert_eq!(pop(&mut queue, 0).unwrap().1, whole);
        }
        let mut came = Vec::new();
        for datagram in 0..15 {
            for fragment in &fragments {
                let mut fragment = fragment.clone();
                // The traffic class, which is in no key, tells the datagrams apart.
                fragment[1] = datagram << 4;
                if src.is_ipv4() {
                    resum(&mut fragment);
                }
                push(&mut queue, 0, 1, &queue_key_of(&fragment), &fragment);
                came.push(fragment);
            }
        }
        let mut left = Vec::new();
        while let Some((_, packet, _)) = pop(&mut queue, 0) {
            left.extend((packet != whole).then_some(packet));
        }
        assert_eq!(left, came);
    }
}

#[test]
fn a_whole_packet_waits_behind_its_flow() {
    let packet = build_udp(V4_A, V4_B, 5, 443, b"x");
    let expected = FlowKey::new(V4_A, V4_B, protocol::UDP, 5, 443);
    assert_eq!(queue_key_of(&packet), expected);
    let header = crate::ip::parse(&packet).unwrap();
    for fragment in ipv4_fragments(5) {
        assert_eq!(queue_key_of(&fragment), fragments_key(&header));
    }
    assert_eq!(queue_key_of(b"no packet"), FlowKey::UNSPECIFIED);
}

#[test]
fn sessions_share_alike_however_many_flows_they_have() {
    let mut queue = FairQueue::new(1 << 24, SALT);
    let keys = flows(40);
    for _ in 0..40 {
        for key in &keys {
            push(&mut queue, 0, 1, key, &[0; 1400]);
        }
    }
    for _ in 0..400 {
        push(&mut queue, 0, 2, &keys[0], &[0; 1400]);
    }
    let mut bytes = HashMap::new();
    for _ in 0..600 {
        let (session, packet, _) = pop(&mut queue, 0).unwrap();
        *bytes.entry(session).or_insert(0) += packet.len();
    }
    let difference = (bytes[&1] as i64 - bytes[&2] as i64).abs();
    assert!(difference <= 2 * QUANTUM_BYTES + 2 * 1400, "{bytes:?}");
}

#[test]
fn long_packets_and_short_ones_share_by_bytes() {
    let mut queue = FairQueue::new(1 << 24, SALT);
    let [long, short] = flows(2)[..] else {
        unreachable!()
    };
    for _ in 0..50 {
        push(&mut queue, 0, 1, &long, &[0; 60_000]);
    }
    for _ in 0..3_000 {
        push(&mut queue, 0, 1, &short, &[1; 1_000]);
    }
    let mut bytes = [0_i64; 2];
    while bytes[0] + bytes[1] < 2_000_000 {
        let (_, packet, _) = pop(&mut queue, 0).unwrap();
        bytes[usize::from(packet[0])] += packet.len() as i64;
    }
    assert!(
        (bytes[0] - bytes[1]).abs() <= 60_000 + 2 * QUANTUM_BYTES,
        "{bytes:?}"
    );
}

#[test]
fn a_session_without_room_keeps_nobody_else_waiting() {
    let mut queue = queue();
    for session in [1, 2] {
        push(&mut queue, 0, session, &flow(1), &[0; 100]);
    }
    let room = |session, bytes, gso: &GsoInfo| {
        assert_eq!((bytes, *gso), (100, GsoInfo::default()));
        session != 1
    };
    assert_eq!(queue.pop(0, room).unwrap().session, 2);
    assert!(
        queue.pop(0, |_, _, _| true).is_none(),
        "left out until the next turn"
    );
    queue.resume(1);
    assert_eq!(pop(&mut queue, 0).unwrap().0, 1);
}

/// Who has no room costs nothing, however many they are, until somebody says that it may have some.
#[test]
fn a_session_is_asked_for_room_once_until_it_is_resumed() {
    const SESSIONS: u32 = 400;
    let mut queue = queue();
    for session in 0..SESSIONS {
        push(&mut queue, 0, session, &flow(1), &[0; 100]);
    }
    let mut asked = Vec::new();
    let mut ask = |queue: &mut FairQueue<u32>| {
        let none = queue.pop(0, |session, _, _| {
            asked.push(session);
            false
        });
        assert!(none.is_none());
        std::mem::take(&mut asked)
    };
    assert_eq!(ask(&mut queue), (0..SESSIONS).collect::<Vec<_>>());
    assert!(ask(&mut queue).is_empty());
    for session in [17, 3, 17, SESSIONS] {
        queue.resume(session);
    }
    assert_eq!(ask(&mut queue), [17, 3], "each once, and no stranger");
    // Nobody is forgotten.
    for session in (0..SESSIONS).rev() {
        queue.resume(session);
        assert_eq!(pop(&mut queue, 0).unwrap().0, session);
    }
    assert!(queue.is_empty());
}

/// RFC 8290 §4.2: a flow that was emptied goes through the old ones before it is new again.
#[test]
fn who_comes_back_again_and_again_is_not_always_first() {
    let mut queue = FairQueue::new(1 << 24, SALT);
    let [bulk, again] = flows(2)[..] else {
        unreachable!()
    };
    for _ in 0..2_000 {
        push(&mut queue, 0, 1, &bulk, &[0; 1400]);
    }
    let (mut waits, mut popped) = (0, [0; 2]);
    for _ in 0..1_000 {
        let from = usize::from(pop(&mut queue, 0).unwrap().1[0]);
        popped[from] += 1;
        waits -= from;
        if waits == 0 && from == 0 {
            // As much as goes before the others at once.
            push(&mut queue, 0, 1, &again, &[1; 1400]);
            push(&mut queue, 0, 1, &again, &[1; 1400]);
            waits = 2;
        }
    }
    assert!(popped[0] >= 450, "{popped:?}");
}

#[test]
fn which_flows_share_a_bucket_is_the_salts_secret() {
    let shares = |salt, key: &FlowKey| {
        let hasher = FixedState::with_seed(salt);
        bucket(&hasher, key) == bucket(&hasher, &flow(0))
    };
    let sharing: Vec<_> = (1..5000).map(flow).filter(|key| shares(1, key)).collect();
    assert!(sharing.len() > 10);
    let still = sharing.iter().filter(|key| shares(2, key)).count();
    assert!(still * 4 < sharing.len(), "{still} of {}", sharing.len());
    // The queue asks its own.
    let mut queue = FairQueue::new(MEMORY_BYTES, 1);
    for key in sharing.iter().chain([&flow(0)]) {
        push(&mut queue, 0, 1, key, &[0; 100]);
    }
    assert_eq!(queue.flows.len(), 1);
}

/// Takes one packet a millisecond from a flow that is `depth` packets long; how many told it.
fn told(depth: usize, milliseconds: u64) -> usize {
    let mut queue = FairQueue::new(1 << 24, SALT);
    let mut told = 0;
    for _ in 0..depth {
        push(&mut queue, 0, 1, &flow(1), &[0; 1400]);
    }
    for ms in 1..=milliseconds {
        push(&mut queue, ms * 1000, 1, &flow(1), &[0; 1400]);
        told += usize::from(pop(&mut queue, ms * 1000).unwrap().2);
    }
    assert_eq!(queue.stats().congested, told as u64);
    told
}

#[test]
fn a_standing_queue_is_told_after_an_interval_and_then_more_and_more_often() {
    let target_ms = (TARGET_US / 1000) as usize;
    let interval_ms = INTERVAL_US / 1000;
    assert_eq!(told(target_ms - 1, 10 * interval_ms), 0, "below the target");
    assert_eq!(
        told(4 * target_ms, interval_ms - 1),
        0,
        "not for an interval yet"
    );
    let one_second = told(4 * target_ms, 10 * interval_ms);
    // RFC 8289 §3.3: the sum of interval ÷ √n reaches 0.9 s at about 20.
    assert!((15..40).contains(&one_second), "{one_second}");
    assert!(told(4 * target_ms, 20 * interval_ms) > 2 * one_second);
}

#[test]
fn a_burst_that_drains_is_not_told() {
    let mut queue = FairQueue::new(1 << 24, SALT);
    for burst in 0..50_u64 {
        for _ in 0..40 {
            push(&mut queue, burst * 50_000, 1, &flow(1), &[0; 1400]);
        }
        for ms in 0..40 {
            let (_, _, congested) = pop(&mut queue, burst * 50_000 + ms * 1000).unwrap();
            assert!(!congested);
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        session: u32,
        flow: u16,
        bytes: usize,
    },
    Pop {
        blocked: u32,
    },
    Resume {
        session: u32,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..5_u32, 0..300_u16, prop_oneof![1..200_usize, 1_000..70_000_usize])
            .prop_map(|(session, flow, bytes)| Step::Push { session, flow, bytes }),
        4 => (0..6_u32).prop_map(|blocked| Step::Pop { blocked }),
        2 => (0..6_u32).prop_map(|session| Step::Resume { session }),
        1 => (1..300_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a list of what was put in: nothing is lost uncounted, made up, mixed between sessions
    /// or reordered within a flow, and memory stays within its bound.
    #[test]
    fn nothing_is_lost_mixed_or_reordered(steps in prop::collection::vec(step(), 1..400)) {
        let mut queue = FairQueue::new(300_000, SALT);
        let mut model: HashMap<(u32, u16), Vec<u32>> = HashMap::new();
        let (mut now_us, mut number, mut popped) = (0, 0_u32, 0_u64);
        for step in steps {
            match step {
                Step::Push { session, flow: port, bytes } => {
                    let mut packet = vec![0; bytes.max(16)];
                    packet[..4].copy_from_slice(&number.to_be_bytes());
                    packet[4..6].copy_from_slice(&port.to_be_bytes());
                    packet[6..].fill(number as u8);
                    queue.push(now_us, session, &flow(port), &packet, &GsoInfo::default());
                    model.entry((session, port)).or_default().push(number);
                    number += 1;
                }
                Step::Pop { blocked } => {
                    if let Some(queued) = queue.pop(now_us, |session, _, _| session != blocked) {
                        prop_assert_ne!(queued.session, blocked);
                        let word = |at: usize| [queued.packet[at], queued.packet[at + 1]];
                        let port = u16::from_be_bytes(word(4));
                        let [high, low] = [u16::from_be_bytes(word(0)), u16::from_be_bytes(word(2))];
                        let got = u32::from(high) << 16 | u32::from(low);
                        prop_assert!(queued.packet[6..].iter().all(|byte| *byte == got as u8));
                        let waiting = model.get_mut(&(queued.session, port)).unwrap();
                        // Earlier ones may have been dropped, never overtaken.
                        let at = waiting.iter().position(|n| *n == got).unwrap();
                        waiting.drain(..=at);
                        popped += 1;
                    }
                }
                Step::Resume { session } => queue.resume(session),
                Step::Wait(us) => {
                    now_us += us;
                    queue.trim(now_us);
                }
            }
            prop_assert!(queue.memory_bytes() <= 300_000);
        }
        (0..6).for_each(|session| queue.resume(session));
        while queue.pop(now_us, |_, _, _| true).is_some() {
            popped += 1;
        }
        prop_assert_eq!(popped + queue.stats().overflowed, u64::from(number));
        prop_assert!(queue.is_empty());
    }
}
