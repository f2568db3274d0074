//! The token bucket behind every rate limit.

/// Longest time a bucket fills in one go; also keeps the arithmetic far from overflow.
const MAX_REFILL_MS: u64 = 60_000;

/// Greatest rate, units per second. With [`MAX_REFILL_MS`] the product fits in 64 bits.
const MAX_RATE: u64 = 1 << 47;

/// A token bucket that fills with `rate` units a second up to `burst` units.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    rate: u64,
    /// Thousandths of a unit, so that a millisecond fills exactly `rate` of them.
    level_milli: u64,
    burst_milli: u64,
    filled_ms: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub(crate) fn new(rate: u64, burst: u64, now_ms: u64) -> Self {
        let burst_milli = burst.min(MAX_RATE) * 1000;
        Self {
            rate: rate.min(MAX_RATE),
            level_milli: burst_milli,
            burst_milli,
            filled_ms: now_ms,
        }
    }

    /// Takes `units` if the bucket has as many.
    #[inline]
    pub(crate) fn take(&mut self, now_ms: u64, units: u64) -> bool {
        let elapsed_ms = now_ms.saturating_sub(self.filled_ms).min(MAX_REFILL_MS);
        if elapsed_ms > 0 {
            self.level_milli = (self.level_milli + self.rate * elapsed_ms).min(self.burst_milli);
            self.filled_ms = now_ms;
        }
        let cost_milli = units.saturating_mul(1000);
        if cost_milli > self.level_milli {
            return false;
        }
        self.level_milli -= cost_milli;
        true
    }
}

/// The bucket of a `bitsPerSecond` limit, in bits.
///
/// It holds a tenth of a second and at least two super-packets of 64 KiB: with less a limit would
/// cut TCP's bursts and hold the rate far below itself.
pub(crate) fn bits_per_second(rate: u64, now_ms: u64) -> TokenBucket {
    const TWO_SUPER_PACKETS_BITS: u64 = 2 * 65_536 * 8;
    TokenBucket::new(rate, (rate / 10).max(TWO_SUPER_PACKETS_BITS), now_ms)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn starts_full_and_refills() {
        let mut bucket = TokenBucket::new(10, 2, 0);
        assert!(bucket.take(0, 1) && bucket.take(0, 1) && !bucket.take(0, 1));
        assert!(!bucket.take(99, 1));
        assert!(bucket.take(100, 1) && !bucket.take(100, 1));
        assert!(bucket.take(u64::MAX, 2) && !bucket.take(u64::MAX, 1));
    }

    proptest! {
        #[test]
        fn never_passes_more_than_burst_and_rate(
            rate in 1u64..1_000_000,
            burst in 1u64..100_000,
            steps in prop::collection::vec((0u64..50, 1u64..5_000), 1..200),
        ) {
            let mut bucket = TokenBucket::new(rate, burst, 0);
            let (mut now_ms, mut passed) = (0, 0);
            for (wait_ms, units) in steps {
                now_ms += wait_ms;
                if bucket.take(now_ms, units) {
                    passed += units;
                }
                prop_assert!(passed * 1000 <= burst * 1000 + rate * now_ms);
            }
        }
    }
}
