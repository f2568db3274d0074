//! What one tunnel may keep and cause.

/// Address requests without an answer, each way.
pub const MAX_PENDING_REQUESTS: usize = 64;

/// The peer's request ids that are remembered to find a reused one.
pub const MAX_TRACKED_REQUEST_IDS: usize = 256;

/// Prefixes that we assign to one peer; with refusals the capsule stays below 9 KiB.
pub const MAX_ASSIGNED: usize = 256;

/// Ranges that we advertise to one peer; the capsule stays below 35 KiB.
pub const MAX_ROUTES: usize = 1024;

/// Extension capsules that wait for `poll_transmit`.
pub const MAX_QUEUED_EXTENSIONS: usize = 16;

/// Bytes of capsules that wait for `poll_event`, beyond one call of `handle_data`.
pub const MAX_UNREAD_BYTES: usize = 256 * 1024;

/// Configuration capsules (ADDRESS_ASSIGN, ADDRESS_REQUEST, ROUTE_ADVERTISEMENT) that the peer may
/// send at once. Each makes us change routes, so their rate is limited.
pub const CHURN_BURST: u32 = 64;

/// The time after which the peer may send one more, once it has used up the burst.
pub const CHURN_REFILL_MS: u64 = 250;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Churn {
    tokens: u32,
    /// Up to when refilling was accounted for; `None` before the first capsule.
    since_ms: Option<u64>,
}

impl Churn {
    pub(super) const fn new() -> Self {
        Self {
            tokens: CHURN_BURST,
            since_ms: None,
        }
    }

    /// Whether one more capsule is within the rate.
    pub(super) fn take(&mut self, now_ms: u64) -> bool {
        let since_ms = *self.since_ms.get_or_insert(now_ms);
        let refills = now_ms.saturating_sub(since_ms) / CHURN_REFILL_MS;
        self.since_ms = Some(since_ms + refills * CHURN_REFILL_MS);
        let refills = u32::try_from(refills).unwrap_or(CHURN_BURST);
        self.tokens = self.tokens.saturating_add(refills).min(CHURN_BURST);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_makes_no_whole_token_is_not_lost() {
        let mut churn = Churn::new();
        assert!((0..CHURN_BURST).all(|_| churn.take(1000)));
        for early in 1..CHURN_REFILL_MS {
            assert!(!churn.take(1000 + early));
        }
        assert!(churn.take(1000 + CHURN_REFILL_MS));
        assert!(!churn.take(1000 + CHURN_REFILL_MS));
        // A long rest gives one burst, not more; a clock that steps back gives nothing.
        assert!((0..CHURN_BURST).all(|_| churn.take(u64::MAX)));
        assert!(!churn.take(u64::MAX));
        assert!(!churn.take(0));
    }
}
