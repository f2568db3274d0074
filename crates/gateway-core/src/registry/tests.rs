//! Sessions and Snapshots by cases.

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
fn what_did_not_change_is_not_touched() {
    let (one, two) = (snapshot("one", 2), snapshot("two", 2));
    let mut registry = registry(&[&one, &two]);
    let before = registry.tables().clone();
    let session = registry
        .admit(
            at(0),
            &AdmitRequest {
                vpc: Some("one"),
                ..request(1, 0)
            },
        )
        .unwrap()
        .grant;
    let same = registry.apply(at(1), vec![Arc::new(one.clone()), Arc::new(two.clone())]);
    assert!(Arc::ptr_eq(&before, &same.tables) && same.touched.is_empty());
    let edited = next(&two, |two| two.rules.clear());
    let changes = registry.apply(at(2), vec![Arc::new(one), edited]);
    assert_eq!(changes.touched, [name("two-gateway")]);
    assert!(changes.ended.is_empty() && changes.updated.is_empty());
    let vpc = |tables: &Tables, name: &str| tables.find(name).unwrap().clone();
    assert!(Arc::ptr_eq(
        &vpc(&before, "one"),
        &vpc(&changes.tables, "one")
    ));
    assert!(!Arc::ptr_eq(
        &vpc(&before, "two"),
        &vpc(&changes.tables, "two")
    ));
    assert_ne!(
        vpc(&before, "two").epoch(),
        vpc(&changes.tables, "two").epoch()
    );
    assert_eq!(
        vpc(&before, "two").index(),
        vpc(&changes.tables, "two").index()
    );
    assert!(registry.session(session.session).is_some());
}

#[test]
fn edits_end_or_update_exactly_the_sessions_they_concern() {
    let first = snapshot("vpc", 5);
    let mut registry = registry(&[&first]);
    let grants: Vec<Grant> = (1..=5)
        .map(|number| registry.admit(at(0), &request(number, 0)).unwrap().grant)
        .collect();
    let edited = next(&first, |next| {
        next.attachments[0].suspended = true;
        next.attachments[1].routes = vec![net("10.0.0.0/24")];
        next.attachments[2].key = key(33);
        next.attachments.remove(3);
    });
    let changes = registry.apply(at(1), vec![edited.clone()]);
    let ended: Vec<_> = changes
        .ended
        .iter()
        .map(|ended| (ended.session.session, ended.reason))
        .collect();
    assert_eq!(
        ended,
        [
            (grants[2].session, EndReason::AttachmentRemoved),
            (grants[3].session, EndReason::AttachmentRemoved),
            (grants[0].session, EndReason::Suspended),
        ]
    );
    assert_eq!(changes.updated.len(), 1);
    assert_eq!(changes.updated[0].session, grants[1].session);
    assert_eq!(changes.updated[0].routes, [net("10.0.0.0/24")]);
    assert!(changes.updated[0].generation > grants[1].generation);
    assert_eq!(
        registry.admit(at(2), &request(1, 0)),
        Err(Refusal::Suspended)
    );
    // Suspended keeps its addresses; another key does not get those of the former one.
    let resumed = next(&edited, |next| next.attachments[0].suspended = false);
    registry.apply(at(3), vec![resumed]);
    assert_eq!(
        registry
            .admit(at(3), &request(1, 0))
            .unwrap()
            .grant
            .addresses,
        grants[0].addresses
    );
    let other_key = registry.admit(at(3), &request(33, 0)).unwrap().grant;
    assert!(
        other_key
            .addresses
            .iter()
            .all(|address| !grants[2].addresses.contains(address))
    );
    assert_ne!(other_key.attachment, grants[2].attachment);
}

#[test]
fn other_pools_give_other_addresses_to_open_sessions() {
    let first = snapshot("vpc", 2);
    let mut registry = registry(&[&first]);
    let one = registry.admit(at(0), &request(1, 0)).unwrap().grant;
    let two = registry
        .admit(
            at(0),
            &AdmitRequest {
                ipv6: false,
                ..request(2, 0)
            },
        )
        .unwrap()
        .grant;
    let moved = next(&first, |next| next.pools[0] = pool("10.201.0.0/30"));
    let changes = registry.apply(at(1), vec![moved]);
    assert_eq!(changes.updated.len(), 1);
    assert_eq!(
        addresses(&changes.updated[0]),
        ["10.201.0.2/32", "fd00:200::2/128"]
    );
    assert_eq!(changes.updated[0].session, one.session);
    assert_eq!(changes.ended.len(), 1);
    assert_eq!(changes.ended[0].session.session, two.session);
    assert_eq!(changes.ended[0].reason, EndReason::AddressUnavailable);
}

#[test]
fn an_ingress_point_that_goes_ends_its_sessions_and_comes_back_as_another() {
    let first = snapshot("vpc", 1);
    let mut registry = registry(&[&first]);
    let grant = registry.admit(at(0), &request(1, 0)).unwrap().grant;
    let changes = registry.apply(at(1), Vec::new());
    assert_eq!(changes.ended[0].reason, EndReason::IngressPointRemoved);
    assert!(changes.tables.vpc(grant.index).is_none());
    assert_eq!(
        registry.admit(at(1), &request(1, 0)),
        Err(Refusal::NotFound)
    );
    registry.apply(at(2), vec![Arc::new(first)]);
    let again = registry.admit(at(2), &request(1, 0)).unwrap().grant;
    assert_ne!(again.index, grant.index);
    assert_eq!(again.addresses, grant.addresses);
}

#[test]
fn fixed_addresses_conflict_visibly() {
    let mut fixed = snapshot("vpc", 2);
    fixed.attachments[0].addresses = vec![ip("10.200.0.7")];
    fixed.attachments[1].addresses = vec![ip("10.200.0.7")];
    let mut registry = Registry::new(RegistryConfig::default());
    let changes = registry.apply(at(0), vec![Arc::new(fixed)]);
    assert_eq!(changes.conflicts.len(), 1);
    assert_eq!(changes.conflicts[0].attachment, name("attachment-2"));
    let granted = registry.admit(at(0), &request(1, 0)).unwrap().grant;
    assert_eq!(addresses(&granted), ["10.200.0.7/32"]);
    let refusal = registry.admit(at(0), &request(2, 0)).unwrap_err();
    assert_eq!(refusal, Refusal::AddressTaken(ip("10.200.0.7")));
    assert!(refusal.is_temporary());
}

#[test]
fn a_snapshot_that_cannot_run_leaves_the_former_one() {
    let good = snapshot("vpc", 2);
    let mut registry = registry(&[&good]);
    type Edit = fn(&mut Snapshot);
    let cases: [(Edit, SnapshotError); 5] = [
        (
            |bad| bad.attachments[1].key = key(1),
            SnapshotError::DuplicateKey(name("attachment-2")),
        ),
        (
            |bad| bad.attachments[1].name = name("attachment-1"),
            SnapshotError::DuplicateAttachment(name("attachment-1")),
        ),
        (
            |bad| bad.pools.push(pool("10.200.0.128/25")),
            SnapshotError::PoolsOverlap(net("10.200.0.0/24"), net("10.200.0.128/25")),
        ),
        (
            |bad| bad.rules = vec![bad.rules[0].clone(); MAX_RULES + 1],
            SnapshotError::TooManyRules(MAX_RULES + 1),
        ),
        (
            |bad| bad.attachments[0].addresses = vec![ip("10.200.0.9"); MAX_FIXED_ADDRESSES + 1],
            SnapshotError::TooManyAddresses(name("attachment-1")),
        ),
    ];
    for (edit, error) in cases {
        let bad = next(&good, edit);
        assert_eq!(Registry::check(&bad), Err(error.clone()));
        let changes = registry.apply(at(1), vec![bad]);
        assert_eq!(changes.refused, [(name("vpc-gateway"), error)]);
        assert!(changes.touched.is_empty());
        assert_eq!(registry.snapshots().next().unwrap().version, good.version);
    }
    let many: Vec<_> = (0..=MAX_ATTACHMENTS)
        .map(|n| attachment(u32::try_from(n).unwrap()))
        .collect();
    let bad = next(&good, |bad| bad.attachments = many);
    let error = SnapshotError::TooManyAttachments(MAX_ATTACHMENTS + 1);
    assert_eq!(Registry::check(&bad), Err(error));
    let bad = next(&good, |bad| {
        bad.pools = (0..=MAX_POOLS)
            .map(|n| pool(&format!("10.201.{n}.0/24")))
            .collect();
    });
    assert_eq!(
        Registry::check(&bad),
        Err(SnapshotError::TooManyPools(MAX_POOLS + 1))
    );
}

#[test]
fn the_number_of_ingress_points_is_bounded_and_new_ones_push_none_out() {
    let config = RegistryConfig {
        snapshots_max: 2,
        ..RegistryConfig::default()
    };
    let mut registry = Registry::new(config);
    let [a, b, c] = ["a", "x", "y"].map(|vpc| Arc::new(snapshot(vpc, 1)));
    registry.apply(at(0), vec![b.clone(), c.clone()]);
    let changes = registry.apply(at(1), vec![a, b, c]);
    assert_eq!(
        changes.refused,
        [(name("a-gateway"), SnapshotError::TooManySnapshots(2))]
    );
    assert!(changes.touched.is_empty());
}

#[test]
fn explains_by_names() {
    let registry = registry(&[&snapshot("vpc", 1)]);
    let tables = registry.tables();
    let explain = |remote: &str| {
        let flow = FlowQuestion {
            direction: masque_model::Direction::ToVpc,
            remote: ip(remote),
            protocol: 6,
            port: 443,
            unix_s: 0,
        };
        tables.explain("vpc", &name("attachment-1"), &flow).unwrap()
    };
    assert_eq!(
        explain("10.0.0.1").to_string(),
        "allowed by default/policy/all"
    );
    let verdict = |remote| explain(remote).verdict;
    assert_eq!(
        verdict("10.1.0.1"),
        PolicyVerdict::Dropped(DropReason::NoRoute)
    );
    let sid = PolicyVerdict::Dropped(DropReason::LocatorDestination);
    assert_eq!(verdict("2001:db8:ff03:3:e02a::"), sid);
    let flow = FlowQuestion {
        direction: masque_model::Direction::ToVpc,
        remote: ip("10.0.0.1"),
        protocol: 6,
        port: 1,
        unix_s: 0,
    };
    assert!(
        tables
            .explain("nowhere", &name("attachment-1"), &flow)
            .is_err()
    );
    assert!(tables.explain("vpc", &name("nobody"), &flow).is_err());
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
