//! The book: addresses and their holders, VPC by VPC.

use std::collections::BTreeMap;
use std::net::IpAddr;

use masque_model::{AddressPool, ConnectorKey, ObjectName};
use serde::{Deserialize, Serialize};

use super::pool::PoolUsage;
use super::state::{AddressBookState, Holding};
use super::vpc_book::{Held, VpcBook};
use crate::id::Now;

/// Most addresses of one VPC that are held or rest. At about 300 bytes each this is 80 MB; beyond
/// it the pool counts as exhausted.
pub const MAX_HOLDERS: usize = 1 << 18;

/// An attachment with one key. The key is part of it: an attachment that gets another key is
/// another client, and must not find the packets meant for the former one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The VPCIngressPoint whose pools it draws from.
    pub ingress_point: ObjectName,
    /// The ConnectorAttachment.
    pub attachment: ObjectName,
    /// The connector's key.
    pub key: ConnectorKey,
}

/// The pools and times of one ingress point.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Its pools.
    pub pools: &'a [AddressPool],
    /// How long a client that went away may come back for.
    pub resume_window_ms: u64,
    /// How long a freed address rests.
    pub quarantine_ms: u64,
}

/// What an attachment is to have.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Fixed addresses; empty means one from the pools for every family.
    pub fixed: &'a [IpAddr],
    /// It may have IPv4.
    pub ipv4: bool,
    /// It may have IPv6.
    pub ipv6: bool,
}

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Every address is held or rests.
    #[error("the address pools have no free address left; add a pool or remove attachments")]
    PoolExhausted,
    /// A fixed address belongs to somebody else, or rests.
    #[error("the address {0} is held by another attachment or rests; choose another one")]
    Taken(IpAddr),
    /// A fixed address is in no pool, or is one that is never given out.
    #[error("the address {0} is not one that the pools of the ingress point give out")]
    OutsidePools(IpAddr),
    /// Nothing to give: no family is enabled.
    #[error("the attachment has neither IPv4 nor IPv6; enable a family that has a pool")]
    NoFamily,
}

/// Who has which client address. See the [module](super).
#[derive(Debug, Default)]
pub struct AddressBook {
    vpcs: BTreeMap<ObjectName, VpcBook>,
    version: u64,
}

impl AddressBook {
    /// A book that remembers what `state` says. Of two holdings of one address the first counts.
    #[must_use]
    pub fn import(now: Now, state: &AddressBookState) -> Self {
        let mut book = Self::default();
        let elapsed_ms = now
            .unix_s
            .saturating_sub(state.exported_unix_s)
            .saturating_mul(1000);
        for holding in &state.holdings {
            let vpc = book.vpcs.entry(holding.vpc.clone()).or_default();
            if vpc.holders.contains_key(&holding.address) || vpc.holders.len() >= MAX_HOLDERS {
                continue;
            }
            let left_ms = holding.remaining_ms.saturating_sub(elapsed_ms);
            let until_ms = now.mono_ms.saturating_add(left_ms);
            let state = if holding.bound {
                Held::Absent { until_ms }
            } else {
                Held::Resting { until_ms }
            };
            vpc.hold(holding.address, holding.owner.clone(), state);
        }
        book
    }

    /// What to write to disk whenever [`version`](Self::version) has changed.
    #[must_use]
    pub fn export(&self, now: Now) -> AddressBookState {
        let mut holdings = Vec::new();
        for (name, vpc) in &self.vpcs {
            for (address, holder) in &vpc.holders {
                let (bound, remaining_ms) = match holder.state {
                    // Its session ends with the process: it is absent from then on.
                    Held::Present | Held::Suspended | Held::Fixed => {
                        (true, vpc.absence_ms(&holder.owner))
                    }
                    Held::Absent { until_ms } => (true, until_ms.saturating_sub(now.mono_ms)),
                    Held::Resting { until_ms } => (false, until_ms.saturating_sub(now.mono_ms)),
                };
                let (vpc, owner) = (name.clone(), holder.owner.clone());
                holdings.push(Holding {
                    vpc,
                    address: *address,
                    owner,
                    bound,
                    remaining_ms,
                });
            }
        }
        AddressBookState {
            exported_unix_s: now.unix_s,
            holdings,
        }
    }

    /// Grows with every change that a restart must not forget.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the pools of the ingress points of `vpc`; an ingress point that is not in `sites` has
    /// none any more. Addresses that no pool has any more are freed.
    pub fn set_sites(&mut self, now: Now, vpc: &ObjectName, sites: &[(&ObjectName, Site<'_>)]) {
        let book = self.vpcs.entry(vpc.clone()).or_default();
        book.expire(now.mono_ms);
        if book.set_sites(now.mono_ms, sites) {
            self.version += 1;
        }
        if book.sites.is_empty() && book.holders.is_empty() {
            self.vpcs.remove(vpc);
        }
    }

    /// Frees what the VPCs without any pool still hold, and forgets those where all has rested.
    /// Without it a VPC that was removed would be remembered for ever.
    pub fn sweep(&mut self, now: Now) {
        self.vpcs.retain(|_, book| {
            if !book.sites.is_empty() {
                return true;
            }
            let held: Vec<_> = book.holders.keys().copied().collect();
            held.into_iter()
                .for_each(|address| book.rest(now.mono_ms, address));
            book.expire(now.mono_ms);
            !book.holders.is_empty()
        });
    }

    /// Gives `owner` what `demand` says and returns all its addresses, IPv4 first. An address it
    /// has already, or had and that still rests, stays its own. A family whose pools are exhausted
    /// is left out; what it has of a family that `demand` does not name is freed.
    ///
    /// # Errors
    /// [`AddressError`]; what the owner had before and may keep, it keeps.
    pub fn bind(
        &mut self,
        now: Now,
        vpc: &ObjectName,
        owner: &Owner,
        demand: &Demand<'_>,
    ) -> Result<Vec<IpAddr>, AddressError> {
        let book = self.vpcs.entry(vpc.clone()).or_default();
        book.expire(now.mono_ms);
        self.version += 1;
        if demand.fixed.is_empty() {
            book.bind_from_pools(now.mono_ms, owner, demand)
        } else {
            book.bind_fixed(now.mono_ms, owner, demand)
        }
    }

    /// Says whether `owner` has a session.
    pub fn set_present(&mut self, now: Now, vpc: &ObjectName, owner: &Owner, present: bool) {
        let Some(book) = self.vpcs.get_mut(vpc) else {
            return;
        };
        let until_ms = now.mono_ms.saturating_add(book.absence_ms(owner));
        for address in book.addresses(owner) {
            let state = book.holders.get(&address).map(|holder| holder.state);
            if matches!(state, Some(Held::Present | Held::Absent { .. })) {
                let state = if present {
                    Held::Present
                } else {
                    Held::Absent { until_ms }
                };
                book.set_state(address, state);
            }
        }
        self.version += 1;
    }

    /// Says whether `owner`, which has no session, is suspended: then nobody takes its addresses back,
    /// however long it stays away. Without an effect on an owner that has a session.
    pub fn set_suspended(&mut self, now: Now, vpc: &ObjectName, owner: &Owner, suspended: bool) {
        let Some(book) = self.vpcs.get_mut(vpc) else {
            return;
        };
        let until_ms = now.mono_ms.saturating_add(book.absence_ms(owner));
        for address in book.addresses(owner) {
            let state = book.holders.get(&address).map(|holder| holder.state);
            let next = match (state, suspended) {
                (Some(Held::Absent { .. }), true) => Held::Suspended,
                (Some(Held::Suspended), false) => Held::Absent { until_ms },
                _ => continue,
            };
            book.set_state(address, next);
            self.version += 1;
        }
    }

    /// Frees what `owner` has; it rests.
    pub fn free(&mut self, now: Now, vpc: &ObjectName, owner: &Owner) {
        let Some(book) = self.vpcs.get_mut(vpc) else {
            return;
        };
        for address in book.addresses(owner) {
            book.rest(now.mono_ms, address);
        }
        book.expire(now.mono_ms);
        self.version += 1;
    }

    /// Every attachment of an ingress point that holds an address.
    #[must_use]
    pub fn owners(&self, vpc: &ObjectName, ingress_point: &ObjectName) -> Vec<Owner> {
        let Some(book) = self.vpcs.get(vpc) else {
            return Vec::new();
        };
        let holds = |owner: &Owner| book.held(owner).next().is_some();
        book.owned
            .keys()
            .filter(|owner| owner.ingress_point == *ingress_point && holds(owner))
            .cloned()
            .collect()
    }

    /// What `owner` holds, IPv4 first.
    #[must_use]
    pub fn addresses(&self, vpc: &ObjectName, owner: &Owner) -> Vec<IpAddr> {
        self.vpcs
            .get(vpc)
            .map_or_else(Vec::new, |book| book.held(owner).collect())
    }

    /// Who holds `address`; `None` if it is free or rests.
    #[must_use]
    pub fn holder(&self, vpc: &ObjectName, address: IpAddr) -> Option<&Owner> {
        let holder = self.vpcs.get(vpc)?.holders.get(&address)?;
        (!matches!(holder.state, Held::Resting { .. })).then_some(&holder.owner)
    }

    /// How full the pools of an ingress point are.
    #[must_use]
    pub fn usage(&self, vpc: &ObjectName, ingress_point: &ObjectName) -> Vec<PoolUsage> {
        let Some(book) = self.vpcs.get(vpc) else {
            return Vec::new();
        };
        let Some(site) = book.sites.get(ingress_point) else {
            return Vec::new();
        };
        site.pools.iter().map(|pool| book.usage(pool)).collect()
    }
}
