//! Where inner packets come from and go to: a TUN device, or the application.

use std::os::fd::{AsFd, BorrowedFd};

use masque_packet::{
    ip::{self, IpHeader},
    segment::GsoInfo,
};
use masque_tun::{BatchWriter, Offloads, READ_BUFFER_BYTES, TunError, TunQueue};

/// The packets' end of an attachment. One thread uses it.
pub(crate) trait Device: Send {
    /// Readable when packets wait.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The next packet or super-packet; `None` when none waits.
    ///
    /// # Errors
    /// The device is gone.
    fn read(&mut self) -> Result<Option<(&mut [u8], GsoInfo)>, String>;

    /// Takes a packet from the gateway, after `edit` had its way with it. False: no room.
    fn write(&mut self, packet: &[u8], header: &IpHeader, edit: impl FnOnce(&mut [u8])) -> bool;

    /// Hands over what was taken; how many writes were refused.
    fn flush(&mut self) -> u64;
}

/// A queue of a TUN device.
#[derive(Debug)]
pub(crate) struct TunPort {
    queue: TunQueue,
    writer: BatchWriter,
    buffer: Box<[u8]>,
}

impl TunPort {
    pub(crate) fn new(queue: TunQueue, offloads: Offloads) -> Self {
        Self {
            queue,
            writer: BatchWriter::new(offloads.udp),
            buffer: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
        }
    }
}

impl Device for TunPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }

    fn read(&mut self) -> Result<Option<(&mut [u8], GsoInfo)>, String> {
        match self.queue.read(&mut self.buffer) {
            Ok(read) => Ok(read.map(|read| (read.packet, read.gso))),
            // The device is not set up yet, or the packet was malformed and is gone.
            Err(TunError::BadPacket(_)) => Ok(Some((&mut [], GsoInfo::default()))),
            Err(error) => Err(error.to_string()),
        }
    }

    fn write(&mut self, packet: &[u8], header: &IpHeader, edit: impl FnOnce(&mut [u8])) -> bool {
        let Some(staged) = self.writer.stage(&self.queue, packet) else {
            return false;
        };
        edit(staged);
        self.writer.commit(&self.queue, header);
        true
    }

    fn flush(&mut self) -> u64 {
        self.writer.flush(&self.queue).refused
    }
}

/// Writes a packet of our own making, say an ICMP error.
pub(crate) fn write_own(device: &mut impl Device, packet: &[u8]) -> bool {
    match ip::parse(packet) {
        Ok(header) => device.write(packet, &header, |_| {}),
        Err(_) => false,
    }
}
