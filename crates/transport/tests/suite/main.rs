//! The machine over a simulated link and over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: what cannot be set up fails the test"
)]
#![allow(unsafe_code, reason = "poll and clocks of libc")]

mod admission;
mod certificates;
mod driver;
mod hostile;
mod pair;
mod path;
mod queues;
mod sockets;
mod speed;
mod tls;
mod tunnel;
