//! Real client and gateway state machines over a network that delays, drops, reorders, duplicates
//! and shrinks its MTU, in virtual time.
//!
//! A run is decided by its seed: keys, certificates, connection ids, weather and every choice. What
//! stays random are TLS's nonces and ephemeral keys. They change what datagrams hold, but neither how
//! many there are, nor when they are sent, nor how long they are.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

pub mod gateway;
pub mod manifest;
pub mod network;
pub mod seeds;
pub mod world;
