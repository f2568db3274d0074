//! The table: open addressing over a fixed slab, with the flows of each owner in a list.

use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::fast::FixedState;
use masque_model::Direction;
use masque_packet::flow::FlowKey;

use super::state::FlowState;

/// Least number of entries of a table.
pub(crate) const MIN_ENTRIES: u32 = 64;

/// Greatest number of entries of a table; they take about 3 GiB.
pub(crate) const MAX_ENTRIES: u32 = 1 << 24;

/// An owner may have this part of the table, and at least [`MIN_SHARE`].
const SHARE: u32 = 8;

/// Least number of flows that one owner may have.
const MIN_SHARE: u32 = 32;

/// How many of an owner's oldest flows are compared before one goes.
const OWN_CANDIDATES: usize = 8;

/// How many flows of others are compared before one goes.
const CANDIDATES: u32 = 64;

/// What tells a flow from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FlowId {
    /// As the client sends it: its address is the source.
    pub(crate) key: FlowKey,
    /// The attachment's number in this shard.
    pub(crate) owner: u32,
    /// Who asks, for an ICMP echo: the ports of request and reply are equal, so a request of one
    /// side must not pass as the reply to the other's.
    pub(crate) echo: Option<Direction>,
}

impl Hash for FlowId {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key.hash(state);
        let echo = match self.echo {
            None => 0u64,
            Some(Direction::ToVpc) => 1,
            Some(Direction::FromVpc) => 2,
        };
        state.write_u64(u64::from(self.owner) << 2 | echo);
    }
}

/// By which rules a flow was allowed, and until when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The epoch of the tables.
    pub(crate) epoch: u64,
    /// The generation of the owner: another session, another scope.
    pub(crate) generation: u32,
    /// A rule in Audit mode would have denied it.
    pub(crate) audit_denied: bool,
    /// Until when, exclusive.
    pub(crate) until_unix_s: u64,
}

impl Judged {
    /// No judgement: the next packet asks the rules.
    pub(crate) const NEVER: Self = Self {
        epoch: 0,
        generation: 0,
        audit_denied: false,
        until_unix_s: 0,
    };

    /// Whether the judgement still holds under these tables, this generation of the owner and at
    /// this time.
    #[inline]
    pub(crate) const fn holds(&self, epoch: u64, generation: u32, unix_s: u64) -> bool {
        self.epoch == epoch && self.generation == generation && unix_s < self.until_unix_s
    }
}

/// One flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    id: FlowId,
    hash: u32,
    /// The owner's list: towards newer and older flows. `older` also links free entries.
    newer: u32,
    older: u32,
    /// When its last packet passed.
    pub(crate) seen_ms: u64,
    /// Why it may pass.
    pub(crate) judged: Judged,
    /// What it has seen.
    pub(crate) state: FlowState,
}

impl Flow {
    /// What tells it from all others.
    pub(crate) const fn id(&self) -> &FlowId {
        &self.id
    }

    /// Without a packet for too long.
    #[inline]
    pub(crate) fn is_dead(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.seen_ms) > self.state.timeout_ms()
    }

    /// Orders flows by who goes first.
    fn rank(&self, now_ms: u64) -> (bool, u8, u64) {
        (!self.is_dead(now_ms), self.state.worth(), self.seen_ms)
    }
}

/// The flows of one owner.
#[derive(Clone, Copy, Debug)]
struct Own {
    newest: u32,
    oldest: u32,
    count: u32,
}

/// All flows of one shard.
#[derive(Debug)]
pub(crate) struct FlowTable {
    /// Places of entries, plus one; zero is empty. Linear probing; a power of two, at most half
    /// full.
    buckets: Box<[u32]>,
    entries: Vec<Flow>,
    capacity: u32,
    first_free: u32,
    live: u32,
    owners: Vec<Own>,
    owners_with_flows: u32,
    share: u32,
    /// Where the search for a flow of somebody else goes on.
    hand: u32,
    hasher: FixedState,
}

const NONE: u32 = u32::MAX;

impl FlowTable {
    /// A table for `entries` flows, within [`MIN_ENTRIES`] and [`MAX_ENTRIES`]. All memory is
    /// taken here.
    pub(crate) fn new(entries: u32, seed: u64) -> Self {
        let capacity = entries.clamp(MIN_ENTRIES, MAX_ENTRIES);
        let size = (capacity as usize * 2).next_power_of_two();
        Self {
            buckets: vec![0; size].into(),
            entries: Vec::with_capacity(capacity as usize),
            capacity,
            first_free: NONE,
            live: 0,
            owners: Vec::new(),
            owners_with_flows: 0,
            share: (capacity / SHARE).max(MIN_SHARE),
            hand: 0,
            hasher: FixedState::with_seed(seed),
        }
    }

    /// How many flows there are.
    pub(crate) const fn len(&self) -> u32 {
        self.live
    }

    /// How many flows fit.
    pub(crate) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many flows one owner may have.
    pub(crate) const fn share(&self) -> u32 {
        self.share
    }

    /// How many flows `owner` has.
    pub(crate) fn count(&self, owner: u32) -> u32 {
        self.owners.get(owner as usize).map_or(0, |own| own.count)
    }

    /// Makes room for an owner's list; call it before the owner's first flow.
    pub(crate) fn add_owner(&mut self, owner: u32) {
        let needed = owner as usize + 1;
        if self.owners.len() < needed {
            self.owners.resize(
                needed,
                Own {
                    newest: NONE,
                    oldest: NONE,
                    count: 0,
                },
            );
        }
    }

    /// The place of a flow that is alive.
    #[inline]
    pub(crate) fn find(&mut self, now_ms: u64, id: &FlowId) -> Option<u32> {
        let at = self.lookup(self.hash(id), id)?;
        if self.entries.get(at as usize)?.is_dead(now_ms) {
            self.remove(at);
            return None;
        }
        Some(at)
    }

    /// The flow at a place that [`find`](Self::find) or [`insert`](Self::insert) returned.
    #[inline]
    pub(crate) fn flow_mut(&mut self, at: u32) -> Option<&mut Flow> {
        self.entries.get_mut(at as usize)
    }

    /// Puts in a flow that [`find`](Self::find) did not find, and says where. If its owner has its
    /// share, or the table is full, another flow goes.
    pub(crate) fn insert(
        &mut self,
        now_ms: u64,
        id: FlowId,
        judged: Judged,
        state: FlowState,
    ) -> Option<u32> {
        self.owners.get(id.owner as usize)?;
        if self.count(id.owner) >= self.share {
            self.evict_own(now_ms, id.owner);
        } else if self.live >= self.capacity {
            self.evict_any(now_ms, id.owner);
        }
        let hash = self.hash(&id);
        let flow = Flow {
            id,
            hash,
            newer: NONE,
            older: NONE,
            seen_ms: now_ms,
            judged,
            state,
        };
        let at = self.allocate(flow)?;
        self.link(at, id.owner);
        let mask = self.buckets.len() - 1;
        let mut bucket = hash as usize & mask;
        // Ends: at most half of the buckets are taken.
        while let Some(place) = self.buckets.get_mut(bucket) {
            if *place == 0 {
                *place = at + 1;
                break;
            }
            bucket = (bucket + 1) & mask;
        }
        self.live += 1;
        Some(at)
    }

    /// Takes out the flow at a place.
    pub(crate) fn remove(&mut self, at: u32) {
        let Some(flow) = self.entries.get(at as usize).copied() else {
            return;
        };
        if !self.unbucket(at, flow.hash) {
            return;
        }
        self.unlink(&flow);
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.older = self.first_free;
        }
        self.first_free = at;
        self.live -= 1;
    }

    /// Takes out every flow of an owner.
    pub(crate) fn remove_owner(&mut self, owner: u32) {
        while self.take_newest(owner).is_some() {}
    }

    /// Takes out every flow of an owner and gives them, the oldest first.
    pub(crate) fn take_owner(&mut self, owner: u32) -> Vec<Flow> {
        let mut flows = Vec::with_capacity(self.count(owner) as usize);
        flows.extend(std::iter::from_fn(|| self.take_newest(owner)));
        flows.reverse();
        flows
    }

    fn take_newest(&mut self, owner: u32) -> Option<Flow> {
        let at = self.owners.get(owner as usize)?.newest;
        let flow = self.entries.get(at as usize).copied()?;
        self.remove(at);
        Some(flow)
    }

    #[inline]
    fn hash(&self, id: &FlowId) -> u32 {
        // The upper half is the better mixed one, and plenty for the 2^25 buckets at most.
        (self.hasher.hash_one(id) >> 32) as u32
    }

    #[inline]
    fn lookup(&self, hash: u32, id: &FlowId) -> Option<u32> {
        let mask = self.buckets.len() - 1;
        let mut bucket = hash as usize & mask;
        loop {
            let at = self.buckets.get(bucket)?.checked_sub(1)?;
            let flow = self.entries.get(at as usize)?;
            if flow.hash == hash && flow.id == *id {
                return Some(at);
            }
            bucket = (bucket + 1) & mask;
        }
    }

    fn allocate(&mut self, flow: Flow) -> Option<u32> {
        if self.first_free != NONE {
            let at = self.first_free;
            let entry = self.entries.get_mut(at as usize)?;
            self.first_free = entry.older;
            *entry = flow;
            return Some(at);
        }
        let at = u32::try_from(self.entries.len())
            .ok()
            .filter(|at| *at < self.capacity)?;
        self.entries.push(flow);
        Some(at)
    }

    /// Puts an entry in front of its owner's list.
    fn link(&mut self, at: u32, owner: u32) {
        let Some(own) = self.owners.get_mut(owner as usize) else {
            return;
        };
        let former = std::mem::replace(&mut own.newest, at);
        if own.count == 0 {
            own.oldest = at;
            self.owners_with_flows += 1;
        }
        own.count += 1;
        if let Some(entry) = self.entries.get_mut(former as usize) {
            entry.newer = at;
        }
        if let Some(entry) = self.entries.get_mut(at as usize) {
            entry.older = former;
        }
    }

    fn unlink(&mut self, flow: &Flow) {
        if let Some(newer) = self.entries.get_mut(flow.newer as usize) {
            newer.older = flow.older;
        }
        if let Some(older) = self.entries.get_mut(flow.older as usize) {
            older.newer = flow.newer;
        }
        let Some(own) = self.owners.get_mut(flow.id.owner as usize) else {
            return;
        };
        if flow.newer == NONE {
            own.newest = flow.older;
        }
        if flow.older == NONE {
            own.oldest = flow.newer;
        }
        own.count -= 1;
        if own.count == 0 {
            self.owners_with_flows -= 1;
        }
    }

    /// Empties the bucket of an entry and moves up the entries behind it that it kept from their
    /// own buckets. False if the entry is free.
    fn unbucket(&mut self, at: u32, hash: u32) -> bool {
        let mask = self.buckets.len() - 1;
        let mut hole = hash as usize & mask;
        loop {
            match self.buckets.get(hole) {
                None | Some(0) => return false,
                Some(place) if *place == at + 1 => break,
                Some(_) => hole = (hole + 1) & mask,
            }
        }
        let mut next = (hole + 1) & mask;
        while let Some(place) = self.buckets.get(next).copied().filter(|place| *place != 0) {
            let wanted = self
                .entries
                .get(place as usize - 1)
                .map_or(next, |e| e.hash as usize);
            // It may move if its own bucket is not between the hole and where it is.
            if (next.wrapping_sub(wanted) & mask) >= (next.wrapping_sub(hole) & mask) {
                if let Some(bucket) = self.buckets.get_mut(hole) {
                    *bucket = place;
                }
                hole = next;
            }
            next = (next + 1) & mask;
        }
        if let Some(bucket) = self.buckets.get_mut(hole) {
            *bucket = 0;
        }
        true
    }

    /// Takes out the flow of `owner` that is worth least among its oldest.
    fn evict_own(&mut self, now_ms: u64, owner: u32) {
        let Some(own) = self.owners.get(owner as usize) else {
            return;
        };
        let mut at = own.oldest;
        let mut worst: Option<((bool, u8, u64), u32)> = None;
        for _ in 0..OWN_CANDIDATES {
            let Some(flow) = self.entries.get(at as usize) else {
                break;
            };
            let rank = flow.rank(now_ms);
            if worst.is_none_or(|(least, _)| rank < least) {
                worst = Some((rank, at));
            }
            at = flow.newer;
        }
        if let Some((_, at)) = worst {
            self.remove(at);
        }
    }

    /// Takes out a flow for `owner`, of the full table: one that is dead, else one of an owner with
    /// more than its fair part, else its own.
    ///
    /// An owner below its fair part never loses a living flow to another one: among the flows
    /// looked at, only dead ones and those of larger owners go.
    fn evict_any(&mut self, now_ms: u64, owner: u32) {
        let fair = self.capacity / self.owners_with_flows.max(1);
        if self.count(owner) > fair {
            self.evict_own(now_ms, owner);
            return;
        }
        let mut worst: Option<((bool, u8, u64), u32)> = None;
        for _ in 0..CANDIDATES {
            self.hand = (self.hand + 1) % self.capacity;
            let Some(flow) = self.entries.get(self.hand as usize) else {
                continue;
            };
            let rank = flow.rank(now_ms);
            let may_go = flow.is_dead(now_ms) || self.count(flow.id.owner) > fair;
            if may_go && worst.is_none_or(|(least, _)| rank < least) {
                worst = Some((rank, self.hand));
            }
        }
        match worst {
            Some((_, at)) => self.remove(at),
            None if self.count(owner) > 0 => self.evict_own(now_ms, owner),
            None => self.evict_largest(now_ms),
        }
    }

    /// Takes out a flow of the owner that has most. Only for an owner without any flow in a table
    /// whose sample showed none to give: rare, and linear in the number of owners.
    #[cold]
    fn evict_largest(&mut self, now_ms: u64) {
        let largest = (0u32..).zip(&self.owners).max_by_key(|(_, own)| own.count);
        if let Some((owner, _)) = largest {
            self.evict_own(now_ms, owner);
        }
    }
}
