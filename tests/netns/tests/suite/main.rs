//! Facts about the programs as a person runs them, each in a fabric of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod attach;
