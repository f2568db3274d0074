//! Waiting for what becomes true later.

use std::time::{Duration, Instant};

use crate::failure::Failure;

/// How often a condition is looked at: what a time can be wrong by.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `condition` holds. Returns how long it took.
pub(crate) async fn until(
    what: &str,
    limit: Duration,
    condition: impl AsyncFn() -> Result<bool, Failure>,
) -> Result<Duration, Failure> {
    let begun = Instant::now();
    while !condition().await? {
        if begun.elapsed() > limit {
            let what = what.to_owned();
            return Err(Failure::Late { what, limit });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(begun.elapsed())
}
