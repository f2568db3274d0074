//! Frames that carry nothing, or too little for what they cost (RFC 9114 §10.5).

use crate::{Code, error::Fault};

/// How many useless frames came, in one window of [`WINDOW_MS`].
#[derive(Debug, Default)]
pub(crate) struct UselessFrames(u32);

/// DATA frames below this size are counted: each costs an event, and a megabyte of flow control holds
/// hundreds of thousands of them. A capsule's type and length may be a frame of their own (writers
/// that are not buffered), so a longer DATA frame takes one of the count back.
pub(crate) const SHORT_DATA_BYTES: u64 = 16;

/// The time after which the counts start anew: a long tunnel may carry GREASE for weeks.
pub(crate) const WINDOW_MS: u64 = 60_000;

impl UselessFrames {
    /// Counts one more: "An endpoint MAY treat activity that is suspicious as a connection error
    /// of type H3_EXCESSIVE_LOAD".
    pub(crate) fn add(&mut self, max: u32) -> Result<(), Fault> {
        if self.0 >= max {
            return Err(Fault::Connection(
                Code::H3_EXCESSIVE_LOAD,
                "too many frames that carry little",
            ));
        }
        self.0 += 1;
        Ok(())
    }

    /// A frame that carried much makes up for one.
    pub(crate) fn make_up(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// A new window begins.
    pub(crate) fn reset(&mut self) {
        self.0 = 0;
    }
}
