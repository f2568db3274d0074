//! How full the pools are.

use std::collections::BTreeSet;

use ipnet::IpNet;
use masque_api::PoolUsage;
use masque_model::{AddressPool, Snapshot};

use crate::compile::unavailable;

/// Use of each pool of a snapshot.
pub(super) fn usage(snapshot: &Snapshot) -> Vec<PoolUsage> {
    let pools = snapshot.pools.iter().map(|pool| {
        let attachments = snapshot.attachments.iter();
        let addresses = attachments.flat_map(|attachment| &attachment.addresses);
        let allocated = addresses
            .filter(|address| pool.prefix.contains(*address))
            .count();
        PoolUsage {
            cidr: pool.prefix.to_string(),
            total: total(pool, snapshot),
            allocated: i64::try_from(allocated).unwrap_or(i64::MAX),
        }
    });
    pools.collect()
}

/// Addresses of a pool that can be given out.
fn total(pool: &AddressPool, snapshot: &Snapshot) -> i64 {
    let reserved = pool
        .reserved
        .iter()
        .map(size)
        .fold(0_u128, u128::saturating_add);
    // Network, gateway and broadcast addresses stand at the edges.
    let hosts = || pool.prefix.hosts();
    let ends = [pool.prefix.network(), pool.prefix.broadcast()];
    let edges: BTreeSet<_> = ends.into_iter().chain(hosts().take(2)).collect();
    let special = edges.iter().filter(|address| {
        let reserved = pool.reserved.iter().any(|part| part.contains(*address));
        !reserved && unavailable(address, snapshot).is_some()
    });
    let taken = reserved.saturating_add(special.count() as u128);
    i64::try_from(size(&pool.prefix).saturating_sub(taken)).unwrap_or(i64::MAX)
}

fn size(prefix: &IpNet) -> u128 {
    let bits = u32::from(prefix.max_prefix_len() - prefix.prefix_len());
    1_u128.checked_shl(bits).unwrap_or(u128::MAX)
}
