//! Behind which packets of its session a packet waits.

use crate::{
    flow::{FlowKey, flow_key},
    ip::{self, Fragment, IpHeader, IpVersion},
    protocol,
};

/// The key by which a [`FairQueue`](super::FairQueue) keeps the packet that `header` describes: its
/// flow, or that of a [fragment](fragments_key).
#[inline]
#[must_use]
pub fn queue_key(header: &IpHeader, packet: &[u8]) -> FlowKey {
    match header.fragment {
        Fragment::Whole => flow_key(header, packet),
        Fragment::First { .. } | Fragment::Later => fragments_key(header),
    }
}

/// The key of every fragment of the packet that `header` describes, itself whole or a fragment.
///
/// Only the first fragment has ports. By these it would wait behind its flow, and the others, which
/// have none, would pass it: whoever judges by ports cannot judge them then, and the datagram is
/// lost. So fragments are kept by what all of them have: addresses and, in IPv4, the protocol. In
/// IPv6 the Next Header of a later one may be that of an extension header (RFC 8200 §4.5: "the Next
/// Header values in the Fragment headers of different fragments of the same original packet may
/// differ").
#[must_use]
pub fn fragments_key(header: &IpHeader) -> FlowKey {
    let protocol = match header.version {
        IpVersion::V4 => header.protocol,
        IpVersion::V6 => protocol::FRAGMENT,
    };
    FlowKey::new(header.source, header.destination, protocol, 0, 0)
}

/// [`queue_key`] of a packet that nobody looked at yet, or [`FlowKey::UNSPECIFIED`] of what is none.
#[must_use]
pub fn queue_key_of(packet: &[u8]) -> FlowKey {
    ip::describe(packet).map_or(FlowKey::UNSPECIFIED, |header| queue_key(&header, packet))
}
