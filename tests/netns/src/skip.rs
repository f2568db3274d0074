//! What cannot run on this machine.

use std::env;

/// Set where every test must run, as `tests/guest/run` does: what skips a test elsewhere fails it there.
const MUST_RUN_VARIABLE: &str = "MASQUE_MUST_RUN";

/// Says in one `SKIPPED:` line why a test does not run.
#[track_caller]
pub(crate) fn skip<T>(reason: &str) -> Option<T> {
    assert!(
        env::var_os(MUST_RUN_VARIABLE).is_none(),
        "every test must run, as {MUST_RUN_VARIABLE} is set, but this one cannot: {reason}"
    );
    eprintln!("SKIPPED: {reason}");
    None
}
