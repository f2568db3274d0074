//! The packets of one flow, in their order.

use super::{
    NOBODY,
    codel::Codel,
    rounds::Turn,
    store::{Packet, Store},
};

#[derive(Debug)]
pub(super) struct Flow {
    /// The packet that came first, or [`NOBODY`]; each knows the one behind it.
    first: u32,
    last: u32,
    packets: usize,
    /// Memory its packets hold.
    held_pages: usize,
    /// Length of its packets.
    packet_bytes: usize,
    pub(super) bucket: usize,
    pub(super) turn: Turn,
    pub(super) codel: Codel,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            first: NOBODY,
            last: NOBODY,
            packets: 0,
            held_pages: 0,
            packet_bytes: 0,
            bucket: 0,
            turn: Turn::default(),
            codel: Codel::default(),
        }
    }
}

impl Flow {
    /// The packet that came first.
    pub(super) fn first(&self) -> Option<u32> {
        (self.first != NOBODY).then_some(self.first)
    }

    pub(super) const fn held_pages(&self) -> usize {
        self.held_pages
    }

    pub(super) const fn packet_bytes(&self) -> usize {
        self.packet_bytes
    }

    /// Puts a packet at the end.
    pub(super) fn push(&mut self, store: &mut Store, at: u32) {
        if self.first == NOBODY {
            self.first = at;
        } else {
            store.packet_mut(self.last).next = at;
        }
        self.last = at;
        self.packets += 1;
        self.held_pages += store.packet(at).pages();
        self.packet_bytes += store.packet(at).packet_bytes;
    }

    /// Takes the packet that came first; it stays in the store.
    pub(super) fn pop(&mut self, store: &Store) -> Option<u32> {
        let at = self.first()?;
        let packet = store.packet(at);
        self.first = packet.next;
        self.packets -= 1;
        self.held_pages -= packet.pages();
        self.packet_bytes -= packet.packet_bytes;
        Some(at)
    }

    /// Drops the older half, but not more than it takes to free so many pages; how many packets and
    /// pages it were.
    pub(super) fn halve(
        &mut self,
        store: &mut Store,
        wanted_pages: usize,
        mut lost: impl FnMut(&Packet),
    ) -> (usize, usize) {
        let (before, mut freed) = (self.packets, 0);
        while freed < wanted_pages && 2 * (before - self.packets) < before {
            let Some(at) = self.pop(store) else { break };
            lost(store.packet(at));
            freed += store.packet(at).pages();
            store.give_back(at);
        }
        (before - self.packets, freed)
    }
}
