//! The rules of HTTP/3, seen from outside: two connections against each other, and one connection
//! against raw bytes. Tests that begin with `n` and a number check that item of the compliance
//! checklist.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod control;
mod datagrams;
mod exchange;
mod harness;
mod heads;
mod lifecycle;
mod raw;
mod requests;
mod robustness;
