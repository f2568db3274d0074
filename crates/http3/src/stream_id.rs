//! QUIC stream identifiers.

/// A QUIC stream id (RFC 9000 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

impl StreamId {
    /// Opened by the client and bidirectional: a request stream (RFC 9114 §6.1).
    pub const fn is_request(self) -> bool {
        self.0 & 0b11 == 0
    }

    /// Unidirectional.
    pub const fn is_uni(self) -> bool {
        self.0 & 0b10 != 0
    }

    /// Opened by the server.
    pub const fn is_server_initiated(self) -> bool {
        self.0 & 0b01 != 0
    }

    /// The Quarter Stream ID of RFC 9297 §2.1; meaningful for request streams only.
    pub const fn quarter(self) -> u64 {
        self.0 / 4
    }
}
