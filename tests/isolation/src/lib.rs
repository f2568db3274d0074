//! Invariant 1 under load: "A packet of one VPC or session never reaches another."
//!
//! A [`World`] has three VPCs with the same pools and prefixes, clients with the same keys, and two
//! shards. It sends packets with right and forged addresses from every side, while rules, routes,
//! keys and sessions change. Each verdict is compared with [`Model`], which is written from
//! `VPCAccessPolicy`'s reference and shares no code with the gateway: it scans the Snapshots as
//! they are written.
#![forbid(unsafe_code)]
#![expect(clippy::panic, reason = "a harness of tests fails by a panic")]

mod generate;
mod model;
mod random;
mod world;

pub use model::Model;
pub use random::Random;
pub use world::{Tally, World};
