//! Sessions and Snapshots by cases.

mod snapshots;

use std::sync::Arc;

use masque_model::{ListenerProtocol, Snapshot};
use proptest::prelude::*;

use super::*;
use crate::fixture::{attachment, ip, key, name, net, next, pool, request, snapshot};
use crate::policy::{FlowQuestion, PolicyVerdict};
use crate::reason::DropReason;

fn at(mono_ms: u64) -> Now {
    Now {
        mono_ms,
        unix_s: mono_ms / 1000,
    }
}

/// A registry that runs these Snapshots.
fn registry(snapshots: &[&Snapshot]) -> Registry {
    let mut registry = Registry::new(RegistryConfig::default());
    let snapshots = snapshots
        .iter()
        .map(|snapshot| Arc::new((*snapshot).clone()))
        .collect();
    let changes = registry.apply(at(0), snapshots);
    assert!(
        changes.refused.is_empty() && changes.conflicts.is_empty(),
        "{changes:?}"
    );
    registry
}

fn addresses(grant: &Grant) -> Vec<String> {
    grant.addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn admits_with_addresses_and_routes() {
    let mut registry = registry(&[&snapshot("vpc", 9)]);
    let Admitted {
        grant,
        deactivated,
        ended,
    } = registry.admit(at(0), &request(5, 3)).unwrap();
    assert_eq!(addresses(&grant), ["10.200.0.5/32", "fd00:200::5/128"]);
    assert_eq!(grant.routes, [net("10.0.0.0/16"), net("fd00:1::/32")]);
    assert_eq!((grant.shard, grant.active), (3, true));
    assert_eq!((deactivated, ended), (None, Vec::new()));
    assert_eq!(registry.session_count(), 1);
    let gateway = registry.gateway_addresses(&name("vpc-gateway"));
    assert_eq!(gateway, [ip("10.200.0.1"), ip("fd00:200::1")]);
}

#[test]
fn a_stranger_learns_nothing() {
    let mut registry = registry(&[&snapshot("vpc", 1)]);
    let refusal = registry.admit(at(0), &request(2, 0)).unwrap_err();
    assert_eq!(refusal, Refusal::NotFound);
    assert!(refusal.is_secret());
    let elsewhere = AdmitRequest {
        vpc: Some("other"),
        ..request(1, 0)
    };
    assert_eq!(registry.admit(at(0), &elsewhere), Err(Refusal::NotFound));
    assert!(!Refusal::Suspended.is_secret());
}

#[test]
fn a_full_name_of_an_ingress_point_means_it_alone() {
    // Another one leads to a VPC that is called like the first ingress point.
    let mut registry = registry(&[&snapshot("one", 1), &snapshot("one-gateway", 1)]);
    let point = name("one-gateway");
    let full = point.to_string();
    assert!(registry.has_attachment(&point, &key(1)));
    assert!(!registry.has_attachment(&point, &key(2)));
    let wanted = AdmitRequest {
        vpc: Some(&full),
        ..request(1, 0)
    };
    let admitted = registry.admit(at(0), &wanted).unwrap();
    assert_eq!(admitted.grant.ingress_point, point);
}

#[test]
fn the_path_or_the_listener_chooses_among_vpcs() {
    let mut second = snapshot("two", 1);
    second.listeners[0].port = 8443;
    let mut registry = registry(&[&snapshot("one", 1), &second]);
    assert_eq!(
        registry.admit(at(0), &request(1, 0)),
        Err(Refusal::SeveralVpcs(2))
    );
    let mut vpc_of = |edit: AdmitRequest<'_>| registry.admit(at(0), &edit).unwrap().grant.vpc;
    assert_eq!(
        vpc_of(AdmitRequest {
            vpc: Some("two"),
            ..request(1, 0)
        }),
        name("two")
    );
    assert_eq!(
        vpc_of(AdmitRequest {
            vpc: Some("default/one"),
            ..request(1, 0)
        }),
        name("one")
    );
    assert_eq!(
        vpc_of(AdmitRequest {
            vpc: Some("two-gateway"),
            ..request(1, 0)
        }),
        name("two")
    );
    let listener = Some((ListenerProtocol::Http3, 8443));
    assert_eq!(
        vpc_of(AdmitRequest {
            listener,
            ..request(1, 0)
        }),
        name("two")
    );
    let listener = Some((ListenerProtocol::Iroh, 8443));
    let refused = registry.admit(
        at(0),
        &AdmitRequest {
            listener,
            ..request(1, 0)
        },
    );
    assert_eq!(refused, Err(Refusal::NotFound));
}

#[test]
fn newest_wins_and_the_oldest_end_at_the_limit() {
    let mut limited = snapshot("vpc", 1);
    limited.attachments[0].limits.sessions = 2;
    let mut registry = registry(&[&limited]);
    let one = registry.admit(at(0), &request(1, 0)).unwrap();
    let two = registry.admit(at(1), &request(1, 1)).unwrap();
    assert_eq!(two.deactivated, Some(one.grant.reference()));
    assert_eq!(two.grant.addresses, one.grant.addresses);
    let three = registry.admit(at(2), &request(1, 2)).unwrap();
    assert_eq!(three.deactivated, Some(two.grant.reference()));
    assert_eq!(three.ended.len(), 1);
    assert_eq!(three.ended[0].session, one.grant.reference());
    assert_eq!(three.ended[0].reason, EndReason::Replaced);
    assert_eq!(registry.session_count(), 2);
    // The newest goes: the one before carries the traffic again.
    let released = registry
        .release(at(3), three.grant.session, EndReason::ClientClosed)
        .unwrap();
    let activated = released.activated.unwrap();
    assert_eq!(
        (activated.session, activated.active),
        (two.grant.session, true)
    );
    let last = registry
        .release(at(4), two.grant.session, EndReason::ClientClosed)
        .unwrap();
    assert_eq!(last.activated, None);
    assert_eq!(
        registry.release(at(5), one.grant.session, EndReason::ClientClosed),
        None
    );
}

#[test]
fn a_limit_of_one_replaces_in_one_step() {
    let mut limited = snapshot("vpc", 1);
    limited.attachments[0].limits.sessions = 1;
    limited.sessions.max_total = 1;
    let mut registry = registry(&[&limited]);
    let one = registry.admit(at(0), &request(1, 0)).unwrap();
    let two = registry.admit(at(0), &request(1, 0)).unwrap();
    assert_eq!(two.deactivated, None);
    assert_eq!(two.ended[0].session, one.grant.reference());
    assert_eq!(registry.session_count(), 1);
}

#[test]
fn totals_are_bounded() {
    let mut limited = snapshot("vpc", 5);
    limited.sessions.max_total = 3;
    let mut registry = registry(&[&limited]);
    for number in 1..=3 {
        registry.admit(at(0), &request(number, 0)).unwrap();
    }
    assert_eq!(
        registry.admit(at(0), &request(4, 0)),
        Err(Refusal::TooManySessions(3))
    );
    let config = RegistryConfig {
        sessions_max: 1,
        ..RegistryConfig::default()
    };
    let mut small = Registry::new(config);
    small.apply(at(0), vec![Arc::new(limited)]);
    small.admit(at(0), &request(1, 0)).unwrap();
    assert_eq!(
        small.admit(at(0), &request(2, 0)),
        Err(Refusal::GatewayFull)
    );
}

#[test]
fn exhausted_pools_refuse_or_leave_a_family_out() {
    let mut narrow = snapshot("vpc", 3);
    narrow.pools = vec![pool("10.200.0.0/30"), pool("fd00:200::/126")];
    let mut registry = registry(&[&narrow]);
    let granted = |registry: &mut Registry, number| {
        registry
            .admit(at(0), &request(number, 0))
            .map(|admitted| addresses(&admitted.grant))
    };
    assert_eq!(
        granted(&mut registry, 1).unwrap(),
        ["10.200.0.2/32", "fd00:200::2/128"]
    );
    assert_eq!(granted(&mut registry, 2).unwrap(), ["fd00:200::3/128"]);
    assert_eq!(granted(&mut registry, 3), Err(Refusal::PoolExhausted));
    let only_v4 = AdmitRequest {
        ipv6: false,
        ..request(2, 0)
    };
    assert_eq!(registry.admit(at(0), &only_v4), Err(Refusal::NoFamily));
}

#[test]
fn n45_the_scope_cuts_the_routes() {
    let mut registry = registry(&[&snapshot("vpc", 1)]);
    let scope = Scope {
        targets: Some(vec![net("10.0.7.0/24"), net("10.9.0.0/16")]),
        protocol: Some(17),
    };
    let asked = AdmitRequest {
        scope: &scope,
        ..request(1, 0)
    };
    let grant = registry.admit(at(0), &asked).unwrap().grant;
    assert_eq!(grant.routes, [net("10.0.7.0/24")]);
    assert_eq!(grant.scope, scope);
    let outside = Scope {
        targets: Some(vec![net("192.168.0.0/16")]),
        protocol: None,
    };
    let asked = AdmitRequest {
        scope: &outside,
        ..request(1, 0)
    };
    assert_eq!(
        registry.admit(at(0), &asked),
        Err(Refusal::TargetOutsideRoutes)
    );
}

#[test]
fn pool_usage_counts() {
    let mut registry = registry(&[&snapshot("vpc", 3)]);
    for number in 1..=3 {
        registry.admit(at(0), &request(number, 0)).unwrap();
    }
    let usage = registry.pools(&name("vpc-gateway"));
    assert_eq!(
        (usage[0].total, usage[0].allocated, usage[0].resting),
        (253, 3, 0)
    );
    assert_eq!((usage[1].total, usage[1].allocated), (254, 3));
}

#[derive(Clone, Debug)]
enum Step {
    Admit(u32),
    Release(usize),
    Edit(u32, u8),
    Restart,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u32..8).prop_map(Step::Admit),
        3 => (0usize..20).prop_map(Step::Release),
        2 => (0u32..7, 0u8..5).prop_map(|(who, what)| Step::Edit(who, what)),
        1 => Just(Step::Restart),
        2 => (0u64..20_000).prop_map(Step::Wait),
    ]
}

/// What must hold after every step.
fn check(registry: &Registry) -> Result<(), TestCaseError> {
    let sessions: Vec<_> = registry.sessions().map(|info| info.grant).collect();
    let point = name("vpc-gateway");
    prop_assert_eq!(registry.session_count_of(&point), sessions.len());
    for one in &sessions {
        prop_assert!(!one.addresses.is_empty());
        let of_attachment: Vec<_> = sessions
            .iter()
            .filter(|other| other.attachment == one.attachment)
            .collect();
        let newest = of_attachment
            .iter()
            .map(|other| other.session)
            .max()
            .unwrap();
        prop_assert_eq!(one.active, one.session == newest, "newest wins");
        prop_assert!(of_attachment.len() <= 2, "limits.sessions");
        for other in &sessions {
            if other.attachment != one.attachment {
                let shared = one
                    .addresses
                    .iter()
                    .any(|net| other.addresses.contains(net));
                prop_assert!(!shared, "{:?} and {:?} share an address", one, other);
            }
        }
        let table = registry
            .tables()
            .vpc(one.index)
            .unwrap()
            .attachment(one.attachment);
        prop_assert!(table.is_some_and(|table| !table.suspended()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sessions_never_share_addresses(steps in prop::collection::vec(step(), 1..80)) {
        let mut current = snapshot("vpc", 7);
        current.pools = vec![pool("10.200.0.0/29"), pool("fd00:200::/125")];
        for attachment in &mut current.attachments {
            attachment.limits.sessions = 2;
        }
        let mut current = Arc::new(current);
        let mut registry = Registry::new(RegistryConfig::default());
        registry.apply(at(0), vec![current.clone()]);
        let mut now_ms = 0;
        for step in steps {
            match step {
                Step::Admit(number) => {
                    let _ = registry.admit(at(now_ms), &request(number, 0));
                }
                Step::Release(place) => {
                    let id = registry.sessions().nth(place).map(|info| info.grant.session);
                    if let Some(id) = id {
                        registry.release(at(now_ms), id, EndReason::ClientClosed);
                    }
                }
                Step::Edit(who, what) => {
                    current = next(&current, |next| {
                        let who = who as usize;
                        let attachment = &mut next.attachments[who];
                        match what {
                            0 => attachment.suspended ^= true,
                            1 => attachment.ipv4 ^= true,
                            2 => attachment.key = key(u32::try_from(next.version).unwrap() + 100),
                            3 => attachment.key = key(u32::try_from(who).unwrap() + 1),
                            _ if next.pools[0].prefix == net("10.200.0.0/29") => {
                                next.pools[0] = pool("10.200.0.4/30");
                            }
                            _ => next.pools[0] = pool("10.200.0.0/29"),
                        }
                    });
                    registry.apply(at(now_ms), vec![current.clone()]);
                }
                Step::Restart => {
                    let state = registry.export_addresses(at(now_ms));
                    let config = RegistryConfig::default();
                    registry = Registry::with_addresses(config, at(now_ms), &state);
                    registry.apply(at(now_ms), vec![current.clone()]);
                }
                Step::Wait(ms) => now_ms += ms,
            }
            check(&registry)?;
        }
    }
}
