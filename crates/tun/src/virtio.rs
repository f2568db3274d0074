//! The virtio-net header in front of every packet (`struct virtio_net_hdr`, Virtual I/O Device 1.2
//! §5.1.6), in the legacy form that TUN uses by default: 10 bytes in the machine's byte order.

use masque_packet::segment::{GsoInfo, GsoKind, PartialChecksum};

use crate::PacketFault;

/// Length of the header. The 12-byte form adds a buffer count that TUN never fills.
pub const VNET_HDR_BYTES: usize = 10;

const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Modifier: the first segment carries CWR.
const GSO_ECN: u8 = 0x80;

const TCP_CHECKSUM_OFFSET: u16 = 16;
const UDP_CHECKSUM_OFFSET: u16 = 6;
const TCP_FLAGS_OFFSET: usize = 13;
const TCP_CWR: u8 = 0x80;

/// Longest IP packet: an IPv6 header and what its payload length can say.
const PACKET_BYTES_MAX: usize = 40 + 65_535;

/// Reads the header of a packet that the kernel handed out and checks it against the packet.
pub(crate) fn decode(header: &[u8; VNET_HDR_BYTES], packet: &[u8]) -> Result<GsoInfo, PacketFault> {
    let [flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1] = *header;
    let header_bytes = u16::from_ne_bytes([h0, h1]);
    let segment_bytes = u16::from_ne_bytes([s0, s1]);
    let partial = PartialChecksum {
        start: u16::from_ne_bytes([c0, c1]),
        offset: u16::from_ne_bytes([o0, o1]),
    };
    let kind = match gso_type & !GSO_ECN {
        GSO_NONE => GsoKind::None,
        GSO_TCPV4 => GsoKind::TcpV4,
        GSO_TCPV6 => GsoKind::TcpV6,
        GSO_UDP_L4 => GsoKind::UdpL4,
        _ => return Err(PacketFault::Kind(gso_type)),
    };
    let checksum = (flags & FLAG_NEEDS_CSUM != 0).then_some(partial);
    // Without segmentation the two fields mean nothing.
    let (segment_bytes, header_bytes) = if kind == GsoKind::None {
        (0, 0)
    } else {
        (segment_bytes, header_bytes)
    };
    let gso = GsoInfo {
        kind,
        segment_bytes,
        header_bytes,
        checksum,
    };
    check(&gso, packet.first().copied().unwrap_or(0), packet.len())?;
    Ok(gso)
}

/// Writes the header for a packet of `headers` and further pieces, `packet_bytes` in all.
pub(crate) fn encode(
    gso: &GsoInfo,
    headers: &[u8],
    packet_bytes: usize,
) -> Result<[u8; VNET_HDR_BYTES], PacketFault> {
    check(gso, headers.first().copied().unwrap_or(0), packet_bytes)?;
    let gso_type = match gso.kind {
        GsoKind::None => GSO_NONE,
        GsoKind::TcpV4 => GSO_TCPV4 | ecn_bit(gso, headers),
        GsoKind::TcpV6 => GSO_TCPV6 | ecn_bit(gso, headers),
        GsoKind::UdpL4 => GSO_UDP_L4,
    };
    // The kernel computes a missing checksum only where it is told to, and refuses segmentation
    // without that.
    if gso.kind != GsoKind::None && gso.checksum.is_none() {
        return Err(PacketFault::Checksum);
    }
    let partial = gso.checksum.unwrap_or(PartialChecksum {
        start: 0,
        offset: 0,
    });
    let flags = if gso.checksum.is_some() {
        FLAG_NEEDS_CSUM
    } else {
        0
    };
    let [h0, h1] = gso.header_bytes.to_ne_bytes();
    let [s0, s1] = gso.segment_bytes.to_ne_bytes();
    let [c0, c1] = partial.start.to_ne_bytes();
    let [o0, o1] = partial.offset.to_ne_bytes();
    Ok([flags, gso_type, h0, h1, s0, s1, c0, c1, o0, o1])
}

/// What must hold for a header and its packet, whoever made them.
fn check(gso: &GsoInfo, first_byte: u8, packet_bytes: usize) -> Result<(), PacketFault> {
    if packet_bytes == 0 {
        return Err(PacketFault::Short(packet_bytes));
    }
    if packet_bytes > PACKET_BYTES_MAX {
        return Err(PacketFault::Long(packet_bytes));
    }
    let version = first_byte >> 4;
    let expected_offset = match (gso.kind, version) {
        (GsoKind::None, _) => None,
        (GsoKind::TcpV4, 4) | (GsoKind::TcpV6, 6) => Some(TCP_CHECKSUM_OFFSET),
        (GsoKind::UdpL4, 4 | 6) => Some(UDP_CHECKSUM_OFFSET),
        _ => return Err(PacketFault::Mismatch),
    };
    if let Some(partial) = gso.checksum {
        let end = usize::from(partial.start) + usize::from(partial.offset) + 2;
        let place_fits = expected_offset.is_none_or(|offset| offset == partial.offset);
        if end > packet_bytes || !place_fits {
            return Err(PacketFault::Checksum);
        }
    }
    if gso.kind == GsoKind::None {
        return Ok(());
    }
    if gso.segment_bytes == 0 {
        return Err(PacketFault::SegmentSize);
    }
    let header_bytes = usize::from(gso.header_bytes);
    if header_bytes == 0 || header_bytes > packet_bytes {
        return Err(PacketFault::Headers {
            header_bytes,
            packet_bytes,
        });
    }
    Ok(())
}

/// Says that CWR goes with the first segment only (RFC 3168 §6.1.2); a kernel that is not told
/// copies it into every segment.
fn ecn_bit(gso: &GsoInfo, headers: &[u8]) -> u8 {
    let tcp = gso
        .checksum
        .map_or(usize::MAX, |partial| usize::from(partial.start));
    let flags = tcp
        .checked_add(TCP_FLAGS_OFFSET)
        .and_then(|at| headers.get(at));
    if flags.is_some_and(|flags| flags & TCP_CWR != 0) {
        GSO_ECN
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
