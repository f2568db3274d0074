//! A gateway's kernel state on the running kernel, against nodes built with `ip`. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper that fails is a failed test"
)]

mod lifecycle;
mod topology;
mod traffic;
