//! Which streams are over, in little memory.

/// Stream numbers (ids without their type bits) that are done with. QUIC opens streams in order
/// of their numbers (RFC 9000 §2.1), so done numbers run together into few ranges: the only gaps
/// are streams that are open or that the peer has not used yet, and QUIC bounds those.
#[derive(Debug)]
pub(crate) struct ClosedStreams {
    /// Half-open ranges, ascending, never touching.
    ranges: Vec<(u64, u64)>,
    max_ranges: usize,
}

/// Gaps beyond those that open streams make. QUIC stacks grant a few hundred concurrent streams;
/// a peer that leaves out more does it on purpose.
pub(crate) const MAX_IDLE_GAPS: usize = 1024;

/// The peer leaves more gaps than are kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyGaps;

impl ClosedStreams {
    /// None yet; `max_open` streams may be open at one time.
    pub(crate) fn new(max_open: usize) -> Self {
        Self {
            ranges: Vec::new(),
            max_ranges: max_open.saturating_add(MAX_IDLE_GAPS),
        }
    }

    /// Whether `number` is done with.
    pub(crate) fn contains(&self, number: u64) -> bool {
        match self.ranges.first() {
            None => false,
            Some((start, end)) if number < *end => number >= *start,
            Some(_) => {
                let after = self.ranges.partition_point(|(start, _)| *start <= number);
                number < self.ranges[after - 1].1
            }
        }
    }

    /// Marks `number` as done with.
    pub(crate) fn insert(&mut self, number: u64) -> Result<(), TooManyGaps> {
        let after = self.ranges.partition_point(|(start, _)| *start <= number);
        let joins_previous = match after.checked_sub(1).map(|index| self.ranges[index]) {
            Some((_, end)) if number < end => return Ok(()),
            Some((_, end)) => number == end,
            None => false,
        };
        let joins_next = self
            .ranges
            .get(after)
            .is_some_and(|(start, _)| *start == number + 1);
        match (joins_previous, joins_next) {
            (true, true) => {
                self.ranges[after - 1].1 = self.ranges[after].1;
                self.ranges.remove(after);
            }
            (true, false) => self.ranges[after - 1].1 = number + 1,
            (false, true) => self.ranges[after].0 = number,
            (false, false) if self.ranges.len() >= self.max_ranges => return Err(TooManyGaps),
            (false, false) => self.ranges.insert(after, (number, number + 1)),
        }
        Ok(())
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<(u64, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_set(numbers in prop::collection::vec(0u64..64, 0..100)) {
            let mut closed = ClosedStreams::new(0);
            let mut model = BTreeSet::new();
            for number in numbers {
                closed.insert(number).unwrap();
                model.insert(number);
                for probe in 0..66 {
                    prop_assert_eq!(closed.contains(probe), model.contains(&probe));
                }
                prop_assert!(closed.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }

    #[test]
    fn gaps_are_bounded() {
        let mut closed = ClosedStreams::new(0);
        for number in 0..MAX_IDLE_GAPS as u64 {
            closed.insert(2 * number).unwrap();
        }
        assert_eq!(closed.insert(5000), Err(TooManyGaps));
        closed.insert(1).unwrap();
        closed.insert(5000).unwrap();
        assert_eq!(closed.insert(9000), Err(TooManyGaps));
    }
}
