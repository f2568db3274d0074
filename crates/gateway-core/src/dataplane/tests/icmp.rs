//! What senders are told (RFC 9484 §7.2.1), and how often.

use masque_model::{Action, Direction};
use masque_packet::icmp::{IcmpError, Unreachable, build_error};

use super::*;
use crate::fixture::{prefixes, rule, snapshot};

#[test]
fn n63_a_packet_too_big_for_the_fabric_is_answered() {
    let (mut bench, slot) = connected();
    let packet = udp(CLIENT_V6, WORKLOAD_V6);
    bench.plane.set_fabric_mtu(packet.len() as u16);
    assert!(bench.passes_up(slot, packet.clone()));
    bench.plane.set_fabric_mtu(packet.len() as u16 - 1);
    let refused = bench.up_drop(slot, packet);
    assert_eq!(refused.0, DropReason::PacketTooBig);
    assert_eq!(Icmp::kind_and_code(refused.1), Some((2, 0)));
}

#[test]
fn n63_each_failure_has_its_icmp_error() {
    let mut strict = snapshot("vpc", 9);
    strict.rules = vec![masque_model::Rule {
        prefixes: prefixes(&["10.0.0.0/24", "fd00:1:1::/48"]),
        ..rule("some", Action::Allow, Direction::ToVpc)
    }];
    let mut bench = Bench::new(&[strict]);
    let slot = bench.open(5);
    let table = [
        (udp("10.0.9.9", WORKLOAD), (3, 13)),
        (udp("fd00:1::9", WORKLOAD_V6), (1, 5)),
        (udp(CLIENT, "10.9.0.1"), (3, 0)),
        (udp(CLIENT_V6, "fd00:9::1"), (1, 0)),
        (udp(CLIENT, WORKLOAD), (3, 13)),
        (udp(CLIENT_V6, WORKLOAD_V6), (1, 1)),
    ];
    for (packet, expected) in table {
        let sender = parse(&packet).unwrap().source;
        let (reason, icmp) = bench.up_drop(slot, packet);
        let icmp = icmp.unwrap_or_else(|| panic!("{reason:?}"));
        assert_eq!((icmp.kind, icmp.code), expected, "{reason:?}");
        assert_eq!(icmp.destination, sender);
        assert_eq!(
            icmp.source,
            ip(if sender.is_ipv4() {
                GATEWAY
            } else {
                GATEWAY_V6
            })
        );
    }
}

#[test]
fn n63_n64_too_big_tells_the_mtu_of_the_tunnel() {
    let (mut bench, slot) = connected();
    for (client, workload) in [(CLIENT, WORKLOAD), (CLIENT_V6, WORKLOAD_V6)] {
        assert!(bench.passes_up(slot, udp(client, workload)));
        let reply = |bytes: usize| build_udp(ip(workload), ip(client), 53, 1_000, &vec![0; bytes]);
        let headers = if client == CLIENT { 28 } else { 48 };
        assert!(bench.passes_down(reply(1_400 - headers)));
        let (reason, icmp) = bench.down_drop(reply(1_401 - headers));
        assert_eq!(reason, DropReason::PacketTooBig);
        let icmp = icmp.unwrap();
        assert_eq!(
            (icmp.parameter & 0xffff, icmp.destination),
            (1_400, ip(workload))
        );
        let expected = if client == CLIENT { (3, 4) } else { (2, 0) };
        assert_eq!((icmp.kind, icmp.code), expected);
    }
    bench.plane.set_mtu(slot, 1_300);
    let long = |bytes: usize| build_udp(ip(WORKLOAD), ip(CLIENT), 53, 1_000, &vec![0; bytes]);
    assert_eq!(
        bench.down_drop(long(1_301 - 28)).0,
        DropReason::PacketTooBig
    );
}

/// RFC 1812 §4.2.2.7: without Don't Fragment a packet is fragmented, and §5.2.7.1: nobody is told.
#[test]
fn ipv4_without_dont_fragment_is_fragmented() {
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let long = |from: &str, to: &str, ports: (u16, u16), bytes: usize| {
        let packet = build_udp(ip(from), ip(to), ports.0, ports.1, &vec![0; bytes - 28]);
        edited(packet, |packet| packet[6] = 0)
    };
    let down = |bytes| long(WORKLOAD, CLIENT, (53, 1_000), bytes);
    let fragmented = |verdict| match verdict {
        VpcVerdict::ToSession {
            fragment_to_bytes, ..
        } => fragment_to_bytes,
        verdict => panic!("{verdict:?}"),
    };
    assert_eq!(fragmented(bench.down(down(1_400))), None);
    assert_eq!(fragmented(bench.down(down(1_401))), Some(1_400));
    bench.plane.set_mtu(slot, 1_300);
    assert_eq!(fragmented(bench.down(down(3_028))), Some(1_300));
    assert_eq!(bench.plane.counters(slot).unwrap().icmp_errors, 0);
    // What is a fragment already, and ends where none may.
    let far = edited(down(3_028), |packet| {
        packet[6..8].copy_from_slice(&[0x1f, 0xff])
    });
    let first = edited(down(1_000), |packet| packet[6] = 0x20);
    assert_eq!(fragmented(bench.down(first)), None);
    let refused = bench.down_drop(far);
    assert_eq!(refused, (DropReason::FragmentationNeeded, None));
    // The other way, to a fabric that carries less than the tunnel.
    bench.plane.set_fabric_mtu(1_350);
    for (bytes, expected) in [(1_350, None), (1_351, Some(1_350))] {
        match bench.up(slot, long(CLIENT, WORKLOAD, (1_000, 53), bytes)) {
            ClientVerdict::Forward {
                fragment_to_bytes, ..
            } => assert_eq!(fragment_to_bytes, expected),
            verdict => panic!("{verdict:?}"),
        }
    }
}

#[test]
fn segments_without_dont_fragment_are_fragmented_one_by_one() {
    use masque_packet::segment::GsoKind;
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let mut packet = edited(
        build_udp(ip(WORKLOAD), ip(CLIENT), 53, 1_000, &[0; 6_000]),
        |packet| packet[6] = 0,
    );
    let gso = GsoInfo {
        kind: GsoKind::UdpL4,
        segment_bytes: 1_472,
        ..GsoInfo::default()
    };
    let verdict = bench.down_gso(&mut packet, &gso);
    let fragment_to_bytes = Some(MTU);
    assert!(
        matches!(verdict, VpcVerdict::ToSession { fragment_to_bytes: to, .. } if to == fragment_to_bytes),
        "{verdict:?}"
    );
}

#[test]
fn n63_a_super_packet_counts_by_its_segments() {
    use masque_packet::segment::{GsoKind, PartialChecksum};
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::SYN)));
    let mut packet = build_tcp(
        ip(WORKLOAD),
        ip(CLIENT),
        80,
        1_000,
        &TcpFields::default(),
        &[0; 13_600],
    );
    let gso = |segment_bytes| GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes,
        header_bytes: 40,
        checksum: Some(PartialChecksum {
            start: 20,
            offset: 16,
        }),
    };
    let verdict = bench.down_gso(&mut packet, &gso(1_360));
    assert!(
        matches!(verdict, VpcVerdict::ToSession { .. }),
        "{verdict:?}"
    );
    assert_eq!(bench.plane.counters(slot).unwrap().to_client.packets, 10);
    assert_eq!(bench.plane.counters(slot).unwrap().to_client.bytes, 13_640);
    let verdict = bench.down_gso(&mut packet, &gso(1_361));
    let drop = Some(DropReason::PacketTooBig);
    assert!(
        matches!(verdict, VpcVerdict::Reply { drop: d, .. } if d == drop),
        "{verdict:?}"
    );
}

#[test]
fn n63_errors_are_limited_but_never_starve_path_mtu_discovery() {
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let mut answered = 0;
    for _ in 0..1_000 {
        answered += u32::from(bench.up_drop(slot, udp("10.9.9.9", WORKLOAD)).1.is_some());
    }
    assert_eq!(answered, 50, "half a second's worth");
    let counters = bench.plane.counters(slot).unwrap();
    assert_eq!((counters.icmp_errors, counters.icmp_suppressed), (50, 950));
    let too_long = build_udp(ip(WORKLOAD), ip(CLIENT), 53, 1_000, &[0; 1_400]);
    let (reason, icmp) = bench.down_drop(too_long);
    assert_eq!((reason, icmp.is_some()), (DropReason::PacketTooBig, true));
    bench.wait(1_000);
    assert!(bench.up_drop(slot, udp("10.9.9.9", WORKLOAD)).1.is_some());
}

#[test]
fn n63_errors_are_never_answered() {
    let (mut bench, slot) = connected();
    let mut error = vec![0; 1_280];
    for (client, workload) in [(CLIENT, WORKLOAD), (CLIENT_V6, WORKLOAD_V6)] {
        let why = IcmpError::DestinationUnreachable(Unreachable::PortUnreachable);
        let unknown = udp_ports(workload, client, 9, 9);
        let length = build_error(&mut error, &unknown, ip(client), why).unwrap();
        let refused = bench.up_drop(slot, error[..length].to_vec());
        assert_eq!(refused, (DropReason::IcmpErrorUnmatched, None));
    }
}
