//! Which session of the gateway has which client address.
//!
//! All sessions of an attachment are known on every shard, so who carries its traffic (the newest)
//! follows without any message between shards.

use std::collections::HashMap;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use super::Dataplane;
use super::moved::MovedFlows;
use crate::flow::FragmentRing;
use crate::id::{AttachmentId, SessionId, VpcIndex};
use crate::registry::Grant;

/// The attachment that has each client address of each VPC: the tunnels' routing table.
pub(super) type Directory = HashMap<(VpcIndex, IpAddr), u32, FixedState>;

/// An attachment with at least one session on this gateway.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) attachment: AttachmentId,
    vpc: VpcIndex,
    /// Grows when another session takes over: its flows are judged again, by its scope.
    pub(super) generation: u32,
    /// Oldest first.
    claims: Vec<Claim>,
    /// Its addresses in the directory.
    addresses: Vec<IpAddr>,
    /// Only where a session of this shard is.
    pub(super) fragments: Option<Box<FragmentRing>>,
}

/// A session of an attachment.
#[derive(Debug)]
struct Claim {
    session: SessionId,
    place: Place,
    addresses: Vec<IpAddr>,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The index of its slot.
    Here(u32),
    /// Another shard.
    There(u16),
}

impl Owner {
    /// Where the session is that carries the traffic.
    #[inline]
    pub(super) fn place(&self) -> Option<Place> {
        self.newest().map(|(_, place)| place)
    }

    /// The session that carries the traffic, and where it is.
    #[inline]
    pub(super) fn newest(&self) -> Option<(SessionId, Place)> {
        self.claims.last().map(|claim| (claim.session, claim.place))
    }
}

impl Dataplane {
    /// The number of a grant's attachment in this shard, new if need be.
    pub(super) fn owner_for(&mut self, grant: &Grant) -> u32 {
        if let Some(owner) = self.by_attachment.get(&grant.attachment) {
            return *owner;
        }
        let owner = Owner {
            attachment: grant.attachment,
            vpc: grant.index,
            generation: 0,
            claims: Vec::new(),
            addresses: Vec::new(),
            fragments: None,
        };
        let number = match self.free_owners.pop() {
            Some(number) => {
                if let Some(place) = self.owners.get_mut(number as usize) {
                    *place = owner;
                }
                number
            }
            None => {
                self.owners.push(owner);
                u32::try_from(self.owners.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_attachment.insert(grant.attachment, number);
        number
    }

    pub(super) fn claim_here(&mut self, number: u32, grant: &Grant, slot: u32) {
        self.flows.add_owner(number);
        if let Some(owner) = self.owners.get_mut(number as usize) {
            owner.fragments.get_or_insert_default();
        }
        self.claim(number, grant, Place::Here(slot));
    }

    pub(super) fn claim_elsewhere(&mut self, grant: &Grant) -> Option<MovedFlows> {
        if grant.shard == self.config.shard {
            return None;
        }
        let number = self.owner_for(grant);
        self.claim(number, grant, Place::There(grant.shard));
        self.take_flows(number)
    }

    pub(super) fn update_claim(&mut self, grant: &Grant) {
        let Some(number) = self.by_attachment.get(&grant.attachment).copied() else {
            return;
        };
        let Some(owner) = self.owners.get_mut(number as usize) else {
            return;
        };
        if let Some(claim) = owner
            .claims
            .iter_mut()
            .find(|claim| claim.session == grant.session)
        {
            claim.addresses = grant.client_addresses().collect();
            self.refresh(number);
        }
    }

    pub(super) fn unclaim(
        &mut self,
        attachment: AttachmentId,
        session: SessionId,
    ) -> Option<MovedFlows> {
        let number = self.by_attachment.get(&attachment).copied()?;
        let owner = self.owners.get_mut(number as usize)?;
        owner.claims.retain(|claim| claim.session != session);
        // Before they are forgotten with the last session of this shard.
        let moved = self.take_flows(number);
        self.refresh(number);
        moved
    }

    fn claim(&mut self, number: u32, grant: &Grant, place: Place) {
        let Some(owner) = self.owners.get_mut(number as usize) else {
            return;
        };
        let addresses = grant.client_addresses().collect();
        let claim = Claim {
            session: grant.session,
            place,
            addresses,
        };
        let at = owner
            .claims
            .partition_point(|other| other.session < grant.session);
        if owner
            .claims
            .get(at)
            .is_some_and(|other| other.session == grant.session)
        {
            return;
        }
        owner.claims.insert(at, claim);
        self.refresh(number);
    }

    /// Makes the directory and the slots agree with the claims of one attachment.
    fn refresh(&mut self, number: u32) {
        let Some(owner) = self.owners.get_mut(number as usize) else {
            return;
        };
        owner.generation = owner.generation.wrapping_add(1);
        let mut addresses: Vec<IpAddr> = owner
            .claims
            .iter()
            .flat_map(|claim| claim.addresses.iter().copied())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        for address in &owner.addresses {
            let key = (owner.vpc, *address);
            if !addresses.contains(address) && self.directory.get(&key) == Some(&number) {
                self.directory.remove(&key);
            }
        }
        for address in &addresses {
            self.directory.insert((owner.vpc, *address), number);
        }
        owner.addresses = addresses;
        let mut here = false;
        for (age, claim) in owner.claims.iter().rev().enumerate() {
            if let Place::Here(slot) = claim.place
                && let Some(slot) = self.slots.get_mut(slot as usize)
            {
                slot.active = age == 0;
                here = true;
            }
        }
        if !here {
            owner.fragments = None;
            self.flows.remove_owner(number);
        }
        if owner.claims.is_empty() {
            self.by_attachment.remove(&owner.attachment);
            self.free_owners.push(number);
        }
    }
}
