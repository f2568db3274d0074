//! Real client and gateway state machines over a network that delays, drops, reorders, duplicates
//! and shrinks its MTU, in virtual time. A run is decided by its seed but for TLS's own randomness.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

pub mod gateway;
pub mod network;
pub mod world;
