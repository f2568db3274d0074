//! A client that sends what it is told to, byte by byte, over an independent QUIC driver, to a real
//! `masque-gateway` in a fabric of network namespaces; and a gateway of the same kind, on loopback,
//! for a running client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

pub mod frames;
mod raw;
mod server;
mod wire;

pub use raw::{Dialer, RawClient, Shape, with_gateway};
pub use server::{ASSIGNED, Opened, ROUTES, RawServer, SETTINGS, event, ok, with_client};
pub use wire::{Reader, Wire};
