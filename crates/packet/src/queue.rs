//! Packets that wait for a path narrower than their source: FQ-CoDel (RFC 8290), fair between
//! sessions first and between the flows of a session then.
//!
//! A queue in front of a tunnel decides what its users feel. One first-in-first-out queue lets a
//! single download put a second of waiting in front of everybody's keystrokes, and lets the busiest
//! session take what there is. Here every session has its turn, in it every flow, a flow that sends
//! little goes first, and a flow whose packets keep waiting for too long is told so by a mark or a
//! loss ([`Codel`], RFC 8289) long before memory runs out.
//!
//! Packets are copied into buffers that are used again; their total is bounded. When it is used up
//! the longest flow of the fullest session loses its oldest packets (RFC 8290 §4.1.3).

mod codel;
mod key;
mod rounds;
mod store;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, collections::VecDeque, hash::Hash};

use foldhash::fast::FixedState;

use crate::{
    flow::FlowKey,
    segment::{GsoInfo, segments},
};
use codel::Codel;
pub use key::{fragments_key, queue_key, queue_key_of};
use rounds::{Rounds, Turn};
use store::Store;

/// Flows of one session that have a queue of their own; more share (RFC 8290 §4.1.1).
const FLOWS_A_SESSION: usize = 256;
/// What a session or flow may send before the next one's turn: two packets of Ethernet.
const QUANTUM_BYTES: i64 = 3_028;
/// Packets that one overflow takes from the longest flow at most (RFC 8290 §4.1.3).
const OVERFLOW_BATCH: usize = 64;
/// Buffers of a queue that has been empty for so long are given back.
const KEEP_EMPTY_US: u64 = 1_000_000;
/// No flow has this place.
const NOBODY: u32 = u32::MAX;

/// What a queue counted; the counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Packets and super-packets that had to wait.
    pub queued: u64,
    /// Packets dropped because the memory was used up, the segments of super-packets one by one.
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
struct Packet {
    buffer: Box<[u8]>,
    packet_bytes: usize,
    gso: GsoInfo,
    at_us: u64,
}

#[derive(Debug, Default)]
struct Flow {
    packets: VecDeque<Packet>,
    /// Memory its packets hold.
    held_bytes: usize,
    /// Length of its packets.
    packet_bytes: usize,
    bucket: usize,
    turn: Turn,
    codel: Codel,
}

#[derive(Debug)]
struct Session<S> {
    key: S,
    /// Places of its flows by hash, [`NOBODY`] where there is none.
    buckets: Box<[u32]>,
    flows: Rounds,
    held_bytes: usize,
    turn: Turn,
}

/// Packets of many sessions that wait; `S` names a session and is never used for another one.
///
/// Time is an argument, in microseconds of any clock that does not go back. Nothing is allocated
/// while a queue goes on being as long as it was.
#[derive(Debug)]
pub struct FairQueue<S> {
    store: Store,
    flows: Vec<Flow>,
    free_flows: Vec<u32>,
    sessions: Vec<Session<S>>,
    free_sessions: Vec<u32>,
    places: HashMap<S, u32, FixedState>,
    rounds: Rounds,
    /// Sessions that had no room when it was their turn.
    parked: Vec<u32>,
    /// The packet that [`pop`](Self::pop) gave out last.
    out: Option<Packet>,
    packets: usize,
    empty_since_us: u64,
    stats: QueueStats,
}

impl<S: Copy + Eq + Hash> FairQueue<S> {
    /// An empty queue whose packets take `memory_bytes` at most.
    #[must_use]
    pub fn new(memory_bytes: usize) -> Self {
        Self {
            store: Store::new(memory_bytes),
            flows: Vec::new(),
            free_flows: Vec::new(),
            sessions: Vec::new(),
            free_sessions: Vec::new(),
            places: HashMap::default(),
            rounds: Rounds::default(),
            parked: Vec::new(),
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

    /// Memory that packets and spare buffers take.
    #[must_use]
    pub const fn memory_bytes(&self) -> usize {
        self.store.allocated_bytes()
    }

    /// Puts a packet or super-packet at the end of its flow, which [`queue_key`] tells. Makes room for it by dropping from the
    /// longest flow of the fullest session.
    pub fn push(&mut self, now_us: u64, session: S, flow: &FlowKey, packet: &[u8], gso: &GsoInfo) {
        let Some(mut buffer) = self.room_for(packet.len()) else {
            self.stats.overflowed += packets_in(packet, gso);
            return;
        };
        buffer[..packet.len()].copy_from_slice(packet);
        let at = self.session(session);
        let place = self.flow(at, flow);
        let (session, flow) = (
            &mut self.sessions[at as usize],
            &mut self.flows[place as usize],
        );
        session.held_bytes += buffer.len();
        flow.held_bytes += buffer.len();
        flow.packet_bytes += packet.len();
        flow.packets.push_back(Packet {
            buffer,
            packet_bytes: packet.len(),
            gso: *gso,
            at_us: now_us,
        });
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
                if has_room(key, next.packet_bytes, &next.gso) {
                    return self.take(now_us, at, flow);
                }
                self.rounds.park_head(&mut self.sessions[at as usize].turn);
                self.parked.push(at);
            }
        }
    }

    /// Gives sessions that had no room their turns again. Once a turn of the caller's loop, before
    /// the first [`pop`](Self::pop).
    pub fn resume(&mut self) {
        for at in self.parked.drain(..) {
            self.rounds
                .enter_old(at, &mut self.sessions[at as usize].turn);
        }
    }

    /// Gives all memory back once nothing has waited for a second.
    pub fn trim(&mut self, now_us: u64) {
        let idle_us = now_us.saturating_sub(self.empty_since_us);
        if self.packets == 0 && self.store.allocated_bytes() > 0 && idle_us >= KEEP_EMPTY_US {
            let stats = self.stats;
            *self = Self::new(self.store.limit_bytes());
            self.stats = stats;
        }
    }

    /// A buffer, if need be in place of other packets; `None` for what no queue holds.
    fn room_for(&mut self, bytes: usize) -> Option<Box<[u8]>> {
        if bytes > store::LONGEST_BYTES {
            return None;
        }
        loop {
            match self.store.take(bytes) {
                Some(buffer) => return Some(buffer),
                None if self.drop_longest() => {}
                None => return None,
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
        let packet = flow.packets.pop_front()?;
        session.held_bytes -= packet.buffer.len();
        flow.held_bytes -= packet.buffer.len();
        flow.packet_bytes -= packet.packet_bytes;
        session.turn.spend(packet.packet_bytes);
        flow.turn.spend(packet.packet_bytes);
        let waited_us = now_us.saturating_sub(packet.at_us);
        let congested = flow.codel.judge(now_us, waited_us, flow.packet_bytes);
        self.packets -= 1;
        self.stats.congested += u64::from(congested);
        if self.packets == 0 {
            self.empty_since_us = now_us;
        }
        let packet = self.out.insert(packet);
        Some(Queued {
            session: key,
            gso: packet.gso,
            packet: &mut packet.buffer[..packet.packet_bytes],
            congested,
        })
    }

    /// The flow of a session whose turn it is, and its next packet. Flows that have none leave.
    fn next_flow(&mut self, at: u32) -> Option<(u32, &Packet)> {
        let session = &mut self.sessions[at as usize];
        let place = loop {
            let place = session.flows.head()?;
            let flow = &mut self.flows[place as usize];
            if !flow.turn.is_due() {
                session.flows.rotate(&mut flow.turn, QUANTUM_BYTES);
            } else if !flow.packets.is_empty() {
                break place;
            } else if !session.flows.retire_head(&mut flow.turn) {
                session.buckets[flow.bucket] = NOBODY;
                flow.codel = Codel::default();
                self.free_flows.push(place);
            }
        };
        let next = self.flows[place as usize].packets.front()?;
        Some((place, next))
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
                    held_bytes: 0,
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
        let bucket = bucket(key);
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

    /// Drops the older half of the longest flow of the fullest session; false when nothing waits.
    fn drop_longest(&mut self) -> bool {
        let fullest = self.places.values().copied();
        let Some(at) = fullest.max_by_key(|at| self.sessions[*at as usize].held_bytes) else {
            return false;
        };
        let session = &mut self.sessions[at as usize];
        let flows = session.flows.iter();
        let Some(place) = flows.max_by_key(|place| self.flows[*place as usize].held_bytes) else {
            return false;
        };
        let flow = &mut self.flows[place as usize];
        let count = flow.packets.len().div_ceil(2).min(OVERFLOW_BATCH);
        for packet in flow.packets.drain(..count) {
            session.held_bytes -= packet.buffer.len();
            flow.held_bytes -= packet.buffer.len();
            flow.packet_bytes -= packet.packet_bytes;
            self.stats.overflowed += packets_in(&packet.buffer[..packet.packet_bytes], &packet.gso);
            self.store.give(packet.buffer);
        }
        self.packets -= count;
        count > 0
    }

    fn give_back(&mut self) {
        if let Some(packet) = self.out.take() {
            self.store.give(packet.buffer);
        }
    }
}

/// The place of the last of `count` entries; memory ends long before `u32` does.
fn place(count: usize) -> u32 {
    u32::try_from(count - 1).unwrap_or(NOBODY - 1)
}

fn bucket(key: &FlowKey) -> usize {
    /// 2^64 over the golden ratio: spreads what differs in a few low bits.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    let (high, low) = key.digest();
    let mixed = (high.wrapping_mul(SPREAD) ^ low).wrapping_mul(SPREAD);
    (mixed >> 56) as usize % FLOWS_A_SESSION
}

/// How many packets a super-packet becomes.
fn packets_in(packet: &[u8], gso: &GsoInfo) -> u64 {
    segments(packet, gso).map_or(1, |segments| segments.count() as u64)
}
