//! Packets that are longer than the way on carries.

use masque_packet::fragment::{FragmentError, fragments};
use masque_packet::icmp::IcmpError;

use super::answer::Rejection;
use crate::reason::DropReason;

/// Whether a packet fits. `longest_bytes` is its length, or that of its longest segment. `Some` if
/// it must be fragmented, to at most so many bytes.
///
/// RFC 9484 §7.2.1: who sent it is told by ICMPv6 Packet Too Big or ICMPv4 Fragmentation Needed, with
/// the next hop's MTU. RFC 1812 §4.2.2.7: IPv4 without Don't Fragment is fragmented instead, and
/// §5.2.7.1 has no ICMP error for it.
#[inline]
pub(super) fn fit(
    packet: &[u8],
    longest_bytes: usize,
    mtu_bytes: u16,
) -> Result<Option<u16>, Rejection> {
    if longest_bytes <= usize::from(mtu_bytes) {
        return Ok(None);
    }
    too_long(packet, mtu_bytes)
}

/// Segments have the headers of their super-packet, so what is said of it holds for each of them.
#[cold]
fn too_long(packet: &[u8], mtu_bytes: u16) -> Result<Option<u16>, Rejection> {
    match fragments(packet, mtu_bytes.into()) {
        Ok(_) => Ok(Some(mtu_bytes)),
        Err(FragmentError::Forbidden) => {
            let error = IcmpError::PacketTooBig {
                next_hop_mtu_bytes: mtu_bytes.into(),
            };
            Err(Rejection::error(DropReason::PacketTooBig, error))
        }
        Err(_) => Err(Rejection::silent(DropReason::FragmentationNeeded)),
    }
}
