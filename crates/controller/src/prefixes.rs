//! Sets of prefixes.

use ipnet::IpNet;

/// The fewest prefixes that cover the same addresses, IPv4 first, in order.
pub(crate) fn normalize(prefixes: &[IpNet]) -> Vec<IpNet> {
    let mut set = IpNet::aggregate(&prefixes.to_vec());
    set.sort();
    set
}

/// The addresses that are in both sets. Two prefixes are either nested or disjoint, so that the
/// smaller of each nested pair is all there is in common.
pub(crate) fn intersect(a: &[IpNet], b: &[IpNet]) -> Vec<IpNet> {
    let mut common = Vec::new();
    for x in a {
        for y in b {
            if contains(x, y) {
                common.push(*y);
            } else if contains(y, x) {
                common.push(*x);
            }
        }
    }
    normalize(&common)
}

/// Whether two prefixes have an address in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    contains(a, b) || contains(b, a)
}

/// Whether every address of `inner` is in `outer`.
pub(crate) fn contains(outer: &IpNet, inner: &IpNet) -> bool {
    outer.contains(inner)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    /// Prefixes close together, so that they often touch.
    fn prefix() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0..=255_u8, 24..=32_u8).prop_map(|(host, len)| {
                IpNet::new(IpAddr::from([10, 0, 0, host]), len)
                    .unwrap()
                    .trunc()
            }),
            (0..=255_u16, 120..=128_u8).prop_map(|(host, len)| {
                let address = IpAddr::from([0xfd20, 0, 0, 0, 0, 0, 0, host]);
                IpNet::new(address, len).unwrap().trunc()
            }),
        ]
    }

    fn addresses() -> impl Iterator<Item = IpAddr> {
        let v4 = (0..=255).map(|host| IpAddr::from([10, 0, 0, host]));
        v4.chain((0..=255).map(|host| IpAddr::from([0xfd20, 0, 0, 0, 0, 0, 0, host])))
    }

    fn in_set(set: &[IpNet], address: &IpAddr) -> bool {
        set.iter().any(|prefix| prefix.contains(address))
    }

    proptest! {
        #[test]
        fn intersection_is_per_address(
            a in prop::collection::vec(prefix(), 0..8),
            b in prop::collection::vec(prefix(), 0..8),
        ) {
            let common = intersect(&a, &b);
            for address in addresses() {
                let expected = in_set(&a, &address) && in_set(&b, &address);
                prop_assert_eq!(in_set(&common, &address), expected, "{}", address);
            }
            prop_assert_eq!(normalize(&common), common);
        }
    }
}
