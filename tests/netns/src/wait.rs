//! Waiting for a fact instead of for a time.

use std::{
    env,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// Multiplies every deadline, for machines that are emulated.
const PATIENCE_VARIABLE: &str = "MASQUE_PATIENCE";

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// What must become true at all does so in this time, on a busy machine, too.
const DEADLINE: Duration = Duration::from_secs(15);

/// A deadline on this machine.
pub(crate) fn patient(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    limit
        * *FACTOR.get_or_init(|| {
            let text = env::var(PATIENCE_VARIABLE).ok();
            text.and_then(|text| text.parse().ok()).unwrap_or(1)
        })
}

/// Looks until `what` is true; how long it took, or `None` when it was not within `limit`.
pub fn within(limit: Duration, mut fact: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if fact() {
            return Some(start.elapsed());
        }
        if start.elapsed() >= limit {
            return None;
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Looks until the fact is true; fails the test with its name otherwise.
#[track_caller]
pub fn eventually(what: &str, fact: impl FnMut() -> bool) {
    assert!(
        within(patient(DEADLINE), fact).is_some(),
        "not within {} s: {what}",
        patient(DEADLINE).as_secs()
    );
}
