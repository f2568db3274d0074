//! Snapshots that come, change and go.

use super::*;
use crate::ExplainError;

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
fn other_rules_alone_judge_anew_and_touch_no_address() {
    let mut first = snapshot("vpc", 3);
    for at in [1, 2] {
        first.attachments[at].addresses = vec![ip("10.200.0.77")];
    }
    let mut registry = Registry::new(RegistryConfig::default());
    registry.apply(at(0), vec![Arc::new(first.clone())]);
    let grant = registry.admit(at(0), &request(1, 0)).unwrap().grant;
    let (before, addresses) = (registry.tables().clone(), registry.export_addresses(at(1)));
    let edited = next(&first, |next| next.rules.clear());
    let changes = registry.apply(at(1), vec![edited.clone()]);
    assert_eq!(changes.touched, [name("vpc-gateway")]);
    assert!(changes.ended.is_empty() && changes.updated.is_empty());
    assert_eq!(changes.conflicts.len(), 1, "it is still there, and told");
    assert_eq!(registry.export_addresses(at(1)), addresses);
    assert_eq!(registry.session(grant.session), Some(&grant));
    let vpc = |tables: &Tables| tables.find("vpc").unwrap().clone();
    let (before, after) = (vpc(&before), vpc(&changes.tables));
    assert_ne!(before.epoch(), after.epoch());
    assert_eq!(before.index(), after.index());
    assert_eq!(after.snapshot_version(), 2);
    // The next edit is measured by this one.
    let same = registry.apply(at(2), vec![edited]);
    assert!(same.touched.is_empty());
}

#[test]
fn other_limits_are_no_matter_of_rules_alone() {
    let first = snapshot("vpc", 2);
    let mut registry = registry(&[&first]);
    registry.admit(at(0), &request(1, 0)).unwrap();
    let narrow = next(&first, |next| next.mtu_bytes = Some(1400));
    let changes = registry.apply(at(1), vec![narrow.clone()]);
    assert_eq!(changes.updated[0].mtu_bytes, Some(1400));
    let restless = next(&narrow, |next| next.sessions.address_quarantine_ms = 0);
    registry.apply(at(2), vec![restless.clone()]);
    let without_it = next(&restless, |next| next.attachments.truncate(0));
    registry.apply(at(3), vec![without_it]);
    // By the former limit they would rest for ten seconds.
    assert!(registry.export_addresses(at(3)).holdings.is_empty());
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
        let explained = tables.explain(None, "attachment-1", &flow).unwrap();
        assert_eq!(explained.len(), 1);
        assert_eq!(explained[0].attachment, name("attachment-1"));
        explained[0].explanation.clone()
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
    let asked = |vpc, attachment| tables.explain(vpc, attachment, &flow);
    assert!(asked(Some("vpc"), "default/attachment-1").is_ok());
    assert_eq!(
        asked(Some("nowhere"), "attachment-1"),
        Err(ExplainError::UnknownVpc("nowhere".into()))
    );
    for (vpc, nobody) in [(None, "nobody"), (Some("vpc"), "other/attachment-1")] {
        let unknown = ExplainError::UnknownAttachment(nobody.into());
        assert_eq!(asked(vpc, nobody), Err(unknown));
    }
}

/// It may not come to keep them, so nobody may take them meanwhile; also over a restart.
#[test]
fn a_suspended_attachment_keeps_its_addresses_however_long() {
    const LONG_MS: u64 = 100_000;
    let mut first = snapshot("vpc", 2);
    // One address besides the gateway's.
    first.pools = vec![pool("10.200.0.0/30")];
    let mut registry = registry(&[&first]);
    let own = registry.admit(at(0), &request(1, 0)).unwrap();
    let suspended = next(&first, |next| next.attachments[0].suspended = true);
    let changes = registry.apply(at(1), vec![suspended.clone()]);
    assert_eq!(changes.ended.len(), 1);
    let refused = |registry: &mut Registry, now_ms| {
        let other = registry.admit(at(now_ms), &request(2, 0));
        assert!(matches!(other, Err(Refusal::PoolExhausted)), "{other:?}");
    };
    refused(&mut registry, LONG_MS);
    let state = registry.export_addresses(at(LONG_MS));
    let config = RegistryConfig::default();
    let mut registry = Registry::with_addresses(config, at(LONG_MS), &state);
    registry.apply(at(LONG_MS), vec![suspended.clone()]);
    refused(&mut registry, 2 * LONG_MS);
    let resumed = next(&suspended, |next| next.attachments[0].suspended = false);
    registry.apply(at(2 * LONG_MS), vec![resumed]);
    let again = registry.admit(at(2 * LONG_MS), &request(1, 0)).unwrap();
    assert_eq!(again.grant.addresses, own.grant.addresses);
    registry.release(
        at(2 * LONG_MS),
        again.grant.session,
        EndReason::ClientClosed,
    );
    // One that may come and does not loses them.
    assert!(registry.admit(at(3 * LONG_MS), &request(2, 0)).is_ok());
}
