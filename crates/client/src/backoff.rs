//! How long to wait before the next attempt.

use std::time::{Duration, Instant};

use crate::Retry;

/// First wait.
pub(crate) const WAIT_FIRST: Duration = Duration::from_millis(50);
/// Longest wait while the gateway was up within [`HEALTHY_RECENTLY`]: with a handshake of a few
/// round trips the tunnel is back within a second after the gateway is.
pub(crate) const WAIT_MAX_HEALTHY: Duration = Duration::from_millis(500);
/// Longest wait otherwise; a tunnel that lasted so long shows that the gateway's fault is mended.
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
    /// Answers that no time turns into others. Counted over tunnels that did not last: a gateway may
    /// open one and break the protocol in it, each time.
    faults: u32,
    opened: Option<Instant>,
    healthy: Option<Instant>,
    state: u64,
}

impl Backoff {
    /// A fresh one. `seed` decides the jitter, so that clients of one gateway spread.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero is the one state that xorshift cannot leave.
        Self {
            failures: 0,
            faults: 0,
            opened: None,
            healthy: None,
            state: seed | 1,
        }
    }

    /// The tunnel is open at `now`: the next failure starts from the shortest wait.
    pub(crate) fn succeeded(&mut self, now: Instant) {
        self.failures = 0;
        self.opened = Some(now);
        self.healthy = Some(now);
    }

    /// The tunnel that was open until `now` is lost or silent: from here [`HEALTHY_RECENTLY`] runs,
    /// however long ago the tunnel was opened.
    pub(crate) fn worked_until(&mut self, now: Instant) {
        self.healthy = Some(now);
        let lasted = |at| now.saturating_duration_since(at) >= WAIT_MAX;
        if self.opened.is_some_and(lasted) {
            self.faults = 0;
        }
    }

    /// Something outside changed (an address, a route, a wake-up): the next wait is the shortest, but
    /// not after an answer of a gateway that is broken whatever the network.
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
                doubled(self.failures, max)
            }
            Retry::AfterChange => WAIT_CHANGE,
            // Soon, for another gateway may be in its place or beside it; then ever less often, as
            // one that is mended late is not missed for longer than it was broken.
            Retry::Useless => {
                self.faults = self.faults.saturating_add(1);
                doubled(self.faults - 1, WAIT_MAX)
            }
        };
        self.failures = self.failures.saturating_add(1);
        // Between one half and the whole: the maximum stays a maximum.
        wait / 2 + self.spread(wait / 2)
    }

    /// An attempt failed while a tunnel still works: waits grow to [`WAIT_MAX`] whatever was before.
    pub(crate) fn failed_at_leisure(&mut self) -> Duration {
        let wait = doubled(self.failures, WAIT_MAX);
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

/// [`WAIT_FIRST`], doubled so many times, at most `max`.
fn doubled(times: u32, max: Duration) -> Duration {
    WAIT_FIRST.saturating_mul(1 << times.min(16)).min(max)
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
    fn a_broken_gateway_is_tried_again_soon_and_then_ever_less() {
        let start = Instant::now();
        let mut backoff = Backoff::new(7);
        backoff.succeeded(start);
        backoff.worked_until(start);
        let first = backoff.failed(Retry::Useless, start);
        assert!(first <= WAIT_FIRST, "{first:?}");
        let (mut broken, mut last) = (first, first);
        for _ in 0..40 {
            // It opens a tunnel each time, which counts for nothing before that has lasted.
            let now = start + broken;
            backoff.succeeded(now);
            backoff.hurry();
            backoff.worked_until(now);
            last = backoff.failed(Retry::Useless, now);
            assert!(last <= WAIT_MAX, "{last:?}");
            assert!(last <= 4 * broken, "{last:?} after {broken:?}");
            broken += last;
        }
        assert!(last >= WAIT_MAX / 2, "it reaches the maximum: {last:?}");
        let opened = start + broken;
        backoff.succeeded(opened);
        backoff.worked_until(opened + WAIT_MAX);
        let first = backoff.failed(Retry::Useless, opened + WAIT_MAX);
        assert!(first <= WAIT_FIRST, "that tunnel lasted: {first:?}");
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
