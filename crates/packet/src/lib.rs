//! The packet layer: views and edits of IPv4, IPv6, ICMP, TCP and UDP on plain byte slices.
//!
//! - [`ip`] validates a packet once and describes it; [`flow`] and [`icmp`] read what is above IP.
//! - [`edit`] changes a packet in place; [`icmp`] writes errors and echo replies.
//! - [`segment`] splits a super-packet of a TUN device, [`merge`] makes them; [`mod@fragment`] cuts
//!   an IPv4 packet that is too long for a link.
//! - [`queue`] holds packets that wait for a narrow path, fair between sessions and flows.
//! - [`budget`] bounds what a turn takes of one source.
//! - [`checksum`] is the arithmetic under all of these; [`build`] makes packets for tests and probes.
//!
//! Nothing here reads a clock, a socket or a random source, and nothing but [`build`],
//! [`merge::Merger::new`] and a [`queue`] that grows allocates. No input makes a function panic.

pub mod budget;
pub mod build;
pub mod checksum;
pub mod edit;
pub mod flow;
pub mod fragment;
pub mod icmp;
pub mod ip;
pub mod merge;
pub mod protocol;
pub mod queue;
pub mod segment;

mod bytes;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod robustness;
