//! The machine over a simulated link and over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: what cannot be set up fails the test"
)]

mod certificates;
mod pair;
mod tunnel;
