//! What a tunnel tells its driver.

use bytes::Bytes;

use crate::{AssignedAddress, IpRange, RequestedAddress};

/// What the peer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer asks for addresses. Answer each id with `Session::answer_requests`.
    AddressRequested(Vec<RequestedAddress>),
    /// Everything that is now assigned to us, and the answers that refuse a request
    /// ([`AssignedAddress::is_refusal`]). What was assigned before and is missing here is
    /// withdrawn.
    Assigned(Vec<AssignedAddress>),
    /// An IP packet that came in a DATAGRAM capsule; to be treated like one that
    /// `Session::handle_datagram` gave (RFC 9297 §3.5).
    DatagramCapsule(Bytes),
    /// The peer finished its side: the tunnel ends (RFC 9484 §4.1). Nothing follows.
    Finished,
    /// Everything that the peer now routes, in the order of RFC 9484 §4.7.3; replaces what it
    /// routed before.
    Routes(Vec<IpRange>),
    /// The first capsule of unknown type: the peer sends what others may not know, so extension
    /// capsules may be sent to it.
    UnknownCapsule {
        /// Its type.
        capsule_type: u64,
    },
    /// The proxy will close the stream: move new work to another tunnel.
    WrapUp,
}

/// Why an HTTP Datagram was dropped. The tunnel goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramDrop {
    /// It ends inside the Context ID, or behind it with no packet.
    Empty,
    /// RFC 9484 §6: the receiver of an unknown Context ID "SHALL either drop that datagram silently
    /// or buffer it temporarily"; no extension here registers one, so none is buffered.
    UnknownContext(u64),
}

/// What was dropped without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// DATAGRAM capsules longer than `MAX_DATAGRAM_CAPSULE_BYTES`.
    pub oversized_datagram_capsules: u64,
    /// DATAGRAM capsules with an unknown Context ID or without a packet.
    pub dropped_datagram_capsules: u64,
    /// Capsules of unknown type.
    pub unknown_capsules: u64,
}
