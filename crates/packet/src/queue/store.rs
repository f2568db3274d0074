//! The memory of waiting packets: pages of one length, used again, bounded in all.
//!
//! A packet takes as many pages as it needs, wherever they are, so that no mix of long and short ones
//! leaves memory that nothing fits into.

use std::ops::Range;

use super::NOBODY;
use crate::segment::GsoInfo;

/// Length of a page: a packet of Ethernet fits into one.
const PAGE_BYTES: usize = 2 * 1024;
/// The longest super-packet, an IPv6 packet of 65,575 bytes, is shorter.
pub(super) const LONGEST_BYTES: usize = 64 * 1024 + 128;

/// A packet that waits, beside its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Packet {
    /// The one behind it in its flow, or [`NOBODY`].
    pub(super) next: u32,
    pub(super) packet_bytes: usize,
    pub(super) gso: GsoInfo,
    pub(super) at_us: u64,
}

impl Packet {
    /// How many pages it has.
    pub(super) fn pages(&self) -> usize {
        pages(self.packet_bytes)
    }
}

/// Packets by the number of their first page.
#[derive(Debug)]
pub(super) struct Store {
    /// All pages, one behind the other. The system gives memory to those alone that were written to.
    bytes: Box<[u8]>,
    /// The page behind each page that was ever used, in its packet or among the free ones.
    links: Vec<u32>,
    /// What begins with each page that was ever used.
    packets: Vec<Packet>,
    /// The free page to use next, or [`NOBODY`].
    next_free: u32,
    used_pages: usize,
    limit_pages: usize,
    limit_bytes: usize,
    /// A packet whose pages are apart, put together.
    gathered: Box<[u8]>,
}

impl Store {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            bytes: Box::default(),
            links: Vec::new(),
            packets: Vec::new(),
            next_free: NOBODY,
            used_pages: 0,
            limit_pages: limit_bytes / PAGE_BYTES,
            limit_bytes,
            gathered: Box::default(),
        }
    }

    /// Memory of the pages that were ever used.
    pub(super) fn touched_bytes(&self) -> usize {
        self.links.len() * PAGE_BYTES
    }

    /// Memory beside the pages.
    #[cfg(test)]
    pub(super) fn books_bytes(&self) -> usize {
        let links = self.links.capacity() * size_of::<u32>();
        links + self.packets.capacity() * size_of::<Packet>() + self.gathered.len()
    }

    /// Where the pages are.
    #[cfg(test)]
    pub(super) fn address(&self) -> usize {
        self.bytes.as_ptr().addr()
    }

    pub(super) const fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    pub(super) fn packet(&self, at: u32) -> &Packet {
        &self.packets[at as usize]
    }

    pub(super) fn packet_mut(&mut self, at: u32) -> &mut Packet {
        &mut self.packets[at as usize]
    }

    /// Keeps a packet; `None` when too few pages are free.
    pub(super) fn put(&mut self, now_us: u64, packet: &[u8], gso: &GsoInfo) -> Option<u32> {
        if self.used_pages + pages(packet.len()) > self.limit_pages {
            return None;
        }
        if self.bytes.is_empty() {
            self.bytes = vec![0; self.limit_pages * PAGE_BYTES].into_boxed_slice();
        }
        let (head, mut rest) = packet.split_at(packet.len().min(PAGE_BYTES));
        let first = self.fill(head);
        let mut last = first;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(PAGE_BYTES));
            let page = self.fill(head);
            self.links[last as usize] = page;
            (last, rest) = (page, tail);
        }
        self.links[last as usize] = NOBODY;
        self.packets[first as usize] = Packet {
            next: NOBODY,
            packet_bytes: packet.len(),
            gso: *gso,
            at_us: now_us,
        };
        Some(first)
    }

    /// The bytes of a packet.
    pub(super) fn bytes(&mut self, at: u32) -> &mut [u8] {
        let length = self.packet(at).packet_bytes;
        let first = at as usize;
        let mut page = at;
        let together = (first..first + pages(length)).all(|expected| {
            let found = page as usize == expected;
            page = self.links[page as usize];
            found
        });
        if together {
            let start = first * PAGE_BYTES;
            return &mut self.bytes[start..start + length];
        }
        if self.gathered.is_empty() {
            self.gathered = vec![0; LONGEST_BYTES].into_boxed_slice();
        }
        let mut page = at;
        for part in self.gathered[..length].chunks_mut(PAGE_BYTES) {
            part.copy_from_slice(&self.bytes[range(page, part.len())]);
            page = self.links[page as usize];
        }
        &mut self.gathered[..length]
    }

    /// Frees a packet's pages, in their order: the next packet of its length finds them together if
    /// they are.
    pub(super) fn give_back(&mut self, at: u32) {
        let mut last = at;
        while self.links[last as usize] != NOBODY {
            last = self.links[last as usize];
        }
        self.links[last as usize] = self.next_free;
        self.next_free = at;
        self.used_pages -= self.packet(at).pages();
    }

    /// Takes a page for part of a packet.
    fn fill(&mut self, part: &[u8]) -> u32 {
        let page = if self.next_free == NOBODY {
            self.links.push(NOBODY);
            self.packets.push(Packet::default());
            super::place(self.links.len())
        } else {
            let next = self.links[self.next_free as usize];
            std::mem::replace(&mut self.next_free, next)
        };
        self.used_pages += 1;
        self.bytes[range(page, part.len())].copy_from_slice(part);
        page
    }
}

/// Pages of a packet; one that is empty has one, too.
fn pages(packet_bytes: usize) -> usize {
    packet_bytes.div_ceil(PAGE_BYTES).max(1)
}

fn range(page: u32, length: usize) -> Range<usize> {
    let start = page as usize * PAGE_BYTES;
    start..start + length
}
