//! Notices that the machine slept, and wakes the thread when it did.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::{
    sys::{
        time::TimeSpec,
        timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};

/// The clock that goes on in sleep may be ahead of the other by so much without sleep.
const SLEEP_MIN: Duration = Duration::from_secs(2);
/// The timer's own time, which never comes: February 2106.
const NEVER_UNIX_S: i64 = u32::MAX as i64;

/// CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not.
#[derive(Debug, Default)]
pub(super) struct SleepWatch {
    offset: Option<Duration>,
}

impl SleepWatch {
    /// Whether the machine slept since the last call.
    pub(super) fn take(&mut self) -> bool {
        let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
        let monotonic = read(ClockId::CLOCK_MONOTONIC);
        self.observe(monotonic, read(ClockId::CLOCK_BOOTTIME))
    }

    fn observe(&mut self, monotonic: Duration, boottime: Duration) -> bool {
        let offset = boottime.saturating_sub(monotonic);
        let former = self.offset.replace(offset);
        former.is_some_and(|former| offset.saturating_sub(former) >= SLEEP_MIN)
    }
}

/// Readable when the machine has woken up, or its clock was set: timeouts of `ppoll` stand still
/// while it sleeps, so the thread would go on sleeping. The kernel ends a timer of
/// TFD_TIMER_CANCEL_ON_SET in both cases (`timerfd_create(2)`).
#[derive(Debug)]
pub(super) struct WakeAlarm {
    timer: TimerFd,
}

impl WakeAlarm {
    pub(super) fn set() -> nix::Result<Self> {
        Self::set_for(NEVER_UNIX_S)
    }

    fn set_for(unix_s: i64) -> nix::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(timerfd::ClockId::CLOCK_REALTIME, flags)?;
        let how = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        timer.set(Expiration::OneShot(TimeSpec::new(unix_s, 0)), how)?;
        Ok(Self { timer })
    }

    /// One that rings at once, as after a wake-up.
    #[cfg(test)]
    pub(super) fn ringing() -> nix::Result<Self> {
        Self::set_for(1)
    }

    #[cfg(test)]
    pub(super) fn rings(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Makes it quiet until the next time.
    pub(super) fn clear(&self) {
        // ECANCELED is the news itself, EAGAIN that there is none.
        let _ = self.timer.wait();
    }
}

impl AsFd for WakeAlarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_what_only_one_clock_counts() {
        let seconds = Duration::from_secs;
        let mut watch = SleepWatch::default();
        assert!(!watch.observe(seconds(100), seconds(500)));
        assert!(
            !watch.observe(seconds(200), seconds(600)),
            "only time passed"
        );
        assert!(
            watch.observe(seconds(201), seconds(4201)),
            "an hour of sleep"
        );
        assert!(!watch.observe(seconds(202), seconds(4202)), "told once");
        assert!(
            !SleepWatch::default().take(),
            "the first look tells nothing"
        );
    }

    #[test]
    fn an_alarm_rings_only_when_something_happened() {
        let alarm = WakeAlarm::set().unwrap();
        assert!(!alarm.rings());
        alarm.clear();
        let alarm = WakeAlarm::ringing().unwrap();
        assert!(alarm.rings());
        alarm.clear();
        assert!(!alarm.rings(), "told once");
    }
}
