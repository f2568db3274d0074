//! CONNECT-IP over iroh: see [`tunnels`].
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod client;
mod driver;
mod gateway;
mod tunnels;
