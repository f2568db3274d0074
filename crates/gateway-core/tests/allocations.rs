//! Invariant 7: the packet loop allocates nothing at steady state.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by a panic")]

use std::net::IpAddr;
use std::sync::Arc;

use masque_gateway_core::{
    AdmitRequest, ClientVerdict, Dataplane, DataplaneConfig, Now, Registry, RegistryConfig, Scope,
    SlotId, VpcIndex, VpcVerdict,
};
use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, Direction, Mode, PortMatch, PrefixMatch,
    ProtocolMatch, Rule, Snapshot,
};
use masque_packet::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp};
use masque_packet::segment::{GsoInfo, GsoKind, PartialChecksum};
use masque_testkit::allocations::{CountingAllocator, allocations, first_of_ours};
use masque_testkit::snapshots;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const SESSIONS: u8 = 8;
/// What the VPC has.
const PREFIXES: [&str; 2] = ["10.0.0.0/16", "fd00:10::/64"];
/// Where clients have their second address.
const POOL6: &str = "fd00:200::/112";
const NOW: Now = Now {
    mono_ms: 1_000,
    unix_s: 1_000,
};

/// A thousand rules: 998 that name ports or prefixes that nothing here has, one that allows the
/// flows of the test, and one in Audit mode.
fn rules() -> Vec<Rule> {
    let rule = |number: u16, mode, prefix: String, port| Rule {
        name: format!("rule-{number}"),
        mode,
        action: if mode == Mode::Audit || number.is_multiple_of(2) {
            Action::Deny
        } else {
            Action::Allow
        },
        prefixes: vec![PrefixMatch {
            prefix: prefix.parse().unwrap(),
            except: Vec::new(),
        }],
        ports: vec![PortMatch {
            protocol: ProtocolMatch::Number(6),
            ports: port,
        }],
        ..snapshots::allow(Direction::ToVpc)
    };
    let mut rules: Vec<Rule> = (0..998)
        .map(|number| {
            let prefix = format!("10.{}.{}.0/24", number / 250 + 1, number % 250);
            rule(number, Mode::Enforce, prefix, Some((1, 65_535)))
        })
        .collect();
    let mut all = rule(999, Mode::Enforce, "10.0.0.0/8".into(), None);
    (all.prefixes, all.ports) = (Vec::new(), Vec::new());
    rules.push(all);
    rules.push(rule(
        1_000,
        Mode::Audit,
        "10.0.0.0/24".into(),
        Some((80, 80)),
    ));
    rules
}

fn snapshot() -> Snapshot {
    let attachments = (1..=SESSIONS).map(|number| Attachment {
        limits: AttachmentLimits {
            sessions: 4,
            bits_per_second: Some(1 << 40),
        },
        ipv6: true,
        addresses: vec![client(number), client6(number)],
        routes: PREFIXES.map(|prefix| prefix.parse().unwrap()).into(),
        ..snapshots::attachment(number, [0; 4])
    });
    let mut snapshot = snapshots::snapshot(attachments.collect(), rules());
    snapshot.routes = PREFIXES.map(|prefix| prefix.parse().unwrap()).into();
    snapshot.pools.push(AddressPool {
        prefix: POOL6.parse().unwrap(),
        reserved: Vec::new(),
    });
    snapshot
}

fn shard() -> (Registry, Dataplane, Vec<SlotId>) {
    let mut registry = Registry::new(RegistryConfig::default());
    let changes = registry.apply(NOW, vec![Arc::new(snapshot())]);
    assert!(changes.conflicts.is_empty() && changes.refused.is_empty());
    let config = DataplaneConfig {
        flow_entries: 1_024,
        ..DataplaneConfig::default()
    };
    let mut plane = Dataplane::new(config, NOW, changes.tables);
    let scope = Scope::default();
    let slots = (1..=SESSIONS).map(|number| {
        let request = AdmitRequest {
            key: snapshots::key(number),
            vpc: None,
            listener: None,
            scope: &scope,
            shard: 0,
            ipv4: true,
            ipv6: true,
        };
        let grant = registry.admit(NOW, &request).unwrap().grant;
        plane.attach(NOW, &grant, 1_400).unwrap()
    });
    let slots = slots.collect();
    (registry, plane, slots)
}

fn client(number: u8) -> IpAddr {
    IpAddr::from([10, 200, 0, number + 1])
}

fn client6(number: u8) -> IpAddr {
    IpAddr::from([0xfd00, 0x200, 0, 0, 0, 0, 0, u16::from(number) + 1])
}

/// A packet, and how it is segmented.
type Packet = (Vec<u8>, GsoInfo);

/// Packets of the session of this number in both directions: known flows, many new flows, fragments,
/// super-packets, and everything that is refused and answered.
fn packets(number: u8) -> (Vec<Vec<u8>>, Vec<Packet>) {
    let (mut up, down) = packets4(number);
    let single = |packet| (packet, GsoInfo::default());
    let mut down: Vec<Packet> = down.into_iter().map(single).collect();
    let (client, server) = (client(number), IpAddr::from([10, 0, 0, 9]));
    let (client6, server6) = (client6(number), "fd00:10::9".parse().unwrap());
    let fields = TcpFields::default();
    // As a device hands them over: with a checksum to complete.
    let payload = &[0; 40_000];
    for (whole, kind, start, offset) in [
        (
            build_tcp(server, client, 80, 1_000, &fields, payload),
            GsoKind::TcpV4,
            20,
            16,
        ),
        (
            build_tcp(server6, client6, 80, 1_000, &fields, payload),
            GsoKind::TcpV6,
            40,
            16,
        ),
        (
            build_udp(server, client, 53, 1_000, payload),
            GsoKind::UdpL4,
            20,
            6,
        ),
    ] {
        let gso = GsoInfo {
            kind,
            segment_bytes: 1_000,
            checksum: Some(PartialChecksum { start, offset }),
            ..GsoInfo::default()
        };
        down.push((whole, gso));
    }
    up.extend([
        // Again, as the many new flows of all sessions may have driven out these.
        build_udp(client, server, 1_000, 53, &[0; 64]),
        build_tcp(client, server, 1_000, 80, &fields, &[0; 512]),
        build_udp(client6, server6, 1_000, 53, &[0; 64]),
        build_tcp(client6, server6, 1_000, 80, &fields, &[0; 512]),
        build_icmp_echo(client6, server6, 7, 1, &[0; 56]),
        build_udp(server6, client6, 1_000, 53, &[0; 64]),
        build_udp(client6, "fd00:9::1".parse().unwrap(), 1_000, 53, &[0; 64]),
    ]);
    down.extend(
        [
            build_udp(server6, client6, 53, 1_000, &[0; 64]),
            build_udp(server6, client6, 53, 1_000, &[0; 1_400]),
            build_udp(server6, client6, 53, 9, &[0; 64]),
        ]
        .map(single),
    );
    for (at, more) in [(0, true), (8, false)] {
        let (to, from) = ((client, server, 1_000, 53), (server, client, 53, 1_000));
        let piece =
            |(src, dst, from, to)| fragment(build_udp(src, dst, from, to, &[0; 56]), at, more);
        up.push(piece(to));
        down.push(single(piece(from)));
    }
    (up, down)
}

/// A fragment of a packet: at so many units of 8 bytes (RFC 791 §3.1).
fn fragment(mut packet: Vec<u8>, at: u16, more: bool) -> Vec<u8> {
    packet[6..8].copy_from_slice(&(at | u16::from(more) << 13).to_be_bytes());
    with_checksum(packet)
}

fn packets4(number: u8) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (client, server) = (client(number), IpAddr::from([10, 0, 0, 9]));
    let fields = TcpFields::default();
    let mut up = vec![
        build_udp(client, server, 1_000, 53, &[0; 64]),
        build_tcp(client, server, 1_000, 80, &fields, &[0; 512]),
        build_icmp_echo(client, server, 7, 1, &[0; 56]),
        build_icmp_echo(client, IpAddr::from([10, 200, 0, 1]), 7, 1, &[0; 56]),
        build_udp(server, client, 1_000, 53, &[0; 64]),
        build_udp(client, IpAddr::from([10, 9, 0, 1]), 1_000, 53, &[0; 64]),
        build_tcp(client, IpAddr::from([10, 1, 0, 1]), 1_000, 80, &fields, &[]),
        build_ip(client, server, 47, &[0; 20]),
        vec![0; 8],
    ];
    up.extend((0..200).map(|port| build_udp(client, server, 20_000 + port, 53, &[])));
    let mut down = vec![
        build_udp(server, client, 53, 1_000, &[0; 64]),
        build_tcp(server, client, 80, 1_000, &fields, &[0; 512]),
        build_udp(server, client, 53, 1_000, &[0; 1_400]),
        without_dont_fragment(build_udp(server, client, 53, 1_000, &[0; 3_000])),
        build_udp(server, client, 53, 9, &[0; 64]),
        build_udp(server, IpAddr::from([10, 200, 0, 99]), 53, 9, &[0; 64]),
    ];
    down.extend((0..200).map(|port| build_udp(server, client, 53, 20_000 + port, &[])));
    (up, down)
}

/// A packet that is to be fragmented.
fn without_dont_fragment(mut packet: Vec<u8>) -> Vec<u8> {
    packet[6] = 0;
    with_checksum(packet)
}

fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    packet[10..12].fill(0);
    let sum = masque_packet::checksum::checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

#[test]
fn nothing_is_allocated_per_packet() {
    let (registry, mut plane, slots) = shard();
    let mut traffic: Vec<_> = (1..=SESSIONS).map(packets).collect();
    let mut reply = vec![0; 2_048];
    let (mut forwarded, mut delivered, mut answered, mut judged) = (0u64, 0u64, 0u64, 0u64);
    // Of both directions together, those that passed.
    let (mut sixes, mut fragments, mut whole) = (0u64, 0u64, 0u64);
    let mut passed = |packet: &[u8], gso: &GsoInfo| {
        let six = packet[0] >> 4 == 6;
        sixes += u64::from(six);
        let place = u16::from_be_bytes([packet[6], packet[7]]);
        fragments += u64::from(!six && place & 0x3fff != 0);
        whole += u64::from(gso.kind != GsoKind::None);
    };
    let mut expired = Vec::with_capacity(16);
    let mut noted = 0u64;
    let mut round = |number: u64| {
        let now = Now {
            mono_ms: NOW.mono_ms + number * 10,
            unix_s: NOW.unix_s,
        };
        for (slot, (up, down)) in slots.iter().zip(&mut traffic) {
            for packet in up {
                match plane.from_client(now, *slot, packet, &mut reply) {
                    ClientVerdict::Forward { .. } => {
                        forwarded += 1;
                        passed(packet, &GsoInfo::default());
                    }
                    ClientVerdict::Reply { .. } => answered += 1,
                    ClientVerdict::Drop(_) => {}
                }
                judged += 1;
            }
            for (packet, gso) in down {
                match plane.from_vpc(now, VpcIndex(0), packet, gso, &mut reply) {
                    VpcVerdict::ToSession { .. } => {
                        delivered += 1;
                        passed(packet, gso);
                    }
                    VpcVerdict::Reply { .. } => answered += 1,
                    VpcVerdict::HandOver { .. } | VpcVerdict::Drop(_) => {}
                }
                judged += 1;
            }
        }
        plane.expired(now, &mut expired);
        let missed = plane.take_audit_notes(|note| {
            noted += u64::from(std::hint::black_box(note.rule).rule.is_empty()) + 1;
        });
        noted += missed;
    };
    round(0);
    let ((), count) = allocations(|| (1..=50).for_each(&mut round));
    let first = first_of_ours();
    assert_eq!(count.ours, 0, "while {judged} packets were judged: {first}");
    assert!(judged > 150_000 && forwarded > 50_000 && delivered > 50_000 && answered > 100);
    // Each of its kind that may pass did, in every round of every session.
    let times = 51 * u64::from(SESSIONS);
    assert_eq!((sixes, fragments, whole), (5 * times, 4 * times, 3 * times));
    assert!(noted > 0, "flows that Audit would deny took place");
    assert_eq!(
        plane.flow_gauge().flows,
        plane.flow_gauge().capacity,
        "evictions took place"
    );
    drop(registry);
}

#[test]
fn the_counter_counts() {
    let ((), count) = allocations(|| drop(std::hint::black_box(vec![0u8; 100])));
    assert!(count.ours > 0);
}
