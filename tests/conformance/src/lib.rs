//! A client that sends what it is told to, byte by byte, over an independent QUIC driver, to a real
//! `masque-gateway` in a fabric of network namespaces.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

pub mod frames;
mod raw;

pub use masque_netns_tests::Links;
pub use raw::{Dialer, RawClient, Reader, Shape, with_gateway, with_gateway_over};
