//! Others' HTTP/3 and CONNECT-IP against ours, over loopback UDP.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod certificates;
mod client;
mod connect_ip_go;
mod gateway;
mod h3_client;
mod h3_server;
mod real_gateway;
mod shard;
