//! The compiled rules against a scan of the written ones.

use std::collections::BTreeMap;

use ipnet::IpNet;
use masque_model::PrefixMatch;
use proptest::prelude::*;

use super::*;
use crate::fixture::{ip, name, net, port, prefixes, rule};
use crate::reason::DropReason;

const TCP: u8 = protocol::TCP;
const UDP: u8 = protocol::UDP;

fn ids() -> BTreeMap<ObjectName, AttachmentId> {
    (0..4)
        .map(|number| (name(&format!("a{number}")), AttachmentId(number)))
        .collect()
}

fn query(attachment: u32, remote: &str, protocol: u8, port: u16) -> Query {
    Query {
        attachment: AttachmentId(attachment),
        direction: Direction::ToVpc,
        remote: ip(remote),
        protocol,
        port,
        unix_s: 1_000,
    }
}

fn allows(policy: &Policy, query: &Query) -> bool {
    matches!(policy.decide(query), Decision::Allow { .. })
}

#[test]
fn nothing_allowed_is_denied() {
    let policy = Policy::new(&[], &ids());
    assert_eq!(
        policy.decide(&query(0, "10.0.0.1", TCP, 80)),
        Decision::NotAllowed
    );
}

#[test]
fn deny_beats_allow() {
    let allow = rule("allow", Action::Allow, Direction::ToVpc);
    let deny = Rule {
        prefixes: prefixes(&["10.0.1.0/24"]),
        ..rule("deny", Action::Deny, Direction::ToVpc)
    };
    let policy = Policy::new(&[deny, allow], &ids());
    assert!(allows(&policy, &query(0, "10.0.0.1", TCP, 80)));
    assert_eq!(
        policy.decide(&query(0, "10.0.1.1", TCP, 80)),
        Decision::Deny { rule: 0 }
    );
}

#[test]
fn a_rule_concerns_its_attachments_direction_prefixes_and_ports() {
    let web = Rule {
        attachments: AttachmentSet::Some(vec![name("a1"), name("unknown")]),
        prefixes: vec![PrefixMatch {
            prefix: net("10.0.0.0/16"),
            except: vec![net("10.0.9.0/24")],
        }],
        ports: vec![port(TCP, 443)],
        ..rule("web", Action::Allow, Direction::ToVpc)
    };
    let policy = Policy::new(&[web], &ids());
    assert!(allows(&policy, &query(1, "10.0.0.1", TCP, 443)));
    for other in [
        query(2, "10.0.0.1", TCP, 443),
        query(1, "10.1.0.1", TCP, 443),
        query(1, "10.0.9.1", TCP, 443),
        query(1, "10.0.0.1", UDP, 443),
        query(1, "10.0.0.1", TCP, 444),
        Query {
            direction: Direction::FromVpc,
            ..query(1, "10.0.0.1", TCP, 443)
        },
    ] {
        assert!(!allows(&policy, &other), "{other:?}");
    }
}

#[test]
fn an_echo_identifier_is_not_a_port() {
    let any = PortMatch {
        protocol: ProtocolMatch::Any,
        ports: Some((7, 7)),
    };
    let policy = Policy::new(
        &[Rule {
            ports: vec![any],
            ..rule("seven", Action::Allow, Direction::ToVpc)
        }],
        &ids(),
    );
    assert!(allows(&policy, &query(0, "10.0.0.1", UDP, 7)));
    assert!(!allows(&policy, &query(0, "10.0.0.1", protocol::ICMP, 7)));
}

#[test]
fn icmp_is_that_of_the_family() {
    let icmp = PortMatch {
        protocol: ProtocolMatch::Icmp,
        ports: None,
    };
    let policy = Policy::new(
        &[Rule {
            ports: vec![icmp],
            ..rule("ping", Action::Allow, Direction::ToVpc)
        }],
        &ids(),
    );
    assert!(allows(&policy, &query(0, "10.0.0.1", protocol::ICMP, 0)));
    assert!(allows(&policy, &query(0, "fd00::1", protocol::ICMPV6, 0)));
    assert!(!allows(&policy, &query(0, "10.0.0.1", protocol::ICMPV6, 0)));
    assert!(!allows(&policy, &query(0, "fd00::1", protocol::ICMP, 0)));
}

#[test]
fn a_rule_ends_at_its_time_and_the_longest_permission_counts() {
    let until = |name: &str, unix_s| Rule {
        not_after_unix_s: Some(unix_s),
        ..rule(name, Action::Allow, Direction::ToVpc)
    };
    let policy = Policy::new(&[until("short", 1_500), until("long", 2_000)], &ids());
    let at = |unix_s| Query {
        unix_s,
        ..query(0, "10.0.0.1", TCP, 80)
    };
    let long = Decision::Allow {
        rule: 1,
        until_unix_s: 2_000,
        audit: None,
    };
    assert_eq!(policy.decide(&at(1_499)), long);
    assert_eq!(policy.decide(&at(1_999)), long);
    assert_eq!(policy.decide(&at(2_000)), Decision::NotAllowed);
}

#[test]
fn audit_counts_but_neither_denies_nor_allows() {
    let audit = |action| Rule {
        mode: Mode::Audit,
        ..rule("audit", action, Direction::ToVpc)
    };
    let only = Policy::new(&[audit(Action::Allow)], &ids());
    assert_eq!(
        only.decide(&query(0, "10.0.0.1", TCP, 80)),
        Decision::NotAllowed
    );
    let allow = rule("allow", Action::Allow, Direction::ToVpc);
    let both = Policy::new(&[allow, audit(Action::Deny)], &ids());
    let expected = Decision::Allow {
        rule: 0,
        until_unix_s: u64::MAX,
        audit: Some(1),
    };
    assert_eq!(both.decide(&query(0, "10.0.0.1", TCP, 80)), expected);
}

#[test]
fn explain_names_the_rule_that_decides() {
    let allow = rule("allow", Action::Allow, Direction::ToVpc);
    let deny = Rule {
        ports: vec![port(TCP, 22)],
        ..rule("no-ssh", Action::Deny, Direction::ToVpc)
    };
    let ended = Rule {
        not_after_unix_s: Some(5),
        ..rule("ended", Action::Allow, Direction::ToVpc)
    };
    let audit = Rule {
        mode: Mode::Audit,
        ports: vec![port(TCP, 80)],
        ..rule("staged", Action::Deny, Direction::ToVpc)
    };
    let policy = Policy::new(&[allow, deny, ended, audit], &ids());
    let explain = |port| {
        let (direction, remote) = (Direction::ToVpc, ip("10.0.0.1"));
        let flow = FlowQuestion {
            direction,
            remote,
            protocol: TCP,
            port,
            unix_s: 9,
        };
        policy.explain(AttachmentId(0), &flow).to_string()
    };
    assert_eq!(
        explain(443),
        "allowed by default/policy/allow; default/policy/ended would match but has ended"
    );
    assert_eq!(
        explain(22),
        "dropped (policy_denied) by default/policy/no-ssh; default/policy/ended would match but \
         has ended"
    );
    assert!(explain(80).contains("default/policy/staged in Audit mode would deny it"));
    let nothing = Policy::new(&[], &ids());
    let flow = FlowQuestion {
        direction: Direction::ToVpc,
        remote: ip("10.0.0.1"),
        protocol: TCP,
        port: 1,
        unix_s: 0,
    };
    let explanation = nothing.explain(AttachmentId(0), &flow);
    assert_eq!(
        explanation.verdict,
        PolicyVerdict::Dropped(DropReason::PolicyNotAllowed)
    );
}

/// The semantics of `api.md`, rule by rule.
fn scan(rules: &[Rule], query: &Query) -> Decision {
    let matches = |rule: &Rule| {
        let name = name(&format!("a{}", query.attachment.0));
        rule.direction == query.direction
            && query.unix_s < rule.not_after_unix_s.unwrap_or(u64::MAX)
            && match &rule.attachments {
                AttachmentSet::All => true,
                AttachmentSet::Some(names) => names.contains(&name),
            }
            && (rule.prefixes.is_empty()
                || rule.prefixes.iter().any(|matched| {
                    matched.prefix.contains(&query.remote)
                        && !matched
                            .except
                            .iter()
                            .any(|hole| hole.contains(&query.remote))
                }))
            && (rule.ports.is_empty()
                || rule.ports.iter().any(|ports| {
                    let number = match ports.protocol {
                        ProtocolMatch::Any => true,
                        ProtocolMatch::Icmp if query.remote.is_ipv4() => query.protocol == 1,
                        ProtocolMatch::Icmp => query.protocol == 58,
                        ProtocolMatch::Number(number) => query.protocol == number,
                    };
                    let with_ports = [6, 17, 33, 132, 136].contains(&query.protocol);
                    number
                        && ports.ports.is_none_or(|(first, last)| {
                            with_ports && first <= query.port && query.port <= last
                        })
                }))
    };
    let matching = || rules.iter().filter(|rule| matches(rule));
    let enforced =
        |action| matching().any(|rule| rule.mode == Mode::Enforce && rule.action == action);
    if enforced(Action::Deny) {
        return Decision::Deny { rule: 0 };
    }
    if !enforced(Action::Allow) {
        return Decision::NotAllowed;
    }
    let until = matching()
        .filter(|rule| rule.mode == Mode::Enforce && rule.action == Action::Allow)
        .map(|rule| rule.not_after_unix_s.unwrap_or(u64::MAX))
        .max()
        .unwrap();
    let audit = matching().any(|rule| rule.mode == Mode::Audit && rule.action == Action::Deny);
    Decision::Allow {
        rule: 0,
        until_unix_s: until,
        audit: audit.then_some(0),
    }
}

/// A decision without the numbers of rules, of which several may be right.
fn without_rules(decision: Decision) -> Decision {
    match decision {
        Decision::Allow {
            until_unix_s,
            audit,
            ..
        } => Decision::Allow {
            rule: 0,
            until_unix_s,
            audit: audit.map(|_| 0),
        },
        Decision::Deny { .. } => Decision::Deny { rule: 0 },
        Decision::NotAllowed => Decision::NotAllowed,
    }
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(third, fourth)| IpAddr::from([10, 0, third, fourth])),
        (0u128..16).prop_map(|low| std::net::Ipv6Addr::from_bits(0xfd << 120 | low).into()),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0u8..=8).prop_map(|(address, up)| {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, if up == 8 { 0 } else { longest - up })
            .unwrap()
            .trunc()
    })
}

fn protocols() -> impl Strategy<Value = u8> {
    prop::sample::select(vec![1u8, 6, 17, 47, 58])
}

fn ports() -> impl Strategy<Value = PortMatch> {
    let kind = prop_oneof![
        1 => Just(ProtocolMatch::Any),
        1 => Just(ProtocolMatch::Icmp),
        4 => protocols().prop_map(ProtocolMatch::Number),
    ];
    let range = prop_oneof![
        Just(None),
        (0u16..6).prop_map(|port| Some((port, port))),
        (0u16..6, 0u16..6).prop_map(|(one, two)| Some((one.min(two), one.max(two)))),
    ];
    (kind, range).prop_map(|(protocol, ports)| PortMatch { protocol, ports })
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let set = prop_oneof![
        Just(AttachmentSet::All),
        prop::collection::btree_set(0u8..5, 0..4).prop_map(|set| {
            AttachmentSet::Some(
                set.iter()
                    .map(|number| name(&format!("a{number}")))
                    .collect(),
            )
        }),
    ];
    let matched = (prefix(), prop::collection::vec(prefix(), 0..2))
        .prop_map(|(prefix, except)| PrefixMatch { prefix, except });
    (
        set,
        prop::collection::vec(matched, 0..3),
        prop::collection::vec(ports(), 0..3),
        prop::sample::select(vec![Action::Allow, Action::Allow, Action::Deny]),
        prop::sample::select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]),
        prop::sample::select(vec![Direction::ToVpc, Direction::FromVpc]),
        prop::option::of(0u64..20),
    )
        .prop_map(
            |(attachments, prefixes, ports, action, mode, direction, not_after_unix_s)| Rule {
                attachments,
                prefixes,
                ports,
                mode,
                not_after_unix_s,
                ..rule("random", action, direction)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_index_agrees_with_a_scan(
        rules in prop::collection::vec(any_rule(), 0..24),
        queries in prop::collection::vec(
            (0u32..4, address(), protocols(), 0u16..6, any::<bool>(), 0u64..20),
            1..40,
        ),
    ) {
        let policy = Policy::new(&rules, &ids());
        for (attachment, remote, protocol, port, to_vpc, unix_s) in queries {
            let direction = if to_vpc { Direction::ToVpc } else { Direction::FromVpc };
            let attachment = AttachmentId(attachment);
            let query = Query { attachment, direction, remote, protocol, port, unix_s };
            prop_assert_eq!(
                without_rules(policy.decide(&query)),
                scan(&rules, &query),
                "{:?}",
                query
            );
        }
    }
}

#[test]
fn ten_thousand_rules_leave_few_to_compare() {
    // One port each on one prefix, the form that grows fastest.
    let many: Vec<Rule> = (0..10_000u16)
        .map(|number| Rule {
            prefixes: prefixes(&["10.0.0.0/16"]),
            ports: vec![port(TCP, number)],
            ..rule(&format!("r{number}"), Action::Allow, Direction::ToVpc)
        })
        .collect();
    let policy = Policy::new(&many, &ids());
    let mut compared = 0;
    policy.for_each_match_at_any_time(&query(0, "10.0.5.5", TCP, 77), |_, _| compared += 1);
    assert_eq!(compared, 1);
    let Side { groups, .. } = &policy.to_vpc;
    let mut candidates = 0;
    groups[0].for_each_candidate(&query(0, "10.0.5.5", TCP, 20_000), |_| candidates += 1);
    assert_eq!(candidates, 0);
}
