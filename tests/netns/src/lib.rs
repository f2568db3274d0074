//! A fabric of network namespaces with the real `masque-gateway` and `datum-connect` in it.
//!
//! ```text
//!  laptop 198.51.100.10 ─┐                                        ┌─ node-1 ─┬─ 10.0.1.10  production
//!                        ├─ router ─ gateway ── fd00:0:0:a::/64 ──┤          └─ 10.0.1.10  staging
//!  phone  198.51.101.10 ─┘         192.0.2.1                      └─ node-2 ─── 10.0.2.10  production
//! ```
//!
//! The numbers are those of `examples/standalone`. Each node takes packets out of SRv6 with
//! End.DT6 (IPv6, a table for each VPC) and End.DX4 (IPv4, a next hop for each VPC), and sends
//! replies with `encap.red`: one outer IPv6 header and no SRH.
//!
//! Whatever cannot be set up fails the test that asked for it. A machine where no fabric can be
//! built says so in one `SKIPPED:` line, or fails them where `MASQUE_MUST_RUN` is set.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "test support: whatever cannot be set up fails the test that asked for it"
)]

mod client;
mod fabric;
mod gateway;
mod manifests;
mod process;
mod programs;
mod skip;
mod traffic;
mod wait;

pub use client::Client;
pub use fabric::{Decapsulation, Fabric, Links, UNDERLAY_GATEWAY, sid};
pub use gateway::{Gateway, Samples};
pub use manifests::{Attachment, IngressPoint, Manifests, PRODUCTION_RULES};
pub use process::{Ended, Process};
pub use programs::program;
pub use traffic::{Echo, Flow, connects, exchange, ping, ping_fails};
pub use wait::{eventually, within};
