//! One VPC's TUN queue as one shard uses it.

use masque_tun::{BatchWriter, Flushed, TunQueue};

/// A queue, and what is collected for it.
#[derive(Debug)]
pub(crate) struct VpcPort {
    /// The queue.
    pub(crate) queue: TunQueue,
    /// Packets for the VPC.
    pub(crate) writer: BatchWriter,
    /// What became of them.
    pub(crate) flushed: Flushed,
    /// The queue may have something.
    pub(crate) ready: bool,
    /// Reads and writes that failed because the device is gone.
    pub(crate) down: bool,
}

impl VpcPort {
    /// Nothing collected yet.
    pub(crate) fn new(queue: TunQueue, merge_udp: bool) -> Self {
        Self {
            queue,
            writer: BatchWriter::new(merge_udp),
            flushed: Flushed::default(),
            ready: true,
            down: false,
        }
    }

    /// Whether a read may give a packet.
    pub(crate) const fn is_readable(&self) -> bool {
        self.ready && !self.down
    }

    /// Writes what was collected.
    pub(crate) fn flush(&mut self) {
        if !self.writer.is_empty() {
            self.flushed.add(self.writer.flush(&self.queue));
        }
    }
}
