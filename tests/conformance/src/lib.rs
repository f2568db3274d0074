//! A client that sends what it is told to, byte by byte, over an independent QUIC driver, to a real
//! `masque-gateway` in a fabric of network namespaces.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

mod concealed;
pub mod frames;
mod names;
mod raw;

pub use concealed::Claim;
pub use names::{Names, with_names};
pub use raw::{Dialer, RawClient, Reader, Shape, with_gateway, with_gateway_process};
