//! One output in the making.

use std::net::IpAddr;
use std::ops::Range;
use std::slice;

use super::candidate::{Candidate, TCP_PSH};
use super::{MAX_HEADER_BYTES, MAX_MERGED_BYTES, MAX_PIECES, Output, Piece};
use crate::bytes::{read_u16, write_u16};
use crate::checksum::{checksum, pseudo_header};
use crate::flow::FlowKey;
use crate::ip::{IPV6_HEADER_BYTES, IpVersion};
use crate::segment::{GsoInfo, GsoKind, PartialChecksum};

#[derive(Clone, Debug)]
pub(super) struct Slot {
    /// The flow of a slot that was opened.
    key: FlowKey,
    kind: GsoKind,
    upper_offset: usize,
    header_bytes: usize,
    segment_bytes: usize,
    payload_bytes: usize,
    next_sequence: u32,
    /// The packets have the same IPv4 identification, not rising ones.
    fixed_identification: bool,
    push: bool,
    pub(super) checksum_verified: bool,
    /// The first packet, whole: the output as long as it is alone.
    whole: Piece,
    pieces_used: usize,
    pieces: [Piece; MAX_PIECES],
    /// Those of the first packet, until the output is written.
    headers: [u8; MAX_HEADER_BYTES],
}

impl Slot {
    pub(super) const EMPTY: Self = Self {
        key: FlowKey::UNSPECIFIED,
        kind: GsoKind::None,
        upper_offset: 0,
        header_bytes: 0,
        segment_bytes: 0,
        payload_bytes: 0,
        next_sequence: 0,
        fixed_identification: false,
        push: false,
        checksum_verified: false,
        whole: Piece::EMPTY,
        pieces_used: 0,
        pieces: [Piece::EMPTY; MAX_PIECES],
        headers: [0; MAX_HEADER_BYTES],
    };

    /// Makes this the output of one packet.
    #[inline]
    pub(super) fn hold(&mut self, packet: u16, packet_bytes: usize) {
        self.whole = Piece::new(packet, 0, packet_bytes);
        self.pieces_used = 0;
        self.checksum_verified = false;
    }

    /// Lets others join the packet that this slot holds.
    #[inline]
    pub(super) fn open(&mut self, first: &Candidate, packet: &[u8]) {
        self.key = first.key;
        self.kind = first.kind;
        self.upper_offset = first.upper_offset;
        self.header_bytes = first.header_bytes;
        self.segment_bytes = first.payload_bytes;
        self.payload_bytes = 0;
        self.next_sequence = first.sequence;
        self.fixed_identification = false;
        self.checksum_verified = true;
        if let (Some(to), Some(from)) = (
            self.headers.get_mut(..first.header_bytes),
            packet.get(..first.header_bytes),
        ) {
            to.copy_from_slice(from);
        }
        self.join(first, self.whole.packet);
    }

    #[inline]
    pub(super) fn is_of(&self, key: &FlowKey) -> bool {
        self.key == *key
    }

    pub(super) fn is_between(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.key.src() == source && self.key.dst() == destination
    }

    /// Whether `next`, a packet of the flow of this open slot, continues it.
    #[inline]
    pub(super) fn accepts(&self, next: &Candidate, packet: &[u8]) -> bool {
        // The flow gives the kind, and the data offset of TCP the length of the headers.
        next.payload_bytes <= self.segment_bytes
            && self.header_bytes + self.payload_bytes + next.payload_bytes <= MAX_MERGED_BYTES
            && (self.kind == GsoKind::UdpL4
                || next.sequence == self.next_sequence && self.same_tcp(packet))
            && self.same_ip(next, packet)
    }

    /// Adds a packet that [`accepts`](Self::accepts) let in and says whether more may follow.
    #[inline]
    pub(super) fn join(&mut self, next: &Candidate, packet: u16) -> bool {
        if let Some(piece) = self.pieces.get_mut(self.pieces_used) {
            *piece = Piece::new(packet, next.header_bytes, next.payload_bytes);
        }
        if self.pieces_used == 1 {
            self.fixed_identification = next.identification == self.first_identification();
        }
        self.pieces_used += 1;
        self.payload_bytes += next.payload_bytes;
        self.next_sequence = self
            .next_sequence
            .wrapping_add(u32::try_from(next.payload_bytes).unwrap_or(0));
        self.push = next.push;
        // What is shorter than the first or has PSH ends the super-packet.
        !next.push && next.payload_bytes == self.segment_bytes && self.pieces_used < MAX_PIECES
    }

    /// The output, with its headers rewritten if it is of several packets.
    pub(super) fn output(&mut self) -> Output<'_> {
        if self.pieces_used < 2 {
            return Output {
                gso: GsoInfo::default(),
                headers: &[],
                pieces: slice::from_ref(&self.whole),
                checksum_verified: self.checksum_verified,
            };
        }
        self.rewrite_headers();
        Output {
            gso: GsoInfo {
                kind: self.kind,
                segment_bytes: saturate(self.segment_bytes),
                header_bytes: saturate(self.header_bytes),
                checksum: Some(PartialChecksum {
                    start: saturate(self.upper_offset),
                    offset: self.checksum_offset(),
                }),
            },
            headers: self.headers.get(..self.header_bytes).unwrap_or_default(),
            pieces: self.pieces.get(..self.pieces_used).unwrap_or_default(),
            checksum_verified: true,
        }
    }

    fn checksum_offset(&self) -> u16 {
        match self.kind {
            GsoKind::UdpL4 => 6,
            GsoKind::None | GsoKind::TcpV4 | GsoKind::TcpV6 => 16,
        }
    }

    /// Makes the headers of the first packet those of the super-packet. Doing it twice changes
    /// nothing.
    fn rewrite_headers(&mut self) {
        let total_bytes = self.header_bytes + self.payload_bytes;
        let upper_bytes = total_bytes - self.upper_offset;
        let checksum_field = self.upper_offset + usize::from(self.checksum_offset());
        let pseudo = pseudo_header(
            self.key.src(),
            self.key.dst(),
            self.key.protocol,
            upper_bytes,
        );
        let headers = &mut self.headers;
        match self.key.version() {
            IpVersion::V4 => {
                write_u16(headers, 2, saturate(total_bytes));
                write_u16(headers, 10, 0);
                let sum = checksum(headers.get(..self.upper_offset).unwrap_or_default());
                write_u16(headers, 10, sum);
            }
            IpVersion::V6 => write_u16(headers, 4, saturate(total_bytes - IPV6_HEADER_BYTES)),
        }
        if self.kind == GsoKind::UdpL4 {
            write_u16(headers, self.upper_offset + 4, saturate(upper_bytes));
        } else if self.push {
            let flags = read_u16(headers, self.upper_offset + 12).unwrap_or_default();
            write_u16(headers, self.upper_offset + 12, flags | TCP_PSH);
        }
        write_u16(headers, checksum_field, pseudo.fold());
    }

    fn first_identification(&self) -> u16 {
        read_u16(&self.headers, 4).unwrap_or_default()
    }

    /// Whether the IP header continues the first one. Addresses and protocol are part of the key.
    #[inline]
    fn same_ip(&self, next: &Candidate, packet: &[u8]) -> bool {
        let same = |range: Range<usize>| self.headers.get(range.clone()) == packet.get(range);
        match self.key.version() {
            // Version, length, DSCP, ECN; flags, fragment offset, TTL.
            IpVersion::V4 => same(0..2) && same(6..9) && self.same_identification(next),
            // Version, traffic class, flow label; hop limit.
            IpVersion::V6 => same(0..4) && same(7..8),
        }
    }

    /// Segmentation gives rising identifications. Where DF is set they have no meaning (RFC 6864
    /// §4.1), so that fixed ones may be merged too.
    #[inline]
    fn same_identification(&self, next: &Candidate) -> bool {
        let advance = usize::from(
            next.identification
                .wrapping_sub(self.first_identification()),
        );
        let is_rising = advance == self.pieces_used;
        let is_fixed = advance == 0 && self.headers[6] & IPV4_DF != 0;
        match self.pieces_used {
            1 => is_rising || is_fixed,
            _ if self.fixed_identification => is_fixed,
            _ => is_rising,
        }
    }

    /// Whether the TCP header continues the first one: acknowledgement, data offset, flags but
    /// PSH, window, urgent pointer and options are the same. Ports are part of the key.
    #[inline]
    fn same_tcp(&self, packet: &[u8]) -> bool {
        let upper = self.upper_offset;
        let same = |range: Range<usize>| self.headers.get(range.clone()) == packet.get(range);
        let flags = |bytes| read_u16(bytes, upper + 12).map(|flags| flags & !TCP_PSH);
        same(upper + 8..upper + 12)
            && flags(&self.headers) == flags(packet)
            && same(upper + 14..upper + 16)
            && same(upper + 18..self.header_bytes)
    }
}

/// The Don't Fragment bit in byte 6 of an IPv4 header.
const IPV4_DF: u8 = 0x40;

/// Lengths of a super-packet fit in 16 bits: [`MAX_MERGED_BYTES`].
fn saturate(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}
