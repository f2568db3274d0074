//! The addresses of one VPC.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use masque_model::{AddressPool, ConnectorKey, ObjectName};

use super::book::{AddressError, Demand, MAX_HOLDERS, Owner, Site};
use super::pool::{Pool, PoolUsage};

#[derive(Debug, Default)]
pub(super) struct VpcBook {
    pub(super) sites: BTreeMap<ObjectName, SiteState>,
    pub(super) holders: BTreeMap<IpAddr, Holder>,
    /// The addresses of each owner, held or resting.
    pub(super) owned: BTreeMap<Owner, BTreeSet<IpAddr>>,
    /// When resting addresses are free again.
    pub(super) resting: BTreeSet<(u64, IpAddr)>,
    /// From when on the addresses of absent owners may be taken back.
    pub(super) absent: BTreeSet<(u64, IpAddr)>,
}

#[derive(Debug)]
pub(super) struct SiteState {
    pub(super) pools: Vec<Pool>,
    pub(super) declared: Vec<AddressPool>,
    pub(super) resume_window_ms: u64,
    pub(super) quarantine_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) state: Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The owner has a session.
    Present,
    /// The owner has none; from then on the address may be taken back.
    Absent { until_ms: u64 },
    /// The owner is suspended and has none: never taken back, for it may not come and ask.
    Suspended,
    /// Fixed by a manifest: never taken back.
    Fixed,
    /// Freed; nobody but its former owner may have it until then.
    Resting { until_ms: u64 },
}

impl VpcBook {
    pub(super) fn set_sites(&mut self, now_ms: u64, sites: &[(&ObjectName, Site<'_>)]) -> bool {
        let unchanged = self.sites.len() == sites.len()
            && sites.iter().all(|(name, site)| {
                self.sites
                    .get(*name)
                    .is_some_and(|now| now.declared == site.pools)
            });
        let quarantines: BTreeMap<_, _> = self
            .sites
            .iter()
            .map(|(name, site)| (name.clone(), site.quarantine_ms))
            .collect();
        self.sites = sites
            .iter()
            .map(|(name, site)| ((*name).clone(), SiteState::new(site)))
            .collect();
        for site in self.sites.values_mut() {
            for address in self.holders.keys() {
                site.pools.iter_mut().for_each(|pool| pool.take(*address));
            }
        }
        if unchanged {
            return false;
        }
        let gone: Vec<_> = self
            .holders
            .iter()
            .filter(|(_, holder)| !matches!(holder.state, Held::Resting { .. }))
            .filter(|(address, holder)| !self.is_usable_by(&holder.owner, **address))
            .map(|(address, holder)| (*address, holder.owner.ingress_point.clone()))
            .collect();
        for (address, ingress_point) in gone {
            // An ingress point that is gone: its former quarantine still counts.
            let quarantine_ms = match self.sites.get(&ingress_point) {
                Some(site) => site.quarantine_ms,
                None => quarantines
                    .get(&ingress_point)
                    .copied()
                    .unwrap_or(DEFAULT_QUARANTINE_MS),
            };
            self.set_state(
                address,
                Held::Resting {
                    until_ms: now_ms.saturating_add(quarantine_ms),
                },
            );
        }
        true
    }

    pub(super) fn bind_from_pools(
        &mut self,
        now_ms: u64,
        owner: &Owner,
        demand: &Demand<'_>,
    ) -> Result<Vec<IpAddr>, AddressError> {
        let mut kept = [false; 2];
        for address in self.addresses(owner) {
            let family = usize::from(address.is_ipv6());
            let wanted = if address.is_ipv4() {
                demand.ipv4
            } else {
                demand.ipv6
            };
            if wanted && !kept[family] && self.is_usable_by(owner, address) {
                kept[family] = true;
                self.rebind(now_ms, owner, address, false);
            } else {
                self.rest(now_ms, address);
            }
        }
        let mut exhausted = false;
        for (ipv4, wanted) in [(true, demand.ipv4), (false, demand.ipv6)] {
            if wanted && !kept[usize::from(!ipv4)] && self.has_pool(owner, ipv4) {
                exhausted |= self.allocate(now_ms, owner, ipv4).is_none();
            }
        }
        let addresses: Vec<_> = self.held(owner).collect();
        match (addresses.is_empty(), exhausted) {
            (false, _) => Ok(addresses),
            (true, true) => Err(AddressError::PoolExhausted),
            (true, false) => Err(AddressError::NoFamily),
        }
    }

    pub(super) fn bind_fixed(
        &mut self,
        now_ms: u64,
        owner: &Owner,
        demand: &Demand<'_>,
    ) -> Result<Vec<IpAddr>, AddressError> {
        for address in demand.fixed {
            if !self.is_usable_by(owner, *address) {
                return Err(AddressError::OutsidePools(*address));
            }
            if self
                .holders
                .get(address)
                .is_some_and(|holder| holder.owner != *owner)
            {
                return Err(AddressError::Taken(*address));
            }
        }
        for address in self.addresses(owner) {
            if !demand.fixed.contains(&address) {
                self.rest(now_ms, address);
            }
        }
        for address in demand.fixed {
            if self.holders.contains_key(address) {
                self.rebind(now_ms, owner, *address, true);
            } else if self.holders.len() >= MAX_HOLDERS {
                return Err(AddressError::PoolExhausted);
            } else {
                self.hold(*address, owner.clone(), Held::Fixed);
            }
        }
        Ok(self.held(owner).collect())
    }

    /// A new address of one family for `owner`: a free one, else one of an owner that has been
    /// away for long enough.
    fn allocate(&mut self, now_ms: u64, owner: &Owner, ipv4: bool) -> Option<IpAddr> {
        let seed = seed(&owner.key);
        let address = self.free_address(owner, ipv4, seed).or_else(|| {
            let taken_back = self.take_back(now_ms, owner, ipv4)?;
            self.release(taken_back);
            Some(taken_back)
        })?;
        let until_ms = now_ms.saturating_add(self.absence_ms(owner));
        self.hold(address, owner.clone(), Held::Absent { until_ms });
        Some(address)
    }

    fn free_address(&self, owner: &Owner, ipv4: bool, seed: u64) -> Option<IpAddr> {
        if self.holders.len() >= MAX_HOLDERS {
            return None;
        }
        let site = self.sites.get(&owner.ingress_point)?;
        let mut pools = site
            .pools
            .iter()
            .filter(|pool| pool.prefix().addr().is_ipv4() == ipv4);
        pools.find_map(|pool| pool.next_free(seed))
    }

    fn take_back(&self, now_ms: u64, owner: &Owner, ipv4: bool) -> Option<IpAddr> {
        let mut due = self
            .absent
            .iter()
            .take_while(|(until_ms, _)| *until_ms <= now_ms);
        due.find(|(_, address)| address.is_ipv4() == ipv4 && self.is_usable_by(owner, *address))
            .map(|(_, address)| *address)
    }

    /// Makes a held or resting address the owner's own again.
    fn rebind(&mut self, now_ms: u64, owner: &Owner, address: IpAddr, fixed: bool) {
        let until_ms = now_ms.saturating_add(self.absence_ms(owner));
        let Some(holder) = self.holders.get(&address) else {
            return;
        };
        let state = match holder.state {
            _ if fixed => Held::Fixed,
            Held::Present => return,
            Held::Absent { .. } | Held::Suspended | Held::Fixed | Held::Resting { .. } => {
                Held::Absent { until_ms }
            }
        };
        self.set_state(address, state);
    }

    /// Frees an address: it rests.
    pub(super) fn rest(&mut self, now_ms: u64, address: IpAddr) {
        let Some(holder) = self.holders.get(&address) else {
            return;
        };
        if matches!(holder.state, Held::Resting { .. }) {
            return;
        }
        let site = self.sites.get(&holder.owner.ingress_point);
        let quarantine_ms = site.map_or(DEFAULT_QUARANTINE_MS, |site| site.quarantine_ms);
        let until_ms = now_ms.saturating_add(quarantine_ms);
        self.set_state(address, Held::Resting { until_ms });
    }

    /// Lets go of addresses that have rested.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((_, address)) = self
            .resting
            .first()
            .copied()
            .filter(|(until_ms, _)| *until_ms <= now_ms)
        {
            self.release(address);
        }
    }

    pub(super) fn hold(&mut self, address: IpAddr, owner: Owner, state: Held) {
        for site in self.sites.values_mut() {
            site.pools.iter_mut().for_each(|pool| pool.take(address));
        }
        self.owned.entry(owner.clone()).or_default().insert(address);
        self.queue(address, state, true);
        self.holders.insert(address, Holder { owner, state });
    }

    /// Forgets an address: it is free.
    fn release(&mut self, address: IpAddr) {
        let Some(holder) = self.holders.remove(&address) else {
            return;
        };
        self.queue(address, holder.state, false);
        if let Entry::Occupied(mut owned) = self.owned.entry(holder.owner) {
            owned.get_mut().remove(&address);
            if owned.get().is_empty() {
                owned.remove();
            }
        }
        for site in self.sites.values_mut() {
            site.pools.iter_mut().for_each(|pool| pool.put(address));
        }
    }

    pub(super) fn set_state(&mut self, address: IpAddr, state: Held) {
        let Some(holder) = self.holders.get_mut(&address) else {
            return;
        };
        let before = std::mem::replace(&mut holder.state, state);
        self.queue(address, before, false);
        self.queue(address, state, true);
    }

    /// Puts an address into the queue that its state belongs to, or takes it out.
    fn queue(&mut self, address: IpAddr, state: Held, insert: bool) {
        let (queue, until_ms) = match state {
            Held::Absent { until_ms } => (&mut self.absent, until_ms),
            Held::Resting { until_ms } => (&mut self.resting, until_ms),
            Held::Present | Held::Suspended | Held::Fixed => return,
        };
        if insert {
            queue.insert((until_ms, address));
        } else {
            queue.remove(&(until_ms, address));
        }
    }

    pub(super) fn addresses(&self, owner: &Owner) -> Vec<IpAddr> {
        self.owned
            .get(owner)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    pub(super) fn held<'a>(&'a self, owner: &Owner) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.owned
            .get(owner)
            .into_iter()
            .flatten()
            .copied()
            .filter(|address| {
                let holder = self.holders.get(address);
                holder.is_some_and(|holder| !matches!(holder.state, Held::Resting { .. }))
            })
    }

    fn is_usable_by(&self, owner: &Owner, address: IpAddr) -> bool {
        let site = self.sites.get(&owner.ingress_point);
        site.is_some_and(|site| site.pools.iter().any(|pool| pool.is_usable(address)))
    }

    fn has_pool(&self, owner: &Owner, ipv4: bool) -> bool {
        let site = self.sites.get(&owner.ingress_point);
        site.is_some_and(|s| s.pools.iter().any(|p| p.prefix().addr().is_ipv4() == ipv4))
    }

    /// How long an owner may stay away before its address may be taken: it must be able to resume,
    /// and the address must rest.
    pub(super) fn absence_ms(&self, owner: &Owner) -> u64 {
        match self.sites.get(&owner.ingress_point) {
            Some(site) => site.resume_window_ms.saturating_add(site.quarantine_ms),
            None => DEFAULT_QUARANTINE_MS,
        }
    }

    pub(super) fn usage(&self, pool: &Pool) -> PoolUsage {
        let (mut allocated, mut resting) = (0u64, 0u64);
        let prefix = pool.prefix();
        let inside = self.holders.range(prefix.network()..=prefix.broadcast());
        for (_, holder) in inside.filter(|(address, _)| pool.is_usable(**address)) {
            match holder.state {
                Held::Resting { .. } => resting += 1,
                Held::Present | Held::Absent { .. } | Held::Suspended | Held::Fixed => {
                    allocated += 1;
                }
            }
        }
        let total = pool
            .free_count()
            .saturating_add(allocated)
            .saturating_add(resting);
        PoolUsage {
            prefix: *prefix,
            total,
            allocated,
            resting,
        }
    }
}

impl SiteState {
    fn new(site: &Site<'_>) -> Self {
        Self {
            pools: site.pools.iter().map(Pool::new).collect(),
            declared: site.pools.to_vec(),
            resume_window_ms: site.resume_window_ms,
            quarantine_ms: site.quarantine_ms,
        }
    }
}

/// The rest of an address whose ingress point is not known, as after a restart.
const DEFAULT_QUARANTINE_MS: u64 = 300_000;

/// A key is random already: its first bytes spread over a pool.
fn seed(key: &ConnectorKey) -> u64 {
    let (first, _) = key.as_bytes().split_at(8);
    first
        .iter()
        .fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
