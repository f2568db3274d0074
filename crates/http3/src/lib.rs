//! A sans-IO HTTP/3 (RFC 9114) for MASQUE: extended CONNECT (RFC 9220), SETTINGS both ways, HTTP
//! Datagrams (RFC 9297), GOAWAY; client and server; over any QUIC.
//!
//! [`Connection`] takes stream bytes and datagrams in, gives [`Event`]s and [`Output`]s out. It
//! opens no stream, reads no clock and draws no random number: the driver does.
#![forbid(unsafe_code)]

mod closed;
mod config;
mod connection;
mod control;
mod datagrams;
mod error;
mod event;
mod frame;
mod goaway;
mod headers;
mod load;
mod qpack_streams;
mod request;
mod request_table;
pub mod settings;
mod stream_id;
mod uni;
pub mod varint;

pub use config::{Config, Role};
pub use connection::Connection;
pub use datagrams::{DatagramDrop, DatagramIn, datagram_prefix};
pub use error::{Code, SendError};
pub use event::{Event, Output};
pub use headers::{Field, RequestHead, ResponseHead};
pub use stream_id::StreamId;
