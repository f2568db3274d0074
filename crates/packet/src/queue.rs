//! Packets that wait for a path narrower than their source: FQ-CoDel (RFC 8290), fair between
//! sessions first and between the flows of a session then.
//!
//! A queue in front of a tunnel decides what its users feel. One first-in-first-out queue lets a
//! single download put a second of waiting in front of everybody's keystrokes, and lets the busiest
//! session take what there is. Here every session has its turn, in it every flow, a flow that sends
//! little goes first, and a flow whose packets keep waiting for too long is told so by a mark or a
//! loss ([`Codel`], RFC 8289) long before memory runs out.
//!
//! Packets are copied into pages that are used again; their total is bounded. When it is used up the
//! longest flow of the fullest session loses its oldest packets (RFC 8290 §4.1.3).

mod codel;
mod flow;
mod key;
mod rounds;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

use foldhash::fast::FixedState;

use crate::{flow::FlowKey, segment::GsoInfo};
use codel::Codel;
use flow::Flow;
pub use key::{fragments_key, queue_key, queue_key_of};
use rounds::{Rounds, Turn};
use store::Store;

/// Flows of one session that have a queue of their own; more share (RFC 8290 §4.1.1).
const FLOWS_A_SESSION: usize = 256;
/// What a session or flow may send before the next one's turn: two packets of Ethernet.
const QUANTUM_BYTES: i64 = 3_028;
/// Pages that one overflow frees: looking for who is to lose packets costs what there are sessions
/// and flows, so a few are dropped at once (RFC 8290 §4.1.3 has 64 packets).
const OVERFLOW_PAGES: usize = 64;
/// Memory of a queue that has been empty for so long are given back.
const KEEP_EMPTY_US: u64 = 1_000_000;
/// No flow and no packet has this place.
const NOBODY: u32 = u32::MAX;

/// What a queue counted; the counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets and super-packets that had to wait.
    pub queued: u64,
    /// Packets dropped because the memory was used up, of a super-packet as many as it
    /// [becomes at most](GsoInfo::packets_at_most).
    pub overflowed: u64,
    /// Packets on which a flow was told that it waits for too long.
    pub congested: u64,
}

/// A packet whose turn it is.
#[derive(Debug)]
pub struct Queued<'a, S> {
    /// Whose it is.
    pub session: S,
    /// The packet or super-packet.
    pub packet: &'a mut [u8],
    /// How it is to be split.
    pub gso: GsoInfo,
    /// Its flow keeps waiting for too long and is to be told: by
    /// [`mark_congested`](crate::edit::mark_congested), or by the loss of one packet of it.
    pub congested: bool,
}

#[derive(Debug)]
struct Session<S> {
    key: S,
    /// Places of its flows by hash, [`NOBODY`] where there is none.
    buckets: Box<[u32]>,
    flows: Rounds,
    /// Memory its packets hold.
    held_pages: usize,
    turn: Turn,
}

/// Packets of many sessions that wait; `S` names a session and is never used for another one.
///
/// Time is an argument, in microseconds of any clock that does not go back. Nothing is allocated
/// while a queue is not longer than it ever was since it was empty for a second.
#[derive(Debug)]
pub struct FairQueue<S> {
    store: Store,
    /// Tells the bucket of a flow.
    hasher: FixedState,
    flows: Vec<Flow>,
    free_flows: Vec<u32>,
    sessions: Vec<Session<S>>,
    free_sessions: Vec<u32>,
    places: HashMap<S, u32, FixedState>,
    /// Whose turn it is. A session that has packets and is not in it had no room when its turn came.
    rounds: Rounds,
    /// The packet that [`pop`](Self::pop) gave out last.
    out: Option<u32>,
    packets: usize,
    empty_since_us: u64,
    stats: QueueStats,
}

impl<S: Copy + Eq + Hash> FairQueue<S> {
    /// An empty queue whose packets take `memory_bytes` at most, beside a copy of the one that is given
    /// out. `salt` is random, so that nobody can send what shares the bucket of another flow (RFC 8290
    /// §4.1).
    #[must_use]
    pub fn new(memory_bytes: usize, salt: u64) -> Self {
        Self::with_hasher(memory_bytes, FixedState::with_seed(salt))
    }

    fn with_hasher(memory_bytes: usize, hasher: FixedState) -> Self {
        Self {
            store: Store::new(memory_bytes),
            hasher,
            flows: Vec::new(),
            free_flows: Vec::new(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            places: HashMap::default(),
            rounds: Rounds::default(),
            out: None,
            packets: 0,
            empty_since_us: 0,
            stats: QueueStats::default(),
        }
    }

    /// Whether nothing waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// How many packets and super-packets wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets
    }

    /// Whether packets of `session` wait: later ones must wait behind them.
    #[inline]
    #[must_use]
    pub fn holds(&self, session: S) -> bool {
        self.packets != 0 && self.places.contains_key(&session)
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Memory that packets take or took.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.store.touched_bytes()
    }

    /// Puts a packet or super-packet at the end of its flow, which [`queue_key`] tells. Makes room for
    /// it by dropping from the longest flow of the fullest session.
    pub fn push(&mut self, now_us: u64, session: S, flow: &FlowKey, packet: &[u8], gso: &GsoInfo) {
        let Some(packet_at) = self.keep(now_us, packet, gso) else {
            self.stats.overflowed += gso.packets_at_most(packet.len()) as u64;
            return;
        };
        let at = self.session(session);
        let place = self.flow(at, flow);
        self.sessions[at as usize].held_pages += self.store.packet(packet_at).pages();
        self.flows[place as usize].push(&mut self.store, packet_at);
        self.packets += 1;
        self.stats.queued += 1;
    }

    /// The next packet by everybody's turns. `has_room` is asked with a session, the length of its
    /// next packet and how that is split; a session for which it says no is left out until
    /// [`resume`](Self::resume).
    pub fn pop(
        &mut self,
        now_us: u64,
        mut has_room: impl FnMut(S, usize, &GsoInfo) -> bool,
    ) -> Option<Queued<'_, S>> {
        self.give_back();
        loop {
            let at = self.rounds.head()?;
            let session = &mut self.sessions[at as usize];
            let key = session.key;
            if session.flows.is_empty() {
                if !self.rounds.retire_head(&mut session.turn) {
                    self.end(at);
                }
            } else if !session.turn.is_due() {
                self.rounds.rotate(&mut session.turn, QUANTUM_BYTES);
            } else if let Some((flow, next)) = self.next_flow(at) {
                let next = self.store.packet(next);
                if has_room(key, next.packet_bytes, &next.gso) {
                    return self.take(now_us, at, flow);
                }
                self.rounds.park_head(&mut self.sessions[at as usize].turn);
            }
        }
    }

    /// Gives a session that had no room its turns again, when it may have some.
    pub fn resume(&mut self, session: S) {
        if let Some(at) = self.places.get(&session) {
            let turn = &mut self.sessions[*at as usize].turn;
            if !turn.is_in_rounds() {
                self.rounds.enter_old(*at, turn);
            }
        }
    }

    /// Gives all memory back once nothing has waited for a second.
    pub fn trim(&mut self, now_us: u64) {
        let idle_us = now_us.saturating_sub(self.empty_since_us);
        if self.packets == 0 && self.store.touched_bytes() > 0 && idle_us >= KEEP_EMPTY_US {
            let stats = self.stats;
            *self = Self::with_hasher(self.store.limit_bytes(), self.hasher.clone());
            self.stats = stats;
        }
    }

    /// Keeps a packet, if need be in place of others; `None` for what no queue holds.
    fn keep(&mut self, now_us: u64, packet: &[u8], gso: &GsoInfo) -> Option<u32> {
        if packet.len() > store::LONGEST_BYTES {
            return None;
        }
        loop {
            match self.store.put(now_us, packet, gso) {
                None if self.drop_longest() => {}
                kept => return kept,
            }
        }
    }

    /// Takes the oldest packet of a flow that is there.
    fn take(&mut self, now_us: u64, at: u32, place: u32) -> Option<Queued<'_, S>> {
        let (session, flow) = (
            &mut self.sessions[at as usize],
            &mut self.flows[place as usize],
        );
        let key = session.key;
        let packet_at = flow.pop(&self.store)?;
        let packet = *self.store.packet(packet_at);
        session.held_pages -= packet.pages();
        session.turn.spend(packet.packet_bytes);
        flow.turn.spend(packet.packet_bytes);
        let waited_us = now_us.saturating_sub(packet.at_us);
        let congested = flow.codel.judge(now_us, waited_us, flow.packet_bytes());
        self.packets -= 1;
        self.stats.congested += u64::from(congested);
        if self.packets == 0 {
            self.empty_since_us = now_us;
        }
        self.out = Some(packet_at);
        Some(Queued {
            session: key,
            gso: packet.gso,
            packet: self.store.bytes(packet_at),
            congested,
        })
    }

    /// The flow of a session whose turn it is, and its next packet. Flows that have none leave.
    fn next_flow(&mut self, at: u32) -> Option<(u32, u32)> {
        let session = &mut self.sessions[at as usize];
        loop {
            let place = session.flows.head()?;
            let flow = &mut self.flows[place as usize];
            if !flow.turn.is_due() {
                session.flows.rotate(&mut flow.turn, QUANTUM_BYTES);
            } else if let Some(next) = flow.first() {
                return Some((place, next));
            } else if !session.flows.retire_head(&mut flow.turn) {
                session.buckets[flow.bucket] = NOBODY;
                flow.codel = Codel::default();
                self.free_flows.push(place);
            }
        }
    }

    /// The place of a session, new or old.
    fn session(&mut self, key: S) -> u32 {
        if let Some(at) = self.places.get(&key) {
            return *at;
        }
        let at = match self.free_sessions.pop() {
            Some(at) => {
                self.sessions[at as usize].key = key;
                at
            }
            None => {
                self.sessions.push(Session {
                    key,
                    buckets: vec![NOBODY; FLOWS_A_SESSION].into_boxed_slice(),
                    flows: Rounds::default(),
                    held_pages: 0,
                    turn: Turn::default(),
                });
                place(self.sessions.len())
            }
        };
        self.places.insert(key, at);
        self.rounds
            .enter_new(at, &mut self.sessions[at as usize].turn, QUANTUM_BYTES);
        at
    }

    /// The place of a flow in a session, new or old.
    fn flow(&mut self, at: u32, key: &FlowKey) -> u32 {
        let session = &mut self.sessions[at as usize];
        let bucket = bucket(&self.hasher, key);
        if session.buckets[bucket] != NOBODY {
            return session.buckets[bucket];
        }
        let at = self.free_flows.pop().unwrap_or_else(|| {
            self.flows.push(Flow::default());
            place(self.flows.len())
        });
        let flow = &mut self.flows[at as usize];
        flow.bucket = bucket;
        session.buckets[bucket] = at;
        session.flows.enter_new(at, &mut flow.turn, QUANTUM_BYTES);
        at
    }

    /// Forgets a session without flows.
    fn end(&mut self, at: u32) {
        self.places.remove(&self.sessions[at as usize].key);
        self.free_sessions.push(at);
    }

    /// Frees [`OVERFLOW_PAGES`] where it can: of the fullest session, then of others more than half as
    /// full. False when nothing waits.
    fn drop_longest(&mut self) -> bool {
        let held = |at: u32| self.sessions[at as usize].held_pages;
        let Some(fullest) = self.places.values().copied().max_by_key(|at| held(*at)) else {
            return false;
        };
        let most_pages = held(fullest);
        let mut freed = self.shorten(fullest, OVERFLOW_PAGES);
        for at in 0..=place(self.sessions.len()) {
            if freed >= OVERFLOW_PAGES {
                break;
            }
            if at != fullest && 2 * self.sessions[at as usize].held_pages > most_pages {
                freed += self.shorten(at, OVERFLOW_PAGES - freed);
            }
        }
        freed > 0
    }

    /// Frees so many pages of a session, but not more than half: of its longest flow, then of those
    /// more than half as long. How many it were.
    fn shorten(&mut self, at: u32, wanted_pages: usize) -> usize {
        let session = &mut self.sessions[at as usize];
        let wanted_pages = wanted_pages.min(session.held_pages.div_ceil(2));
        let held = |place: u32| self.flows[place as usize].held_pages();
        let Some(longest) = session.flows.iter().max_by_key(|place| held(*place)) else {
            return 0;
        };
        let most_pages = held(longest);
        let mut freed = 0;
        for place in std::iter::once(longest).chain(session.flows.iter()) {
            let flow = &mut self.flows[place as usize];
            if freed < wanted_pages && 2 * flow.held_pages() > most_pages {
                let (packets, pages) =
                    flow.halve(&mut self.store, wanted_pages - freed, |packet| {
                        let lost = packet.gso.packets_at_most(packet.packet_bytes);
                        self.stats.overflowed += lost as u64;
                    });
                self.packets -= packets;
                freed += pages;
            }
        }
        session.held_pages -= freed;
        freed
    }

    fn give_back(&mut self) {
        if let Some(at) = self.out.take() {
            self.store.give_back(at);
        }
    }
}

/// The place of the last of `count` entries; memory ends long before `u32` does.
fn place(count: usize) -> u32 {
    u32::try_from(count - 1).unwrap_or(NOBODY - 1)
}

fn bucket(hasher: &FixedState, key: &FlowKey) -> usize {
    (hasher.hash_one(key) >> 56) as usize % FLOWS_A_SESSION
}
