//! Collects the packets of one turn, merges those of a flow, and writes super-packets to a queue.

use std::{io::IoSlice, ops::Range};

use masque_packet::{
    ip::IpHeader,
    merge::{MAX_PIECES, MAX_SLOTS, Merger, Output, Push},
};

use crate::{TunError, TunQueue, Written};

/// Bytes of packets that one turn may stage before they are written: about 180 packets of 1,400.
/// Small enough to stay in a core's cache.
pub const ARENA_BYTES: usize = 256 * 1024;

/// Packets staged before they are written.
const PACKETS_MAX: usize = MAX_SLOTS * MAX_PIECES;

/// What became of the packets of a flush.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Writes that the kernel took; each is a packet or a super-packet.
    pub written: u64,
    /// Writes that it did not take: no room, or refused.
    pub refused: u64,
}

impl Flushed {
    /// Adds another flush to this one.
    pub fn add(&mut self, other: Self) {
        self.written += other.written;
        self.refused += other.refused;
    }
}

/// The outgoing side of one TUN queue. [`stage`](Self::stage) a packet, look at it and edit it in
/// place, then [`commit`](Self::commit) or drop it; [`flush`](Self::flush) at the end of the turn.
///
/// Packets of one flow leave in the order of their commits. Nothing is allocated after
/// [`new`](Self::new).
#[derive(Debug)]
pub struct BatchWriter {
    merger: Merger,
    arena: Box<[u8]>,
    /// Where the committed packets lie, in the order of their commits.
    packets: Vec<Range<usize>>,
    staged: Range<usize>,
    flushed: Flushed,
}

impl BatchWriter {
    /// A writer for a device; `merge_udp` says whether it segments UDP
    /// ([`Offloads`](crate::Offloads)).
    pub fn new(merge_udp: bool) -> Self {
        let mut merger = Merger::new(MAX_SLOTS);
        merger.set_merge_udp(merge_udp);
        Self {
            merger,
            arena: vec![0; ARENA_BYTES].into_boxed_slice(),
            packets: Vec::with_capacity(PACKETS_MAX),
            staged: 0..0,
            flushed: Flushed::default(),
        }
    }

    /// Copies a packet in, and gives it back to be edited. Writes what was collected first if there
    /// is no room. `None` for a packet longer than any IP packet.
    pub fn stage(&mut self, queue: &TunQueue, packet: &[u8]) -> Option<&mut [u8]> {
        if packet.len() > usize::from(u16::MAX) {
            return None;
        }
        let mut start = self.packets.last().map_or(0, |last| last.end);
        if start + packet.len() > self.arena.len() || self.packets.len() == PACKETS_MAX {
            self.write_out(queue);
            start = 0;
        }
        self.staged = start..start + packet.len();
        let room = &mut self.arena[self.staged.clone()];
        room.copy_from_slice(packet);
        Some(room)
    }

    /// The staged packet is to be written; `header` describes it as it is now.
    pub fn commit(&mut self, queue: &TunQueue, header: &IpHeader) {
        if self.merger.push(&self.arena[self.staged.clone()], header) == Push::Full {
            self.write_out(queue);
            // Nothing is in front of the staged packet any more.
            let length = self.staged.len();
            self.arena.copy_within(self.staged.clone(), 0);
            self.staged = 0..length;
            // An empty merger takes any packet.
            let _first = self.merger.push(&self.arena[..length], header);
        }
        self.packets.push(self.staged.clone());
    }

    /// Whether anything waits for [`flush`](Self::flush).
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Writes what was collected, and says what became of everything since the last flush.
    pub fn flush(&mut self, queue: &TunQueue) -> Flushed {
        self.write_out(queue);
        std::mem::take(&mut self.flushed)
    }

    fn write_out(&mut self, queue: &TunQueue) {
        let (arena, packets) = (&self.arena, &self.packets);
        for output in self.merger.outputs() {
            match write(queue, arena, packets, &output) {
                Ok(Written::Done) => self.flushed.written += 1,
                Ok(Written::Full) => self.flushed.refused += 1,
                Err(error) => {
                    self.flushed.refused += 1;
                    tracing::debug!(%error, "TUN write");
                }
            }
        }
        self.merger.clear();
        self.packets.clear();
    }
}

fn write(
    queue: &TunQueue,
    arena: &[u8],
    packets: &[Range<usize>],
    output: &Output<'_>,
) -> Result<Written, TunError> {
    if let ([piece], []) = (output.pieces, output.headers) {
        let packet = &arena[packets[piece.packet()].clone()];
        return queue.write(&packet[piece.range()]);
    }
    let mut slices = [IoSlice::new(&[]); MAX_PIECES];
    for (slice, piece) in slices.iter_mut().zip(output.pieces) {
        let packet = &arena[packets[piece.packet()].clone()];
        *slice = IoSlice::new(&packet[piece.range()]);
    }
    let count = output.pieces.len().min(MAX_PIECES);
    queue.write_super(&output.gso, output.headers, &slices[..count])
}
