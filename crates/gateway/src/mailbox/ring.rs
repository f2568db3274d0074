//! The ring of packets that other shards leave for one shard. No VPC fills it for the others, and
//! its buffers are used again.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;
use masque_gateway_core::VpcIndex;
use masque_packet::segment::GsoInfo;

use crate::command::HandedPacket;

/// Packets that other shards may leave for one shard; above, they are dropped and counted. A
/// hand-over is a flow's first packets only, so this is a burst of new flows.
pub(crate) const MAX_HANDED_PACKETS: usize = 512;

/// VPCs whose packets are counted apart. Two whose indexes are equal modulo this share a bound.
const COUNTED_VPCS: usize = 4096;

/// Memory of all buffers that wait for their next packet: 64 of the longest super-packets, twice what
/// a shard takes in one turn, or some thousand plain packets.
const MAX_SPARE_BYTES: usize = 64 * 65_536;

/// Many senders, one receiver.
#[derive(Debug)]
pub(super) struct Ring {
    packets: ArrayQueue<HandedPacket>,
    /// Packets in the ring by VPC. Raised before a packet is in and lowered when it is out.
    held: Box<[AtomicUsize]>,
    spare: ArrayQueue<Vec<u8>>,
    /// Capacity of all buffers in `spare`.
    spare_bytes: AtomicUsize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            packets: ArrayQueue::new(MAX_HANDED_PACKETS),
            held: (0..COUNTED_VPCS).map(|_| AtomicUsize::new(0)).collect(),
            spare: ArrayQueue::new(MAX_HANDED_PACKETS),
            spare_bytes: AtomicUsize::new(0),
        }
    }

    /// Copies a packet in; `false` if its VPC has no place left.
    ///
    /// A VPC may hold as many places as are free: one that floods gets half of the ring, two get a
    /// third each, and there is always a place for a VPC that has none.
    pub(super) fn push(&self, vpc: VpcIndex, gso: &GsoInfo, packet: &[u8]) -> bool {
        let held = self.held(vpc);
        let before = held.fetch_add(1, Ordering::Relaxed);
        let free = MAX_HANDED_PACKETS.saturating_sub(self.packets.len());
        if before < free {
            let mut bytes = self.take_spare();
            bytes.extend_from_slice(packet);
            let gso = *gso;
            match self.packets.push(HandedPacket { vpc, gso, bytes }) {
                Ok(()) => return true,
                Err(refused) => self.recycle(refused),
            }
        }
        held.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// The oldest packet; give it back by [`recycle`](Self::recycle).
    pub(super) fn pop(&self) -> Option<HandedPacket> {
        let packet = self.packets.pop()?;
        self.held(packet.vpc).fetch_sub(1, Ordering::Relaxed);
        Some(packet)
    }

    /// Keeps the buffer of a packet for the next one, within [`MAX_SPARE_BYTES`].
    pub(super) fn recycle(&self, packet: HandedPacket) {
        let mut buffer = packet.bytes;
        buffer.clear();
        let bytes = buffer.capacity();
        let before = self.spare_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > MAX_SPARE_BYTES || self.spare.push(buffer).is_err() {
            self.spare_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// An empty buffer.
    fn take_spare(&self) -> Vec<u8> {
        let buffer = self.spare.pop().unwrap_or_default();
        self.spare_bytes
            .fetch_sub(buffer.capacity(), Ordering::Relaxed);
        buffer
    }

    fn held(&self, vpc: VpcIndex) -> &AtomicUsize {
        &self.held[vpc.0 as usize % COUNTED_VPCS]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn push(ring: &Ring, vpc: u32) -> bool {
        ring.push(VpcIndex(vpc), &GsoInfo::default(), &[0x45; 1_500])
    }

    /// Pushes until nothing is taken any more, and says how many were.
    fn fill(ring: &Ring, vpc: u32) -> usize {
        (0..).take_while(|_: &u32| push(ring, vpc)).count()
    }

    #[test]
    fn a_vpc_that_floods_leaves_places_for_the_others() {
        let ring = Ring::new();
        assert_eq!(fill(&ring, 0), MAX_HANDED_PACKETS / 2);
        for quiet in 1..=8 {
            assert!(push(&ring, quiet), "{quiet}");
        }
        // Also if many flood, whatever came first.
        for _ in 0..MAX_HANDED_PACKETS {
            for flooding in 100..120 {
                push(&ring, flooding);
            }
        }
        assert!(push(&ring, 1_000));
        assert!(!push(&ring, 0));
    }

    #[test]
    fn the_ring_is_bounded_and_its_places_come_back() {
        let ring = Ring::new();
        for _ in 0..3 {
            let places = u32::try_from(MAX_HANDED_PACKETS).unwrap();
            assert!((0..places).all(|vpc| push(&ring, vpc)));
            assert!(!push(&ring, places));
            let mut order = 0..places;
            while let Some(packet) = ring.pop() {
                assert_eq!(Some(packet.vpc.0), order.next());
                ring.recycle(packet);
            }
            assert_eq!(order.next(), None);
            assert_eq!(fill(&ring, 7), MAX_HANDED_PACKETS / 2);
            while ring.pop().is_some() {}
        }
    }

    #[test]
    fn a_buffer_is_used_again() {
        let ring = Ring::new();
        assert!(push(&ring, 0));
        let first = ring.pop().unwrap();
        let address = first.bytes.as_ptr();
        ring.recycle(first);
        for vpc in 0..100 {
            let packet = [u8::try_from(vpc).unwrap(); 900];
            assert!(ring.push(VpcIndex(vpc), &GsoInfo::default(), &packet));
            let again = ring.pop().unwrap();
            assert_eq!((&again.bytes[..], again.vpc.0), (&packet[..], vpc));
            assert_eq!(again.bytes.as_ptr(), address, "nothing was allocated");
            ring.recycle(again);
        }
    }

    #[test]
    fn what_is_kept_for_later_is_bounded() {
        let ring = Ring::new();
        for vpc in 0..200 {
            assert!(ring.push(VpcIndex(vpc), &GsoInfo::default(), &[0; 65_535]));
        }
        while let Some(packet) = ring.pop() {
            ring.recycle(packet);
        }
        let kept = ring.spare_bytes.load(Ordering::Relaxed);
        assert!(
            kept > MAX_SPARE_BYTES / 2 && kept <= MAX_SPARE_BYTES,
            "{kept}"
        );
        let spare = std::iter::from_fn(|| ring.spare.pop());
        assert_eq!(spare.map(|buffer| buffer.capacity()).sum::<usize>(), kept);
    }

    #[test]
    fn counts_stay_right_between_threads() {
        const PACKETS: u32 = 20_000;
        let ring = Arc::new(Ring::new());
        let senders: Vec<_> = (0..3)
            .map(|vpc| {
                let ring = Arc::clone(&ring);
                std::thread::spawn(move || (0..PACKETS).filter(|_| push(&ring, vpc)).count())
            })
            .collect();
        let mut taken = 0;
        while senders.iter().any(|sender| !sender.is_finished()) {
            while let Some(packet) = ring.pop() {
                ring.recycle(packet);
                taken += 1;
            }
        }
        let sent: usize = senders.into_iter().map(|it| it.join().unwrap()).sum();
        taken += std::iter::from_fn(|| ring.pop()).count();
        assert_eq!(sent, taken);
        let held = ring.held.iter().map(|held| held.load(Ordering::Relaxed));
        assert_eq!(held.sum::<usize>(), 0);
    }
}
