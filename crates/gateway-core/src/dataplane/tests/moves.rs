//! Flows follow their attachment from shard to shard.

use masque_model::{Action, Direction};

use super::*;
use crate::fixture::{port, rule, snapshot};
use crate::registry::Grant;

/// A registry and two shards that run what it says.
struct Pair {
    registry: Registry,
    planes: [Dataplane; 2],
    now: Now,
    reply: Vec<u8>,
}

/// Clients may open connections to port 80, workloads to port 7000.
fn rules() -> Snapshot {
    let mut rules = snapshot("vpc", 9);
    for (rule, number) in [
        (rule("web", Action::Allow, Direction::ToVpc), 80),
        (rule("callback", Action::Allow, Direction::FromVpc), 7_000),
    ] {
        rules.rules.push(masque_model::Rule {
            ports: vec![port(6, number)],
            ..rule
        });
    }
    rules.rules.remove(0);
    rules
}

impl Pair {
    fn new() -> Self {
        let now = Now {
            mono_ms: 1_000_000,
            unix_s: 1_000_000,
        };
        let mut registry = Registry::new(RegistryConfig::default());
        let changes = registry.apply(now, vec![Arc::new(rules())]);
        let planes = [0, 1].map(|shard| {
            let config = DataplaneConfig {
                shard,
                flow_entries: 512,
                hash_seed: shard.into(),
                ..Default::default()
            };
            Dataplane::new(config, now, changes.tables.clone())
        });
        Self {
            registry,
            planes,
            now,
            reply: vec![0; 2048],
        }
    }

    fn apply(&mut self, snapshot: Snapshot) {
        let changes = self.registry.apply(self.now, vec![Arc::new(snapshot)]);
        for plane in &mut self.planes {
            plane.set_tables(self.now, changes.tables.clone());
        }
    }

    fn admit(&mut self, shard: u16) -> Grant {
        let admitted = self.registry.admit(self.now, &request(5, shard));
        admitted.unwrap().grant
    }

    /// A session of attachment 5 on a shard, with the flows of an older one.
    fn open(&mut self, shard: u16) -> (Grant, SlotId) {
        let grant = self.admit(shard);
        let here = usize::from(shard);
        let slot = self.planes[here].attach(self.now, &grant, MTU).unwrap();
        let moved = self.planes[1 - here].attach_elsewhere(&grant);
        self.accept(moved);
        (grant, slot)
    }

    fn close(&mut self, (grant, slot): (Grant, SlotId)) {
        let here = usize::from(grant.shard);
        let moved = self.planes[here].detach(slot);
        let other = &mut self.planes[1 - here];
        assert!(other.forget(grant.attachment, grant.session).is_none());
        self.accept(moved);
    }

    fn accept(&mut self, moved: Option<MovedFlows>) {
        if let Some(moved) = moved {
            let plane = &mut self.planes[usize::from(moved.shard())];
            assert!(plane.accept_flows(self.now, moved).is_none());
        }
    }

    fn passes_up(&mut self, (grant, slot): &(Grant, SlotId), mut packet: Vec<u8>) -> bool {
        let plane = &mut self.planes[usize::from(grant.shard)];
        let verdict = plane.from_client(self.now, *slot, &mut packet, &mut self.reply);
        matches!(verdict, ClientVerdict::Forward { .. })
    }

    fn passes_down(&mut self, shard: usize, mut packet: Vec<u8>) -> bool {
        let gso = GsoInfo::default();
        let (plane, reply) = (&mut self.planes[shard], &mut self.reply);
        let verdict = plane.from_vpc(self.now, VpcIndex(0), &mut packet, &gso, reply);
        matches!(verdict, VpcVerdict::ToSession { .. })
    }

    /// The client opens a connection to port 80, the workload one to port 7000.
    fn connect(&mut self, session: &(Grant, SlotId)) {
        let syn_ack = tcp_flag::SYN | tcp_flag::ACK;
        let shard = usize::from(session.0.shard);
        assert!(self.passes_up(session, tcp(CLIENT, WORKLOAD, (1_000, 80), tcp_flag::SYN)));
        assert!(self.passes_down(shard, tcp(WORKLOAD, CLIENT, (80, 1_000), syn_ack)));
        assert!(self.passes_down(shard, tcp(WORKLOAD, CLIENT, (2_000, 7_000), tcp_flag::SYN)));
        assert!(self.passes_up(session, tcp(CLIENT, WORKLOAD, (7_000, 2_000), syn_ack)));
    }

    fn flows(&self) -> [u32; 2] {
        [0, 1].map(|shard: usize| self.planes[shard].flow_gauge().flows)
    }
}

/// What the server pushes, and what the client sends on a connection that the workload opened.
fn middle() -> (Vec<u8>, Vec<u8>) {
    (
        tcp(WORKLOAD, CLIENT, (80, 1_000), tcp_flag::ACK),
        tcp(CLIENT, WORKLOAD, (7_000, 2_000), tcp_flag::ACK),
    )
}

#[test]
fn a_reconnect_on_another_shard_keeps_the_flows() {
    let mut pair = Pair::new();
    let asleep = pair.open(0);
    pair.connect(&asleep);
    let awake = pair.open(1);
    assert_eq!(pair.flows(), [0, 2]);
    let (push, answer) = middle();
    assert!(pair.passes_down(1, push.clone()));
    assert!(pair.passes_up(&awake, answer.clone()));
    // The old connection times out.
    pair.close(asleep);
    assert!(pair.passes_down(1, push.clone()) && pair.passes_up(&awake, answer.clone()));
    // Who only may reply opens nothing there, either.
    assert!(!pair.passes_down(1, tcp(WORKLOAD, CLIENT, (80, 1_000), tcp_flag::SYN)));
    // And to and fro.
    let again = pair.open(0);
    assert!(pair.passes_down(0, push) && pair.passes_up(&again, answer));
    assert_eq!(pair.flows(), [2, 0]);
}

#[test]
fn the_flows_come_back_when_the_newer_session_ends() {
    let mut pair = Pair::new();
    let old = pair.open(0);
    pair.connect(&old);
    let new = pair.open(1);
    pair.close(new);
    assert_eq!(pair.flows(), [2, 0]);
    let (push, answer) = middle();
    assert!(pair.passes_down(0, push) && pair.passes_up(&old, answer));
    pair.close(old);
    assert_eq!(pair.flows(), [0, 0]);
}

#[test]
fn flows_that_moved_are_judged_by_the_rules_and_the_scope_of_now() {
    let mut pair = Pair::new();
    let old = pair.open(0);
    pair.connect(&old);
    let grant = pair.admit(1);
    let _slot = pair.planes[1].attach(pair.now, &grant, MTU).unwrap();
    let moved = pair.planes[0].attach_elsewhere(&grant);
    // While they are on their way.
    let mut edited = rules();
    edited.version = 2;
    edited.rules.remove(0);
    pair.apply(edited);
    pair.accept(moved);
    let (push, _) = middle();
    assert!(!pair.passes_down(1, push));
    assert!(pair.passes_down(1, tcp(WORKLOAD, CLIENT, (2_000, 7_000), tcp_flag::ACK)));
}

#[test]
fn flows_keep_their_age() {
    let mut pair = Pair::new();
    let old = pair.open(0);
    pair.connect(&old);
    // A connection that lives for 75 seconds without an answer, and did for 74.
    assert!(pair.passes_up(&old, tcp(CLIENT, WORKLOAD, (1_001, 80), tcp_flag::SYN)));
    pair.now.mono_ms += 74_000;
    pair.open(1);
    assert_eq!(pair.flows(), [0, 3]);
    pair.now.mono_ms += 2_000;
    assert!(!pair.passes_down(1, tcp(WORKLOAD, CLIENT, (80, 1_001), tcp_flag::ACK)));
    assert!(pair.passes_down(1, middle().0));
}

#[test]
fn flows_that_come_late_are_sent_on_and_then_dropped() {
    let mut pair = Pair::new();
    let first = pair.open(0);
    pair.connect(&first);
    let second = pair.admit(1);
    let slot = pair.planes[1].attach(pair.now, &second, MTU).unwrap();
    let moved = pair.planes[0].attach_elsewhere(&second).unwrap();
    assert_eq!((moved.shard(), moved.count()), (1, 2));
    // Shard 1 hears of a third session before the flows arrive.
    let third = pair.admit(0);
    let _slot = pair.planes[0].attach(pair.now, &third, MTU).unwrap();
    assert!(pair.planes[1].attach_elsewhere(&third).is_none());
    let onwards = pair.planes[1].accept_flows(pair.now, moved).unwrap();
    assert_eq!(onwards.shard(), 0);
    pair.accept(Some(onwards));
    assert!(pair.passes_down(0, middle().0));
    // Flows for a session that has ended meanwhile.
    let fourth = pair.admit(1);
    let moved = pair.planes[0].attach_elsewhere(&fourth).unwrap();
    assert!(pair.planes[1].detach(slot).is_none());
    assert!(pair.planes[1].accept_flows(pair.now, moved).is_none());
    assert_eq!(pair.flows(), [0, 0]);
}

#[test]
fn no_more_flows_move_than_an_attachment_may_have() {
    let mut pair = Pair::new();
    let old = pair.open(0);
    for port in 0..300 {
        assert!(pair.passes_up(&old, tcp(CLIENT, WORKLOAD, (port, 80), tcp_flag::SYN)));
    }
    let share = pair.planes[0].flow_gauge().share;
    assert_eq!(pair.flows(), [share, 0]);
    pair.open(1);
    assert_eq!(pair.flows(), [0, share]);
}
