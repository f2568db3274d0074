//! How long to wait before the next attempt.

use std::time::{Duration, Instant};

use crate::Retry;

/// First wait.
pub(crate) const WAIT_FIRST: Duration = Duration::from_millis(50);
/// Longest wait while the gateway was up within [`HEALTHY_RECENTLY`]: with a handshake of a few
/// round trips the tunnel is back within a second after the gateway is.
pub(crate) const WAIT_MAX_HEALTHY: Duration = Duration::from_millis(500);
/// Longest wait otherwise.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// Wait after an answer that only somebody's change turns into another: soon enough that a person
/// who applies the manifest sees the effect, rare enough to load nobody.
pub(crate) const WAIT_CHANGE: Duration = Duration::from_secs(5);
/// For how long after a tunnel was lost, or began to be silent, its gateway counts as "about to
/// return".
pub(crate) const HEALTHY_RECENTLY: Duration = Duration::from_secs(300);

/// Exponential backoff with jitter; time and seed are arguments.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    failures: u32,
    healthy: Option<Instant>,
    state: u64,
}

impl Backoff {
    /// A fresh one. `seed` decides the jitter, so that clients of one gateway spread.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift cannot leave.
        Self {
            failures: 0,
            healthy: None,
            state: seed | 1,
        }
    }

    /// The tunnel is open at `now`: the next failure starts from the shortest wait.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        self.healthy = Some(now);
    }

    /// The tunnel that was open until `now` is lost or silent: from here [`HEALTHY_RECENTLY`] runs,
    /// however long ago the tunnel was opened.
    pub(crate) fn worked_until(&mut self, now: Instant) {
        self.healthy = Some(now);
    }

    /// Something outside changed (an address, a route, a wake-up): the next wait is the shortest.
    pub(crate) fn hurry(&mut self) {
        self.failures = 0;
    }

    /// Whether the gateway was up within [`HEALTHY_RECENTLY`].
    pub(crate) fn is_recent(&self, now: Instant) -> bool {
        self.healthy
            .is_some_and(|at| now.duration_since(at) < HEALTHY_RECENTLY)
    }

    /// An attempt failed at `now`; how long to wait before the next.
    pub(crate) fn failed(&mut self, retry: Retry, now: Instant) -> Duration {
        let recently = self.is_recent(now);
        let wait = match retry {
            Retry::Helps => {
                let max = if recently { WAIT_MAX_HEALTHY } else { WAIT_MAX };
                WAIT_FIRST
                    .saturating_mul(1 << self.failures.min(16))
                    .min(max)
            }
            Retry::AfterChange => WAIT_CHANGE,
            Retry::Useless => WAIT_MAX,
        };
        self.failures = self.failures.saturating_add(1);
        // Between one half and the whole: the maximum stays a maximum.
        wait / 2 + self.spread(wait / 2)
    }

    /// An attempt failed while a tunnel still works: waits grow to [`WAIT_MAX`] whatever was before.
    pub(crate) fn failed_at_leisure(&mut self) -> Duration {
        let wait = WAIT_FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(WAIT_MAX);
        self.failures = self.failures.saturating_add(1);
        wait / 2 + self.spread(wait / 2)
    }

    /// Any time up to `most`.
    pub(crate) fn spread(&mut self, most: Duration) -> Duration {
        most.mul_f64(self.fraction())
    }

    /// Uniform in 0..1 (xorshift64*); jitter needs no better randomness.
    fn fraction(&mut self) -> f64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let bits = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
        bits as f64 / f64::from(1_u32 << 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_was_just_up_is_tried_at_least_twice_a_second() {
        let start = Instant::now();
        let mut backoff = Backoff::new(7);
        backoff.succeeded(start);
        assert!(backoff.failed(Retry::Helps, start) <= WAIT_FIRST);
        for second in 0..299 {
            let now = start + Duration::from_secs(second);
            assert!(backoff.failed(Retry::Helps, now) <= WAIT_MAX_HEALTHY);
        }
    }

    #[test]
    fn the_hurry_is_counted_from_the_end_of_a_tunnel() {
        let start = Instant::now();
        let mut backoff = Backoff::new(7);
        backoff.succeeded(start);
        let lost = start + Duration::from_secs(3600);
        assert!(!backoff.is_recent(lost), "only its beginning is known");
        backoff.worked_until(lost);
        assert!(backoff.is_recent(lost + HEALTHY_RECENTLY / 2));
        assert!(!backoff.is_recent(lost + HEALTHY_RECENTLY), "bounded");
    }

    #[test]
    fn a_gateway_that_never_was_up_is_tried_ever_less_and_bounded() {
        let start = Instant::now();
        let mut backoff = Backoff::new(7);
        let waits: Vec<Duration> = (0..40)
            .map(|_| backoff.failed(Retry::Helps, start))
            .collect();
        assert!(waits[0] <= WAIT_FIRST && waits[0] >= WAIT_FIRST / 2);
        assert!(waits.iter().all(|wait| *wait <= WAIT_MAX));
        assert!(waits[39] >= WAIT_MAX / 2, "it reaches the maximum");
        backoff.hurry();
        assert!(backoff.failed(Retry::Helps, start) <= WAIT_FIRST);
    }

    #[test]
    fn clients_spread() {
        let now = Instant::now();
        let waits: std::collections::BTreeSet<Duration> = (0..100)
            .map(|seed| Backoff::new(seed * 2 + 1).failed(Retry::Useless, now))
            .collect();
        assert!(waits.len() > 50, "{} different waits", waits.len());
    }
}
