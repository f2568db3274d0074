//! Error codes of HTTP/3, QPACK and HTTP Datagrams.

/// An application error code carried in RESET_STREAM, STOP_SENDING or CONNECTION_CLOSE
/// (RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u64);

impl Code {
    /// No error; a graceful close.
    pub const H3_NO_ERROR: Self = Self(0x100);
    /// The peer violated the protocol in a way no other code names.
    pub const H3_GENERAL_PROTOCOL_ERROR: Self = Self(0x101);
    /// Our own failure.
    pub const H3_INTERNAL_ERROR: Self = Self(0x102);
    /// A stream was opened that may not be.
    pub const H3_STREAM_CREATION_ERROR: Self = Self(0x103);
    /// A critical stream was closed.
    pub const H3_CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    /// A frame on a stream, or in a state, where it may not be.
    pub const H3_FRAME_UNEXPECTED: Self = Self(0x105);
    /// A frame whose layout or size is wrong.
    pub const H3_FRAME_ERROR: Self = Self(0x106);
    /// The peer causes too much load.
    pub const H3_EXCESSIVE_LOAD: Self = Self(0x107);
    /// An identifier was used wrongly.
    pub const H3_ID_ERROR: Self = Self(0x108);
    /// A SETTINGS frame's content is wrong.
    pub const H3_SETTINGS_ERROR: Self = Self(0x109);
    /// The control stream does not begin with SETTINGS.
    pub const H3_MISSING_SETTINGS: Self = Self(0x10a);
    /// The request was not processed.
    pub const H3_REQUEST_REJECTED: Self = Self(0x10b);
    /// The request or its response is given up.
    pub const H3_REQUEST_CANCELLED: Self = Self(0x10c);
    /// The request stream ended before the request was whole.
    pub const H3_REQUEST_INCOMPLETE: Self = Self(0x10d);
    /// A malformed message.
    pub const H3_MESSAGE_ERROR: Self = Self(0x10e);
    /// The TCP connection behind a CONNECT was reset or closed abnormally.
    pub const H3_CONNECT_ERROR: Self = Self(0x10f);
    /// The request needs another HTTP version.
    pub const H3_VERSION_FALLBACK: Self = Self(0x110);
    /// A malformed HTTP Datagram (RFC 9297 §5.2).
    pub const H3_DATAGRAM_ERROR: Self = Self(0x33);
    /// A field section could not be decoded (RFC 9204 §6).
    pub const QPACK_DECOMPRESSION_FAILED: Self = Self(0x200);
    /// The peer's encoder stream is wrong.
    pub const QPACK_ENCODER_STREAM_ERROR: Self = Self(0x201);
    /// The peer's decoder stream is wrong.
    pub const QPACK_DECODER_STREAM_ERROR: Self = Self(0x202);
}

/// Why something could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection is closed or closing.
    #[error("the HTTP/3 connection is closed")]
    Closed,
    /// The peer announced that it takes no new requests (GOAWAY, RFC 9114 §5.2).
    #[error("the peer is going away and takes no new requests")]
    GoingAway,
    /// The peer's SETTINGS have not arrived, or do not allow extended CONNECT (RFC 9220 §3).
    #[error("the peer has not announced extended CONNECT")]
    NoExtendedConnect,
    /// The field section exceeds the peer's SETTINGS_MAX_FIELD_SECTION_SIZE (RFC 9114 §4.2.2).
    #[error("the header section has {size_bytes} bytes, the peer accepts {limit_bytes}")]
    FieldSectionTooLarge {
        /// Its size as RFC 9114 §4.2.2 counts it.
        size_bytes: u64,
        /// The peer's limit.
        limit_bytes: u64,
    },
    /// The stream is unknown, or its send side is closed.
    #[error("the stream cannot be written any more")]
    StreamClosed,
    /// The message would be malformed (RFC 9114 §4.1.2), or does not fit the state of the stream.
    #[error("the message may not be sent: {0}")]
    Malformed(&'static str),
}

/// A rule the peer broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends the connection.
    Connection(Code, &'static str),
    /// It ends one request.
    Stream(Code),
    /// A field section beyond our limit; a server answers 431 where it still can.
    FieldSectionTooLarge,
}
