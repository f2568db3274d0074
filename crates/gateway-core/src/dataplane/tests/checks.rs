//! What every packet must satisfy, and what its sender is told.

use masque_packet::protocol;

use super::*;
use crate::fixture::{net, pool, snapshot};
use crate::registry::Scope;
use masque_packet::build::build_ip;

#[test]
fn n45_icmp_passes_whatever_protocol_the_scope_names() {
    let mut bench = Bench::new(&[snapshot("vpc", 9)]);
    let scope = Scope {
        targets: Some(vec![net("10.0.0.0/24")]),
        protocol: Some(17),
    };
    let slot = bench.open_with(AdmitRequest {
        scope: &scope,
        ..request(5, 0)
    });
    assert!(bench.passes_up(slot, udp(CLIENT, "10.0.0.7")));
    assert!(bench.passes_up(slot, ping(CLIENT, "10.0.0.7", 8)));
    let refused = bench.up_drop(slot, tcp(CLIENT, "10.0.0.7", (1, 2), tcp_flag::SYN));
    assert_eq!(
        (refused.0, Icmp::kind_and_code(refused.1)),
        (DropReason::OutOfScope, Some((3, 13)))
    );
    let refused = bench.up_drop(slot, udp(CLIENT, WORKLOAD));
    assert_eq!(
        (refused.0, Icmp::kind_and_code(refused.1)),
        (DropReason::OutOfScope, Some((3, 13)))
    );
}

#[test]
fn n48_a_withdrawn_address_is_refused() {
    let first = snapshot("vpc", 9);
    let mut bench = Bench::new(std::slice::from_ref(&first));
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, udp(CLIENT_V6, WORKLOAD_V6)));
    let mut edited = first;
    edited.version = 2;
    edited.attachments[4].ipv6 = false;
    bench.apply(&[&edited]);
    let refused = bench.up_drop(slot, udp(CLIENT_V6, WORKLOAD_V6));
    let expected = (DropReason::SourceNotAssigned, Some((1, 5)));
    assert_eq!((refused.0, Icmp::kind_and_code(refused.1)), expected);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let gone = bench.down_drop(udp(WORKLOAD_V6, CLIENT_V6));
    assert_eq!(gone.0, DropReason::NoSession);
}

#[test]
fn n55_the_scope_sees_the_protocol_behind_extension_headers() {
    let mut bench = Bench::new(&[snapshot("vpc", 9)]);
    let scope = Scope {
        targets: None,
        protocol: Some(17),
    };
    let slot = bench.open_with(AdmitRequest {
        scope: &scope,
        ..request(5, 0)
    });
    let chain = |upper: u8| {
        // Hop-by-hop, destination options, upper layer.
        let mut payload = vec![60, 0, 1, 4, 0, 0, 0, 0, upper, 0, 1, 4, 0, 0, 0, 0];
        payload.extend([0; 20]);
        build_ip(
            ip(CLIENT_V6),
            ip(WORKLOAD_V6),
            protocol::HOP_BY_HOP,
            &payload,
        )
    };
    assert!(bench.passes_up(slot, chain(protocol::UDP)));
    assert_eq!(
        bench.up_drop(slot, chain(protocol::TCP)).0,
        DropReason::OutOfScope
    );
}

#[test]
fn n57_neighbour_discovery_is_not_answered() {
    let (mut bench, slot) = connected();
    for (kind, group) in [(133, "ff02::2"), (135, "ff02::1:ff00:5"), (143, "ff02::16")] {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        for source in ["fe80::2", "::"] {
            let packet = build_ip(ip(source), ip(group), protocol::ICMPV6, &message);
            assert_eq!(bench.up_drop(slot, packet), (DropReason::LinkLocal, None));
        }
    }
}

#[test]
fn n58_local_checks() {
    let (mut bench, slot) = connected();
    let good = udp(CLIENT, WORKLOAD);
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    let table = [
        (vec![], DropReason::Empty),
        (with(0, 0x55), DropReason::BadVersion),
        (good[..19].to_vec(), DropReason::TooShort),
        (
            udp(CLIENT_V6, WORKLOAD_V6)[..39].to_vec(),
            DropReason::TooShort,
        ),
        (with(0, 0x44), DropReason::BadHeaderLength),
        ([&good[..], &[0]].concat(), DropReason::LengthMismatch),
        (with(10, good[10] ^ 1), DropReason::BadChecksum),
        (udp("10.200.0.6", WORKLOAD), DropReason::SourceNotAssigned),
        (udp(CLIENT, "10.1.0.1"), DropReason::NoRoute),
        (udp(CLIENT_V6, "fd00:2::1"), DropReason::NoRoute),
        (udp(CLIENT, "224.1.2.3"), DropReason::DestinationNotUnicast),
        (
            udp(CLIENT, "255.255.255.255"),
            DropReason::DestinationNotUnicast,
        ),
        (udp(CLIENT, "127.0.0.1"), DropReason::DestinationNotUnicast),
        (udp(CLIENT, "0.0.0.0"), DropReason::DestinationNotUnicast),
        (udp(CLIENT_V6, "::"), DropReason::DestinationNotUnicast),
        (udp(CLIENT_V6, "::1"), DropReason::DestinationNotUnicast),
        (udp(CLIENT_V6, "ff05::1"), DropReason::DestinationNotUnicast),
        (
            udp(CLIENT_V6, "::ffff:10.0.1.1"),
            DropReason::DestinationNotUnicast,
        ),
        (udp("::", WORKLOAD_V6), DropReason::SourceNotUnicast),
        (udp("0.0.0.0", WORKLOAD), DropReason::SourceNotUnicast),
    ];
    for (packet, reason) in table {
        assert_eq!(
            bench.up_drop(slot, packet.clone()).0,
            reason,
            "{packet:02x?}"
        );
    }
    assert!(bench.passes_up(slot, good));
    let counters = bench.plane.counters(slot).unwrap();
    assert_eq!(counters.dropped_total(), 20);
    assert_eq!(counters.dropped(DropReason::NoRoute), 2);
    assert_eq!(counters.to_vpc.packets, 1);
}

#[test]
fn n58_routing_headers_and_source_routes_are_refused() {
    let (mut bench, slot) = connected();
    for (kind, reason) in [
        (4, DropReason::SegmentRoutingHeader),
        (0, DropReason::RoutingHeader),
        (2, DropReason::RoutingHeader),
    ] {
        let mut payload = vec![protocol::UDP, 2, kind, 1, 0, 0, 0, 0];
        payload.extend(std::net::Ipv6Addr::from_bits(0xfd << 120).octets());
        payload.extend([0; 8]);
        let packet = build_ip(ip(CLIENT_V6), ip(WORKLOAD_V6), protocol::ROUTING, &payload);
        assert_eq!(bench.up_drop(slot, packet), (reason, None));
    }
    let with_options = |options: [u8; 4]| {
        let mut packet = udp(CLIENT, WORKLOAD);
        packet.splice(20..20, options);
        edited(packet, |packet| {
            packet[0] = 0x46;
            packet[3] += 4;
        })
    };
    let source_route = (DropReason::SourceRoute, None);
    assert_eq!(
        bench.up_drop(slot, with_options([131, 3, 4, 0])),
        source_route
    );
    assert_eq!(
        bench.up_drop(slot, with_options([1, 137, 3, 4])),
        source_route
    );
    assert!(
        bench.passes_up(slot, with_options([148, 4, 0, 0])),
        "router alert"
    );
}

#[test]
fn n58_no_client_reaches_the_fabric() {
    let mut open = snapshot("vpc", 9);
    open.routes = vec![net("::/0")];
    open.attachments[4].routes = vec![net("::/0")];
    let mut bench = Bench::new(&[open]);
    let slot = bench.open(5);
    for sid in [
        "2001:db8:ff03:1:e001::",
        "2001:db8:ff03:1::1",
        "2001:db8:ff03:3:e02b::5",
    ] {
        let refused = bench.up_drop(slot, udp(CLIENT_V6, sid));
        assert_eq!(refused, (DropReason::LocatorDestination, None), "{sid}");
    }
    assert!(bench.passes_up(slot, udp(CLIENT_V6, "2001:db8:ff03:4::1")));
}

#[test]
fn n59_one_is_taken_towards_the_vpc_and_a_used_up_hop_limit_is_answered() {
    let (mut bench, slot) = connected();
    let with_hops = |hops: u8| edited(udp(CLIENT, WORKLOAD), |packet| packet[8] = hops);
    let refused = bench.up_drop(slot, with_hops(1));
    let expected = (DropReason::HopLimitExceeded, Some((11, 0)));
    assert_eq!(
        (refused.0, Icmp::kind_and_code(refused.1.clone())),
        expected
    );
    assert_eq!(refused.1.unwrap().source, ip(GATEWAY));
    let mut packet = with_hops(2);
    bench
        .plane
        .from_client(bench.now, slot, &mut packet, &mut bench.reply);
    assert_eq!(
        packet[8], 1,
        "seg6 encapsulates before the kernel would take one"
    );
    assert!(parse(&packet).is_ok(), "the checksum follows");
    // The kernel has taken one already on the way from the VPC.
    assert!(bench.passes_down(edited(udp_ports(WORKLOAD, CLIENT, 53, 1_000), |p| p[8] = 1)));
    let mut v6 = udp(CLIENT_V6, WORKLOAD_V6);
    v6[7] = 1;
    let refused = bench.up_drop(slot, v6);
    assert_eq!(Icmp::kind_and_code(refused.1), Some((3, 0)));
}

#[test]
fn n59_without_the_kernel_one_is_taken_in_each_direction() {
    let config = DataplaneConfig {
        hop_limit: HopLimit::DecrementHere,
        ..DataplaneConfig::default()
    };
    let mut bench = Bench::with_config(&[snapshot("vpc", 9)], config);
    let slot = bench.open(5);
    for (source, destination, at) in [(CLIENT, WORKLOAD, 8), (CLIENT_V6, WORKLOAD_V6, 7)] {
        let mut up = udp(source, destination);
        let verdict = bench
            .plane
            .from_client(bench.now, slot, &mut up, &mut bench.reply);
        let ClientVerdict::Forward { header, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!((up[at], header.hop_limit), (63, 63));
        assert!(parse(&up).is_ok(), "the checksum follows");
        let mut down = udp_ports(destination, source, 53, 1_000);
        let verdict = bench.down_gso(&mut down, &GsoInfo::default());
        assert!(
            matches!(verdict, VpcVerdict::ToSession { .. }),
            "{verdict:?}"
        );
        assert_eq!(down[at], 63);
    }
    let used_up = edited(udp_ports(WORKLOAD, CLIENT, 53, 1_000), |packet| {
        packet[8] = 1
    });
    let refused = bench.down_drop(used_up);
    assert_eq!(Icmp::kind_and_code(refused.1), Some((11, 0)));
}

#[test]
fn n60_link_local_packets_stay_and_echo_to_the_groups_is_answered() {
    let (mut bench, slot) = connected();
    for (source, expected) in [(CLIENT_V6, GATEWAY_V6), ("fe80::2", "fe80::1")] {
        for group in ["ff02::1", "ff02::2", "fe80::1"] {
            // The MTU probe of RFC 9484 §7.2.
            let verdict = bench.up(slot, ping(source, group, 1_232));
            let ClientVerdict::Reply {
                len_bytes: 1_280,
                drop: None,
            } = verdict
            else {
                panic!("{source} {group} {verdict:?}")
            };
            let answer = bench.answer(1_280);
            assert_eq!((answer.kind, answer.destination), (129, ip(source)));
            assert_eq!(answer.source, ip(expected));
        }
    }
    let refused = [
        udp("fe80::2", WORKLOAD_V6),
        udp(CLIENT_V6, "fe80::2"),
        udp(CLIENT_V6, "ff02::1"),
        ping("fd00:200::6", "ff02::1", 8),
        udp(CLIENT, "169.254.169.254"),
        udp("169.254.1.1", WORKLOAD),
        udp(CLIENT, "224.0.0.5"),
    ];
    for packet in refused {
        assert_eq!(bench.up_drop(slot, packet), (DropReason::LinkLocal, None));
    }
    for packet in [
        udp("fe80::2", CLIENT_V6),
        udp(WORKLOAD_V6, "ff02::1"),
        udp("169.254.1.1", CLIENT),
    ] {
        assert_eq!(bench.down_drop(packet), (DropReason::LinkLocal, None));
    }
}

#[test]
fn the_gateway_answers_echo_on_its_own_address_only() {
    let (mut bench, slot) = connected();
    for (client, gateway, unreachable) in
        [(CLIENT, GATEWAY, (3, 3)), (CLIENT_V6, GATEWAY_V6, (1, 4))]
    {
        let verdict = bench.up(slot, ping(client, gateway, 56));
        assert!(
            matches!(verdict, ClientVerdict::Reply { drop: None, .. }),
            "{verdict:?}"
        );
        let refused = bench.up_drop(slot, udp(client, gateway));
        let expected = (DropReason::GatewayAddress, Some(unreachable));
        assert_eq!((refused.0, Icmp::kind_and_code(refused.1)), expected);
        let workload = if client == CLIENT {
            WORKLOAD
        } else {
            WORKLOAD_V6
        };
        let verdict = bench.down(ping(workload, gateway, 56));
        let VpcVerdict::Reply {
            len_bytes,
            drop: None,
        } = verdict
        else {
            panic!("{verdict:?}")
        };
        assert_eq!(bench.answer(len_bytes).destination, ip(workload));
    }
    let counters = bench.plane.vpc_counters(VpcIndex(0)).unwrap();
    assert_eq!((counters.echo_replies, counters.dropped_total()), (4, 2));
}

#[test]
fn n66_a_forged_source_is_refused_and_told_so() {
    let (mut bench, slot) = connected();
    bench.open(6);
    for forged in ["10.200.0.6", WORKLOAD, GATEWAY, "192.0.2.1"] {
        let (reason, icmp) = bench.up_drop(slot, udp(forged, "10.0.2.2"));
        let icmp = icmp.unwrap();
        assert_eq!(reason, DropReason::SourceNotAssigned, "{forged}");
        assert_eq!((icmp.kind, icmp.code, icmp.source), (3, 13, ip(GATEWAY)));
    }
}

#[test]
fn an_away_client_is_unreachable_and_others_are_not_ours() {
    let (mut bench, _) = connected();
    let (reason, icmp) = bench.down_drop(udp(WORKLOAD, "10.200.0.77"));
    assert_eq!(
        (reason, Icmp::kind_and_code(icmp)),
        (DropReason::NoSession, Some((3, 1)))
    );
    let (reason, icmp) = bench.down_drop(udp(WORKLOAD_V6, "fd00:200::77"));
    assert_eq!(
        (reason, Icmp::kind_and_code(icmp)),
        (DropReason::NoSession, Some((1, 3)))
    );
    assert_eq!(
        bench.down_drop(udp(WORKLOAD, "10.77.0.1")),
        (DropReason::NoSession, None)
    );
}

#[test]
fn a_gateway_without_an_ipv4_pool_answers_from_the_dummy_address() {
    let mut only_v6 = snapshot("vpc", 9);
    only_v6.pools = vec![pool("fd00:200::/120")];
    let mut bench = Bench::new(&[only_v6]);
    let slot = bench.open(5);
    let (_, icmp) = bench.up_drop(slot, udp(CLIENT, WORKLOAD));
    assert_eq!(icmp.unwrap().source, ip("192.0.0.8"));
}

#[test]
fn a_rate_is_held_in_both_directions() {
    let mut slow = snapshot("vpc", 9);
    slow.attachments[4].limits.bits_per_second = Some(8_000_000);
    let mut bench = Bench::new(&[slow]);
    let slot = bench.open(5);
    let up = build_udp(ip(CLIENT), ip(WORKLOAD), 1_000, 53, &[0; 972]);
    let down = build_udp(ip(WORKLOAD), ip(CLIENT), 53, 1_000, &[0; 972]);
    let (mut passed_up, mut passed_down) = (0, 0);
    // Ten seconds of ten times the rate: 1,000 packets a second are allowed.
    for _ in 0..10_000 {
        for _ in 0..10 {
            passed_up += u32::from(bench.passes_up(slot, up.clone()));
            passed_down += u32::from(bench.passes_down(down.clone()));
        }
        bench.wait(1);
    }
    for passed in [passed_up, passed_down] {
        assert!((10_000..10_200).contains(&passed), "{passed}");
    }
    let counters = bench.plane.counters(slot).unwrap();
    assert!(counters.dropped(DropReason::RateLimited) > 150_000);
}

#[test]
fn the_mss_is_lowered_in_both_directions() {
    let (mut bench, slot) = connected();
    for (client, workload, at, expected) in [
        (CLIENT, WORKLOAD, 42, 1_360),
        (CLIENT_V6, WORKLOAD_V6, 62, 1_340),
    ] {
        let mut up = syn(client, workload, (1_000, 80), 8_960);
        let verdict = bench
            .plane
            .from_client(bench.now, slot, &mut up, &mut bench.reply);
        assert!(
            matches!(verdict, ClientVerdict::Forward { .. }),
            "{verdict:?}"
        );
        assert_eq!(u16::from_be_bytes([up[at], up[at + 1]]), expected);
        let mut down = syn(workload, client, (80, 1_000), 8_960);
        let flags = at - 42 + 33;
        down[flags] |= tcp_flag::ACK;
        let verdict = bench.down_gso(&mut down, &GsoInfo::default());
        assert!(
            matches!(verdict, VpcVerdict::ToSession { .. }),
            "{verdict:?}"
        );
        assert_eq!(u16::from_be_bytes([down[at], down[at + 1]]), expected);
    }
    assert_eq!(bench.plane.counters(slot).unwrap().mss_clamped, 4);
    let config = DataplaneConfig {
        clamp_mss: false,
        ..DataplaneConfig::default()
    };
    let mut bench = Bench::with_config(&[snapshot("vpc", 9)], config);
    let slot = bench.open(5);
    let mut up = syn(CLIENT, WORKLOAD, (1_000, 80), 8_960);
    bench
        .plane
        .from_client(bench.now, slot, &mut up, &mut bench.reply);
    assert_eq!(up[20..], syn(CLIENT, WORKLOAD, (1_000, 80), 8_960)[20..]);
}
