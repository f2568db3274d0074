//! For tests only: network namespaces, packet capture, development certificates, ports, Snapshots and
//! a counting allocator.
//!
//! Everything here fails a test by panicking with the command and its output: a laboratory that
//! cannot be built is a failed test. Ask [`Lab::available`] first and skip loudly when it says why
//! this machine cannot run one.
#![allow(
    clippy::panic,
    clippy::expect_used,
    reason = "test support: whatever cannot be set up fails the test that asked for it"
)]
#![allow(
    unsafe_code,
    reason = "an AF_PACKET socket, bound through libc, and an allocator that counts"
)]

pub mod allocations;
mod capture;
mod certs;
mod netns;
mod once_free;
mod ports;
pub mod snapshots;

pub use capture::Capture;
pub use certs::{CertifiedServer, DevelopmentCa, ed25519_pkcs8};
pub use netns::{Lab, Netns, Skip};
pub use once_free::{device_exists, once_free, udp_port_is_taken, until_free};
pub use ports::free_port;
