//! The merge of received packets into super-packets for a TUN device: generic receive offload in
//! software, without a copy of any payload.
//!
//! The rules are those of Linux GRO: what is merged here and segmented again by anyone gives the
//! same packets, byte for byte. Two things are not kept: a fixed IPv4 identification of packets that
//! must not be fragmented, where it has no meaning (RFC 6864 §4.1), and a TCP or IPv4 checksum of
//! 0xffff, which becomes 0 and says the same in one's complement.

mod candidate;
mod slot;

use std::ops::Range;

use candidate::Candidate;
use slot::Slot;

use crate::flow::{FlowKey, flow_key};
use crate::ip::{Fragment, IpHeader};
use crate::protocol;
use crate::segment::GsoInfo;

/// Most outputs of one [`Merger`] between two calls of [`Merger::clear`].
pub const MAX_SLOTS: usize = 64;

/// Most packets merged into one.
pub const MAX_PIECES: usize = 64;

/// Longest super-packet, in bytes: what the IPv4 total length can say.
pub const MAX_MERGED_BYTES: usize = 65_535;

/// Longest headers a merged packet has, in bytes: IPv6 and TCP with all its options take 100.
pub const MAX_HEADER_BYTES: usize = 128;

/// What [`Merger::push`] did with a packet. The number is that of the output it became part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Its payload joined earlier packets of its flow.
    Merged(usize),
    /// It is the first of a new output that later packets may join.
    New(usize),
    /// It is an output of its own and stays so.
    NotMergeable(usize),
    /// Nothing: every slot is taken. Write the outputs, [`clear`](Merger::clear), push it again.
    Full,
}

/// A part of an output: bytes of one packet that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    packet: u16,
    offset: u16,
    length: u32,
}

impl Piece {
    const EMPTY: Self = Self {
        packet: 0,
        offset: 0,
        length: 0,
    };

    /// Offsets are below [`MAX_HEADER_BYTES`] and packets no longer than 65,575 bytes.
    fn new(packet: u16, offset: usize, length: usize) -> Self {
        Self {
            packet,
            offset: u16::try_from(offset).unwrap_or(u16::MAX),
            length: u32::try_from(length).unwrap_or(u32::MAX),
        }
    }

    /// Which packet: the count of packets pushed before it since the last clear, those answered
    /// with [`Push::Full`] left out.
    #[inline]
    #[must_use]
    pub fn packet(&self) -> usize {
        usize::from(self.packet)
    }

    /// Which bytes of it.
    #[inline]
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        usize::from(self.offset)..usize::from(self.offset) + self.length as usize
    }
}

/// One packet to write: the virtio header that [`gso`](Self::gso) describes, then the headers, then
/// the pieces.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// The virtio header. Of a merged packet the checksum is partial; of a packet that is alone
    /// this is the default.
    pub gso: GsoInfo,
    /// The headers of a merged packet, rewritten; empty for a packet that is alone.
    pub headers: &'a [u8],
    /// The payloads of a merged packet, or the whole of a packet that is alone, in order.
    pub pieces: &'a [Piece],
    /// The TCP or UDP checksum was verified (`VIRTIO_NET_HDR_F_DATA_VALID`).
    pub checksum_verified: bool,
}

impl Output<'_> {
    /// Length of the packet without its virtio header, in bytes.
    #[must_use]
    pub fn total_bytes(&self) -> usize {
        self.headers.len()
            + self
                .pieces
                .iter()
                .map(|piece| piece.range().len())
                .sum::<usize>()
    }
}

/// Merges the packets of one batch.
///
/// Call [`push`](Self::push) for every packet in the order of arrival, keep the packets where they
/// are, write every one of [`outputs`](Self::outputs) in order, then [`clear`](Self::clear). Every
/// packet that was pushed is in exactly one output, also those that cannot be merged.
///
/// **Order.** Outputs are in the order of their first packets. Written so, the packets of one flow
/// leave in the order in which they came: a packet that does not join the open output of its flow
/// closes it, so that nothing later can overtake it. A fragment closes the outputs of all flows
/// between its addresses. Packets of different flows may overtake each other.
///
/// **Memory.** All of it is taken by [`new`](Self::new): less than 800 bytes a slot.
#[derive(Debug)]
pub struct Merger {
    slots: Box<[Slot]>,
    /// For each used slot the tag of the flow that may still join it, or [`CLOSED`].
    tags: Box<[u64]>,
    used: usize,
    /// At most [`MAX_SLOTS`] × [`MAX_PIECES`].
    packets: u16,
    merge_udp: bool,
}

/// The tag of a slot that nothing may join.
const CLOSED: u64 = 0;

impl Merger {
    /// A merger with this many slots, at least 1 and at most [`MAX_SLOTS`].
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let slots = slots.clamp(1, MAX_SLOTS);
        Self {
            slots: vec![Slot::EMPTY; slots].into_boxed_slice(),
            tags: vec![CLOSED; slots].into_boxed_slice(),
            used: 0,
            packets: 0,
            merge_udp: true,
        }
    }

    /// Whether UDP datagrams are merged, which the device must be able to segment (Linux 6.2 and
    /// newer with `TUN_F_USO4` and `TUN_F_USO6`). They are unless this says otherwise.
    pub fn set_merge_udp(&mut self, merge_udp: bool) {
        self.merge_udp = merge_udp;
    }

    /// Takes the next packet, which [`parse`](crate::ip::parse) described as `header`.
    ///
    /// Only TCP and UDP packets whose checksum is right are merged; all others pass as they are.
    #[inline]
    pub fn push(&mut self, packet: &[u8], header: &IpHeader) -> Push {
        let Some(candidate) = Candidate::read(packet, header, self.merge_udp) else {
            return self.push_alone(packet, header);
        };
        let tag = tag(&candidate.key);
        let open = self.open_slot(tag, &candidate.key);
        let joins = open.is_some_and(|number| self.slots[number].accepts(&candidate, packet));
        if !joins && self.is_full() {
            return Push::Full;
        }
        // A packet that can neither join nor be joined passes without the cost of its checksum.
        let verified =
            (joins || candidate.may_be_joined()) && candidate.is_verified(packet, header);
        if let (Some(number), true, true) = (open, joins, verified) {
            let more = self.slots[number].join(&candidate, self.packets);
            self.packets += 1;
            if !more {
                self.tags[number] = CLOSED;
            }
            return Push::Merged(number);
        }
        if self.is_full() {
            return Push::Full;
        }
        if let Some(number) = open {
            self.tags[number] = CLOSED;
        }
        let number = self.add(packet);
        if !verified || !candidate.may_be_joined() {
            self.slots[number].checksum_verified = verified;
            return Push::NotMergeable(number);
        }
        self.slots[number].open(&candidate, packet);
        self.tags[number] = tag;
        Push::New(number)
    }

    /// What there is to write, in order. Nothing joins these outputs any more.
    pub fn outputs(&mut self) -> impl ExactSizeIterator<Item = Output<'_>> {
        self.tags[..self.used].fill(CLOSED);
        self.slots[..self.used].iter_mut().map(Slot::output)
    }

    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether nothing was pushed since the last clear.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets every output; the packets may be reused.
    pub fn clear(&mut self) {
        self.used = 0;
        self.packets = 0;
    }

    fn is_full(&self) -> bool {
        self.used == self.slots.len()
    }

    /// The slot that the next packet of this flow may join.
    #[inline]
    fn open_slot(&self, tag: u64, key: &FlowKey) -> Option<usize> {
        let tags = &self.tags[..self.used];
        let matches = |number: &usize| tags[*number] == tag && self.slots[*number].is_of(key);
        (0..self.used).rev().find(matches)
    }

    /// Takes a packet that is no candidate for a merge.
    fn push_alone(&mut self, packet: &[u8], header: &IpHeader) -> Push {
        if self.is_full() {
            return Push::Full;
        }
        if header.fragment != Fragment::Whole {
            for number in 0..self.used {
                if self.slots[number].is_between(header.source, header.destination) {
                    self.tags[number] = CLOSED;
                }
            }
        } else if matches!(header.protocol, protocol::TCP | protocol::UDP) {
            let key = flow_key(header, packet);
            if let Some(number) = self.open_slot(tag(&key), &key) {
                self.tags[number] = CLOSED;
            }
        }
        Push::NotMergeable(self.add(packet))
    }

    /// Puts a packet into the next slot, which must be there, as an output of its own.
    #[inline]
    fn add(&mut self, packet: &[u8]) -> usize {
        let number = self.used;
        self.slots[number].hold(self.packets, packet.len());
        self.tags[number] = CLOSED;
        self.used += 1;
        self.packets += 1;
        number
    }
}

/// A number that is very likely different for different flows, and never [`CLOSED`].
#[inline]
fn tag(key: &FlowKey) -> u64 {
    let (high, low) = key.digest();
    // The odd constant of Fibonacci hashing: the golden ratio of 2^64.
    (high.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ low.rotate_left(29)) | 1
}

#[cfg(test)]
mod tests;
