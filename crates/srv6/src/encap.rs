//! Encapsulation and decapsulation of one packet in user space.
//!
//! The fabric's wire format is H.Encaps.Red with a single segment (RFC 8986 §5.2): one IPv6 header
//! whose destination is the SID, no segment routing header, next header 4 or 41, then the
//! untouched inner packet. Its nodes drop everything else, so this codec does too.

use std::net::Ipv6Addr;

use masque_model::Sid;

/// What encapsulation adds to a packet.
pub const OUTER_BYTES: usize = 40;
/// Hop limit of outer packets, the fabric's own value.
pub const HOP_LIMIT: u8 = 64;

const NEXT_HEADER_IPV4: u8 = 4;
const NEXT_HEADER_IPV6: u8 = 41;
const NEXT_HEADER_ROUTING: u8 = 43;
const FLOW_LABEL_MASK: u32 = 0x000f_ffff;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;

/// Why a packet cannot be encapsulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncapError {
    /// The inner packet is neither IPv4 nor IPv6.
    #[error("an inner packet is IPv4 or IPv6, this one has version {0}")]
    Version(u8),
    /// The outer payload length has 16 bits.
    #[error("an inner packet of {0} bytes exceeds 65535")]
    Length(usize),
}

/// Why a packet was not decapsulated; the name is the drop reason in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum DecapError {
    /// Shorter than its own headers say, or the payload length disagrees.
    #[error("the outer packet is cut short or longer than it says")]
    OuterLength,
    /// The outer packet is not IPv6.
    #[error("the outer packet is not IPv6")]
    OuterVersion,
    /// The outer destination is not one of our SIDs.
    #[error("the destination is no local SID")]
    UnknownSid,
    /// A routing header: the fabric forbids it.
    #[error("a segment routing header, which this fabric does not use")]
    RoutingHeader,
    /// Neither 4 nor 41.
    #[error("an upper layer other than IPv4 and IPv6")]
    NextHeader,
    /// The inner packet contradicts the next header or its own length.
    #[error("the inner packet does not fit its description")]
    MalformedInner,
}

/// A decapsulated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner<'a> {
    /// The local SID it came to; tells the VPC.
    pub sid: Sid,
    /// The packet, IPv4 or IPv6, whole.
    pub packet: &'a [u8],
}

/// The 20-bit flow label for an inner flow's hash. Never 0, which means "unlabeled" and gives the
/// underlay nothing to spread flows by (RFC 6437 §2, §3; RFC 8986 §5.1 asks for it as in RFC 2473).
pub fn flow_label(flow_hash: u64) -> u32 {
    let folded = (flow_hash >> 40) as u32 ^ (flow_hash >> 20) as u32 ^ flow_hash as u32;
    (folded & FLOW_LABEL_MASK).max(1)
}

/// Builds the outer header for `inner`, of which only the first byte and the length are read.
///
/// The traffic class is 0: the fabric's decapsulation never looks at it, so the outer header must
/// not say ECT (RFC 6040 §4.1, compatibility mode), or a congestion mark would be lost.
///
/// # Errors
/// [`EncapError`] for a packet that is no IP packet or too long for the outer length field.
pub fn outer_header(
    inner: &[u8],
    source: Ipv6Addr,
    sid: Sid,
    flow_label: u32,
) -> Result<[u8; OUTER_BYTES], EncapError> {
    let next_header = match inner.first().map(|b| b >> 4) {
        Some(4) => NEXT_HEADER_IPV4,
        Some(6) => NEXT_HEADER_IPV6,
        other => return Err(EncapError::Version(other.unwrap_or(0))),
    };
    let length = u16::try_from(inner.len()).map_err(|_| EncapError::Length(inner.len()))?;
    let mut header = [0; OUTER_BYTES];
    header[..4].copy_from_slice(&(6 << 28 | flow_label & FLOW_LABEL_MASK).to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    header[6] = next_header;
    header[7] = HOP_LIMIT;
    header[8..24].copy_from_slice(&source.octets());
    header[24..].copy_from_slice(&sid.0.octets());
    Ok(header)
}

/// Takes the inner packet out of `outer`, if it came to one of `local_sids` in exactly the form
/// that [`outer_header`] gives it.
///
/// # Errors
/// [`DecapError`], which is the drop reason.
pub fn decapsulate<'a>(outer: &'a [u8], local_sids: &[Sid]) -> Result<Inner<'a>, DecapError> {
    let (header, payload) = outer
        .split_first_chunk::<OUTER_BYTES>()
        .ok_or(DecapError::OuterLength)?;
    if header[0] >> 4 != 6 {
        return Err(DecapError::OuterVersion);
    }
    if usize::from(u16::from_be_bytes([header[4], header[5]])) != payload.len() {
        return Err(DecapError::OuterLength);
    }
    let [
        ..,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        d6,
        d7,
        d8,
        d9,
        da,
        db,
        dc,
        dd,
        de,
        df,
    ] = *header;
    let sid = Sid([
        d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, da, db, dc, dd, de, df,
    ]
    .into());
    if !local_sids.contains(&sid) {
        return Err(DecapError::UnknownSid);
    }
    let inner_bytes = match header[6] {
        NEXT_HEADER_IPV4 => ipv4_bytes(payload),
        NEXT_HEADER_IPV6 => ipv6_bytes(payload),
        NEXT_HEADER_ROUTING => return Err(DecapError::RoutingHeader),
        _ => return Err(DecapError::NextHeader),
    };
    if inner_bytes != Some(payload.len()) {
        return Err(DecapError::MalformedInner);
    }
    Ok(Inner {
        sid,
        packet: payload,
    })
}

fn ipv4_bytes(packet: &[u8]) -> Option<usize> {
    let header = packet.first_chunk::<IPV4_HEADER_BYTES>()?;
    let valid = header[0] >> 4 == 4 && header[0] & 0xf >= 5;
    valid.then(|| usize::from(u16::from_be_bytes([header[2], header[3]])))
}

fn ipv6_bytes(packet: &[u8]) -> Option<usize> {
    let header = packet.first_chunk::<IPV6_HEADER_BYTES>()?;
    let payload_bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (header[0] >> 4 == 6).then_some(IPV6_HEADER_BYTES + payload_bytes)
}

#[cfg(test)]
mod tests;
