//! Sets and trees of prefixes that are built once and looked up without allocating.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of addresses made of prefixes: sorted, merged, disjoint ranges. A lookup is one binary
/// search.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrefixSet {
    v4: Vec<Range>,
    v6: Vec<Range>,
}

/// An inclusive range of addresses of one family.
type Range = (u128, u128);

impl PrefixSet {
    /// The union of `prefixes`; host bits are ignored.
    pub(crate) fn new<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            let family = if prefix.addr().is_ipv4() {
                &mut v4
            } else {
                &mut v6
            };
            family.push(range(prefix));
        }
        Self {
            v4: merged(v4),
            v6: merged(v6),
        }
    }

    /// Whether the set has `address`.
    #[inline]
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let bits = bits(address);
        let after = ranges.partition_point(|(start, _)| *start <= bits);
        after
            .checked_sub(1)
            .and_then(|at| ranges.get(at))
            .is_some_and(|(_, end)| bits <= *end)
    }
}

/// For every address all prefixes that contain it, longest first.
///
/// Prefixes nest or are disjoint, so the address line falls into intervals with one deepest prefix
/// each: a lookup is one binary search and a walk up, at most 33 or 129 steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct PrefixTree {
    v4: Family,
    v6: Family,
}

#[derive(Clone, Debug, Default)]
struct Family {
    /// Where each interval begins, and the deepest prefix of it.
    intervals: Vec<(u128, u32)>,
    /// The next shorter prefix of each prefix; only the own family's places are used.
    parents: Vec<u32>,
}

/// No prefix.
const NONE: u32 = u32::MAX;

impl PrefixTree {
    /// A tree of `prefixes`, which must be distinct and without host bits. A prefix's number is its
    /// place in the slice.
    pub(crate) fn new(prefixes: &[IpNet]) -> Self {
        Self {
            v4: Family::new(prefixes, true),
            v6: Family::new(prefixes, false),
        }
    }

    /// The numbers of the prefixes that contain `address`, longest first.
    #[inline]
    pub(crate) fn covering(&self, address: IpAddr) -> impl Iterator<Item = u32> + '_ {
        let family = if address.is_ipv4() {
            &self.v4
        } else {
            &self.v6
        };
        let mut at = family.deepest(bits(address));
        std::iter::from_fn(move || {
            let found = (at != NONE).then_some(at)?;
            at = family.parents.get(found as usize).copied().unwrap_or(NONE);
            Some(found)
        })
    }
}

impl Family {
    fn new(prefixes: &[IpNet], ipv4: bool) -> Self {
        let mut sorted: Vec<(Range, u32)> = (0u32..)
            .zip(prefixes)
            .filter(|(_, prefix)| prefix.addr().is_ipv4() == ipv4)
            .map(|(number, prefix)| (range(prefix), number))
            .collect();
        // A shorter prefix before the longer ones inside it.
        sorted.sort_unstable_by_key(|((start, end), _)| (*start, std::cmp::Reverse(*end)));
        let mut family = Self {
            intervals: Vec::new(),
            parents: vec![NONE; prefixes.len()],
        };
        let mut open: Vec<(u128, u32)> = Vec::new();
        for ((start, end), number) in sorted {
            family.close(&mut open, Some(start));
            if let Some(parent) = family.parents.get_mut(number as usize) {
                *parent = open.last().map_or(NONE, |(_, number)| *number);
            }
            open.push((end, number));
            family.begin(start, number);
        }
        family.close(&mut open, None);
        family
    }

    /// Closes the open prefixes that end before `next`.
    fn close(&mut self, open: &mut Vec<(u128, u32)>, next: Option<u128>) {
        while let Some((end, _)) = open.pop_if(|(end, _)| next.is_none_or(|next| *end < next)) {
            let parent = open.last().map_or(NONE, |(_, number)| *number);
            if let Some(after) = end.checked_add(1) {
                self.begin(after, parent);
            }
        }
    }

    fn begin(&mut self, start: u128, number: u32) {
        match self.intervals.last_mut() {
            Some(last) if last.0 == start => last.1 = number,
            _ => self.intervals.push((start, number)),
        }
    }

    #[inline]
    fn deepest(&self, bits: u128) -> u32 {
        let after = self.intervals.partition_point(|(start, _)| *start <= bits);
        after
            .checked_sub(1)
            .and_then(|at| self.intervals.get(at))
            .map_or(NONE, |(_, n)| *n)
    }
}

/// The parts of `prefixes` inside `others`: of every pair that overlaps, the longer prefix. Sorted,
/// without duplicates and without prefixes inside another one.
pub(crate) fn intersection(prefixes: &[IpNet], others: &[IpNet]) -> Vec<IpNet> {
    let mut parts = Vec::new();
    for prefix in prefixes {
        for other in others {
            if prefix.contains(other) {
                parts.push(*other);
            } else if other.contains(prefix) {
                parts.push(*prefix);
            }
        }
    }
    IpNet::aggregate(&parts)
}

/// An address as a number; unique within its family only.
#[inline]
pub(crate) fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first and last address of a prefix.
pub(crate) fn range(prefix: &IpNet) -> (u128, u128) {
    (bits(prefix.network()), bits(prefix.broadcast()))
}

fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match merged.last_mut() {
            Some(last) if start <= last.1.saturating_add(1) => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that prefixes nest and touch often.
        prop_oneof![
            (any::<u8>(), 0u8..=32).prop_map(|(bits, len)| {
                IpNet::new_assert([10, bits & 3, bits, bits.rotate_left(3)].into(), len).trunc()
            }),
            (any::<u8>(), 0u8..=128).prop_map(|(bits, len)| {
                let bits = u128::from(bits) << 120 | u128::from(bits);
                IpNet::new_assert(std::net::Ipv6Addr::from_bits(bits).into(), len).trunc()
            }),
        ]
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_scan(
            prefixes in prop::collection::btree_set(prefix(), 0..40),
            probes in prop::collection::vec(prefix(), 1..40),
        ) {
            let prefixes: Vec<IpNet> = prefixes.into_iter().collect();
            let (set, tree) = (PrefixSet::new(&prefixes), PrefixTree::new(&prefixes));
            for probe in probes.iter().flat_map(|p| [p.addr(), p.network(), p.broadcast()]) {
                let mut expected: Vec<_> = (0u32..)
                    .zip(&prefixes)
                    .filter(|(_, prefix)| prefix.contains(&probe))
                    .collect();
                expected.sort_by_key(|(_, prefix)| std::cmp::Reverse(prefix.prefix_len()));
                let expected: Vec<u32> = expected.into_iter().map(|(number, _)| number).collect();
                prop_assert_eq!(tree.covering(probe).collect::<Vec<_>>(), expected.clone());
                prop_assert_eq!(set.contains(probe), !expected.is_empty());
            }
        }

        #[test]
        fn an_intersection_holds_what_both_hold(
            left in prop::collection::vec(prefix(), 0..8),
            right in prop::collection::vec(prefix(), 0..8),
            probes in prop::collection::vec(prefix(), 1..20),
        ) {
            let both = intersection(&left, &right);
            prop_assert_eq!(both.iter().collect::<BTreeSet<_>>().len(), both.len());
            for probe in probes.iter().flat_map(|p| [p.addr(), p.broadcast()]) {
                let expected = PrefixSet::new(&left).contains(probe)
                    && PrefixSet::new(&right).contains(probe);
                prop_assert_eq!(PrefixSet::new(&both).contains(probe), expected);
            }
        }
    }
}
