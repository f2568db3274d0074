//! A client that sends what it is told to, byte by byte, over an independent QUIC driver, to a real
//! `masque-gateway` in a fabric of network namespaces; and a gateway of the same kind, on loopback,
//! for a running client.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken assumption ends the test"
)]

mod concealed;
mod datagram_frames;
pub mod frames;
mod names;
mod raw;
mod server;
mod wire;

pub use concealed::Claim;
pub use datagram_frames::DatagramForm;
pub use masque_netns_tests::Links;
pub use names::{Names, with_names};
pub use raw::{
    Dialer, RawClient, Shape, with_fabric, with_gateway, with_gateway_over, with_gateway_process,
};
pub use server::{ASSIGNED, Opened, ROUTES, RawServer, SETTINGS, event, ok, with_client};
pub use wire::{Reader, Wire};
