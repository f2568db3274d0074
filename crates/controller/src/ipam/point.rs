//! Addresses of one ingress point.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

use masque_api::Reason;
use masque_model::{Attachment, ObjectName, Snapshot};

use super::{
    AssignOutcome, AssignState, Claim, Held, Holder, Ledger, MAX_CLAIMS, Refusal, Resting, pool,
};
use crate::{children, compile::unavailable};

/// Addresses of one ingress point, while they are assigned.
pub(super) struct Point<'a> {
    snapshot: &'a mut Snapshot,
    held: &'a Held,
    ledger: Ledger,
    /// Whether this operator has seen enough to give addresses.
    fresh: bool,
    /// Who holds an address, or has a claim to it.
    owners: BTreeMap<IpAddr, ObjectName>,
    /// Claims that are done. Their addresses may have been stored and lost again before anybody looked:
    /// with an attachment that was deleted, and perhaps made anew under its name.
    done: Vec<(String, Claim)>,
    /// Fixed addresses, which are not given to anybody else.
    fixed: BTreeSet<IpAddr>,
    /// Families (IPv4, then IPv6) of which nothing is left.
    exhausted: [bool; 2],
    /// What each attachment shall have here.
    wishes: BTreeMap<ObjectName, Vec<IpAddr>>,
}

impl<'a> Point<'a> {
    pub(super) fn new(snapshot: &'a mut Snapshot, held: &'a Held, ledger: Ledger) -> Self {
        let fresh = held.seen_version >= ledger.as_of;
        let fixed = snapshot.attachments.iter();
        let fixed = fixed.flat_map(|a| a.addresses.iter().copied()).collect();
        let mut point = Self {
            snapshot,
            held,
            ledger,
            fresh,
            owners: BTreeMap::new(),
            done: Vec::new(),
            fixed,
            exhausted: [false; 2],
            wishes: BTreeMap::new(),
        };
        point.owners();
        point
    }

    /// Addresses that nobody holds any more begin to rest, and those that have rested are free.
    /// `now_unix_s` is cut to whole seconds, so a second is added, lest an address is free before its
    /// whole quarantine has passed.
    pub(super) fn rest(&mut self, before: &Held, now_unix_s: u64) {
        if !self.fresh {
            return;
        }
        self.ledger
            .resting
            .retain(|_, resting| resting.until_unix_s > now_unix_s);
        let rest_s = self.snapshot.sessions.address_quarantine_ms.div_ceil(1000);
        if rest_s == 0 {
            return;
        }
        let until_unix_s = now_unix_s.saturating_add(rest_s).saturating_add(1);
        let before = before.holders.iter();
        let before = before.filter(|(_, holder)| holder.vpc == self.snapshot.vpc);
        let before = before.map(|(name, holder)| (&name.name, &holder.addresses));
        let done = self.done.iter();
        let claimed = done.map(|(name, claim)| (name, &claim.addresses));
        for (name, addresses) in before.chain(claimed) {
            for address in addresses {
                let free = !self.owners.contains_key(address);
                if free && unavailable(address, self.snapshot).is_none() {
                    let resting = Resting {
                        until_unix_s,
                        owner: name.clone(),
                    };
                    self.ledger.rest(*address, resting);
                }
            }
        }
    }

    /// Decides about every attachment, and leaves those without an address out of the snapshot.
    pub(super) fn attachments(&mut self) -> Vec<AssignOutcome> {
        let mut outcomes = Vec::new();
        let mut in_force = Vec::new();
        for mut attachment in mem::take(&mut self.snapshot.attachments) {
            let state = self.attachment(&attachment);
            outcomes.push(AssignOutcome {
                ingress_point: self.snapshot.ingress_point.clone(),
                attachment: attachment.name.clone(),
                state: state.clone(),
            });
            if let AssignState::InForce(addresses) | AssignState::Partly(addresses, _) = state {
                attachment.addresses = addresses;
                in_force.push(attachment);
            }
        }
        self.snapshot.attachments = in_force;
        outcomes
    }

    /// The ledger, and what each attachment shall have.
    pub(super) fn finish(self) -> (Ledger, BTreeMap<ObjectName, Vec<IpAddr>>) {
        (self.ledger, self.wishes)
    }

    /// Who holds what, by status and by claim. Claims that are done leave the ledger.
    fn owners(&mut self) {
        let held = self.held;
        for (name, holder) in &held.holders {
            if holder.vpc != self.snapshot.vpc {
                continue;
            }
            for address in &holder.addresses {
                if unavailable(address, self.snapshot).is_none() {
                    // Of two holders, which only a hand-written status can make, the first.
                    self.owners.entry(*address).or_insert_with(|| name.clone());
                }
            }
        }
        let namespace = self.snapshot.ingress_point.namespace.clone();
        for (name, claim) in mem::take(&mut self.ledger.claims) {
            let attachment = ObjectName::new(&namespace, &name);
            let done = match held.holders.get(&attachment) {
                Some(holder) => holder.version > claim.version,
                // Not there: deleted, unless this view is too old to know it at all.
                None => held.seen_version > claim.version,
            };
            if done && self.fresh {
                let holder = held.holders.get(&attachment);
                let seen = holder.map_or(held.seen_version, |holder| holder.version);
                self.ledger.as_of = self.ledger.as_of.max(seen);
                self.done.push((name, claim));
                continue;
            }
            for address in &claim.addresses {
                self.owners
                    .entry(*address)
                    .or_insert_with(|| attachment.clone());
            }
            self.ledger.claims.insert(name, claim);
        }
    }

    fn attachment(&mut self, attachment: &Attachment) -> AssignState {
        let name = &attachment.name;
        let Some(holder) = self.held.holders.get(name) else {
            return AssignState::Pending;
        };
        let own = self.own(name, holder);
        let claim = self.ledger.claims.get(&name.name).cloned();
        let claimed = claim.as_ref().map(|claim| claim.version);
        let (wanted, refusal) = match claim {
            Some(claim) => (claim.addresses, None),
            None if attachment.addresses.is_empty() => self.choose(attachment, &own),
            None => match self.fixed_free(attachment) {
                Ok(()) => (attachment.addresses.clone(), None),
                Err(refusal) => return AssignState::Refused(refusal),
            },
        };
        let complete = wanted.iter().all(|address| own.contains(address));
        let stored = complete || self.claim(name, holder, claimed, &wanted);
        if self.fresh && stored && claimed.is_none_or(|version| version == holder.version) {
            self.wishes.insert(name.clone(), wanted.clone());
        }
        if attachment.addresses.is_empty() {
            // What is held already is good, also while one more is on its way.
            let in_force: Vec<_> = wanted.into_iter().filter(|a| own.contains(a)).collect();
            return match (in_force.is_empty(), refusal) {
                (false, None) => AssignState::InForce(in_force),
                (false, Some(refusal)) => AssignState::Partly(in_force, refusal),
                (true, Some(refusal)) if !self.ledger.claims.contains_key(&name.name) => {
                    AssignState::Refused(refusal)
                }
                (true, _) => AssignState::Pending,
            };
        }
        if complete && wanted == attachment.addresses {
            return AssignState::InForce(wanted);
        }
        AssignState::Pending
    }

    /// Addresses of this ingress point that an attachment holds by its status.
    fn own(&self, name: &ObjectName, holder: &Holder) -> Vec<IpAddr> {
        let owned = |address: &&IpAddr| self.owners.get(*address) == Some(name);
        let mut own: Vec<_> = holder.addresses.iter().filter(owned).copied().collect();
        own.dedup();
        own
    }

    /// One address of each wanted family: what it has, else a free one.
    fn choose(
        &mut self,
        attachment: &Attachment,
        own: &[IpAddr],
    ) -> (Vec<IpAddr>, Option<Refusal>) {
        let (mut chosen, mut refusal) = (Vec::new(), None);
        let families = [(true, attachment.ipv4), (false, attachment.ipv6)];
        for (ipv4, _) in families.into_iter().filter(|(_, wanted)| *wanted) {
            let has = own.iter().find(|address| address.is_ipv4() == ipv4);
            let new = || self.free(&attachment.name, ipv4);
            let address = has.copied().or_else(new);
            if address.is_none() {
                self.exhausted[usize::from(!ipv4)] = true;
                refusal = Some(self.pool_exhausted(ipv4));
            }
            chosen.extend(address);
        }
        (chosen, refusal)
    }

    fn free(&self, name: &ObjectName, ipv4: bool) -> Option<IpAddr> {
        if self.exhausted[usize::from(!ipv4)] {
            return None;
        }
        let resting = |address: &IpAddr| {
            let resting = self.ledger.resting.get(address);
            resting.is_some_and(|resting| resting.owner != name.name)
        };
        let most = self.owners.len() + self.fixed.len() + self.ledger.resting.len();
        let seed = children::hash(name.to_string().as_bytes());
        pool::free(self.snapshot, ipv4, seed, most, |address| {
            self.owners.contains_key(address) || self.fixed.contains(address) || resting(address)
        })
    }

    fn pool_exhausted(&self, ipv4: bool) -> Refusal {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        Refusal {
            reason: Reason::PoolExhausted,
            message: format!(
                "no {family} address is left in the pools of {}; add a pool, or remove \
                 attachments (their addresses are free after addressQuarantine)",
                self.snapshot.ingress_point
            ),
        }
    }

    /// Whether nobody else has the fixed addresses of an attachment.
    fn fixed_free(&self, attachment: &Attachment) -> Result<(), Refusal> {
        for address in &attachment.addresses {
            let message = if let Some(owner) = self
                .owners
                .get(address)
                .filter(|owner| **owner != attachment.name)
            {
                format!(
                    "{address} belongs to ConnectorAttachment {owner}; use another address, or \
                     reserve it in the pool before the next attachment gets it"
                )
            } else if let Some(resting) = self.ledger.resting.get(address)
                && resting.owner != attachment.name.name
            {
                format!(
                    "{address} belonged to ConnectorAttachment {} and rests for addressQuarantine; \
                     wait, or use another address",
                    resting.owner
                )
            } else {
                continue;
            };
            let reason = Reason::AddressUnavailable;
            return Err(Refusal { reason, message });
        }
        Ok(())
    }

    /// Notes a claim. False when that has to wait.
    fn claim(
        &mut self,
        name: &ObjectName,
        holder: &Holder,
        claimed: Option<u64>,
        wanted: &[IpAddr],
    ) -> bool {
        if claimed.is_some() {
            return true;
        }
        if wanted.is_empty() || !self.fresh || self.ledger.claims.len() >= MAX_CLAIMS {
            return false;
        }
        for address in wanted {
            self.owners.insert(*address, name.clone());
            self.ledger.resting.remove(address);
        }
        let claim = Claim {
            version: holder.version,
            addresses: wanted.to_vec(),
        };
        self.ledger.claims.insert(name.name.clone(), claim);
        true
    }
}
