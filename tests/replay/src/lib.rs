//! The fuzz targets as plain functions, so that the corpus under `tests/fuzz/corpus` replays as an
//! ordinary test on stable.
//!
//! A target takes any bytes. It panics when what it looks at is broken, and otherwise says whether
//! the bytes got as far as the part that is worth testing: a corpus in which none do is useless,
//! which the replay notices.
#![forbid(unsafe_code)]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a panic is how a target says that something is broken"
)]

mod capsule;
mod fields;
mod frame;
mod header;
mod input;
mod manifest;
mod merge;
mod packet;
mod resources;
mod session;
mod template;

/// A target: whether the bytes reached the part that is worth testing.
pub type Target = fn(&[u8]) -> bool;

/// Every target by the name of its folder under `tests/fuzz/corpus`.
pub const TARGETS: [(&str, Target); 10] = [
    ("capsule", capsule::run),
    ("fields", fields::run),
    ("frame", frame::run),
    ("header", header::run),
    ("manifest", manifest::run),
    ("merge", merge::run),
    ("packet", packet::run),
    ("resources", resources::run),
    ("session", session::run),
    ("template", template::run),
];

/// Runs the target called `name`.
///
/// # Panics
/// If something is broken, or if there is no such target.
pub fn run(name: &str, data: &[u8]) -> bool {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    let (_, target) = found.expect("a name in TARGETS");
    target(data)
}
