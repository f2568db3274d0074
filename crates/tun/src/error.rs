//! What can go wrong with a TUN device, and what to do about it.

use std::io;

/// An error of a TUN device or queue.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// `/dev/net/tun` is not there.
    #[error(
        "there is no /dev/net/tun: load the module (`modprobe tun`); in a container, pass the device \
         through (`--device /dev/net/tun`, or a device plugin in Kubernetes)"
    )]
    NoDevice,
    /// `/dev/net/tun` is there, but this process may not open it (EACCES; EPERM by a
    /// container's device rules).
    #[error(
        "this user may not open /dev/net/tun: give its usual rights back (`chmod 0666 /dev/net/tun`) \
         or run as root; in a container or systemd unit, let it use the device \
         (`--device /dev/net/tun`, `DeviceAllow=/dev/net/tun rw`)"
    )]
    DeviceDenied,
    /// The process may not make a TUN interface (EPERM).
    #[error(
        "making a TUN interface needs CAP_NET_ADMIN: run as root, or `setcap cap_net_admin+ep` on the \
         program, or add NET_ADMIN to the container's capabilities (`--cap-add NET_ADMIN`)"
    )]
    NotPermitted,
    /// An interface of that name exists.
    #[error(
        "an interface named {0:?} exists already: stop the process that holds it, or choose another \
         name"
    )]
    NameTaken(String),
    /// The name cannot name an interface.
    #[error(
        "{0:?} is no interface name: 1 to 15 bytes, printable, without `/`, `:` and spaces, and not \
         `.` or `..`"
    )]
    BadName(String),
    /// The number of queues is out of range.
    #[error("{0} queues: a TUN device has 1 to {max}", max = crate::QUEUES_MAX)]
    BadQueues(usize),
    /// The read buffer could not hold every packet.
    #[error("a read buffer of {have} bytes is too short: the kernel may hand out {need} bytes")]
    ShortBuffer {
        /// What it must hold.
        need: usize,
        /// What it holds.
        have: usize,
    },
    /// The kernel handed out a packet that does not fit its own description; it was dropped.
    #[error("dropped a packet from the TUN device: {0}")]
    BadPacket(PacketFault),
    /// The caller's description of a packet is inconsistent; nothing was written.
    #[error("did not write a packet to the TUN device: {0}")]
    BadWrite(PacketFault),
    /// The kernel refused the packet (EINVAL): neither IPv4 nor IPv6, or offload fields that do
    /// not fit it.
    #[error("the kernel refused the packet as malformed")]
    Refused,
    /// The interface is down or was deleted.
    #[error("the interface is down or gone: set it up, or reopen it if somebody deleted it")]
    Down,
    /// Any other failure of a system call.
    #[error("{call} failed: {source}")]
    System {
        /// The call.
        call: &'static str,
        /// Its error.
        source: io::Error,
    },
}

/// Why a packet and its virtio-net header do not fit together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketFault {
    /// Shorter than the virtio-net header and one byte.
    #[error("{0} bytes hold no packet")]
    Short(usize),
    /// It filled the whole buffer, so its end may be missing.
    #[error("longer than the buffer of {0} bytes")]
    Truncated(usize),
    /// A segmentation type we never asked for.
    #[error("segmentation type {0:#04x} is unknown")]
    Kind(u8),
    /// The segmentation type and the IP version or protocol disagree.
    #[error("the segmentation type does not fit the packet's IP version or protocol")]
    Mismatch,
    /// A super-packet whose segments would be empty.
    #[error("a super-packet with segment size 0")]
    SegmentSize,
    /// The headers reach beyond the packet, or are too short for their protocol.
    #[error("headers of {header_bytes} bytes do not fit a packet of {packet_bytes} bytes")]
    Headers {
        /// Length of the headers as described.
        header_bytes: usize,
        /// Length of the packet.
        packet_bytes: usize,
    },
    /// The checksum's place is outside the packet, or not where its protocol has it, or missing on
    /// a super-packet.
    #[error("the partial checksum is missing or misplaced")]
    Checksum,
    /// A packet of more pieces than one system call takes.
    #[error("{0} pieces, at most {max} are written at once", max = crate::PIECES_MAX)]
    Pieces(usize),
    /// Longer than an IP packet can be.
    #[error("{0} bytes are more than an IP packet holds")]
    Long(usize),
}

impl TunError {
    /// Maps what a call on an open queue reported.
    pub(crate) fn from_queue(call: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EINVAL) => Self::Refused,
            Some(libc::EIO | libc::EBADFD | libc::ENODEV) => Self::Down,
            _ => Self::System { call, source },
        }
    }
}
