//! Frames that carry nothing (RFC 9114 §10.5).

use crate::{Code, error::Fault};

/// How many useless frames came, in one window of [`WINDOW_MS`].
#[derive(Debug, Default)]
pub(crate) struct UselessFrames(u32);

/// The time after which the counts start anew: a long tunnel may carry GREASE for weeks.
pub(crate) const WINDOW_MS: u64 = 60_000;

impl UselessFrames {
    /// Counts one more: "An endpoint MAY treat activity that is suspicious as a connection error
    /// of type H3_EXCESSIVE_LOAD".
    pub(crate) fn add(&mut self, max: u32) -> Result<(), Fault> {
        if self.0 >= max {
            return Err(Fault::Connection(
                Code::H3_EXCESSIVE_LOAD,
                "too many frames that carry nothing",
            ));
        }
        self.0 += 1;
        Ok(())
    }

    /// A new window begins.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}
