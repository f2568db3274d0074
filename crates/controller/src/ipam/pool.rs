//! Free addresses of a pool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use masque_model::Snapshot;

use crate::compile::unavailable;

/// The first free address of one family, beginning in each pool at a place that depends on `seed`: an
/// address given back is rarely the next one given out. Looks at no more addresses than are taken.
pub(super) fn free(
    snapshot: &Snapshot,
    ipv4: bool,
    seed: u64,
    most_taken: usize,
    taken: impl Fn(&IpAddr) -> bool,
) -> Option<IpAddr> {
    let family = snapshot
        .pools
        .iter()
        .filter(|pool| pool.prefix.addr().is_ipv4() == ipv4);
    for pool in family {
        let (first, last) = bounds(&pool.prefix);
        let size = (last - first).saturating_add(1);
        let begin = first + u128::from(seed) % size;
        // Taken ones, and network, gateway and broadcast addresses.
        let mut steps = most_taken + 4 + 2 * pool.reserved.len();
        let (mut next, mut wrapped) = (begin, false);
        while steps > 0 && !(wrapped && next >= begin) {
            steps -= 1;
            let address = address(next, ipv4);
            let reserved = pool.reserved.iter().find(|part| part.contains(&address));
            if reserved.is_none() && !taken(&address) && unavailable(&address, snapshot).is_none() {
                return Some(address);
            }
            let end = reserved.map_or(next, |part| bounds(part).1);
            (next, wrapped) = if end >= last {
                if wrapped {
                    break;
                }
                (first, true)
            } else {
                (end + 1, wrapped)
            };
        }
    }
    None
}

/// First and last address as numbers.
fn bounds(prefix: &IpNet) -> (u128, u128) {
    match prefix {
        IpNet::V4(prefix) => (
            u128::from(u32::from(prefix.network())),
            u128::from(u32::from(prefix.broadcast())),
        ),
        IpNet::V6(prefix) => (u128::from(prefix.network()), u128::from(prefix.broadcast())),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}
