//! How long a thread looks for packets before it sleeps.

use std::{
    thread::{self, available_parallelism},
    time::{Duration, Instant},
};

/// The longest look, unless it is set: about what two wake-ups of a halted processor cost.
pub const BUSY_POLL_MAX: Duration = Duration::from_micros(100);

/// Work of so long between two waits was a batch of some thirty packets, or a few on a processor
/// that somebody else had meanwhile.
const BATCH: Duration = Duration::from_micros(50);

/// What the wake-ups of both ends add to a wait that is slept through, where they are slow.
const WAKE_UPS: Duration = Duration::from_micros(100);

/// Whoever keeps the processor so long when he was given it has more to do than with one packet.
const COMPUTES: Duration = Duration::from_micros(200);

/// For so many times that long he is given nothing again: packets wait for him for a 33rd of the time.
const KEEP_FACTOR: u32 = 32;

/// What was longer was no slice, but a pause of the whole machine or of this thread's quota.
const TAKEN_MAX: Duration = Duration::from_millis(10);

/// Waits for descriptors without sleeping while packets come close to each other.
///
/// A sleep costs a wake-up: 20 to 40 µs of a halted virtual processor, as much as a batch of
/// packets. A wait that was shorter than the longest look says that the next one will be, too, and
/// is spent looking; a longer one says that the thread should sleep at once. What was slept through
/// had wake-ups in it, and may have been longer by those: two ends that slept once would else keep
/// each other asleep. So a thread without traffic, or with packets far apart, looks at nothing, a
/// burst costs one look in vain at its end, and packets that are only just too far apart cost one
/// every second wait.
///
/// Between two looks it gives the processor away: whoever makes or takes the packets may be waiting
/// for it, and the scheduler lets a thread that does not sleep finish its slice of milliseconds. Who
/// computes would finish his own meanwhile, and a packet wait for that: so the longer he took, the
/// later he is given it again.
///
/// After a batch it sleeps at once: many packets share that wake-up, the next batch grows meanwhile,
/// and whoever makes its packets may be waiting for this very processor.
#[derive(Debug)]
pub struct BusyPoll {
    max: Duration,
    batch: Duration,
    wake_ups: Duration,
    window: Duration,
    looked: Duration,
    /// When the last wait was over.
    woke: Option<Instant>,
    give_way: fn(),
    /// How long somebody may take what he was given.
    computes: Duration,
    /// Until then nothing is given.
    keep_until: Option<Instant>,
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
            batch: BATCH,
            wake_ups: WAKE_UPS,
            window: Duration::ZERO,
            looked: Duration::ZERO,
            woke: None,
            give_way: thread::yield_now,
            computes: COMPUTES,
            keep_until: None,
        }
    }

    /// Time spent looking so far; others may have run in some of it.
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
        if timeout == Some(Duration::ZERO) || self.max.is_zero() {
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
            if !found && elapsed < look {
                elapsed = self.give_way(begun + elapsed) - begun;
            }
        }
        self.looked += elapsed;
        let looked = !look.is_zero();
        if !found {
            // Also when no time is left: others may have run since the last look.
            poll(timeout.map(|timeout| timeout.saturating_sub(elapsed)));
        }
        let end = Instant::now();
        self.woke = Some(end);
        self.waited(end.duration_since(begun), looked);
    }

    /// Lets others run; returns when they have.
    fn give_way(&mut self, now: Instant) -> Instant {
        if self.keep_until.is_some_and(|until| now < until) {
            return now;
        }
        (self.give_way)();
        let after = Instant::now();
        let taken = (after - now).min(TAKEN_MAX);
        self.keep_until = (taken >= self.computes).then(|| after + taken * KEEP_FACTOR);
        after
    }

    /// How long a wait that begins now may look.
    fn window_at(&self, begun: Instant) -> Duration {
        match self.woke {
            Some(woke) if begun.duration_since(woke) >= self.batch => Duration::ZERO,
            _ => self.window,
        }
    }

    fn waited(&mut self, time: Duration, looked: bool) {
        let wake_ups = if looked {
            Duration::ZERO
        } else {
            self.wake_ups
        };
        self.window = if time < self.max + wake_ups {
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
    const NEVER: Duration = Duration::from_secs(3600);

    /// One that no pause of this test makes think of a batch.
    fn patient(max: Duration) -> BusyPoll {
        BusyPoll {
            batch: NEVER,
            give_way: || (),
            ..BusyPoll::bounded(max)
        }
    }

    /// What a wait asks, when `poll` finds something the third time.
    fn asked(busy: &mut BusyPoll, timeout: Option<Duration>) -> Vec<Option<Duration>> {
        let mut asked = Vec::new();
        busy.wait(timeout, |timeout| {
            asked.push(timeout);
            asked.len() == 3
        });
        asked
    }

    #[test]
    fn a_short_wait_is_followed_by_a_look_and_a_long_one_by_sleep() {
        let mut busy = patient(MAX);
        assert_eq!(asked(&mut busy, None), [None], "nothing is known yet");
        let looks = [Some(Duration::ZERO); 3];
        assert_eq!(asked(&mut busy, None), looks, "looks, and finds");
        let mut last = None;
        busy.wait(None, |timeout| {
            last = Some(timeout);
            false
        });
        assert_eq!(last, Some(None), "looks in vain, then sleeps");
        assert!(busy.looked() >= MAX);
        assert_eq!(asked(&mut busy, None), [None], "the last wait was long");
    }

    #[test]
    fn looks_in_vain_give_way_to_others() {
        thread_local!(static GIVEN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
        let mut busy = BusyPoll {
            give_way: || GIVEN.set(GIVEN.get() + 1),
            computes: NEVER,
            ..patient(NEVER)
        };
        busy.waited(Duration::ZERO, true);
        asked(&mut busy, None);
        assert_eq!(GIVEN.get(), 2, "not after the look that found something");

        busy.keep_until = Some(Instant::now() + NEVER);
        asked(&mut busy, None);
        assert_eq!(GIVEN.get(), 2, "somebody took it for too long");
        busy.keep_until = Some(Instant::now());
        asked(&mut busy, None);
        assert_eq!(GIVEN.get(), 4, "for that time only");
    }

    #[test]
    fn who_computes_is_given_nothing_for_longer_than_he_took() {
        let took = TAKEN_MAX / 2;
        let mut busy = BusyPoll {
            give_way: || thread::sleep(TAKEN_MAX / 2),
            ..patient(NEVER)
        };
        let after = busy.give_way(Instant::now());
        let kept = busy.keep_until.expect("kept") - after;
        assert!(kept >= took * KEEP_FACTOR, "{kept:?}");
        // A pause of the machine is no long slice.
        let mut busy = BusyPoll {
            give_way: || thread::sleep(TAKEN_MAX * 3),
            ..patient(NEVER)
        };
        let after = busy.give_way(Instant::now());
        let kept = busy.keep_until.expect("kept") - after;
        assert_eq!(kept, TAKEN_MAX * KEEP_FACTOR);
        busy.computes = NEVER;
        busy.keep_until = None;
        busy.give_way(Instant::now());
        assert_eq!(
            busy.keep_until, None,
            "he took no more than one packet needs"
        );
    }

    #[test]
    fn there_is_a_last_look_after_others_ran() {
        let timeout = Some(Duration::from_millis(1));
        let mut busy = BusyPoll {
            give_way: || thread::sleep(Duration::from_millis(2)),
            ..patient(MAX)
        };
        busy.waited(Duration::ZERO, true);
        let mut looks = 0;
        busy.wait(timeout, |timeout| {
            assert_eq!(timeout, Some(Duration::ZERO), "no time is left");
            looks += 1;
            looks == 2
        });
        assert_eq!(looks, 2, "before others ran, and after");
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
    fn after_a_batch_it_sleeps_at_once() {
        let mut busy = patient(MAX);
        busy.window = MAX;
        assert_eq!(asked(&mut busy, None).len(), 3);
        busy.batch = Duration::ZERO;
        assert_eq!(asked(&mut busy, None), [None]);
        // The work is counted from the end of the last wait; a turn without a wait is no end.
        let woke = busy.woke;
        assert_eq!(asked(&mut busy, Some(Duration::ZERO)).len(), 1);
        assert_eq!(busy.woke, woke);
    }

    #[test]
    fn ends_that_slept_once_do_not_keep_each_other_asleep() {
        let mut busy = BusyPoll {
            wake_ups: NEVER,
            ..patient(Duration::from_micros(100))
        };
        let late = |_: Option<Duration>| {
            thread::sleep(Duration::from_millis(1));
            true
        };
        busy.wait(None, late);
        assert_eq!(busy.window, busy.max, "slept through: wake-ups are in it");
        busy.wait(None, |timeout| timeout.is_none() && late(timeout));
        assert_eq!(busy.window, Duration::ZERO, "looked in vain");
        busy.wake_ups = Duration::ZERO;
        busy.wait(None, late);
        assert_eq!(busy.window, Duration::ZERO, "slept too long");
    }

    #[test]
    fn no_wait_is_no_sign() {
        let mut busy = BusyPoll::bounded(MAX);
        busy.wait(Some(Duration::ZERO), |_| true);
        assert_eq!(busy.window, Duration::ZERO);
    }
}
