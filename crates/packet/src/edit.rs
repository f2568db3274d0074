//! Edits of a packet in place that keep its checksums right.

use crate::bytes::{read_u16, write_u16};
use crate::checksum::{Sum, update};
use crate::ip::{Ecn, Fragment, IpHeader, IpVersion};
use crate::protocol;
use crate::segment::{PartialChecksum, SegmentError};

/// What the TCP or UDP checksum field of a packet holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksumState {
    /// The checksum over the pseudo-header, the header and the data.
    Complete,
    /// Only the sum of the pseudo-header (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): whoever segments or
    /// completes the packet later adds header and data, so an edit of these leaves it alone.
    Partial,
}

/// Takes one from the hop limit, as a router that forwards the packet does (RFC 9484 §7.2, RFC 1812
/// §5.3.1), and says whether the packet may go on.
///
/// False if the hop limit would reach zero: the packet is as it came, so that a Time Exceeded
/// message quotes what the sender sent. False too for bytes that are no IP packet.
#[inline]
#[must_use = "a packet whose hop limit is used up must not be forwarded"]
pub fn decrement_hop_limit(packet: &mut [u8]) -> bool {
    match version(packet) {
        Some(IpVersion::V4) => {
            let Some(hop_limit) = packet.get(8).copied() else {
                return false;
            };
            if hop_limit <= 1 || packet.len() < 20 {
                return false;
            }
            edit_v4_word(packet, 8, |word| word - 0x0100);
            true
        }
        Some(IpVersion::V6) => match packet.get_mut(7) {
            Some(hop_limit) if *hop_limit > 1 => {
                *hop_limit -= 1;
                true
            }
            _ => false,
        },
        None => false,
    }
}

/// Sets the ECN codepoint (RFC 3168 §5). Bytes that are no IP packet stay as they are.
#[inline]
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match version(packet) {
        Some(IpVersion::V4) if packet.len() >= 20 => {
            edit_v4_word(packet, 0, |word| word & !3 | ecn as u16);
        }
        Some(IpVersion::V6) => {
            if let Some(byte) = packet.get_mut(1) {
                *byte = *byte & !0x30 | (ecn as u8) << 4;
            }
        }
        _ => {}
    }
}

/// Marks "congestion experienced" where the sender understands it (RFC 3168 §5); false for packets
/// that are not ECN-capable: their sender is told by a loss.
#[inline]
pub fn mark_congested(packet: &mut [u8]) -> bool {
    let codepoint = match (version(packet), &*packet) {
        (Some(IpVersion::V4), [_, traffic_class, ..]) => *traffic_class & 3,
        (Some(IpVersion::V6), [_, byte, ..]) => *byte >> 4 & 3,
        _ => return false,
    };
    let capable = codepoint != Ecn::NotEct as u8;
    if capable {
        set_ecn(packet, Ecn::Ce);
    }
    capable
}

/// The largest TCP MSS with which a packet without IP or TCP options fits in `mtu_bytes`
/// (RFC 9293 §3.7.1).
#[must_use]
pub fn mss_for_mtu(version: IpVersion, mtu_bytes: usize) -> u16 {
    let headers_bytes = match version {
        IpVersion::V4 => 40,
        IpVersion::V6 => 60,
    };
    u16::try_from(mtu_bytes.saturating_sub(headers_bytes)).unwrap_or(u16::MAX)
}

/// Lowers the Maximum Segment Size option of a TCP SYN or SYN-ACK to `max_mss`, and says whether
/// it did. Never raises it, and adds no option where there is none.
///
/// `header` is what [`parse`](crate::ip::parse) said about `packet`.
pub fn clamp_mss(
    packet: &mut [u8],
    header: &IpHeader,
    max_mss: u16,
    checksum: ChecksumState,
) -> bool {
    if header.protocol != protocol::TCP || header.fragment == Fragment::Later {
        return false;
    }
    let Some(tcp) = packet.get_mut(header.upper_offset..) else {
        return false;
    };
    let Some(fixed) = tcp.first_chunk::<20>() else {
        return false;
    };
    if fixed[13] & TCP_SYN == 0 {
        return false;
    }
    let header_bytes = usize::from(fixed[12] >> 4) * 4;
    let Some(tcp) = tcp.get_mut(..header_bytes) else {
        return false;
    };
    let mut changed = false;
    let mut at = 20;
    // Each turn moves on by at least one byte of at most 40.
    while let Some(&kind) = tcp.get(at) {
        let option_bytes = match (kind, tcp.get(at + 1)) {
            (OPTION_END, _) => break,
            (OPTION_NO_OPERATION, _) => 1,
            (_, Some(&length)) if length >= 2 && at + usize::from(length) <= header_bytes => {
                usize::from(length)
            }
            _ => break,
        };
        if kind == OPTION_MSS && option_bytes == 4 {
            changed |= lower_field(tcp, at + 2, max_mss, checksum);
        }
        at += option_bytes;
    }
    changed
}

/// Finishes a partial checksum in place: what hardware would do on the way out.
///
/// # Errors
/// [`SegmentError::ChecksumRange`] if `partial` points outside the packet; it is then unchanged.
pub fn complete_checksum(packet: &mut [u8], partial: PartialChecksum) -> Result<(), SegmentError> {
    partial.check(packet.len())?;
    let sum = Sum::of(packet.get(usize::from(partial.start)..).unwrap_or_default());
    partial.write(packet, sum);
    Ok(())
}

const TCP_SYN: u8 = 0x02;
const OPTION_END: u8 = 0;
const OPTION_NO_OPERATION: u8 = 1;
const OPTION_MSS: u8 = 2;

#[inline]
fn version(packet: &[u8]) -> Option<IpVersion> {
    match packet.first()? >> 4 {
        4 => Some(IpVersion::V4),
        6 => Some(IpVersion::V6),
        _ => None,
    }
}

/// Changes one word of an IPv4 header and its checksum with it.
#[inline]
fn edit_v4_word(packet: &mut [u8], at: usize, edit: impl Fn(u16) -> u16) {
    if let (Some(old), Some(checksum)) = (read_u16(packet, at), read_u16(packet, 10)) {
        let new = edit(old);
        write_u16(packet, at, new);
        write_u16(packet, 10, update(checksum, old, new));
    }
}

/// Lowers a field of a TCP header to `max` and its checksum with it.
fn lower_field(tcp: &mut [u8], at: usize, max: u16, state: ChecksumState) -> bool {
    let (Some(old), Some(checksum)) = (read_u16(tcp, at), read_u16(tcp, 16)) else {
        return false;
    };
    if old <= max {
        return false;
    }
    write_u16(tcp, at, max);
    if state == ChecksumState::Complete {
        // At an odd offset the field lies across two words, each holding one byte of it: the sum
        // sees the bytes swapped.
        let (old, new) = if at.is_multiple_of(2) {
            (old, max)
        } else {
            (old.swap_bytes(), max.swap_bytes())
        };
        write_u16(tcp, 16, update(checksum, old, new));
    }
    true
}

#[cfg(test)]
mod tests;
