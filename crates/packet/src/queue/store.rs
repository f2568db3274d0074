//! The memory of waiting packets: buffers of a few sizes, used again, bounded in all.

/// Lengths of buffers: a packet of Ethernet, a short super-packet, the longest one.
const SIZES: [usize; 3] = [2 * 1024, 16 * 1024, LONGEST_BYTES];
/// What the longest buffer holds: the longest super-packet, an IPv6 packet of 65,575 bytes.
pub(super) const LONGEST_BYTES: usize = 64 * 1024 + 128;

/// Spare buffers, and how much there is in all.
#[derive(Debug)]
pub(super) struct Store {
    spare: [Vec<Box<[u8]>>; SIZES.len()],
    allocated_bytes: usize,
    limit_bytes: usize,
}

impl Store {
    pub(super) fn new(limit_bytes: usize) -> Self {
        Self {
            spare: [const { Vec::new() }; SIZES.len()],
            allocated_bytes: 0,
            limit_bytes,
        }
    }

    pub(super) const fn allocated_bytes(&self) -> usize {
        self.allocated_bytes
    }

    pub(super) const fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// A buffer for so many bytes; `None` when all memory is in use, or for what no packet has.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Box<[u8]>> {
        let size = SIZES.iter().position(|size| bytes <= *size)?;
        if let Some(buffer) = self.spare[size].pop() {
            return Some(buffer);
        }
        while self.allocated_bytes + SIZES[size] > self.limit_bytes {
            // Spare buffers of another size make way.
            let spare = self.spare.iter_mut().rev().find_map(Vec::pop)?;
            self.allocated_bytes -= spare.len();
        }
        self.allocated_bytes += SIZES[size];
        Some(vec![0; SIZES[size]].into_boxed_slice())
    }

    /// Takes a buffer back.
    pub(super) fn give(&mut self, buffer: Box<[u8]>) {
        if let Some(size) = SIZES.iter().position(|size| *size == buffer.len()) {
            self.spare[size].push(buffer);
        }
    }
}
