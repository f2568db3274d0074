//! Reading and writing packets on one queue.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use masque_packet::segment::GsoInfo;

use crate::{
    PacketFault, TunError,
    virtio::{self, VNET_HDR_BYTES},
};

/// What a read buffer must hold: the longest super-packet with its virtio-net header, and more, so
/// that a packet which fills the buffer is known to be cut off.
pub const READ_BUFFER_BYTES: usize = 65_536 + 128;

/// Most pieces of one [`TunQueue::write_super`]. A super-packet of 64 kB in the shortest usual
/// segments (536 bytes) has 122.
pub const PIECES_MAX: usize = 254;

/// The virtio-net header and the packet's headers come first.
const SLICES_MAX: usize = PIECES_MAX + 2;

/// One queue of a TUN device: a non-blocking descriptor to poll, read and write. One thread at a
/// time gets the most out of it, though the kernel would allow more.
#[derive(Debug)]
pub struct TunQueue {
    fd: OwnedFd,
}

/// A packet that was read.
#[derive(Debug)]
pub struct TunPacket<'a> {
    /// The packet from its IP header on: one packet, or a super-packet that `gso` tells how to
    /// split. Not validated beyond what `gso` says.
    pub packet: &'a mut [u8],
    /// What the kernel left to do; consistent with the packet's length and version.
    pub gso: GsoInfo,
}

/// What became of a packet that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Written {
    /// The kernel took it.
    Done,
    /// The kernel has no room; the packet was not taken. Drop it, or try again when the descriptor
    /// is writable.
    Full,
}

impl TunQueue {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Reads one packet or super-packet into `buf`, at least [`READ_BUFFER_BYTES`] long. `None`
    /// when none waits.
    ///
    /// # Errors
    /// [`TunError::BadPacket`] for a packet that contradicts its virtio-net header: it is gone, the
    /// queue is fine, read on. [`TunError::Down`] when the interface is gone.
    pub fn read<'a>(&self, buf: &'a mut [u8]) -> Result<Option<TunPacket<'a>>, TunError> {
        if buf.len() < READ_BUFFER_BYTES {
            return Err(TunError::ShortBuffer {
                need: READ_BUFFER_BYTES,
                have: buf.len(),
            });
        }
        let read = loop {
            // SAFETY: the buffer is valid and writable for its length.
            let n = unsafe { libc::read(self.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
            if let Ok(n) = usize::try_from(n) {
                break n;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Ok(None),
                _ => return Err(TunError::from_queue("read", error)),
            }
        };
        if read >= buf.len() {
            return Err(TunError::BadPacket(PacketFault::Truncated(buf.len())));
        }
        let (header, packet) = buf[..read]
            .split_first_chunk_mut::<VNET_HDR_BYTES>()
            .ok_or(TunError::BadPacket(PacketFault::Short(read)))?;
        let gso = virtio::decode(header, packet).map_err(TunError::BadPacket)?;
        Ok(Some(TunPacket { packet, gso }))
    }

    /// Writes one complete packet.
    ///
    /// # Errors
    /// [`TunError::Refused`] when the kernel finds it malformed, [`TunError::Down`] when the
    /// interface is down.
    pub fn write(&self, packet: &[u8]) -> Result<Written, TunError> {
        self.write_super(&GsoInfo::default(), packet, &[])
    }

    /// Writes one packet or super-packet in a single system call: `headers`, then `pieces`. Either
    /// may be empty; the first byte of the packet is in whichever comes first.
    ///
    /// # Errors
    /// [`TunError::BadWrite`] for a `gso` that contradicts the packet: nothing was written.
    /// [`TunError::Refused`] when the kernel finds the packet malformed (or segments no UDP, before
    /// Linux 6.2), [`TunError::Down`] when the interface is down.
    pub fn write_super(
        &self,
        gso: &GsoInfo,
        headers: &[u8],
        pieces: &[IoSlice<'_>],
    ) -> Result<Written, TunError> {
        if pieces.len() > PIECES_MAX {
            return Err(TunError::BadWrite(PacketFault::Pieces(pieces.len())));
        }
        let packet_bytes = headers.len() + pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let start = if headers.is_empty() {
            pieces.first().map_or(headers, |p| p)
        } else {
            headers
        };
        let vnet_hdr = virtio::encode(gso, start, packet_bytes).map_err(TunError::BadWrite)?;
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        slices[0] = IoSlice::new(&vnet_hdr);
        slices[1] = IoSlice::new(headers);
        let count = 2 + pieces.len();
        slices[2..count].copy_from_slice(pieces);
        self.writev(&slices[..count], VNET_HDR_BYTES + packet_bytes)
    }

    fn writev(&self, slices: &[IoSlice<'_>], total_bytes: usize) -> Result<Written, TunError> {
        // SLICES_MAX fits any integer.
        let count = slices.len() as libc::c_int;
        loop {
            // SAFETY: IoSlice is ABI-compatible with iovec, and each lives through the call.
            let n = unsafe { libc::writev(self.as_raw_fd(), slices.as_ptr().cast(), count) };
            if usize::try_from(n) == Ok(total_bytes) {
                return Ok(Written::Done);
            }
            if n >= 0 {
                // A TUN device takes a packet whole or not at all.
                let source = io::Error::from(io::ErrorKind::WriteZero);
                return Err(TunError::System {
                    call: "writev",
                    source,
                });
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => return Ok(Written::Full),
                _ => return Err(TunError::from_queue("writev", error)),
            }
        }
    }
}

impl AsFd for TunQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for TunQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
