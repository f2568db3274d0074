//! How long a thread looks for packets before it sleeps.

use std::{
    thread::available_parallelism,
    time::{Duration, Instant},
};

/// The longest look, unless it is set: about what two wake-ups of a halted processor cost.
pub const BUSY_POLL_MAX: Duration = Duration::from_micros(100);

/// Work of so long between two waits was a batch: some thirty packets, or one on a processor that
/// somebody else had meanwhile.
const BATCH: Duration = Duration::from_micros(50);

/// Waits for descriptors without sleeping while packets come close to each other.
///
/// A sleep costs a wake-up: 20 to 40 µs of a halted virtual processor, as much as a hundred packets.
/// A wait that was shorter than the longest look says that the next one will be, too, and is spent
/// looking; a longer one says that the thread should sleep at once. A wait that was slept through
/// may have been twice as long: both ends had to wake up. So a thread without traffic, or with
/// packets far apart, looks at nothing, and a burst costs one look in vain at its end.
///
/// After a batch it sleeps at once: many packets share that wake-up, the next batch grows meanwhile,
/// and whoever makes its packets may be waiting for this very processor.
#[derive(Debug)]
pub struct BusyPoll {
    max: Duration,
    window: Duration,
    looked: Duration,
    /// When the last wait was over.
    woke: Option<Instant>,
}

impl BusyPoll {
    /// Looks for `max` at most; zero turns it off, and so does a machine (or a CPU quota) of one
    /// processor, which has something better to do.
    pub fn new(max: Duration) -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self::bounded(if processors > 1 { max } else { Duration::ZERO })
    }

    const fn bounded(max: Duration) -> Self {
        Self {
            max,
            window: Duration::ZERO,
            looked: Duration::ZERO,
            woke: None,
        }
    }

    /// Time spent looking so far.
    pub const fn looked(&self) -> Duration {
        self.looked
    }

    /// Waits until `poll` finds something or `timeout` is over; `None` waits without end. `poll`
    /// gets the time it may sleep, and tells whether anything is ready.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        mut poll: impl FnMut(Option<Duration>) -> bool,
    ) {
        if timeout == Some(Duration::ZERO) {
            poll(timeout);
            return;
        }
        let begun = Instant::now();
        let window = self.window_at(begun);
        let look = timeout.map_or(window, |timeout| timeout.min(window));
        let mut elapsed = Duration::ZERO;
        let mut found = false;
        while !found && elapsed < look {
            found = poll(Some(Duration::ZERO));
            elapsed = begun.elapsed();
        }
        self.looked += elapsed;
        let looked = !look.is_zero();
        if !found {
            let rest = timeout.map(|timeout| timeout.saturating_sub(elapsed));
            if rest != Some(Duration::ZERO) {
                poll(rest);
            }
        }
        let end = Instant::now();
        self.woke = Some(end);
        self.waited(end.duration_since(begun), looked);
    }

    /// How long a wait that begins now may look.
    fn window_at(&self, begun: Instant) -> Duration {
        match self.woke {
            Some(woke) if begun.duration_since(woke) >= BATCH => Duration::ZERO,
            _ => self.window,
        }
    }

    fn waited(&mut self, time: Duration, looked: bool) {
        // What is slept through was late by a wake-up of each end. Without that allowance two ends that
        // sleep once would keep each other asleep.
        let short = if looked { self.max } else { 2 * self.max };
        self.window = if time < short {
            self.max
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_millis(20);

    #[test]
    fn a_short_wait_is_followed_by_a_look_and_a_long_one_by_sleep() {
        let mut busy = BusyPoll::bounded(MAX);
        let mut asked = Vec::new();
        busy.wait(None, |timeout| {
            asked.push(timeout);
            true
        });
        assert_eq!(asked, [None], "nothing is known yet: sleep");
        asked.clear();
        busy.wait(None, |timeout| {
            asked.push(timeout);
            asked.len() == 3
        });
        assert_eq!(asked, [Some(Duration::ZERO); 3], "looks, and finds");
        asked.clear();
        busy.wait(None, |timeout| {
            asked.push(timeout);
            false
        });
        assert_eq!(asked.last(), Some(&None), "looks in vain, then sleeps");
        assert!(busy.looked() >= MAX);
        asked.clear();
        busy.wait(None, |timeout| {
            asked.push(timeout);
            true
        });
        assert_eq!(asked, [None], "the last wait was long");
    }

    #[test]
    fn a_timeout_ends_the_look_and_none_is_spent_when_off() {
        let mut busy = BusyPoll::bounded(MAX);
        busy.waited(Duration::ZERO, true);
        let begun = Instant::now();
        busy.wait(Some(Duration::from_millis(2)), |timeout| {
            assert_eq!(timeout, Some(Duration::ZERO), "all of it is spent looking");
            false
        });
        assert!(begun.elapsed() >= Duration::from_millis(2));

        let mut off = BusyPoll::bounded(Duration::ZERO);
        for _ in 0..3 {
            let mut polls = 0;
            off.wait(Some(Duration::from_micros(1)), |_| {
                polls += 1;
                true
            });
            assert_eq!(polls, 1);
        }
        assert_eq!(off.looked(), Duration::ZERO);
    }

    #[test]
    fn after_a_batch_it_sleeps_at_once_and_after_a_few_packets_it_looks() {
        let mut busy = BusyPoll::bounded(MAX);
        busy.waited(Duration::ZERO, true);
        let woke = Instant::now();
        busy.woke = Some(woke);
        assert_eq!(busy.window_at(woke + BATCH / 2), MAX);
        assert_eq!(busy.window_at(woke + BATCH), Duration::ZERO);
        // The time is counted from the end of the last wait, and turns without a wait do not end it.
        busy.wait(Some(Duration::ZERO), |_| true);
        assert_eq!(busy.woke, Some(woke));
        busy.wait(None, |_| true);
        assert!(busy.woke > Some(woke));
    }

    #[test]
    fn ends_that_slept_once_do_not_keep_each_other_asleep() {
        let mut busy = BusyPoll::bounded(MAX);
        for (time, looked, looks) in [
            (MAX * 3 / 2, true, false),
            (MAX * 3 / 2, false, true),
            (MAX * 2, false, false),
            (MAX / 2, true, true),
        ] {
            busy.waited(time, looked);
            assert_eq!(busy.window == MAX, looks, "{time:?} {looked}");
        }
    }

    #[test]
    fn no_wait_is_no_sign() {
        let mut busy = BusyPoll::bounded(MAX);
        busy.wait(Some(Duration::ZERO), |_| true);
        assert_eq!(busy.window, Duration::ZERO);
    }
}
