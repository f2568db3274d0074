//! The free addresses of one pool.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use masque_model::AddressPool;

use crate::prefix::{bits, range};

/// How full a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool.
    pub prefix: IpNet,
    /// Addresses that can be given out; [`u64::MAX`] stands for that many or more.
    pub total: u64,
    /// Addresses that attachments hold.
    pub allocated: u64,
    /// Freed addresses that rest.
    pub resting: u64,
}

/// The address that the gateway answers on in `pool`: its first host. `None` for a pool of one
/// address, which goes to a client.
#[must_use]
pub fn gateway_address(pool: &IpNet) -> Option<IpAddr> {
    let (first, last) = range(pool);
    let host = match last - first {
        0 => return None,
        // RFC 3021 and RFC 6164: the two addresses of a point-to-point prefix are both hosts.
        1 => first,
        _ => first + 1,
    };
    address(pool, host)
}

/// The addresses that the gateway answers on, one a pool.
#[must_use]
pub fn gateway_addresses(pools: &[AddressPool]) -> Vec<IpAddr> {
    pools
        .iter()
        .filter_map(|pool| gateway_address(&pool.prefix))
        .collect()
}

/// A pool as sorted, disjoint intervals of free addresses: every operation is logarithmic in the
/// number of addresses in use, whatever the size of the pool.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    prefix: IpNet,
    /// Never given out: network, broadcast, the gateway's own and reserved ones; inclusive.
    excluded: Vec<(u128, u128)>,
    /// Start and end, inclusive; never adjacent.
    free: BTreeMap<u128, u128>,
}

impl Pool {
    pub(super) fn new(pool: &AddressPool) -> Self {
        let prefix = pool.prefix.trunc();
        let (first, last) = range(&prefix);
        let mut excluded: Vec<_> = pool
            .reserved
            .iter()
            .filter(|reserved| reserved.addr().is_ipv4() == prefix.addr().is_ipv4())
            .map(range)
            .collect();
        if last - first > 1 {
            // The network address of IPv4; the Subnet-Router anycast address of IPv6 (RFC 4291
            // §2.6.1).
            excluded.push((first, first));
            if prefix.addr().is_ipv4() {
                excluded.push((last, last));
            }
        }
        if let Some(gateway) = gateway_address(&prefix) {
            excluded.push((bits(gateway), bits(gateway)));
        }
        let mut pool = Self {
            prefix,
            excluded,
            free: BTreeMap::from([(first, last)]),
        };
        for (start, end) in pool.excluded.clone() {
            pool.remove(start.max(first), end.min(last));
        }
        pool
    }

    pub(super) const fn prefix(&self) -> &IpNet {
        &self.prefix
    }

    /// How many addresses are free, at most [`u64::MAX`].
    pub(super) fn free_count(&self) -> u64 {
        let count = self.free.iter().fold(0u128, |sum, (start, end)| {
            sum.saturating_add((end - start).saturating_add(1))
        });
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    /// Whether `address` may be given out at all.
    pub(super) fn is_usable(&self, address: IpAddr) -> bool {
        let number = bits(address);
        self.prefix.contains(&address)
            && !self
                .excluded
                .iter()
                .any(|(start, end)| (*start..=*end).contains(&number))
    }

    /// The first free address at or after the one that `seed` points to, round the pool.
    ///
    /// The seed is made of the attachment's key, so the replicas of an ingress point, and one
    /// gateway before and after the loss of its disk, mostly agree without talking.
    pub(super) fn next_free(&self, seed: u64) -> Option<IpAddr> {
        let (first, last) = range(&self.prefix);
        let size = (last - first).saturating_add(1);
        let wanted = first + u128::from(seed) % size;
        let around = self
            .free
            .range(..=wanted)
            .next_back()
            .filter(|(_, end)| **end >= wanted);
        let found = match around {
            Some(_) => wanted,
            None => {
                *self
                    .free
                    .range(wanted..)
                    .next()
                    .or_else(|| self.free.iter().next())?
                    .0
            }
        };
        address(&self.prefix, found)
    }

    /// Takes `address` out of the free ones, if it is there.
    pub(super) fn take(&mut self, address: IpAddr) {
        if self.prefix.contains(&address) {
            let number = bits(address);
            self.remove(number, number);
        }
    }

    /// Puts `address` back, if it is usable.
    pub(super) fn put(&mut self, address: IpAddr) {
        if !self.is_usable(address) {
            return;
        }
        let number = bits(address);
        let (mut start, mut end) = (number, number);
        if let Some((before, last)) = self.free.range(..=number).next_back() {
            if *last >= number {
                return;
            }
            if last + 1 == number {
                start = *before;
            }
        }
        if let Some(after) = number.checked_add(1)
            && let Some(last) = self.free.remove(&after)
        {
            end = last;
        }
        self.free.insert(start, end);
    }

    fn remove(&mut self, start: u128, end: u128) {
        // Intervals that touch start..=end: the one that begins before it and all that begin in it.
        let touched: Vec<_> = self
            .free
            .range(..=end)
            .rev()
            .take_while(|(_, last)| **last >= start)
            .map(|(first, last)| (*first, *last))
            .collect();
        for (first, last) in touched {
            self.free.remove(&first);
            if first < start {
                self.free.insert(first, start - 1);
            }
            if last > end {
                self.free.insert(end + 1, last);
            }
        }
    }
}

/// The address with this number in the family of `prefix`.
fn address(prefix: &IpNet, number: u128) -> Option<IpAddr> {
    match prefix {
        IpNet::V4(_) => Some(Ipv4Addr::from_bits(u32::try_from(number).ok()?).into()),
        IpNet::V6(_) => Some(Ipv6Addr::from_bits(number).into()),
    }
}
