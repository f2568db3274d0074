//! How long to wait before the next attempt to connect.

use std::time::Duration;

use ring::rand::{SecureRandom as _, SystemRandom};

use crate::bounds::{BACKOFF_MAX, BACKOFF_MIN};

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`]; each wait is a random part of it, between a half
/// and the whole, so that a thousand pods do not come back at one time.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    /// The next wait; `random` decides its part.
    pub(crate) fn wait(&mut self, random: u32) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(BACKOFF_MAX);
        let part = f64::from(random) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + part / 2.0)
    }

    /// A stream was open: the next wait is short.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// A random number; without randomness all wait alike, which is no reason to stop.
pub(crate) fn random() -> u32 {
    let mut bytes = [0; 4];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes),
        Err(_) => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_begin_anew() {
        let mut backoff = Backoff::new();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait(u32::MAX)).collect();
        assert_eq!(waits[0], BACKOFF_MIN);
        assert!(waits.is_sorted());
        assert_eq!(waits[11], BACKOFF_MAX);
        backoff.reset();
        assert_eq!(backoff.wait(0), BACKOFF_MIN / 2);
    }
}
