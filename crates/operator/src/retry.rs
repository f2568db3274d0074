//! Pauses after failed writes.

use std::time::{Duration, Instant};

use crate::client::CallError;

/// The first pause.
const FIRST: Duration = Duration::from_millis(500);

/// The longest pause after a fault that may pass by itself, and the pause after a missing right.
const LONGEST: Duration = Duration::from_secs(60);

/// The pause after an answer that will be the same until somebody changes something.
const TERMINAL: Duration = Duration::from_secs(300);

/// When something that failed is tried again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retry {
    failures: u32,
    at: Option<Instant>,
}

impl Retry {
    /// When the next attempt may be made; nothing when it may be made now.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        self.at.filter(|at| *at > now)
    }

    /// Notes a failure. `seed` spreads the attempts of different objects.
    pub(crate) fn failed(&mut self, error: &CallError, seed: u64, now: Instant) -> Instant {
        let pause = if error.code() == Some(403) || matches!(error, CallError::Taken) {
            // Often a role that is being bound, or an object that is deleted, just now.
            LONGEST
        } else if error.is_transient() {
            FIRST
                .saturating_mul(1_u32 << self.failures.min(16))
                .min(LONGEST)
        } else {
            TERMINAL
        };
        self.failures = self.failures.saturating_add(1);
        let at = now + jittered(pause, seed.wrapping_add(u64::from(self.failures)));
        self.at = Some(at);
        at
    }
}

/// Between 75 and 125 % of `pause`.
pub(crate) fn jittered(pause: Duration, seed: u64) -> Duration {
    // One step of SplitMix64 is enough to spread neighbours.
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let per_mille = 750 + u32::try_from((z ^ (z >> 31)) % 501).unwrap_or(250);
    pause * per_mille / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> CallError {
        let mut status = kube::core::Status::failure("no", "Test");
        status.code = code;
        CallError::Kube(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn pauses_grow_to_a_bound_and_spread() {
        let now = Instant::now();
        let mut retry = Retry::default();
        let mut last = Duration::ZERO;
        for round in 0..40 {
            let pause = retry.failed(&CallError::Timeout, 7, now) - now;
            assert!(pause <= LONGEST * 5 / 4);
            if round == 1 {
                assert!(pause > last);
            }
            last = pause;
        }
        assert!(last >= LONGEST * 3 / 4);
        assert_ne!(jittered(LONGEST, 1), jittered(LONGEST, 2));
    }

    #[test]
    fn a_refusal_is_not_tried_again_soon() {
        let now = Instant::now();
        let mut retry = Retry::default();
        assert!(retry.due(now).is_none());
        let at = retry.failed(&refused(422), 1, now);
        assert!(at - now >= TERMINAL * 3 / 4);
        assert_eq!(retry.due(now), Some(at));
        let mut retry = Retry::default();
        assert!(retry.failed(&refused(429), 1, now) - now < Duration::from_secs(1));
    }
}
