//! A session of this shard.

use std::net::IpAddr;

use super::answer::IcmpBuckets;
use super::moved::MovedFlows;
use super::{Dataplane, DataplaneConfig};
use crate::bucket::{TokenBucket, bits_per_second};
use crate::counters::Counters;
use crate::id::{AttachmentId, Now, SessionId, SlotId, VpcIndex};
use crate::prefix::PrefixSet;
use crate::registry::Grant;

/// A session of this shard, or a free place for one.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u32,
    pub(super) used: bool,
    /// It carries its attachment's traffic.
    pub(super) active: bool,
    pub(super) mtu_bytes: u16,
    pub(super) session: SessionId,
    pub(super) vpc: VpcIndex,
    pub(super) attachment: AttachmentId,
    /// The attachment's number in this shard.
    pub(super) owner: u32,
    pub(super) addresses: Vec<IpAddr>,
    /// The scope of the request: targets and protocol.
    pub(super) targets: Option<PrefixSet>,
    pub(super) protocol: Option<u8>,
    /// When a packet came from the client, or went to it.
    pub(super) seen_ms: u64,
    bits_per_second: Option<u64>,
    pub(super) to_vpc_bits: Option<TokenBucket>,
    pub(super) to_client_bits: Option<TokenBucket>,
    pub(super) icmp: IcmpBuckets,
    pub(super) counters: Counters,
}

impl Slot {
    fn new(config: &DataplaneConfig, now: Now, grant: &Grant, owner: u32, generation: u32) -> Self {
        let mut slot = Self {
            generation,
            used: true,
            active: false,
            mtu_bytes: 0,
            session: grant.session,
            vpc: grant.index,
            attachment: grant.attachment,
            owner,
            addresses: Vec::new(),
            targets: grant.scope.targets.as_ref().map(PrefixSet::new),
            protocol: grant.scope.protocol,
            seen_ms: now.mono_ms,
            bits_per_second: None,
            to_vpc_bits: None,
            to_client_bits: None,
            icmp: IcmpBuckets::new(&config.session_icmp, now.mono_ms),
            counters: Counters::default(),
        };
        slot.update(now, grant);
        slot
    }

    /// What may change while a session lives. The scope may not: it is the request's.
    fn update(&mut self, now: Now, grant: &Grant) {
        self.addresses = grant.client_addresses().collect();
        if self.bits_per_second != grant.bits_per_second {
            self.bits_per_second = grant.bits_per_second;
            let bucket = grant
                .bits_per_second
                .map(|rate| bits_per_second(rate, now.mono_ms));
            (self.to_vpc_bits, self.to_client_bits) = (bucket, bucket);
        }
    }

    #[inline]
    pub(super) fn holds(&self, generation: u32) -> bool {
        self.used && self.generation == generation
    }
}

/// Takes the bits of a packet from a rate limit; true if there is none.
#[inline]
pub(super) fn take_bits(bucket: &mut Option<TokenBucket>, now: Now, bytes: usize) -> bool {
    bucket
        .as_mut()
        .is_none_or(|bucket| bucket.take(now.mono_ms, bytes as u64 * 8))
}

impl Dataplane {
    pub(super) fn insert_slot(
        &mut self,
        now: Now,
        grant: &Grant,
        mtu_bytes: u16,
    ) -> Option<SlotId> {
        if let Some(slot) = self.slot_of(grant.session) {
            return Some(slot);
        }
        let sessions_max = self.config.sessions_max as usize;
        let index = match self.free_slots.pop() {
            Some(index) => index,
            None if self.slots.len() < sessions_max => u32::try_from(self.slots.len()).ok()?,
            None => return None,
        };
        let owner = self.owner_for(grant);
        let generation = self
            .slots
            .get(index as usize)
            .map_or(0, |slot| slot.generation);
        let mut slot = Slot::new(&self.config, now, grant, owner, generation);
        slot.mtu_bytes = mtu_bytes;
        match self.slots.get_mut(index as usize) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.by_session.insert(grant.session, index);
        self.claim_here(owner, grant, index);
        Some(SlotId { index, generation })
    }

    pub(super) fn update_grant(&mut self, now: Now, grant: &Grant) {
        if let Some(id) = self.slot_of(grant.session)
            && let Some(slot) = self.slot_mut(id)
        {
            slot.update(now, grant);
        }
        self.update_claim(grant);
    }

    pub(super) fn remove_slot(&mut self, id: SlotId) -> Option<MovedFlows> {
        let slot = self.slot_mut(id)?;
        slot.used = false;
        slot.active = false;
        slot.generation = slot.generation.wrapping_add(1);
        slot.addresses = Vec::new();
        slot.targets = None;
        let (session, attachment) = (slot.session, slot.attachment);
        self.by_session.remove(&session);
        self.free_slots.push(id.index);
        self.unclaim(attachment, session)
    }
}
