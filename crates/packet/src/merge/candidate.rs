//! What makes a packet one that may be merged.

use crate::bytes::{read_u16, read_u32};
use crate::checksum::{Sum, pseudo_header};
use crate::flow::{FlowKey, flow_key};
use crate::ip::{Fragment, IpHeader, IpVersion};
use crate::protocol;
use crate::segment::GsoKind;

/// A TCP or UDP packet of a form that may be merged with its neighbours.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) key: FlowKey,
    pub(super) kind: GsoKind,
    /// Where the TCP or UDP header begins.
    pub(super) upper_offset: usize,
    /// Length of all headers.
    pub(super) header_bytes: usize,
    /// Never zero.
    pub(super) payload_bytes: usize,
    /// The IPv4 identification; of no meaning for IPv6.
    pub(super) identification: u16,
    /// The TCP sequence number.
    pub(super) sequence: u32,
    /// The TCP PSH flag: the end of what the sender wrote, to be delivered at once.
    pub(super) push: bool,
}

/// Where the PSH flag is in the 16-bit word at offset 12 of a TCP header.
pub(super) const TCP_PSH: u16 = 0x0008;
const TCP_ACK: u16 = 0x0010;
const TCP_FLAGS: u16 = 0x00ff;

impl Candidate {
    #[inline]
    pub(super) fn read(packet: &[u8], header: &IpHeader, merge_udp: bool) -> Option<Self> {
        // Without IPv4 options and IPv6 extension headers the upper layer follows at once.
        if header.fragment != Fragment::Whole
            || header.ipv4_options
            || header.upper_offset != header.header_bytes
            || header.total_bytes != packet.len()
        {
            return None;
        }
        let upper = packet.get(header.upper_offset..)?;
        let (kind, upper_header_bytes, sequence, push) = match header.protocol {
            protocol::TCP => read_tcp(upper, header.version)?,
            protocol::UDP if merge_udp => read_udp(upper)?,
            _ => return None,
        };
        let header_bytes = header.upper_offset + upper_header_bytes;
        let payload_bytes = packet
            .len()
            .checked_sub(header_bytes)
            .filter(|bytes| *bytes > 0)?;
        Some(Self {
            key: flow_key(header, packet),
            kind,
            upper_offset: header.upper_offset,
            header_bytes,
            payload_bytes,
            identification: read_u16(packet, 4)?,
            sequence,
            push,
        })
    }

    /// Whether later packets may join this one.
    #[inline]
    pub(super) fn may_be_joined(&self) -> bool {
        !self.push
    }

    /// Whether the TCP or UDP checksum is right. A merged packet gets a new one when it is
    /// segmented, which would hide damage from the receiver.
    #[inline]
    pub(super) fn is_verified(&self, packet: &[u8], header: &IpHeader) -> bool {
        let upper = packet.get(self.upper_offset..).unwrap_or_default();
        let pseudo = pseudo_header(
            header.source,
            header.destination,
            header.protocol,
            upper.len(),
        );
        (pseudo + Sum::of(upper)).is_valid()
    }
}

/// Kind, header length, sequence number and PSH of a TCP segment that only carries data.
#[inline]
fn read_tcp(tcp: &[u8], version: IpVersion) -> Option<(GsoKind, usize, u32, bool)> {
    let flags = read_u16(tcp, 12)?;
    let header_bytes = usize::from(flags >> 12) * 4;
    if flags & TCP_FLAGS & !TCP_PSH != TCP_ACK || header_bytes < 20 {
        return None;
    }
    let kind = match version {
        IpVersion::V4 => GsoKind::TcpV4,
        IpVersion::V6 => GsoKind::TcpV6,
    };
    Some((kind, header_bytes, read_u32(tcp, 4)?, flags & TCP_PSH != 0))
}

/// The same of a UDP datagram that fills its packet and has a checksum.
#[inline]
fn read_udp(udp: &[u8]) -> Option<(GsoKind, usize, u32, bool)> {
    let length = usize::from(read_u16(udp, 4)?);
    let checksum = read_u16(udp, 6)?;
    (length == udp.len() && checksum != 0).then_some((GsoKind::UdpL4, 8, 0, false))
}
