//! Sessions: whose packet it is, on which shard, and when they are idle.

use super::*;
use crate::fixture::snapshot;
use crate::registry::Grant;

fn grant(bench: &mut Bench, number: u32, shard: u16) -> Grant {
    bench
        .registry
        .admit(bench.now, &request(number, shard))
        .unwrap()
        .grant
}

fn bench() -> Bench {
    Bench::new(&[snapshot("vpc", 9)])
}

#[test]
fn a_slot_that_was_given_up_finds_nothing() {
    let mut bench = bench();
    let slot = bench.open(5);
    bench.plane.detach(slot);
    bench.plane.detach(slot);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)),
        (DropReason::UnknownSession, None)
    );
    assert_eq!(bench.plane.session_count(), 0);
    let other = bench.open(6);
    assert_eq!(other.index, slot.index);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::UnknownSession
    );
    assert!(bench.passes_up(other, udp("10.200.0.6", WORKLOAD)));
    assert_eq!(
        bench
            .plane
            .stray_counters()
            .dropped(DropReason::UnknownSession),
        2
    );
    assert_eq!(
        bench.down_drop(udp_ports(WORKLOAD, CLIENT, 53, 1_000)).0,
        DropReason::NoSession
    );
}

#[test]
fn the_newest_session_carries_the_traffic_and_keeps_the_flows() {
    let mut bench = bench();
    let old = bench.open(5);
    assert!(bench.passes_up(old, udp(CLIENT, WORKLOAD)));
    let new = bench.open(5);
    assert_eq!(
        (bench.plane.is_active(old), bench.plane.is_active(new)),
        (false, true)
    );
    assert_eq!(
        bench.up_drop(old, udp(CLIENT, WORKLOAD)).0,
        DropReason::InactiveSession
    );
    let verdict = bench.down(udp_ports(WORKLOAD, CLIENT, 53, 1_000));
    assert!(
        matches!(verdict, VpcVerdict::ToSession { slot, .. } if slot == new),
        "{verdict:?}"
    );
    bench.plane.detach(new);
    assert!(bench.plane.is_active(old));
    let verdict = bench.down(udp_ports(WORKLOAD, CLIENT, 53, 1_000));
    assert!(
        matches!(verdict, VpcVerdict::ToSession { slot, .. } if slot == old),
        "{verdict:?}"
    );
}

#[test]
fn packets_of_another_shards_session_are_handed_over_once() {
    let mut bench = bench();
    let there = grant(&mut bench, 5, 3);
    bench.plane.attach_elsewhere(&there);
    let mut packet = udp(WORKLOAD, CLIENT);
    assert_eq!(
        bench.down(packet.clone()),
        VpcVerdict::HandOver { shard: 3 }
    );
    assert_eq!(
        *bench.plane.vpc_counters(VpcIndex(0)).unwrap(),
        Counters::default()
    );
    let gso = GsoInfo::default();
    let (now, vpc) = (bench.now, VpcIndex(0));
    let verdict = bench
        .plane
        .from_vpc_handed_over(now, vpc, &mut packet, &gso, &mut bench.reply);
    assert_eq!(verdict, VpcVerdict::Drop(DropReason::NoSession));
    // It moves here, the order of the messages does not matter.
    let here = grant(&mut bench, 5, 0);
    let slot = bench.plane.attach(bench.now, &here, MTU).unwrap();
    bench.plane.attach_elsewhere(&there);
    assert!(bench.plane.is_active(slot));
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    bench.plane.forget(there.attachment, there.session);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    // A newer one elsewhere takes over.
    let newer = grant(&mut bench, 5, 7);
    bench.plane.attach_elsewhere(&newer);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::InactiveSession
    );
    assert_eq!(
        bench.down(udp(WORKLOAD, CLIENT)),
        VpcVerdict::HandOver { shard: 7 }
    );
    bench.plane.forget(newer.attachment, newer.session);
    assert!(bench.plane.is_active(slot));
}

#[test]
fn vpcs_with_the_same_addresses_stay_apart() {
    let mut bench = Bench::new(&[snapshot("one", 9), snapshot("two", 9)]);
    let one = bench.open_with(AdmitRequest {
        vpc: Some("one"),
        ..request(5, 0)
    });
    let two = bench.open_with(AdmitRequest {
        vpc: Some("two"),
        ..request(5, 0)
    });
    let up = |bench: &mut Bench, slot| match bench.up(slot, udp(CLIENT, WORKLOAD)) {
        ClientVerdict::Forward { vpc, .. } => vpc,
        verdict => panic!("{verdict:?}"),
    };
    let (vpc_one, vpc_two) = (up(&mut bench, one), up(&mut bench, two));
    assert_ne!(vpc_one, vpc_two);
    for (vpc, expected) in [(vpc_one, one), (vpc_two, two)] {
        let mut reply = udp_ports(WORKLOAD, CLIENT, 53, 1_000);
        let gso = GsoInfo::default();
        let verdict = bench
            .plane
            .from_vpc(bench.now, vpc, &mut reply, &gso, &mut bench.reply);
        assert!(
            matches!(verdict, VpcVerdict::ToSession { slot, .. } if slot == expected),
            "{verdict:?}"
        );
    }
    // A flow of one VPC is none of the other's.
    bench.plane.detach(two);
    let again = bench.open_with(AdmitRequest {
        vpc: Some("two"),
        ..request(5, 0)
    });
    assert_eq!(again.index, two.index);
    let mut reply = udp_ports(WORKLOAD, CLIENT, 53, 1_000);
    let gso = GsoInfo::default();
    let verdict = bench
        .plane
        .from_vpc(bench.now, vpc_two, &mut reply, &gso, &mut bench.reply);
    let drop = Some(DropReason::PolicyNotAllowed);
    assert!(
        matches!(verdict, VpcVerdict::Reply { drop: d, .. } if d == drop),
        "{verdict:?}"
    );
}

#[test]
fn the_tables_of_a_vpc_that_went_drop_its_packets() {
    let mut bench = bench();
    let slot = bench.open(5);
    let changes = bench.registry.apply(bench.now, Vec::new());
    bench.plane.set_tables(bench.now, changes.tables);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::AttachmentGone
    );
    assert_eq!(
        bench.down_drop(udp(WORKLOAD, CLIENT)).0,
        DropReason::NoSession
    );
    assert!(bench.plane.vpc_counters(VpcIndex(0)).is_none());
}

#[test]
fn a_suspended_attachment_is_cut_before_its_session_ends() {
    let first = snapshot("vpc", 9);
    let mut bench = Bench::new(std::slice::from_ref(&first));
    let slot = bench.open(5);
    assert!(bench.passes_up(slot, udp(CLIENT, WORKLOAD)));
    let mut edited = first;
    edited.version = 2;
    edited.attachments[4].suspended = true;
    let changes = bench.registry.apply(bench.now, vec![Arc::new(edited)]);
    bench.plane.set_tables(bench.now, changes.tables);
    assert_eq!(
        bench.up_drop(slot, udp(CLIENT, WORKLOAD)).0,
        DropReason::AttachmentGone
    );
}

#[test]
fn sessions_are_bounded() {
    let config = DataplaneConfig {
        sessions_max: 2,
        ..DataplaneConfig::default()
    };
    let mut bench = Bench::with_config(&[snapshot("vpc", 9)], config);
    let one = bench.open(1);
    bench.open(2);
    let third = grant(&mut bench, 3, 0);
    assert_eq!(bench.plane.attach(bench.now, &third, MTU), None);
    bench.plane.detach(one);
    assert!(bench.plane.attach(bench.now, &third, MTU).is_some());
}

fn expired(bench: &mut Bench) -> Vec<SlotId> {
    let mut slots = Vec::new();
    bench.plane.expired(bench.now, &mut slots);
    slots
}

#[test]
fn n44_idle_sessions_are_found() {
    let mut bench = bench();
    assert_eq!(bench.plane.poll_timeout(bench.now), None);
    let (idle, busy) = (bench.open(5), bench.open(6));
    assert!(bench.plane.poll_timeout(bench.now).is_some());
    for _ in 0..59 {
        bench.wait(1_000);
        assert!(bench.passes_up(busy, udp("10.200.0.6", WORKLOAD)));
        assert_eq!(expired(&mut bench), []);
    }
    bench.wait(1_000);
    assert_eq!(expired(&mut bench), [idle]);
    assert!(bench.plane.poll_timeout(bench.now).unwrap() > bench.now.mono_ms);
    bench.wait(1_000);
    assert_eq!(expired(&mut bench), [idle], "until it is given up");
    bench.plane.detach(idle);
    // A packet from the VPC that is delivered counts, one that is not does not.
    assert!(bench.passes_down(udp_ports(WORKLOAD, "10.200.0.6", 53, 1_000)));
    bench.wait(59_000);
    bench.down_drop(udp(WORKLOAD, "10.200.0.6"));
    assert_eq!(expired(&mut bench), []);
    bench.wait(1_000);
    assert_eq!(expired(&mut bench), [busy]);
}

#[test]
fn n44_the_idle_scan_is_bounded_and_complete() {
    let mut many = snapshot("vpc", 0);
    let count = u32::try_from(idle::SLOTS_PER_TICK).unwrap() + 100;
    many.attachments = (1..=count).map(crate::fixture::attachment).collect();
    many.pools = vec![crate::fixture::pool("fd00:200::/64")];
    many.sessions.max_total = count;
    let mut bench = Bench::new(&[many]);
    for number in 1..=count {
        bench.open(number);
    }
    bench.wait(60_000);
    let first = expired(&mut bench);
    assert_eq!(first.len(), idle::SLOTS_PER_TICK);
    assert_eq!(expired(&mut bench), [], "not before the next tick");
    bench.wait(idle::TICK_MS);
    let second = expired(&mut bench);
    let all: std::collections::BTreeSet<u32> =
        first.iter().chain(&second).map(|slot| slot.index).collect();
    assert_eq!(all.len(), count as usize);
}

#[test]
fn a_session_that_never_times_out_is_never_expired() {
    let mut endless = snapshot("vpc", 9);
    endless.sessions.idle_timeout_ms = 0;
    let mut bench = Bench::new(&[endless]);
    bench.open(5);
    bench.wait(1_000_000_000);
    assert_eq!(expired(&mut bench), []);
}
