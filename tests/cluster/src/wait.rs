//! Waiting for what becomes true later.

use std::time::{Duration, Instant};

/// How long anything may take that needs no lease to run out, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(30);

/// How long another operator may take to lead after the one before was killed: its Lease's 15 s, and
/// 2 s more; the rest is for a loaded machine. It has started by then, else add [`SOON`].
pub const TAKEOVER: Duration = Duration::from_secs(25);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `condition` holds; fails after [`SOON`].
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    within(SOON, what, condition).await;
}

/// Waits until `condition` holds; fails after `limit`. Returns how long it took.
pub async fn within(limit: Duration, what: &str, condition: impl AsyncFn() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed()
}
