//! QUIC with HTTP/3 as one shard drives it: quinn-proto as a state machine, UDP sockets with GSO
//! and GRO, connection-id steering.
//!
//! [`Machine`] is pure: time is an argument, packets go in and come out, so that a simulation
//! drives it in virtual time. [`sockets::UdpSocket`] moves its packets in batches. [`tls`] reads
//! certificates and says what is wrong with them.
#![allow(
    unsafe_code,
    reason = "socket options that no crate wraps, and buffers taken back without clearing them"
)]

mod admission;
mod cid;
mod config;
mod congestion;
mod deadlines;
mod event;
mod machine;
mod pool;
pub mod sockets;
pub mod tls;
mod tuning;

pub use masque_http3 as http3;
pub use quinn_proto::{self, EcnCodepoint, Transmit};

pub use admission::{Admission, UnusedBounds};
pub use cid::{CONNECTION_ID_BYTES, ShardId};
pub use config::{MachineConfig, client_config, server_config};
pub use congestion::Congestion;
pub use event::{CloseReason, ConnId, Event};
pub use machine::{
    ConnectError, ConnectionStats, DatagramSendError, ExportError, Machine, MachineStats, OpenError,
};
pub use pool::PoolStats;
pub use tuning::{
    JUMBO_UDP_PAYLOAD_BYTES, MAX_UDP_PAYLOAD_BYTES, MIN_QUIC_UDP_PAYLOAD_BYTES,
    MIN_TUNNEL_UDP_PAYLOAD_BYTES, PathFloor, QueueBound, SERVER_KEEP_ALIVE_GRACE_MS,
    TransportTuning,
};
