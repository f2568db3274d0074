//! A sans-IO HTTP/3 (RFC 9114) for MASQUE: extended CONNECT (RFC 9220), SETTINGS both ways, HTTP
//! Datagrams (RFC 9297), GOAWAY; client and server; over any QUIC.
//!
//! [`Connection`] takes stream bytes and datagrams in, gives [`Event`]s and [`Output`]s out. It
//! opens no stream, reads no clock and draws no random number: the driver does.
#![forbid(unsafe_code)]

mod connection;
mod error;
mod headers;
mod stream_id;
pub mod varint;

pub use connection::{Config, Connection, DatagramDrop, DatagramIn, Event, Output, Role};
pub use error::{Code, SendError};
pub use headers::{Field, RequestHead, ResponseHead};
pub use stream_id::StreamId;
