//! The split of a super-packet that a TUN device hands over (`IFF_VNET_HDR`): TCP segmentation and
//! UDP segmentation offload in software, one copy and one checksum pass per byte.

use crate::bytes::{read_u16, read_u32, write_u16, write_u32};
use crate::checksum::{Sum, copy_and_sum, pseudo_header};
use crate::ip::{self, Fragment, IpHeader, IpVersion, PacketError};
use crate::protocol;

/// Most packets one super-packet may become. 65,535 bytes at 32 a segment are no more, and no
/// stack sends ones that small in bulk: the smallest MSS of Linux is 48, options included.
pub const MAX_SEGMENTS: usize = 2048;

/// How a super-packet is to be segmented (`gso_type` of `struct virtio_net_hdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum GsoKind {
    /// It is one packet.
    #[default]
    None,
    /// TCP over IPv4 (`VIRTIO_NET_HDR_GSO_TCPV4`).
    TcpV4,
    /// TCP over IPv6 (`VIRTIO_NET_HDR_GSO_TCPV6`).
    TcpV6,
    /// UDP over IPv4 or IPv6, a datagram per segment (`VIRTIO_NET_HDR_GSO_UDP_L4`).
    UdpL4,
}

/// A checksum that is still to be computed (`VIRTIO_NET_HDR_F_NEEDS_CSUM`): its field holds the sum
/// of the pseudo-header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where what it covers begins, in bytes from the start of the packet (`csum_start`).
    pub start: u16,
    /// Where its field is, in bytes from `start` (`csum_offset`).
    pub offset: u16,
}

impl PartialChecksum {
    fn field(self) -> usize {
        usize::from(self.start) + usize::from(self.offset)
    }

    pub(crate) fn check(self, packet_bytes: usize) -> Result<(), SegmentError> {
        if self.field() + 2 > packet_bytes {
            return Err(SegmentError::ChecksumRange);
        }
        Ok(())
    }

    /// Writes the checksum that `sum`, taken from `start` to the end of the packet, gives.
    pub(crate) fn write(self, packet: &mut [u8], sum: Sum) {
        let checksum = match (sum.checksum(), self.offset) {
            (0, UDP_CHECKSUM_OFFSET) => UDP_CHECKSUM_OF_ZERO,
            (checksum, _) => checksum,
        };
        write_u16(packet, self.field(), checksum);
    }
}

/// What the virtio header in front of a packet says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsoInfo {
    /// How to segment.
    pub kind: GsoKind,
    /// Payload of every packet but the last, which may have less, in bytes (`gso_size`).
    pub segment_bytes: u16,
    /// Length of the headers, in bytes (`hdr_len`). A hint: Linux gives the length of what is
    /// contiguous in memory, so [`segments`] finds out for itself.
    pub header_bytes: u16,
    /// The checksum that is to be completed.
    pub checksum: Option<PartialChecksum>,
}

impl GsoInfo {
    /// How many packets a super-packet of so many bytes becomes at most, without a look at it.
    #[must_use]
    pub fn packets_at_most(&self, packet_bytes: usize) -> usize {
        match (self.kind, usize::from(self.segment_bytes)) {
            (GsoKind::None, _) | (_, 0) => 1,
            (_, segment_bytes) => packet_bytes.div_ceil(segment_bytes),
        }
    }
}

/// Why a super-packet cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum SegmentError {
    /// The super-packet is no valid IP packet.
    #[error("the super-packet is not valid: {0}")]
    Packet(#[from] PacketError),
    /// It is not of the family or protocol that its kind says.
    #[error("the super-packet is not of the family and protocol its GSO type says; drop it")]
    WrongProtocol,
    /// It is a fragment.
    #[error("the super-packet is an IP fragment, which cannot be segmented; drop it")]
    Fragmented,
    /// It has a Routing header: the pseudo-header then has another destination (RFC 8200 §8.1).
    #[error("the super-packet has an IPv6 Routing header; drop it")]
    RoutingHeader,
    /// The TCP or UDP header is cut off.
    #[error("the TCP or UDP header of the super-packet is cut off; drop it")]
    UpperHeader,
    /// The segment size is zero.
    #[error("the segment size is zero; a super-packet needs one")]
    SegmentSize,
    /// More than [`MAX_SEGMENTS`] packets.
    #[error("the super-packet has more than 2048 segments; raise its segment size")]
    TooMany,
    /// The partial checksum lies outside the packet.
    #[error("the partial checksum lies outside the packet; drop it")]
    ChecksumRange,
}

impl SegmentError {
    /// The stable name for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Packet(error) => error.as_str(),
            Self::WrongProtocol => "wrong_protocol",
            Self::Fragmented => "fragmented",
            Self::RoutingHeader => "routing_header",
            Self::UpperHeader => "upper_header",
            Self::SegmentSize => "segment_size",
            Self::TooMany => "too_many",
            Self::ChecksumRange => "checksum_range",
        }
    }
}

/// The packets of one super-packet, written one by one. Made by [`segments`].
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a [u8],
    plan: Plan,
    next: usize,
    count: usize,
}

/// Splits `packet` as `gso` says. A packet of [`GsoKind::None`] comes out whole, with its checksum
/// completed; it is not validated, which is what [`parse`](crate::ip::parse) is for.
///
/// # Errors
/// What about the super-packet is wrong; nothing of it can be sent.
pub fn segments<'a>(packet: &'a [u8], gso: &GsoInfo) -> Result<Segments<'a>, SegmentError> {
    if gso.kind == GsoKind::None {
        if let Some(partial) = gso.checksum {
            partial.check(packet.len())?;
        }
        return Ok(Segments {
            packet,
            plan: Plan::Whole(gso.checksum),
            next: 0,
            count: 1,
        });
    }
    let header = ip::parse(packet)?;
    let split = Split::new(packet, &header, gso)?;
    let payload_bytes = packet.len() - split.header_bytes;
    // A super-packet without payload is one packet.
    let count = payload_bytes.div_ceil(split.segment_bytes).max(1);
    if count > MAX_SEGMENTS {
        return Err(SegmentError::TooMany);
    }
    Ok(Segments {
        packet,
        plan: Plan::Split(split),
        next: 0,
        count,
    })
}

impl Segments<'_> {
    /// How many packets there are in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many packets [`write_next`](Self::write_next) has yet to write.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.count - self.next
    }

    /// Length of the longest packet, in bytes.
    #[must_use]
    pub fn max_packet_bytes(&self) -> usize {
        match &self.plan {
            Plan::Whole(_) => self.packet.len(),
            Plan::Split(split) => self
                .packet
                .len()
                .min(split.header_bytes + split.segment_bytes),
        }
    }

    /// Length of the packet that [`write_next`](Self::write_next) writes next, in bytes; `None`
    /// after the last one.
    #[must_use]
    #[inline]
    pub fn next_packet_bytes(&self) -> Option<usize> {
        if self.next == self.count {
            return None;
        }
        Some(match &self.plan {
            Plan::Whole(_) => self.packet.len(),
            Plan::Split(split) => {
                let rest = self.packet.len() - self.next * split.segment_bytes;
                rest.min(split.header_bytes + split.segment_bytes)
            }
        })
    }

    /// Leaves the next packet out.
    pub fn skip_next(&mut self) {
        self.next = (self.next + 1).min(self.count);
    }

    /// Writes the next packet, complete with its checksums, to the start of `out` and returns its
    /// length in bytes.
    ///
    /// `None` after the last one. `None` too if `out` is shorter than the packet, which then is
    /// still the next one: give [`max_packet_bytes`](Self::max_packet_bytes), and
    /// [`remaining`](Self::remaining) tells the two apart.
    #[inline]
    pub fn write_next(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.next == self.count {
            return None;
        }
        let bytes = match &self.plan {
            Plan::Whole(partial) => write_whole(out, self.packet, *partial)?,
            Plan::Split(split) => {
                split.write(out, self.packet, self.next, self.next + 1 == self.count)?
            }
        };
        self.next += 1;
        Some(bytes)
    }
}

#[derive(Debug)]
enum Plan {
    Whole(Option<PartialChecksum>),
    Split(Split),
}

/// What is the same in every packet of one super-packet.
#[derive(Debug)]
struct Split {
    version: IpVersion,
    upper: Upper,
    /// Where the TCP or UDP header begins.
    upper_offset: usize,
    /// Length of all headers.
    header_bytes: usize,
    segment_bytes: usize,
    /// The IPv4 identification of the first packet.
    identification: u16,
    /// Sum of the IPv4 header without what differs: total length, identification and checksum.
    ip_sum: Sum,
    /// Sum of the pseudo-header and the upper-layer header without what differs: lengths, sequence
    /// number, flags and checksum.
    upper_sum: Sum,
}

#[derive(Clone, Copy, Debug)]
enum Upper {
    Tcp { sequence: u32, flags: u16 },
    Udp { has_checksum: bool },
}

impl Split {
    fn new(packet: &[u8], header: &IpHeader, gso: &GsoInfo) -> Result<Self, SegmentError> {
        let expected = match (gso.kind, header.version) {
            (GsoKind::TcpV4, IpVersion::V4) | (GsoKind::TcpV6, IpVersion::V6) => protocol::TCP,
            (GsoKind::UdpL4, _) => protocol::UDP,
            _ => return Err(SegmentError::WrongProtocol),
        };
        if header.protocol != expected {
            return Err(SegmentError::WrongProtocol);
        }
        if header.fragment != Fragment::Whole {
            return Err(SegmentError::Fragmented);
        }
        if header.has_routing_header {
            return Err(SegmentError::RoutingHeader);
        }
        if gso.segment_bytes == 0 {
            return Err(SegmentError::SegmentSize);
        }
        let upper_packet = packet
            .get(header.upper_offset..)
            .ok_or(SegmentError::UpperHeader)?;
        let read = if expected == protocol::TCP {
            read_tcp
        } else {
            read_udp
        };
        let (upper, upper_header_bytes, header_sum) =
            read(upper_packet, gso.checksum.is_some()).ok_or(SegmentError::UpperHeader)?;
        let pseudo = pseudo_header(header.source, header.destination, expected, 0);
        Ok(Self {
            version: header.version,
            upper,
            upper_offset: header.upper_offset,
            header_bytes: header.upper_offset + upper_header_bytes,
            segment_bytes: usize::from(gso.segment_bytes),
            identification: read_u16(packet, 4).unwrap_or_default(),
            ip_sum: ip_constant_sum(packet, header),
            upper_sum: pseudo + header_sum,
        })
    }

    /// Writes packet number `index`.
    #[inline]
    fn write(&self, out: &mut [u8], packet: &[u8], index: usize, last: bool) -> Option<usize> {
        let start = self.header_bytes + index * self.segment_bytes;
        let end = packet.len().min(start + self.segment_bytes);
        let payload = packet.get(start..end)?;
        let total_bytes = self.header_bytes + payload.len();
        let (headers, body) = out
            .get_mut(..total_bytes)?
            .split_at_mut_checked(self.header_bytes)?;
        headers.copy_from_slice(packet.get(..self.header_bytes)?);
        let payload_sum = copy_and_sum(body, payload);
        let (ip_header, upper_header) = headers.split_at_mut_checked(self.upper_offset)?;
        self.write_ip(ip_header, total_bytes, index)?;
        let upper_bytes = u16::try_from(total_bytes - self.upper_offset).ok()?;
        let sum = self.upper_sum + payload_sum + Sum::word(upper_bytes);
        match self.upper {
            Upper::Tcp { sequence, flags } => {
                let advance = u32::try_from(index * self.segment_bytes).ok()?;
                let sequence = sequence.wrapping_add(advance);
                let flags = flags_of(flags, index == 0, last);
                write_u32(upper_header, 4, sequence);
                write_u16(upper_header, 12, flags);
                let sum = sum + Sum::long(sequence) + Sum::word(flags);
                write_u16(upper_header, TCP_CHECKSUM_OFFSET, sum.checksum());
            }
            Upper::Udp { has_checksum } => {
                write_u16(upper_header, 4, upper_bytes);
                // RFC 768: the length counts twice, in the pseudo-header and in the header.
                let checksum = match (has_checksum, (sum + Sum::word(upper_bytes)).checksum()) {
                    (false, _) => 0,
                    (true, 0) => UDP_CHECKSUM_OF_ZERO,
                    (true, checksum) => checksum,
                };
                write_u16(upper_header, usize::from(UDP_CHECKSUM_OFFSET), checksum);
            }
        }
        Some(total_bytes)
    }

    #[inline]
    fn write_ip(&self, header: &mut [u8], total_bytes: usize, index: usize) -> Option<()> {
        match self.version {
            IpVersion::V4 => {
                let total = u16::try_from(total_bytes).ok()?;
                let identification = self.identification.wrapping_add(u16::try_from(index).ok()?);
                write_u16(header, 2, total);
                write_u16(header, 4, identification);
                let sum = self.ip_sum + Sum::word(total) + Sum::word(identification);
                write_u16(header, 10, sum.checksum());
            }
            IpVersion::V6 => {
                let payload_bytes = total_bytes - ip::IPV6_HEADER_BYTES;
                write_u16(header, 4, u16::try_from(payload_bytes).ok()?);
            }
        }
        Some(())
    }
}

const UDP_HEADER_BYTES: usize = 8;
const TCP_CHECKSUM_OFFSET: usize = 16;
const UDP_CHECKSUM_OFFSET: u16 = 6;

/// RFC 768: "If the computed checksum is zero, it is transmitted as all ones", as zero means none.
const UDP_CHECKSUM_OF_ZERO: u16 = 0xffff;

const TCP_FIN: u16 = 0x01;
const TCP_PSH: u16 = 0x08;
const TCP_CWR: u16 = 0x80;

/// The flags of one segment: what ends the data goes with the last one, and CWR with the first
/// (RFC 3168 §6.1.2: once per window of data).
#[inline]
fn flags_of(flags: u16, first: bool, last: bool) -> u16 {
    let keep_cwr = if first { 0 } else { TCP_CWR };
    let keep_end = if last { 0 } else { TCP_FIN | TCP_PSH };
    flags & !(keep_cwr | keep_end)
}

/// The TCP header: what differs between segments, its length and the sum of the rest.
fn read_tcp(tcp: &[u8], _partial: bool) -> Option<(Upper, usize, Sum)> {
    let sequence = read_u32(tcp, 4)?;
    let flags = read_u16(tcp, 12)?;
    let header_bytes = usize::from(flags >> 12) * 4;
    let header = tcp.get(..header_bytes)?;
    let rest = header.get(TCP_CHECKSUM_OFFSET + 2..)?;
    let sum = Sum::of(header.get(..4)?)
        + Sum::of(header.get(8..12)?)
        + Sum::of(header.get(14..TCP_CHECKSUM_OFFSET)?)
        + Sum::of(rest);
    (header_bytes >= 20).then_some((Upper::Tcp { sequence, flags }, header_bytes, sum))
}

/// The UDP header: its length and the sum of the ports. A checksum of zero that is not partial
/// says that the sender computed none.
fn read_udp(udp: &[u8], partial: bool) -> Option<(Upper, usize, Sum)> {
    let checksum = read_u16(udp, usize::from(UDP_CHECKSUM_OFFSET))?;
    let upper = Upper::Udp {
        has_checksum: partial || checksum != 0,
    };
    Some((upper, UDP_HEADER_BYTES, Sum::of(udp.get(..4)?)))
}

/// The sum of an IPv4 header without its total length, identification and checksum.
fn ip_constant_sum(packet: &[u8], header: &IpHeader) -> Sum {
    if header.version == IpVersion::V6 {
        return Sum::ZERO;
    }
    [0..2, 6..10, 12..header.header_bytes]
        .into_iter()
        .fold(Sum::ZERO, |sum, range| {
            sum + Sum::of(packet.get(range).unwrap_or_default())
        })
}

#[inline]
fn write_whole(out: &mut [u8], packet: &[u8], partial: Option<PartialChecksum>) -> Option<usize> {
    let out = out.get_mut(..packet.len())?;
    let Some(partial) = partial else {
        out.copy_from_slice(packet);
        return Some(packet.len());
    };
    let start = usize::from(partial.start);
    let (head, covered) = packet.split_at_checked(start)?;
    let (head_out, covered_out) = out.split_at_mut_checked(start)?;
    head_out.copy_from_slice(head);
    let sum = copy_and_sum(covered_out, covered);
    partial.write(out, sum);
    Some(packet.len())
}

#[cfg(test)]
mod tests;
