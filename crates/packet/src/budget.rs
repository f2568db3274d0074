//! What one turn of a packet thread takes of one source, so that the others have their share of it.

/// So many packets, and so many bytes of them, whichever end first.
///
/// Packets alone would let super-packets take a thousand times what short ones take, bytes alone short
/// ones, which cost as much each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    packets: usize,
    bytes: usize,
}

impl Budget {
    /// At most so many packets or super-packets, and none after so many bytes.
    #[must_use]
    pub const fn new(packets: usize, bytes: usize) -> Self {
        Self { packets, bytes }
    }

    /// Whether no more may be taken: the source may have some left.
    #[inline]
    #[must_use]
    pub const fn is_spent(&self) -> bool {
        self.packets == 0 || self.bytes == 0
    }

    /// A packet of so many bytes was taken.
    #[inline]
    pub const fn spend(&mut self, packet_bytes: usize) {
        self.packets = self.packets.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(packet_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many packets of one length it lets through.
    fn taken(mut budget: Budget, packet_bytes: usize) -> usize {
        let mut taken = 0;
        while !budget.is_spent() {
            budget.spend(packet_bytes);
            taken += 1;
        }
        taken
    }

    #[test]
    fn either_bound_ends_it() {
        let budget = Budget::new(5, 1000);
        assert_eq!(taken(budget, 0), 5);
        assert_eq!(taken(budget, 200), 5);
        assert_eq!(taken(budget, 400), 3, "the last one goes over");
        assert_eq!(taken(budget, usize::MAX), 1);
        assert_eq!(taken(Budget::new(0, 1000), 1), 0);
        assert_eq!(taken(Budget::new(5, 0), 1), 0);
    }
}
