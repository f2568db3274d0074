//! A sans-IO HTTP/3 (RFC 9114) for MASQUE: extended CONNECT (RFC 9220), SETTINGS both ways, HTTP
//! Datagrams (RFC 9297), GOAWAY; client and server; over any QUIC.
//!
//! [`Connection`] takes stream bytes and datagrams in, gives [`Event`]s and [`Output`]s out. It
//! opens no stream, reads no clock and draws no random number: the driver does.
//!
//! ```
//! use masque_http3::{Config, Connection, Output, RequestHead, Role, SendError, StreamId};
//!
//! let mut client = Connection::new(Role::Client, Config::default());
//! let mut server = Connection::new(Role::Server, Config::default());
//! // The driver opens a unidirectional stream for each `Control`: 2 is the client's, 3 the server's.
//! let Some(Output::Control(settings)) = server.poll_output() else { unreachable!() };
//! let connect = RequestHead {
//!     method: "CONNECT".into(),
//!     protocol: Some("connect-ip".into()),
//!     scheme: Some("https".into()),
//!     authority: Some("gateway.example".into()),
//!     path: Some("/.well-known/masque/ip/*/*/".into()),
//!     fields: vec![],
//! };
//! let early = client.send_request(StreamId(0), &connect, false);
//! assert_eq!(early, Err(SendError::NoExtendedConnect));
//! client.handle_stream(StreamId(3), settings, false);
//! client.send_request(StreamId(0), &connect, false)?;
//! # Ok::<(), SendError>(())
//! ```
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
