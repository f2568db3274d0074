//! How a socket is made.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use socket2::{Domain, Protocol, Socket, Type};

/// Kernel buffer asked for, each way: about what 4 Gbit/s bring in five milliseconds. The kernel doubles
/// it, for it counts its own books as well. Senders fill it where the processor is what is short, and
/// everybody's packets wait behind theirs.
const DEFAULT_BUFFER_BYTES: usize = 5 * 512 * 1024;

/// How a socket is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Address and port; `[::]` takes IPv4 as well. Port 0 lets the kernel choose.
    pub address: SocketAddr,
    /// Share the port with the other shards (SO_REUSEPORT).
    pub reuse_port: bool,
    /// Kernel buffer to ask for, each way. Without CAP_NET_ADMIN the kernel caps it at
    /// `net.core.rmem_max` and `wmem_max`; see
    /// [`UdpSocket::buffer_bytes`](super::UdpSocket::buffer_bytes).
    pub buffer_bytes: usize,
}

impl SocketOptions {
    /// Defaults for this address.
    pub const fn new(address: SocketAddr) -> Self {
        Self {
            address,
            reuse_port: false,
            buffer_bytes: DEFAULT_BUFFER_BYTES,
        }
    }
}

/// What the system refused.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The address cannot be bound.
    #[error("{address} cannot be bound: {error}; is the port in use, or the address not ours?")]
    Bind {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A socket option was refused.
    #[error("{option}: {error}")]
    Option {
        /// Which option.
        option: &'static str,
        /// What the system said.
        error: io::Error,
    },
}

pub(super) fn bind(options: &SocketOptions) -> Result<UdpSocket, SocketError> {
    let address = options.address;
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map_err(|error| {
        SocketError::Option {
            option: "socket",
            error,
        }
    })?;
    if address.is_ipv6() {
        // Dual stack where the address is the wildcard; no effect on others.
        socket
            .set_only_v6(!address.ip().is_unspecified())
            .map_err(|error| SocketError::Option {
                option: "IPV6_V6ONLY",
                error,
            })?;
    }
    if options.reuse_port {
        socket
            .set_reuse_port(true)
            .map_err(|error| SocketError::Option {
                option: "SO_REUSEPORT",
                error,
            })?;
    }
    grow_buffer(&socket, Direction::Receive, options.buffer_bytes)?;
    grow_buffer(&socket, Direction::Send, options.buffer_bytes)?;
    socket
        .bind(&address.into())
        .map_err(|error| SocketError::Bind { address, error })?;
    Ok(socket.into())
}

enum Direction {
    Receive,
    Send,
}

/// Asks beyond the system's limit first, which needs CAP_NET_ADMIN, and for what the limit gives
/// otherwise.
fn grow_buffer(socket: &Socket, direction: Direction, bytes: usize) -> Result<(), SocketError> {
    let (option, name) = match direction {
        Direction::Receive => (libc::SO_RCVBUFFORCE, "SO_RCVBUF"),
        Direction::Send => (libc::SO_SNDBUFFORCE, "SO_SNDBUF"),
    };
    let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open for the life of `socket`, and the pointer and length describe
    // `value`, which outlives the call.
    let forced = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if forced == 0 {
        return Ok(());
    }
    let granted = match direction {
        Direction::Receive => socket.set_recv_buffer_size(bytes),
        Direction::Send => socket.set_send_buffer_size(bytes),
    };
    granted.map_err(|error| SocketError::Option {
        option: name,
        error,
    })
}
