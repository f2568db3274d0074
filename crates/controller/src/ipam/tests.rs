//! Addresses are given once, whatever operators do.

use std::net::Ipv4Addr;

use masque_model::{
    AddressPool, Attachment, AttachmentLimits, AuthMethods, BridgeMode, ConnectorKey, Fabric,
    SessionLimits, Sid, StaticFabric,
};
use proptest::prelude::*;

use super::*;

mod interleavings;

const NOW: u64 = 1_000;
const QUARANTINE_S: u64 = 600;

fn name(name: &str) -> ObjectName {
    ObjectName::new("team", name)
}

fn attachment(of: &str, fixed: &[&str]) -> Attachment {
    Attachment {
        name: name(of),
        connector: of.to_owned(),
        key: ConnectorKey::from_bytes([7; 32]),
        ipv4: true,
        ipv6: false,
        addresses: fixed.iter().map(|text| text.parse().unwrap()).collect(),
        routes: Vec::new(),
        suspended: false,
        limits: AttachmentLimits {
            sessions: 4,
            bits_per_second: None,
        },
    }
}

fn snapshot(pool: &str, attachments: Vec<Attachment>) -> Snapshot {
    let prefix = pool.parse().unwrap();
    Snapshot {
        version: 1,
        ingress_point: name("point"),
        vpc: name("vpc"),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![AddressPool {
            prefix,
            reserved: Vec::new(),
        }],
        routes: Vec::new(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid("fd00::1".parse().unwrap()),
            local_sid_ipv4: None,
            source_address: "fd00::2".parse().unwrap(),
            routes: Vec::new(),
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 0,
            resume_window_ms: 0,
            address_quarantine_ms: QUARANTINE_S * 1000,
            max_total: 10,
        },
        attachments,
        rules: Vec::new(),
        drain_deadline_ms: 0,
    }
}

/// What attachments hold; the version of each is its place plus ten.
fn held(entries: &[(&str, &[&str])]) -> Held {
    let mut held = Held::default();
    for (of, addresses) in entries {
        let version = 10 + held.holders.len() as u64;
        held.seen_version = version;
        let holder = Holder {
            vpc: name("vpc"),
            version,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        };
        held.holders.insert(name(of), holder);
    }
    held
}

fn run(snapshot: &mut Snapshot, held: &Held, ledger: Ledger) -> Assigned {
    let ledgers = [(name("point"), ledger)].into();
    assign(std::slice::from_mut(snapshot), held, held, &ledgers, NOW)
}

fn refused(assigned: &Assigned, of: &str) -> Option<Reason> {
    let outcome = assigned
        .outcomes
        .iter()
        .find(|outcome| outcome.attachment == name(of));
    match &outcome.unwrap().state {
        AssignState::Refused(refusal) => Some(refusal.reason),
        _ => None,
    }
}

#[test]
fn a_new_attachment_gets_a_claim_first_and_an_address_when_it_is_stored() {
    let mut first = snapshot("10.0.0.0/24", vec![attachment("a", &[])]);
    let assigned = run(&mut first, &held(&[("a", &[])]), Ledger::default());
    assert_eq!(first.attachments, []);
    assert_eq!(assigned.outcomes[0].state, AssignState::Pending);
    let ledger = &assigned.ledgers[&name("point")];
    let write = &assigned.writes[&name("a")];
    assert_eq!(ledger.claims["a"].addresses, write.addresses);
    assert_eq!((write.version, &write.after), (10, &[name("point")].into()));

    let text = write.addresses[0].to_string();
    let mut stored = held(&[("a", &[&text])]);
    stored.holders.get_mut(&name("a")).unwrap().version = 20;
    stored.seen_version = 20;
    let mut next = snapshot("10.0.0.0/24", vec![attachment("a", &[])]);
    let assigned = run(&mut next, &stored, ledger.clone());
    assert_eq!(next.attachments[0].addresses, write.addresses);
    assert_eq!(assigned.writes, BTreeMap::new());
    let done = &assigned.ledgers[&name("point")];
    assert_eq!((done.as_of, done.claims.len()), (20, 0));

    // At rest.
    let mut again = snapshot("10.0.0.0/24", vec![attachment("a", &[])]);
    let assigned = run(&mut again, &stored, done.clone());
    assert_eq!((assigned.ledgers.len(), assigned.writes.len()), (0, 0));
    assert_eq!(again, next);
}

#[test]
fn an_old_view_gives_nothing() {
    let ledger = Ledger {
        as_of: 99,
        ..Ledger::default()
    };
    let mut old = snapshot(
        "10.0.0.0/24",
        vec![attachment("a", &[]), attachment("b", &[])],
    );
    let assigned = run(&mut old, &held(&[("a", &["10.0.0.9"]), ("b", &[])]), ledger);
    assert_eq!((assigned.ledgers.len(), assigned.writes.len()), (0, 0));
    assert_eq!(old.attachments.len(), 1);
    assert_eq!(assigned.outcomes[1].state, AssignState::Pending);
}

#[test]
fn a_fixed_address_is_refused_when_taken_and_nobody_loses_it() {
    let both = vec![attachment("a", &[]), attachment("b", &["10.0.0.9"])];
    let mut taken = snapshot("10.0.0.0/24", both);
    let assigned = run(
        &mut taken,
        &held(&[("a", &["10.0.0.9"]), ("b", &[])]),
        Ledger::default(),
    );
    assert_eq!(refused(&assigned, "b"), Some(Reason::AddressUnavailable));
    assert_eq!(taken.attachments.len(), 1);
    assert_eq!(assigned.writes.len(), 0);
}

#[test]
fn a_pool_that_is_full_says_so() {
    // Two hosts, one of which is the gateway's.
    let both = vec![attachment("a", &[]), attachment("b", &[])];
    let mut full = snapshot("10.0.0.0/30", both);
    let assigned = run(
        &mut full,
        &held(&[("a", &["10.0.0.2"]), ("b", &[])]),
        Ledger::default(),
    );
    assert_eq!(refused(&assigned, "b"), Some(Reason::PoolExhausted));
    assert_eq!(refused(&assigned, "a"), None);
}

#[test]
fn addresses_of_the_gone_rest_but_return_to_their_owner() {
    let before = held(&[("a", &["10.0.0.2"]), ("b", &[])]);
    let mut now = before.clone();
    now.holders.remove(&name("a"));
    now.seen_version = 20;
    let mut only = snapshot("10.0.0.0/30", vec![attachment("b", &[])]);
    let none = BTreeMap::new();
    let assigned = assign(std::slice::from_mut(&mut only), &now, &before, &none, NOW);
    assert_eq!(refused(&assigned, "b"), Some(Reason::PoolExhausted));
    let ledger = assigned.ledgers[&name("point")].clone();

    let again = |of: &str, at: u64| {
        let mut snapshot = snapshot("10.0.0.0/30", vec![attachment(of, &[])]);
        let mut held = held(&[(of, &[])]);
        held.seen_version = 30;
        let ledgers = [(name("point"), ledger.clone())].into();
        let assigned = assign(
            std::slice::from_mut(&mut snapshot),
            &held,
            &held,
            &ledgers,
            at,
        );
        assigned.writes.len()
    };
    // The end of this second is not a whole rest after the end of the first.
    assert_eq!(again("b", NOW + QUARANTINE_S), 0);
    assert_eq!(again("b", NOW + QUARANTINE_S + 1), 1);
    assert_eq!(again("a", NOW + 1), 1);
}

/// It may have been stored, and a client have heard of it, before the attachment was deleted: nobody
/// looked in between.
#[test]
fn an_address_that_was_only_claimed_rests_as_well() {
    let mut first = snapshot("10.0.0.4/30", vec![attachment("a", &[])]);
    let assigned = run(&mut first, &held(&[("a", &[])]), Ledger::default());
    let claimed = assigned.ledgers[&name("point")].clone();
    let address = claimed.claims["a"].addresses[0];
    let nothing = Held {
        seen_version: 50,
        ..Held::default()
    };
    // Deleted, and deleted and made anew.
    let mut anew = held(&[("a", &[]), ("b", &[])]);
    for holder in anew.holders.values_mut() {
        holder.version += 40;
    }
    anew.seen_version = 51;
    for held in [nothing, anew] {
        let mut next = snapshot("10.0.0.4/30", vec![attachment("b", &[])]);
        let assigned = run(&mut next, &held, claimed.clone());
        assert_eq!(assigned.writes.len(), 0, "b has to wait");
        let ledger = &assigned.ledgers[&name("point")];
        assert!(ledger.claims.is_empty());
        assert_eq!(ledger.resting[&address].owner, "a");
        assert!(ledger.resting[&address].until_unix_s > NOW + QUARANTINE_S);
    }
}

#[test]
fn ledgers_are_bounded() {
    let mut ledger = Ledger::default();
    for i in 0..MAX_RESTING + 10 {
        let resting = Resting {
            until_unix_s: i as u64,
            owner: "a".repeat(63),
        };
        ledger.rest(Ipv4Addr::from(u32::try_from(i).unwrap()).into(), resting);
    }
    assert_eq!(ledger.resting.len(), MAX_RESTING);
    assert!(!ledger.resting.contains_key(&Ipv4Addr::from(9).into()));
    let names: Vec<_> = (0..MAX_CLAIMS + 10).map(|i| format!("{i:0>63}")).collect();
    let attachments = names.iter().map(|name| attachment(name, &[])).collect();
    let mut many = snapshot("10.0.0.0/16", attachments);
    let entries: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    let assigned = run(&mut many, &held(&entries), ledger);
    let ledger = &assigned.ledgers[&name("point")];
    assert_eq!(ledger.claims.len(), MAX_CLAIMS);
    // A ConfigMap holds 1 MiB.
    assert!(ledger.to_data()["ledger.json"].len() < 1024 * 1024);
    assert_eq!(Ledger::from_data(Some(&ledger.to_data())).unwrap(), *ledger);
}

#[test]
fn a_ledger_that_is_none_is_said_to_be() {
    let data = [("ledger.json".to_owned(), "[]x".to_owned())].into();
    let error = Ledger::from_data(Some(&data)).unwrap_err();
    assert!(error.to_string().contains("delete the ConfigMap"));
    assert_eq!(Ledger::from_data(None).unwrap(), Ledger::default());
}

proptest! {
    /// A pool is used to its last address, and none of what is given is special.
    #[test]
    fn every_address_of_a_pool_is_found(bits in 24_u8..=31, reserved in prop::option::of(28_u8..=32)) {
        let mut snapshot = snapshot(&format!("10.0.0.0/{bits}"), Vec::new());
        let at = format!("10.0.0.{}/{}", if bits == 31 { 0 } else { 1 }, reserved.unwrap_or(32));
        let part: ipnet::IpNet = at.parse().unwrap();
        let part = part.trunc();
        let inside = snapshot.pools[0].prefix.contains(&part);
        if reserved.is_some() && inside {
            snapshot.pools[0].reserved = vec![part];
        }
        let expected = snapshot.pools[0].prefix;
        let hosts = (0..1_u32 << (32 - bits)).filter(|i| {
            let address = IpAddr::from(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + i));
            crate::compile::unavailable(&address, &snapshot).is_none()
        });
        let count = hosts.count();
        let mut taken = BTreeSet::new();
        while let Some(address) = pool::free(&snapshot, true, taken.len() as u64 * 7919, taken.len(), |a| taken.contains(a)) {
            prop_assert!(expected.contains(&address));
            prop_assert!(taken.insert(address));
        }
        prop_assert_eq!(taken.len(), count);
    }
}
