//! Echo replies: RFC 1122 §3.2.2.6 and RFC 4443 §4.2.

use std::net::IpAddr;

use super::{
    Envelope, IcmpKind, V4_ECHO_REPLY, V6_ECHO_REPLY, classify, is_group, is_single_host,
    message_is_valid, seal,
};
use crate::ip::{self, Fragment, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, IpVersion};

/// Writes the reply to the echo request in `request` to the start of `out`, from the address the
/// request was sent to, and returns its length in bytes.
///
/// `None` if `request` is no valid echo request (its ICMP checksum included), is a fragment, was
/// sent to a group address or from one that does not stand for one host, or if the reply is longer
/// than `out`; `request.len()` bytes always suffice.
#[must_use]
pub fn build_echo_reply(out: &mut [u8], request: &[u8]) -> Option<usize> {
    let destination = ip::parse(request).ok()?.destination;
    if is_group(destination) {
        return None;
    }
    build_echo_reply_from(out, request, destination)
}

/// Like [`build_echo_reply`], but from `source`: RFC 4443 §4.2 has the reply to a multicast request
/// come from a unicast address. RFC 9484 §7.2 has endpoints answer requests to link-local
/// multicast, which peers send to probe the MTU of the tunnel.
#[must_use]
pub fn build_echo_reply_from(out: &mut [u8], request: &[u8], source: IpAddr) -> Option<usize> {
    let header = ip::parse(request).ok()?;
    let is_request = matches!(
        classify(&header, request),
        Some(IcmpKind::EchoRequest { .. })
    );
    if !is_request
        || header.fragment != Fragment::Whole
        || is_group(source)
        || !is_single_host(header.source)
        || source.is_ipv4() != header.source.is_ipv4()
        || !message_is_valid(&header, request)
    {
        return None;
    }
    let (header_bytes, reply_type) = match header.version {
        IpVersion::V4 => (IPV4_HEADER_BYTES, V4_ECHO_REPLY),
        IpVersion::V6 => (IPV6_HEADER_BYTES, V6_ECHO_REPLY),
    };
    let received = request.get(header.upper_offset..)?;
    let message = out.get_mut(header_bytes..header_bytes + received.len())?;
    message.copy_from_slice(received);
    message[0] = reply_type;
    // RFC 1812 §4.3.2.5: a reply has the TOS of its request; the ECN bits are not part of that.
    let traffic_class = header.traffic_class & !3;
    let envelope = Envelope {
        source,
        destination: header.source,
        traffic_class,
    };
    seal(out, received.len(), &envelope)
}
