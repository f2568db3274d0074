//! Whether the gateway still answers.
//!
//! QUIC alone notices after its idle timeout. What is sent here is nearly always acknowledged within
//! a round trip, so silence after sending says much earlier that something is wrong; a suspicion
//! only makes a second connection begin beside the first, and costs nothing when it was wrong.

use std::time::{Duration, Instant};

/// How often silence is looked for while packets are sent.
const CHECK_EVERY: Duration = Duration::from_millis(250);
/// Silence after sending that is suspicious: longer than any usual delay of an acknowledgement.
const SUSPECT_AFTER: Duration = Duration::from_secs(1);
/// Silence after sending that means the connection is lost.
const DEAD_AFTER: Duration = Duration::from_secs(5);
/// What an answer to a keep-alive may take before the silence is suspicious.
const KEEP_ALIVE_GRACE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Heard since the last check, or nothing was to be heard.
    Alive,
    /// Begin another connection beside this one.
    Suspect,
    /// Give this one up.
    Dead { silent: Duration },
}

#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    keep_alive: Duration,
    heard: Instant,
    received_bytes: u64,
    /// Since when something sent has been without an answer, as far as checks can tell.
    waiting_since: Option<Instant>,
    next_check: Instant,
}

impl Liveness {
    pub(crate) fn new(keep_alive: Duration, received_bytes: u64, now: Instant) -> Self {
        Self {
            keep_alive,
            heard: now,
            received_bytes,
            waiting_since: None,
            next_check: now + keep_alive + KEEP_ALIVE_GRACE,
        }
    }

    /// A packet was sent.
    #[inline]
    pub(crate) fn sent(&mut self, now: Instant) {
        if self.waiting_since.is_none() {
            self.waiting_since = Some(now);
            self.next_check = self.next_check.min(now + CHECK_EVERY);
        }
    }

    /// The network says that the gateway is gone, or the machine slept: as if silence had lasted
    /// until it is suspicious.
    pub(crate) fn doubt(&mut self, now: Instant) {
        let since = now.checked_sub(SUSPECT_AFTER).unwrap_or(now);
        self.waiting_since = Some(
            self.waiting_since
                .map_or(since, |earlier| earlier.min(since)),
        );
        self.next_check = now;
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.next_check
    }

    /// Looks, when [`deadline`](Self::deadline) has come. `received_bytes` counts what the
    /// connection received so far.
    pub(crate) fn check(&mut self, now: Instant, received_bytes: u64, rtt: Duration) -> Verdict {
        if received_bytes != self.received_bytes {
            self.received_bytes = received_bytes;
            self.heard = now;
            self.waiting_since = None;
        }
        let idle_until = self.heard + self.keep_alive + KEEP_ALIVE_GRACE;
        if self.waiting_since.is_none() && now >= idle_until {
            // The keep-alive went unanswered.
            self.waiting_since = now.checked_sub(KEEP_ALIVE_GRACE);
        }
        let Some(since) = self.waiting_since else {
            self.next_check = idle_until;
            return Verdict::Alive;
        };
        self.next_check = now + CHECK_EVERY;
        let silent = now.saturating_duration_since(since);
        if silent >= DEAD_AFTER.max(rtt * 10) {
            Verdict::Dead { silent }
        } else if silent >= SUSPECT_AFTER.max(rtt * 3) {
            Verdict::Suspect
        } else {
            Verdict::Alive
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);
    const KEEP_ALIVE: Duration = Duration::from_secs(15);

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn unanswered_packets_are_suspicious_after_a_second_and_fatal_after_five() {
        let start = Instant::now();
        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        liveness.sent(start);
        assert_eq!(liveness.check(at(start, 250), 100, RTT), Verdict::Alive);
        liveness.sent(at(start, 900));
        assert_eq!(liveness.check(at(start, 1000), 100, RTT), Verdict::Suspect);
        let silent = Duration::from_secs(5);
        assert_eq!(
            liveness.check(at(start, 5000), 100, RTT),
            Verdict::Dead { silent }
        );
    }

    #[test]
    fn an_answer_ends_the_suspicion() {
        let start = Instant::now();
        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        liveness.sent(start);
        assert_eq!(liveness.check(at(start, 1000), 100, RTT), Verdict::Suspect);
        assert_eq!(liveness.check(at(start, 1250), 101, RTT), Verdict::Alive);
        assert!(
            liveness.deadline() > at(start, 10_000),
            "nothing is awaited"
        );
    }

    #[test]
    fn a_slow_path_is_not_suspected_for_being_slow() {
        let start = Instant::now();
        let slow = Duration::from_millis(900);
        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        liveness.sent(start);
        assert_eq!(liveness.check(at(start, 2000), 100, slow), Verdict::Alive);
        assert_eq!(liveness.check(at(start, 2800), 100, slow), Verdict::Suspect);
    }

    #[test]
    fn an_unanswered_keep_alive_is_noticed_without_traffic() {
        let start = Instant::now();
        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        let due = liveness.deadline();
        assert_eq!(due, at(start, 18_000));
        assert_eq!(liveness.check(due, 100, RTT), Verdict::Suspect);

        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        assert_eq!(liveness.check(due, 150, RTT), Verdict::Alive);
        assert_eq!(liveness.deadline(), at(start, 36_000));
    }

    #[test]
    fn doubt_is_immediate() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut liveness = Liveness::new(KEEP_ALIVE, 100, start);
        liveness.doubt(start);
        assert_eq!(liveness.deadline(), start);
        assert_eq!(liveness.check(start, 100, RTT), Verdict::Suspect);
    }
}
