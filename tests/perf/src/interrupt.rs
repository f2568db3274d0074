//! Ctrl-C and SIGTERM end a run between two steps, so that everything is removed on the way out.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};

use crate::failure::Failure;

static SEEN: AtomicBool = AtomicBool::new(false);

/// Longest time between two looks at the flag while waiting.
const LOOK: Duration = Duration::from_millis(20);

/// Takes the signals over. Call it before the first thread starts: threads inherit the mask, and
/// the standard library clears it in children.
pub(crate) fn watch() -> Result<(), Failure> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|e| Failure::Machine(format!("cannot block signals: {e}")))?;
    thread::spawn(move || {
        while signals.wait().is_ok() {
            SEEN.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Fails once a signal came.
pub(crate) fn check() -> Result<(), Failure> {
    if SEEN.load(Ordering::Relaxed) {
        return Err(Failure::Interrupted);
    }
    Ok(())
}

/// Sleeps, but not past a signal.
pub(crate) fn sleep(time: Duration) -> Result<(), Failure> {
    let end = Instant::now() + time;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
}
