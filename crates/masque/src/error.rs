//! What can be wrong with a capsule.

use std::net::IpAddr;

use masque_http3::Code;

/// Why the peer's capsules end the request stream.
///
/// RFC 9297 §3.3: "When a receiver encounters an error processing the Capsule Protocol, the
/// receiver MUST treat it as if it had received a malformed or incomplete HTTP message";
/// [`code`](Self::code) is the HTTP/3 error for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapsuleError {
    /// An ADDRESS_REQUEST without a Requested Address (RFC 9484 §4.7.2).
    #[error("an ADDRESS_REQUEST names no address; it must name at least one")]
    EmptyAddressRequest,
    /// Bits of an address below its prefix length are set (RFC 9484 §4.7.1).
    #[error("{address}/{prefix_length} has bits set below its prefix length")]
    HostBits {
        /// The address as received.
        address: IpAddr,
        /// Its prefix length in bits.
        prefix_length: u8,
    },
    /// An IP Version other than 4 and 6.
    #[error("IP version {0} is neither 4 nor 6")]
    IpVersion(u8),
    /// A prefix length above the address length.
    #[error("prefix length {prefix_length} exceeds the {max} bits of the address")]
    PrefixLength {
        /// As received.
        prefix_length: u8,
        /// 32 or 128.
        max: u8,
    },
    /// A range whose start lies behind its end (RFC 9484 §4.7.3).
    #[error("the route range {start}-{end} is reversed")]
    RangeReversed {
        /// Start IP Address.
        start: IpAddr,
        /// End IP Address.
        end: IpAddr,
    },
    /// Ranges out of order, or overlapping within one protocol (RFC 9484 §4.7.3).
    #[error("route range {index} does not come after its predecessor")]
    RangeOrder {
        /// Position of the offending range, from 0.
        index: usize,
    },
    /// A range of one protocol overlaps a range of all protocols (RFC 9484 §4.7.3).
    #[error("route range {index} overlaps a range of all protocols")]
    RangeOverlap {
        /// Position of the offending range, from 0.
        index: usize,
    },
    /// A Request ID that was used before (RFC 9484 §4.7.2).
    #[error("request id {0} was used before; each address request needs its own")]
    RequestIdReused(u64),
    /// Request ID 0 in an ADDRESS_REQUEST (RFC 9484 §4.7.2).
    #[error("an address request has the reserved request id 0")]
    RequestIdZero,
    /// The stream ended inside a capsule.
    #[error("the stream ended inside a capsule")]
    StreamEnded,
    /// A capsule that must be buffered is longer than we buffer.
    #[error(
        "capsule type {capsule_type:#x} has {length_bytes} bytes, at most {max_bytes} are read"
    )]
    TooLong {
        /// Its type.
        capsule_type: u64,
        /// The length it announced.
        length_bytes: u64,
        /// What we read.
        max_bytes: u64,
    },
    /// The entries of a capsule do not fill its length exactly.
    #[error("capsule type {capsule_type:#x} ends inside one of its fields")]
    Truncated {
        /// Its type.
        capsule_type: u64,
    },
}

impl CapsuleError {
    /// The code to abort the request stream with.
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLong { .. } => Code::H3_EXCESSIVE_LOAD,
            Self::EmptyAddressRequest
            | Self::HostBits { .. }
            | Self::IpVersion(_)
            | Self::PrefixLength { .. }
            | Self::RangeReversed { .. }
            | Self::RangeOrder { .. }
            | Self::RangeOverlap { .. }
            | Self::RequestIdReused(_)
            | Self::RequestIdZero
            | Self::StreamEnded
            | Self::Truncated { .. } => Code::H3_MESSAGE_ERROR,
        }
    }
}
