//! What a machine tells its driver.

use std::{fmt, net::SocketAddr};

use masque_http3 as http3;

use crate::tls::PeerCertificateError;

/// One connection of a machine. Cheap to copy, never refers to another connection: a reused index
/// has a new generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConnId {
    /// A small number, distinct among the connections that are open; for tables by index.
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Tells apart connections that had the same index one after the other.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// What happened; taken with [`Machine::poll_event`](crate::Machine::poll_event).
#[derive(Debug)]
pub enum Event {
    /// The handshake is complete; HTTP/3 runs.
    Connected {
        /// Which connection.
        conn: ConnId,
    },
    /// HTTP/3 has something.
    Http {
        /// Which connection.
        conn: ConnId,
        /// What it has.
        event: http3::Event,
    },
    /// What [`Machine::max_datagram_payload`](crate::Machine::max_datagram_payload) answers has
    /// changed: MTU discovery found a wider path, or the path shrank.
    DatagramSize {
        /// Which connection.
        conn: ConnId,
        /// Largest QUIC DATAGRAM payload now, Quarter Stream ID included; 0 when the peer takes
        /// no datagrams.
        max_bytes: usize,
    },
    /// The path cannot carry an inner IPv6 packet of 1280 bytes. RFC 9484 §7.2: the endpoint
    /// "MUST abort the request stream" of a tunnel that carries IPv6.
    PathTooSmall {
        /// Which connection.
        conn: ConnId,
        /// UDP payload the path carries.
        udp_payload_bytes: u16,
    },
    /// The peer has a new address; its new path is validated or being so.
    Migrated {
        /// Which connection.
        conn: ConnId,
        /// The new address.
        remote: SocketAddr,
    },
    /// Nothing waits any more to be written on a stream that had a backlog.
    StreamWritable {
        /// Which connection.
        conn: ConnId,
        /// Its stream.
        stream: http3::StreamId,
    },
    /// The connection is over; its `ConnId` means nothing from now on. Comes once for every
    /// connection, for those whose handshake failed too, which never were `Connected`.
    Closed {
        /// Which connection.
        conn: ConnId,
        /// Why.
        reason: CloseReason,
    },
}

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// We closed it, with this application code.
    Local {
        /// The code we sent.
        code: http3::Code,
        /// The reason we sent.
        reason: String,
    },
    /// The peer's application closed it.
    Peer {
        /// Its code.
        code: http3::Code,
        /// Its reason, as text; untrusted.
        reason: String,
    },
    /// The peer's QUIC stack closed it, or refused it (RFC 9000 §20.1).
    PeerTransport {
        /// Its transport error code; 0x100 to 0x1ff are TLS alerts (RFC 9001 §4.8).
        code: u64,
        /// Its reason, as text; untrusted.
        reason: String,
    },
    /// The peer's certificate is not acceptable.
    Certificate(PeerCertificateError),
    /// The peer broke a QUIC or TLS rule.
    Protocol {
        /// The transport error code that we sent.
        code: u64,
        /// The rule.
        reason: String,
    },
    /// Nothing was heard for the idle timeout.
    IdleTimeout,
    /// The handshake did not complete in time.
    HandshakeTimeout {
        /// Whether anything was heard. If nothing was, the address may be wrong, UDP blocked, or
        /// the path narrower than the Initials (then [`PathFloor::Quic`](crate::PathFloor) gets
        /// through).
        heard: bool,
    },
    /// The peer lost its state (stateless reset, RFC 9000 §10.3): it was restarted.
    Reset,
    /// The peer speaks no QUIC version that we do.
    VersionMismatch,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { code, reason } => write!(f, "closed by us: {:#x} {reason}", code.0),
            Self::Peer { code, reason } => write!(f, "closed by the peer: {:#x} {reason}", code.0),
            Self::PeerTransport { code, reason } => {
                write!(f, "closed by the peer's QUIC: {code:#x} {reason}")
            }
            Self::Certificate(error) => write!(f, "{error}"),
            Self::Protocol { code, reason } => write!(f, "protocol error {code:#x}: {reason}"),
            Self::IdleTimeout => f.write_str("nothing was heard for the idle timeout"),
            Self::HandshakeTimeout { heard: true } => f.write_str("the handshake took too long"),
            Self::HandshakeTimeout { heard: false } => f.write_str(
                "no answer: check the address and port, that UDP is let through, and the path MTU",
            ),
            Self::Reset => f.write_str("the peer lost the connection; it was restarted"),
            Self::VersionMismatch => f.write_str("the peer speaks no common QUIC version"),
        }
    }
}
