//! Linux TUN devices with one descriptor per queue and virtio-net offloads.
//!
//! With offloads a read hands out a super-packet, up to 64 kB of one flow with its checksum
//! unfinished (TSO, USO), and a write takes one: a system call then costs a fortieth a packet.
//! [`masque_packet::segment`] splits them, [`masque_packet::merge`] makes them; this crate only
//! moves them and checks every field of the virtio-net header against the packet on both ways.
//!
//! Nothing here allocates after [`TunDevice::open`], nothing blocks, nothing is persistent: the
//! interface vanishes with its last queue. Addresses, routes and the MTU are netlink's.
#![allow(
    unsafe_code,
    reason = "ioctl, read and writev on /dev/net/tun through libc"
)]

mod batch_writer;
mod device;
mod error;
mod queue;
mod virtio;

pub use batch_writer::{ARENA_BYTES, BatchWriter, Flushed};
pub use device::{NAME_BYTES_MAX, Offloads, QUEUES_MAX, TunConfig, TunDevice};
pub use error::{PacketFault, TunError};
pub use queue::{PIECES_MAX, READ_BUFFER_BYTES, TunPacket, TunQueue, Written};
pub use virtio::VNET_HDR_BYTES;
