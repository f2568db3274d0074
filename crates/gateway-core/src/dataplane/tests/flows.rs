//! Flows: who may open them, what belongs to them, and how edits cut them.

use masque_model::{Action, Direction, Mode, Rule};
use masque_packet::icmp::{IcmpError, Unreachable, build_error};
use masque_packet::protocol;

use super::*;
use crate::fixture::{net, port, prefixes, rule, snapshot};
use crate::registry::Scope;
use masque_packet::build::build_ip;

/// Clients may open everything; workloads may open UDP to port 5000.
fn both_ways() -> Snapshot {
    let mut both = snapshot("vpc", 9);
    both.rules.push(Rule {
        ports: vec![port(protocol::UDP, 5_000)],
        ..rule("back", Action::Allow, Direction::FromVpc)
    });
    both
}

#[test]
fn replies_pass_and_nothing_else_from_the_vpc() {
    let (mut bench, slot) = connected();
    let reply = udp_ports(WORKLOAD, CLIENT, 53, 1_000);
    let (reason, icmp) = bench.down_drop(reply.clone());
    let expected = (DropReason::PolicyNotAllowed, Some((3, 13)));
    assert_eq!((reason, Icmp::kind_and_code(icmp)), expected);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    assert!(bench.passes_down(reply.clone()));
    for other in [
        udp_ports(WORKLOAD, CLIENT, 54, 1_000),
        udp_ports(WORKLOAD, CLIENT, 53, 1_001),
        udp_ports("10.0.1.2", CLIENT, 53, 1_000),
        tcp(WORKLOAD, CLIENT, (53, 1_000), tcp_flag::ACK),
    ] {
        assert_eq!(bench.down_drop(other).0, DropReason::PolicyNotAllowed);
    }
    assert_eq!(bench.plane.counters(slot).unwrap().flows_opened, 1);
    // Unanswered UDP is forgotten after two minutes, answered UDP after five.
    bench.wait(299_000);
    assert!(bench.passes_down(reply.clone()));
    bench.wait(301_000);
    assert_eq!(bench.down_drop(reply).0, DropReason::PolicyNotAllowed);
}

#[test]
fn a_workload_opens_what_a_rule_from_the_vpc_allows() {
    let mut only_back = both_ways();
    only_back.rules.remove(0);
    let mut bench = Bench::new(&[only_back]);
    let slot = bench.open(5);
    let answer = udp_ports(CLIENT, WORKLOAD, 5_000, 9);
    assert_eq!(
        bench.up_drop(slot, answer.clone()).0,
        DropReason::PolicyNotAllowed
    );
    assert!(bench.passes_down(udp_ports(WORKLOAD, CLIENT, 9, 5_000)));
    assert!(bench.passes_up(slot, answer));
    assert_eq!(
        bench.down_drop(udp_ports(WORKLOAD, CLIENT, 9, 5_001)).0,
        DropReason::PolicyNotAllowed
    );
}

#[test]
fn who_only_may_reply_opens_no_connection() {
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::SYN)));
    let syn_ack = tcp_flag::SYN | tcp_flag::ACK;
    assert!(bench.passes_down(tcp(WORKLOAD, CLIENT, (80, 1_000), syn_ack)));
    let syn = tcp(WORKLOAD, CLIENT, (80, 1_000), tcp_flag::SYN);
    assert_eq!(bench.down_drop(syn).0, DropReason::PolicyNotAllowed);
    assert!(bench.passes_down(tcp(WORKLOAD, CLIENT, (80, 1_000), tcp_flag::ACK)));
}

#[test]
fn a_reset_connection_is_soon_forgotten() {
    let (mut bench, slot) = connected();
    assert!(bench.passes_up(slot, tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::SYN)));
    let ack = tcp(WORKLOAD, CLIENT, (80, 1_000), tcp_flag::ACK);
    assert!(bench.passes_down(ack.clone()));
    bench.wait(7_000_000);
    assert!(
        bench.passes_down(ack.clone()),
        "established ones live for two hours"
    );
    assert!(bench.passes_up(slot, tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::RST)));
    bench.wait(11_000);
    assert_eq!(bench.down_drop(ack).0, DropReason::PolicyNotAllowed);
}

#[test]
fn echo_replies_need_their_request() {
    let (mut bench, slot) = connected();
    for (client, workload) in [(CLIENT, WORKLOAD), (CLIENT_V6, WORKLOAD_V6)] {
        let reply = pong(workload, client);
        assert_eq!(
            bench.down_drop(reply.clone()).0,
            DropReason::EchoReplyUnmatched
        );
        assert!(bench.passes_up(slot, ping(client, workload, 8)));
        assert!(bench.passes_down(reply));
        // A request with the same identifier is no reply.
        let request = ping(workload, client, 8);
        assert_eq!(bench.down_drop(request).0, DropReason::PolicyNotAllowed);
        let unasked = bench.up_drop(slot, pong(client, workload));
        assert_eq!(unasked.0, DropReason::EchoReplyUnmatched);
    }
}

#[test]
fn n66_icmp_errors_pass_to_whom_they_concern() {
    let (mut bench, slot) = connected();
    let mut error = vec![0; 1_280];
    for (client, workload, router) in [
        (CLIENT, WORKLOAD, "172.16.0.1"),
        (CLIENT_V6, WORKLOAD_V6, "2001:db8::1"),
    ] {
        let sent = udp(client, workload);
        let unreachable = IcmpError::DestinationUnreachable(Unreachable::PortUnreachable);
        let length = build_error(&mut error, &sent, ip(router), unreachable).unwrap();
        let message = error[..length].to_vec();
        assert_eq!(
            bench.down_drop(message.clone()).0,
            DropReason::IcmpErrorUnmatched
        );
        assert!(bench.passes_up(slot, sent));
        assert!(
            bench.passes_down(message),
            "even from a router outside the routes"
        );
        // About another flow.
        let other = udp_ports(client, workload, 2, 2);
        let length = build_error(&mut error, &other, ip(router), unreachable).unwrap();
        let unmatched = bench.down_drop(error[..length].to_vec());
        assert_eq!(unmatched, (DropReason::IcmpErrorUnmatched, None));
        // The client's own: Packet Too Big about a reply.
        let reply = udp_ports(workload, client, 53, 1_000);
        let too_big = IcmpError::PacketTooBig {
            next_hop_mtu_bytes: 1_280,
        };
        let length = build_error(&mut error, &reply, ip(client), too_big).unwrap();
        assert!(bench.passes_up(slot, error[..length].to_vec()));
    }
    // An error about a ping.
    assert!(bench.passes_up(slot, ping(CLIENT, WORKLOAD, 8)));
    let expired = IcmpError::TimeExceeded;
    let request = ping(CLIENT, WORKLOAD, 8);
    let length = build_error(&mut error, &request, ip("172.16.0.1"), expired).unwrap();
    assert!(bench.passes_down(error[..length].to_vec()));
}

#[test]
fn n66_an_icmp_error_for_another_host_or_a_redirect_does_not_pass() {
    let (mut bench, slot) = connected();
    bench.open(6);
    let sent = udp(CLIENT, WORKLOAD);
    assert!(bench.passes_up(slot, sent.clone()));
    let mut error = vec![0; 1_280];
    let why = IcmpError::TimeExceeded;
    let length = build_error(&mut error, &sent, ip("172.16.0.1"), why).unwrap();
    let to_another = edited(error[..length].to_vec(), |packet| packet[19] = 6);
    assert_eq!(
        bench.down_drop(to_another).0,
        DropReason::IcmpErrorUnmatched
    );
    let mut redirect = error[..length].to_vec();
    redirect[20] = 5;
    assert_eq!(bench.down_drop(redirect).0, DropReason::IcmpErrorUnmatched);
}

#[test]
fn an_edit_cuts_what_is_not_allowed_any_more_and_nothing_else() {
    let first = both_ways();
    let mut bench = Bench::new(std::slice::from_ref(&first));
    let slot = bench.open(5);
    let (web, dns) = (
        udp_ports(CLIENT, WORKLOAD, 1, 443),
        udp_ports(CLIENT, WORKLOAD, 1, 53),
    );
    let dns_reply = udp_ports(WORKLOAD, CLIENT, 53, 1);
    assert!(bench.passes_up(slot, web.clone()) && bench.passes_up(slot, dns.clone()));
    let mut edited = first;
    edited.version = 2;
    edited.rules[0].ports = vec![port(protocol::UDP, 53)];
    bench.apply(&[&edited]);
    assert_eq!(
        bench.up_drop(slot, web.clone()).0,
        DropReason::PolicyNotAllowed
    );
    assert_eq!(
        bench.down_drop(udp_ports(WORKLOAD, CLIENT, 443, 1)).0,
        DropReason::PolicyNotAllowed
    );
    assert!(
        bench.passes_down(dns_reply),
        "a reply of a flow that is still allowed"
    );
    assert!(bench.passes_up(slot, dns));
    let mut denied = edited;
    denied.version = 3;
    denied.rules.push(Rule {
        prefixes: prefixes(&["10.0.1.1/32"]),
        ..rule("stop", Action::Deny, Direction::ToVpc)
    });
    bench.apply(&[&denied]);
    assert_eq!(
        bench.down_drop(udp_ports(WORKLOAD, CLIENT, 53, 1)).0,
        DropReason::PolicyNotAllowed,
        "cut from the other side too"
    );
    assert_eq!(
        bench.up_drop(slot, udp_ports(CLIENT, WORKLOAD, 1, 53)).0,
        DropReason::PolicyDenied
    );
}

#[test]
fn an_edit_of_routes_cuts_flows_outside_them() {
    let first = snapshot("vpc", 9);
    let mut bench = Bench::new(std::slice::from_ref(&first));
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let mut edited = first;
    edited.version = 2;
    edited.attachments[4].routes = vec![net("10.0.2.0/24")];
    bench.apply(&[&edited]);
    let refused = bench.down_drop(udp_ports(WORKLOAD, CLIENT, 53, 1_000));
    assert_eq!(refused.0, DropReason::SourceOutsideRoutes);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::NoRoute
    );
}

#[test]
fn a_permission_ends_at_its_time_for_known_flows_too() {
    let mut temporary = snapshot("vpc", 9);
    temporary.rules[0].not_after_unix_s = Some(1_000_060);
    let mut bench = Bench::new(&[temporary]);
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    bench.wait(59_000);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    bench.wait(1_000);
    let reply = bench.down_drop(udp_ports(WORKLOAD, CLIENT, 53, 1_000));
    assert_eq!(reply.0, DropReason::PolicyNotAllowed);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::PolicyNotAllowed
    );
}

#[test]
fn audit_counts_every_packet_it_would_deny() {
    let mut staged = snapshot("vpc", 9);
    staged.rules.push(Rule {
        mode: Mode::Audit,
        ports: vec![port(protocol::UDP, 53)],
        ..rule("staged", Action::Deny, Direction::ToVpc)
    });
    let mut bench = Bench::new(&[staged]);
    let slot = bench.open(5);
    for _ in 0..3 {
        assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
        assert!(bench.passes_up(slot, udp_ports(CLIENT, WORKLOAD, 1, 54)));
    }
    assert!(bench.passes_down(udp_ports(WORKLOAD, CLIENT, 53, 1_000)));
    assert_eq!(bench.plane.counters(slot).unwrap().audit_denied, 4);
}

/// What is noted as attachment, rule, direction, source and destination; and what was too much.
fn noted(bench: &mut Bench) -> (Vec<String>, u64) {
    let mut told = Vec::new();
    let missed = bench.plane.take_audit_notes(|note| {
        let (from, to) = note.ports.unwrap_or_default();
        told.push(format!(
            "{} {} {:?} {} {}:{from} {}:{to}",
            note.attachment,
            note.rule,
            note.direction,
            note.protocol,
            note.source,
            note.destination
        ));
    });
    (told, missed)
}

fn audit(direction: Direction) -> Rule {
    Rule {
        mode: Mode::Audit,
        ..rule("staged", Action::Deny, direction)
    }
}

#[test]
fn audit_notes_a_flow_once_with_its_rule_and_addresses() {
    let mut staged = both_ways();
    staged
        .rules
        .extend([audit(Direction::ToVpc), audit(Direction::FromVpc)]);
    let mut bench = Bench::new(&[staged]);
    let slot = bench.open(5);
    for _ in 0..3 {
        assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
        assert!(bench.passes_down(udp_ports(WORKLOAD, CLIENT, 53, 1_000)));
        assert!(bench.passes_down(udp_ports(WORKLOAD, CLIENT, 9, 5_000)));
    }
    let expected = [
        "default/attachment-5 default/policy/staged ToVpc 17 10.200.0.5:1000 10.0.1.1:53",
        "default/attachment-5 default/policy/staged FromVpc 17 10.0.1.1:9 10.200.0.5:5000",
    ];
    assert_eq!(noted(&mut bench), (expected.map(String::from).to_vec(), 0));
    assert!(bench.passes_up(slot, ping(CLIENT, WORKLOAD, 8)));
    let (told, _) = noted(&mut bench);
    assert!(told[0].contains(" 1 10.200.0.5:0 "), "{told:?}");
    assert_eq!(noted(&mut bench), (Vec::new(), 0));
}

#[test]
fn audit_notes_an_open_flow_when_an_edit_would_deny_it() {
    let before = snapshot("vpc", 9);
    let mut bench = Bench::new(std::slice::from_ref(&before));
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    assert_eq!(noted(&mut bench).0, Vec::<String>::new());
    let mut staged = before;
    staged.rules.push(audit(Direction::ToVpc));
    for version in [2, 3] {
        staged.version = version;
        bench.apply(&[&staged]);
        assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    }
    assert_eq!(noted(&mut bench).0.len(), 1);
}

#[test]
fn audit_notes_are_bounded_and_the_rest_is_counted() {
    let mut staged = snapshot("vpc", 9);
    staged.rules.push(audit(Direction::ToVpc));
    let mut bench = Bench::new(&[staged]);
    let slot = bench.open(5);
    for port in 0..30 {
        assert!(bench.passes_up(slot, udp_ports(CLIENT, WORKLOAD, 1_000, 100 + port)));
    }
    let (told, missed) = noted(&mut bench);
    assert_eq!(
        (told.len(), missed),
        (AUDIT_NOTES_MAX, 30 - AUDIT_NOTES_MAX as u64)
    );
    assert!(told[0].ends_with(":100"), "the oldest are kept: {told:?}");
    assert_eq!(noted(&mut bench), (Vec::new(), 0));
}

fn fragment(identification: u16, offset: u16, more: bool) -> Vec<u8> {
    let data = if offset == 0 {
        udp(CLIENT, WORKLOAD)[20..].to_vec()
    } else {
        vec![0; 16]
    };
    edited(
        build_ip(ip(CLIENT), ip(WORKLOAD), protocol::UDP, &data),
        |packet| {
            packet[4..6].copy_from_slice(&identification.to_be_bytes());
            let field = offset | if more { 0x2000 } else { 0 };
            packet[6..8].copy_from_slice(&field.to_be_bytes());
        },
    )
}

#[test]
fn later_fragments_follow_their_first_one() {
    let mut only_dns = snapshot("vpc", 9);
    only_dns.rules[0].ports = vec![port(protocol::UDP, 53)];
    let mut bench = Bench::new(&[only_dns]);
    let slot = bench.open(5);
    let unmatched = (DropReason::FragmentUnmatched, None);
    assert_eq!(bench.up_drop(slot, fragment(7, 3, false)), unmatched);
    assert!(bench.passes_up(slot, fragment(7, 0, true)));
    assert!(bench.passes_up(slot, fragment(7, 3, true)));
    assert!(bench.passes_up(slot, fragment(7, 6, false)));
    assert_eq!(bench.up_drop(slot, fragment(8, 3, false)), unmatched);
    bench.wait(31_000);
    assert_eq!(bench.up_drop(slot, fragment(7, 6, false)), unmatched);
    // A first fragment that is not allowed takes none with it.
    let denied = edited(fragment(9, 0, true), |packet| packet[23] = 54);
    assert_eq!(bench.up_drop(slot, denied).0, DropReason::PolicyNotAllowed);
    assert_eq!(bench.up_drop(slot, fragment(9, 3, false)), unmatched);
}

/// Everything to a port but one.
fn all_but_dns(direction: Direction) -> Snapshot {
    let mut rules = snapshot("vpc", 9);
    rules.rules = vec![
        Rule {
            ports: vec![port_of_any(protocol::UDP)],
            ..rule("udp", Action::Allow, direction)
        },
        Rule {
            ports: vec![port(protocol::UDP, 53)],
            ..rule("dns", Action::Deny, direction)
        },
    ];
    rules
}

fn port_of_any(protocol: u8) -> masque_model::PortMatch {
    masque_model::PortMatch {
        protocol: masque_model::ProtocolMatch::Number(protocol),
        ports: None,
    }
}

/// A fragment of an IPv6 packet with Destination Options of 8 bytes and then `upper`.
fn v6_fragment(from: &str, to: &str, units: u16, more: bool, data: &[u8]) -> Vec<u8> {
    let mut payload = vec![if units == 0 { 60 } else { 17 }, 0];
    payload.extend((units << 3 | u16::from(more)).to_be_bytes());
    payload.extend([0, 0, 0, 7]);
    if units == 0 {
        payload.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(data);
    build_ip(ip(from), ip(to), protocol::FRAGMENT, &payload)
}

fn udp_header(from: u16, to: u16) -> Vec<u8> {
    udp_ports(CLIENT, WORKLOAD, from, to)[20..28].to_vec()
}

/// RFC 7112 §5: ports that come in a later fragment are ports that no rule saw.
#[test]
fn a_first_fragment_without_its_ports_does_not_pass() {
    let ways = [
        (Direction::ToVpc, CLIENT_V6, WORKLOAD_V6, CLIENT, WORKLOAD),
        (Direction::FromVpc, WORKLOAD_V6, CLIENT_V6, WORKLOAD, CLIENT),
    ];
    for (direction, from, to, from_v4, to_v4) in ways {
        let mut bench = Bench::new(&[all_but_dns(direction)]);
        let slot = bench.open(5);
        let mut refusal = |packet: Vec<u8>| match direction {
            Direction::ToVpc => bench.up_drop(slot, packet).0,
            Direction::FromVpc => bench.down_drop(packet).0,
        };
        let tiny = DropReason::TinyFragment;
        assert_eq!(refusal(v6_fragment(from, to, 0, true, &[])), tiny);
        let dns = v6_fragment(from, to, 1, false, &udp_header(1, 53));
        assert_eq!(refusal(dns), DropReason::FragmentUnmatched);
        for bytes in 0..8 {
            let data = &udp_header(1, 53)[..bytes];
            assert_eq!(refusal(v6_fragment(from, to, 0, true, data)), tiny);
            let v4 = build_ip(ip(from_v4), ip(to_v4), protocol::UDP, data);
            assert_eq!(refusal(edited(v4, |packet| packet[6] = 0x20)), tiny);
        }
        let denied = v6_fragment(from, to, 0, true, &udp_header(1, 53));
        assert_eq!(refusal(denied), DropReason::PolicyDenied);
    }
}

/// A receiver that takes the later of two overlapping fragments would see other ports than the rules.
#[test]
fn a_later_fragment_does_not_overwrite_what_was_judged() {
    for direction in [Direction::ToVpc, Direction::FromVpc] {
        let mut bench = Bench::new(&[all_but_dns(direction)]);
        let slot = bench.open(5);
        let (from, to) = match direction {
            Direction::ToVpc => (CLIENT_V6, WORKLOAD_V6),
            Direction::FromVpc => (WORKLOAD_V6, CLIENT_V6),
        };
        let mut verdict = |packet: Vec<u8>| match direction {
            Direction::ToVpc => match bench.up(slot, packet) {
                ClientVerdict::Forward { .. } => None,
                ClientVerdict::Drop(reason) => Some(reason),
                verdict => panic!("{verdict:?}"),
            },
            Direction::FromVpc => match bench.down(packet) {
                VpcVerdict::ToSession { .. } => None,
                VpcVerdict::Drop(reason) => Some(reason),
                verdict => panic!("{verdict:?}"),
            },
        };
        let first = v6_fragment(from, to, 0, true, &udp_header(1, 54));
        assert_eq!(verdict(first), None);
        let rewrite = v6_fragment(from, to, 1, true, &udp_header(1, 53));
        assert_eq!(verdict(rewrite), Some(DropReason::FragmentOverlap));
        assert_eq!(verdict(v6_fragment(from, to, 2, false, &[0; 8])), None);
    }
    // RFC 3128: offset 1 of IPv4 reaches the flags of a TCP header.
    let (mut bench, slot) = connected();
    let of_tcp = |field: u16, data: &[u8]| {
        edited(
            build_ip(ip(CLIENT), ip(WORKLOAD), protocol::TCP, data),
            |packet| {
                packet[6..8].copy_from_slice(&field.to_be_bytes());
            },
        )
    };
    let ack = tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::ACK)[20..].to_vec();
    let padded = [ack, vec![0; 4]].concat();
    assert!(bench.passes_up(slot, of_tcp(0x2000, &padded)));
    for units in [1, 2] {
        let refused = bench.up_drop(slot, of_tcp(units, &[0; 16]));
        assert_eq!(refused, (DropReason::FragmentOverlap, None));
    }
    assert!(bench.passes_up(slot, of_tcp(3, &[0; 16])));
}

#[test]
fn an_edit_cuts_fragments_under_way() {
    let first = snapshot("vpc", 9);
    let mut bench = Bench::new(std::slice::from_ref(&first));
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, fragment(7, 0, true)));
    let mut edited = first;
    edited.version = 2;
    edited.rules.clear();
    bench.apply(&[&edited]);
    let unmatched = (DropReason::FragmentUnmatched, None);
    assert_eq!(bench.up_drop(slot, fragment(7, 3, false)), unmatched);
}

#[test]
fn a_narrower_session_does_not_inherit_wide_flows() {
    let (mut bench, wide) = connected();
    assert!(bench.passes_up(wide, udp(CLIENT, WORKLOAD)));
    let scope = Scope {
        targets: Some(vec![net("10.0.2.0/24")]),
        protocol: None,
    };
    let narrow = bench.open_with(AdmitRequest {
        scope: &scope,
        ..request(5, 0)
    });
    assert_eq!(
        bench.up_drop(narrow, udp(CLIENT, WORKLOAD)).0,
        DropReason::OutOfScope
    );
    assert_eq!(
        bench.down_drop(udp_ports(WORKLOAD, CLIENT, 53, 1_000)).0,
        DropReason::SourceOutsideRoutes
    );
}

#[test]
fn one_session_cannot_push_out_anothers_flows() {
    let (mut bench, flooder) = connected();
    let quiet = bench.open(6);
    let gauge = bench.plane.flow_gauge();
    for number in 0..20 {
        assert!(bench.passes_up(quiet, udp_ports("10.200.0.6", WORKLOAD, number, 53)));
    }
    for number in 0..60_000 {
        let syn = tcp(CLIENT, WORKLOAD, (number, 80), tcp_flag::SYN);
        assert!(bench.passes_up(flooder, syn));
    }
    for number in 0..20 {
        assert!(
            bench.passes_down(udp_ports(WORKLOAD, "10.200.0.6", 53, number)),
            "{number}"
        );
    }
    assert!(bench.plane.flow_gauge().flows <= gauge.share + 20);
}
