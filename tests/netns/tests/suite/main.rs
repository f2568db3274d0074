//! Facts about the programs as a person runs them, each in a fabric of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod attach;
mod host;
mod isolation;
mod limits;
mod mtu;
mod narrow;
mod operator;
mod path;
mod policy;
mod refusals;
mod restart;
mod roaming;
mod running;
mod service;
mod start;
mod vrf;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use masque_netns_tests::{Fabric, Links};

/// The workload of production at node-1.
const WORK_V4: &str = "10.0.1.10";
/// The same, IPv6.
const WORK_V6: &str = "fd20:10:0:1::10";
/// The port that every policy allows.
const WEB: u16 = 8080;
/// A flow that nothing comes back on for so long is cut: its records are 10 ms apart.
const CUT_AFTER: Duration = Duration::from_millis(700);
/// So long a connection is tried that must not open.
const DENIED_AFTER: Duration = Duration::from_millis(700);

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address(text), port)
}

/// A fabric where `laptop` is attached to production.
fn with_laptop() -> Option<Fabric> {
    Fabric::with_laptop(Links::default())
}

/// A fabric where `laptop` and `phone` are attached to production.
fn with_both() -> Option<Fabric> {
    let mut fabric = with_laptop()?;
    fabric.connector("phone");
    fabric.manifests.attach("phone", "production-vpc");
    Some(fabric)
}

/// The connection must not open.
#[track_caller]
fn connects_not(ns: &masque_testkit::Netns, to: SocketAddr) {
    let opened = masque_netns_tests::connects(ns, to, DENIED_AFTER);
    assert!(opened.is_err(), "{to} is open for {}", ns.name());
}
