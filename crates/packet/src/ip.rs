//! The IP header: what a packet must satisfy before anything else looks at it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::protocol;

/// Most IPv6 extension headers one packet may have. A legal chain holds at most seven kinds
/// (RFC 8200 §4.1); the bound keeps the cost of a packet bounded.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// Length of an IPv4 header without options, in bytes.
pub const IPV4_HEADER_BYTES: usize = 20;

/// Length of an IPv6 header without extension headers, in bytes.
pub const IPV6_HEADER_BYTES: usize = 40;

/// The version of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IpVersion {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

/// Where a packet stands among the fragments of a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not a fragment.
    Whole,
    /// Fragment offset zero: it has the upper-layer header, see [`PacketError::TinyFragment`].
    First {
        /// Further fragments follow. False only for an IPv6 atomic fragment (RFC 6946).
        more: bool,
    },
    /// Fragment offset not zero: it has no upper-layer header.
    Later,
}

/// The Explicit Congestion Notification codepoint (RFC 3168 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// Not ECN-capable transport.
    NotEct = 0,
    /// ECN-capable transport, ECT(1).
    Ect1 = 1,
    /// ECN-capable transport, ECT(0).
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

/// What [`parse`] learned about a valid packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// The version.
    pub version: IpVersion,
    /// The source address.
    pub source: IpAddr,
    /// The destination address.
    pub destination: IpAddr,
    /// Length of the IPv4 header with its options, or 40 for IPv6, in bytes.
    pub header_bytes: usize,
    /// Length of the whole packet, in bytes.
    pub total_bytes: usize,
    /// The IPv4 type of service or IPv6 traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// The IPv4 time to live or IPv6 hop limit.
    pub hop_limit: u8,
    /// The upper-layer protocol. For IPv6 the first one in the chain that is not an extension
    /// header (RFC 9484 §4.8); of a [`Fragment::Later`] the Next Header of the Fragment header,
    /// as the rest of the chain is in another packet.
    pub protocol: u8,
    /// Where the upper-layer header begins, in bytes from the start of the packet; it may be the
    /// end of a packet that is whole. Of a [`Fragment::Later`], where the fragment's data begins.
    pub upper_offset: usize,
    /// Where the packet stands among fragments.
    pub fragment: Fragment,
    /// An IPv6 Routing header of any type is present.
    pub has_routing_header: bool,
    /// An IPv6 Segment Routing header (routing type 4, RFC 8754) is present.
    pub has_segment_routing_header: bool,
    /// The IPv4 header has options.
    pub ipv4_options: bool,
}

impl IpHeader {
    /// The ECN codepoint.
    #[inline]
    #[must_use]
    pub fn ecn(&self) -> Ecn {
        match self.traffic_class & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    /// The Differentiated Services codepoint (RFC 2474), six bits.
    #[inline]
    #[must_use]
    pub fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// Length of the upper-layer header and its data, in bytes.
    #[inline]
    #[must_use]
    pub fn upper_bytes(&self) -> usize {
        self.total_bytes.saturating_sub(self.upper_offset)
    }
}

/// Why bytes are not an IP packet that may be forwarded (the checks of RFC 9484 §7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum PacketError {
    /// No bytes.
    #[error("the packet is empty; send a whole IP packet")]
    Empty,
    /// The version is neither 4 nor 6.
    #[error("the IP version is neither 4 nor 6; send an IPv4 or IPv6 packet")]
    BadVersion,
    /// Fewer bytes than the fixed header has.
    #[error("the packet is shorter than an IP header; send a whole IP packet")]
    TooShort,
    /// The length in the header is not the number of bytes.
    #[error("the length in the IP header is not the length of the packet; send exactly one packet")]
    LengthMismatch,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong; complete it before sending")]
    BadChecksum,
    /// The IPv4 header length is below 20 bytes or beyond the packet.
    #[error("the IPv4 header length is below 20 bytes or beyond the packet; correct it")]
    BadHeaderLength,
    /// The IPv6 extension headers run past the packet or are more than [`MAX_EXTENSION_HEADERS`].
    #[error(
        "the IPv6 extension headers are cut off or too many; send at most 8, all in the packet"
    )]
    ExtensionChain,
    /// A first fragment ends within the header that the rules look at.
    #[error("the first fragment ends within the upper-layer header; send a longer one")]
    TinyFragment,
}

impl PacketError {
    /// Every error, for metrics that start at zero.
    pub const ALL: [Self; 8] = [
        Self::Empty,
        Self::BadVersion,
        Self::TooShort,
        Self::LengthMismatch,
        Self::BadChecksum,
        Self::BadHeaderLength,
        Self::ExtensionChain,
        Self::TinyFragment,
    ];

    /// The stable name for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::BadVersion => "bad_version",
            Self::TooShort => "too_short",
            Self::LengthMismatch => "length_mismatch",
            Self::BadChecksum => "bad_checksum",
            Self::BadHeaderLength => "bad_header_length",
            Self::ExtensionChain => "extension_chain",
            Self::TinyFragment => "tiny_fragment",
        }
    }
}

/// Validates one packet, which must fill `packet` exactly, and describes it.
///
/// These are the checks RFC 9484 §7.2 and RFC 1812 §5.2.2 ask of a router before it looks at
/// addresses; checksums above IP are left alone.
///
/// # Errors
/// The first check that failed.
#[inline]
pub fn parse(packet: &[u8]) -> Result<IpHeader, PacketError> {
    let header = describe(packet)?;
    if header.total_bytes != packet.len() {
        return Err(PacketError::LengthMismatch);
    }
    // RFC 1812 §5.2.2 (3): a router MUST verify the IP header checksum.
    if header.version == IpVersion::V4 && !header_checksum_is_valid(packet, header.header_bytes) {
        return Err(PacketError::BadChecksum);
    }
    // RFC 7112 §5: a first fragment MUST hold the whole header chain, the upper-layer header too. RFC
    // 1858 §3.2.1 says so for IPv4: else a filter looks at ports that come in the next fragment.
    if header.fragment == (Fragment::First { more: true })
        && header.upper_bytes() < least_header_bytes(header.protocol)
    {
        return Err(PacketError::TinyFragment);
    }
    Ok(header)
}

/// The shortest header of an upper-layer protocol, in bytes; zero of one that no rule looks into.
#[cold]
fn least_header_bytes(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 20,
        protocol::SCTP | protocol::DCCP => 12,
        protocol::UDP | protocol::UDP_LITE | protocol::ICMP | protocol::ICMPV6 => 8,
        _ => 0,
    }
}

/// Describes a packet that may be cut short, as one quoted in an ICMP error is: neither its length
/// nor its header checksum is checked, only that what is described is there.
#[inline]
pub(crate) fn describe(packet: &[u8]) -> Result<IpHeader, PacketError> {
    match packet.first().ok_or(PacketError::Empty)? >> 4 {
        4 => describe_v4(packet),
        6 => describe_v6(packet),
        _ => Err(PacketError::BadVersion),
    }
}

#[inline]
fn describe_v4(packet: &[u8]) -> Result<IpHeader, PacketError> {
    let fixed: &[u8; IPV4_HEADER_BYTES] = packet.first_chunk().ok_or(PacketError::TooShort)?;
    let header_bytes = usize::from(fixed[0] & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if header_bytes < IPV4_HEADER_BYTES || header_bytes > packet.len() {
        return Err(PacketError::BadHeaderLength);
    }
    let fragment_field = u16::from_be_bytes([fixed[6], fixed[7]]);
    let fragment = match (fragment_field & 0x1fff, fragment_field & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First { more: true },
        _ => Fragment::Later,
    };
    Ok(IpHeader {
        version: IpVersion::V4,
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        header_bytes,
        total_bytes,
        traffic_class: fixed[1],
        hop_limit: fixed[8],
        protocol: fixed[9],
        upper_offset: header_bytes,
        fragment,
        has_routing_header: false,
        has_segment_routing_header: false,
        ipv4_options: header_bytes > IPV4_HEADER_BYTES,
    })
}

#[inline]
fn header_checksum_is_valid(packet: &[u8], header_bytes: usize) -> bool {
    let Some(header) = packet.get(..header_bytes) else {
        return false;
    };
    // The length of the first part is known to the compiler: it becomes five additions.
    match header.split_first_chunk::<IPV4_HEADER_BYTES>() {
        Some((fixed, options)) => (Sum::of(fixed) + Sum::of(options)).is_valid(),
        None => false,
    }
}

#[inline]
fn describe_v6(packet: &[u8]) -> Result<IpHeader, PacketError> {
    let fixed: &[u8; IPV6_HEADER_BYTES] = packet.first_chunk().ok_or(PacketError::TooShort)?;
    let payload_bytes = usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
    let (addresses, _) = fixed[8..].as_chunks::<16>();
    let mut header = IpHeader {
        version: IpVersion::V6,
        source: Ipv6Addr::from_octets(addresses[0]).into(),
        destination: Ipv6Addr::from_octets(addresses[1]).into(),
        header_bytes: IPV6_HEADER_BYTES,
        total_bytes: IPV6_HEADER_BYTES + payload_bytes,
        traffic_class: fixed[0] << 4 | fixed[1] >> 4,
        hop_limit: fixed[7],
        protocol: fixed[6],
        upper_offset: IPV6_HEADER_BYTES,
        fragment: Fragment::Whole,
        has_routing_header: false,
        has_segment_routing_header: false,
        ipv4_options: false,
    };
    if is_extension_header(header.protocol) {
        walk_extension_headers(&mut header, packet)?;
    }
    Ok(header)
}

/// RFC 9484 §4.8 names the IANA list of IPv6 extension headers. ESP is on that list too, but what
/// follows it cannot be read, so it counts as the upper layer.
#[inline]
fn is_extension_header(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
            | protocol::EXPERIMENT_1
            | protocol::EXPERIMENT_2
    )
}

/// Moves `header` along the chain to the first header that is not an extension header. RFC 7112
/// §5: the first fragment "MUST contain the entire IPv6 Header Chain", so a chain that is cut off
/// is an error there too.
#[cold]
fn walk_extension_headers(header: &mut IpHeader, packet: &[u8]) -> Result<(), PacketError> {
    for _ in 0..MAX_EXTENSION_HEADERS {
        let rest = packet
            .get(header.upper_offset..)
            .ok_or(PacketError::ExtensionChain)?;
        // Every extension header is a multiple of 4 bytes and at least 8 long.
        let start: &[u8; 8] = rest.first_chunk().ok_or(PacketError::ExtensionChain)?;
        let length_field = usize::from(start[1]);
        let length_bytes = match header.protocol {
            protocol::FRAGMENT => 8,
            // RFC 4302 §2.2: in 4-octet units, minus 2.
            protocol::AUTHENTICATION => ((length_field + 2) * 4).max(8),
            // RFC 8200 §4, RFC 6564 §4: in 8-octet units, not including the first 8 octets.
            _ => (length_field + 1) * 8,
        };
        if length_bytes > rest.len() {
            return Err(PacketError::ExtensionChain);
        }
        match header.protocol {
            protocol::ROUTING => {
                header.has_routing_header = true;
                header.has_segment_routing_header |= start[2] == SEGMENT_ROUTING_TYPE;
            }
            protocol::FRAGMENT => header.fragment = fragment_of(header.fragment, start),
            _ => {}
        }
        header.protocol = start[0];
        header.upper_offset += length_bytes;
        if header.fragment == Fragment::Later || !is_extension_header(header.protocol) {
            return Ok(());
        }
    }
    Err(PacketError::ExtensionChain)
}

/// The Routing Type of a Segment Routing header (RFC 8754 §2).
const SEGMENT_ROUTING_TYPE: u8 = 4;

/// What a Fragment header (RFC 8200 §4.5) adds to what earlier ones said.
fn fragment_of(before: Fragment, header: &[u8; 8]) -> Fragment {
    let field = u16::from_be_bytes([header[2], header[3]]);
    let more_before = before == Fragment::First { more: true };
    if field >> 3 == 0 {
        Fragment::First {
            more: field & 1 == 1 || more_before,
        }
    } else {
        Fragment::Later
    }
}

#[cfg(test)]
mod tests;
