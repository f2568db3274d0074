//! UDP sockets that move a machine's packets in batches.

mod busy_poll;
mod options;
mod route;
mod steering;

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Instant,
};

use bytes::BytesMut;
use quinn_udp::{RecvMeta, UdpSocketState};

pub use busy_poll::{BUSY_POLL_MAX, BusyPoll};
pub use options::{SocketError, SocketOptions};
pub use route::route_mtu_bytes;

use crate::{
    EcnCodepoint, Machine, PoolStats, Transmit,
    pool::{ChunkPool, PieceAllocator},
};

/// Messages of one `recvmmsg`. With GRO each holds up to 64 packets, so this many fill a turn.
const RECV_SLOTS: usize = 8;

/// Bytes of a receive buffer: what the kernel merges at most (UDP_GRO), and the largest datagram.
const RECV_SLOT_BYTES: usize = 64 * 1024;

/// Receive buffers kept while parts of them are held by somebody; beyond it they are left to the
/// allocator.
const MAX_RECV_CHUNKS: usize = 256;

/// Messages up to this length are copied out, so that their buffer can be used again at once. On a
/// path without GRO each holds one packet: 1,500 bytes cost 25 ns to copy, and would keep 64 kB until
/// the packet went its way.
const COPY_MAX_BYTES: usize = 4 * 1024;

/// Chunks of copies kept while parts of them are held; they fill several turns.
const MAX_COPY_CHUNKS: usize = 64;

/// What one [`UdpSocket::recv_batch`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// QUIC datagrams handed to the machine.
    pub datagrams: usize,
    /// System calls made.
    pub system_calls: usize,
    /// Whether the budget ended it, so that more may wait in the socket.
    pub more: bool,
}

/// What one [`UdpSocket::flush`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// GSO batches handed to the kernel.
    pub batches: usize,
    /// Bytes of UDP payload handed to the kernel.
    pub bytes: usize,
    /// Whether the budget ended it, so that the machine may have more.
    pub more: bool,
}

/// One shard's socket.
pub struct UdpSocket {
    socket: std::net::UdpSocket,
    state: UdpSocketState,
    slots: [BytesMut; RECV_SLOTS],
    pool: ChunkPool,
    copies: PieceAllocator,
    /// A batch the kernel had no room for; its bytes are in `buffer`.
    pending: Option<Transmit>,
    buffer: Vec<u8>,
}

impl UdpSocket {
    /// A socket with these options.
    ///
    /// # Errors
    /// [`SocketError`] says what the system refused.
    pub fn bind(options: &SocketOptions) -> Result<Self, SocketError> {
        Self::from_std(options::bind(options)?)
    }

    /// The sockets of `shards` shards on one address, in the order of the shards, with the kernel
    /// picking the socket by the shard in the connection id.
    ///
    /// # Errors
    /// [`SocketError`] says what the system refused.
    pub fn bind_shards(options: &SocketOptions, shards: u8) -> Result<Vec<Self>, SocketError> {
        let mut options = SocketOptions {
            reuse_port: true,
            ..options.clone()
        };
        let mut sockets = Vec::with_capacity(shards.into());
        for _ in 0..shards {
            let socket = Self::bind(&options)?;
            // Port 0 is chosen once; the others join it.
            options.address = socket.local_addr()?;
            sockets.push(socket);
        }
        if let Some(first) = sockets.first() {
            first.attach_reuseport_steering(shards)?;
        }
        Ok(sockets)
    }

    /// Takes a socket that is bound already.
    ///
    /// # Errors
    /// [`SocketError`] says what the system refused.
    pub fn from_std(socket: std::net::UdpSocket) -> Result<Self, SocketError> {
        let state = UdpSocketState::new((&socket).into()).map_err(|error| SocketError::Option {
            option: "UDP offloads",
            error,
        })?;
        let mut pool = ChunkPool::new(RECV_SLOT_BYTES, MAX_RECV_CHUNKS);
        Ok(Self {
            socket,
            state,
            slots: std::array::from_fn(|_| pool.take()),
            pool,
            copies: PieceAllocator::new(RECV_SLOT_BYTES, MAX_COPY_CHUNKS),
            pending: None,
            buffer: Vec::with_capacity(RECV_SLOT_BYTES),
        })
    }

    /// Makes the kernel pick this socket's SO_REUSEPORT group member by the shard in the
    /// destination connection id. Members count in the order they were bound.
    ///
    /// # Errors
    /// [`SocketError::Option`]: the kernel refused the filter.
    pub fn attach_reuseport_steering(&self, shards: u8) -> Result<(), SocketError> {
        steering::attach(&self.socket, shards)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// [`SocketError::Option`]: the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr, SocketError> {
        self.socket
            .local_addr()
            .map_err(|error| SocketError::Option {
                option: "local address",
                error,
            })
    }

    /// Segments one GSO batch may have now; 1 after the kernel refused to segment. Hand it to
    /// [`Machine::set_max_gso_segments`].
    pub fn max_gso_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// The receive and the send buffer the kernel granted, in bytes as it counts them.
    ///
    /// # Errors
    /// [`SocketError::Option`]: the system does not tell.
    pub fn buffer_bytes(&self) -> Result<(usize, usize), SocketError> {
        let failed = |error| SocketError::Option {
            option: "buffer sizes",
            error,
        };
        let receive = self
            .state
            .recv_buffer_size((&self.socket).into())
            .map_err(failed)?;
        let send = self
            .state
            .send_buffer_size((&self.socket).into())
            .map_err(failed)?;
        Ok((receive, send))
    }

    /// What the pool of receive buffers did.
    pub const fn pool_stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// Whether a batch waits for the socket to become writable.
    pub const fn is_blocked(&self) -> bool {
        self.pending.is_some()
    }

    /// When `machine` wants the next turn on this socket: its deadline, or its earliest timer while
    /// the socket takes nothing (then also wait for the socket to become writable).
    pub fn next_deadline(&self, machine: &Machine) -> Option<Instant> {
        if self.is_blocked() {
            machine.next_timer()
        } else {
            machine.next_deadline()
        }
    }

    /// Receives until the socket is empty or `budget` datagrams were taken, and hands them to
    /// `machine`.
    ///
    /// # Errors
    /// What the system said, other than that the socket is empty. What was received before is
    /// with the machine.
    pub fn recv_batch(
        &mut self,
        machine: &mut Machine,
        now: Instant,
        budget: usize,
    ) -> io::Result<Received> {
        let mut received = Received::default();
        while received.datagrams < budget {
            self.refill_slots();
            let mut meta = [RecvMeta::default(); RECV_SLOTS];
            let mut slices = self.slots.each_mut().map(|slot| IoSliceMut::new(slot));
            received.system_calls += 1;
            let count = match self
                .state
                .recv((&self.socket).into(), &mut slices, &mut meta)
            {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(received),
                // An ICMP error about something we sent; QUIC's timers see to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            };
            for (slot, meta) in self.slots.iter_mut().zip(&meta[..count]) {
                let data = if meta.len <= COPY_MAX_BYTES {
                    let mut copy = self.copies.piece(meta.len);
                    copy.copy_from_slice(&slot[..meta.len]);
                    copy
                } else {
                    slot.split_to(meta.len.min(slot.len()))
                };
                received.datagrams += hand_over(data, meta, machine, now);
            }
            if count < RECV_SLOTS {
                return Ok(received);
            }
        }
        received.more = true;
        Ok(received)
    }

    /// Makes every slot large enough for whatever the kernel has.
    fn refill_slots(&mut self) {
        for slot in &mut self.slots {
            if slot.len() < RECV_SLOT_BYTES && !self.pool.refill(slot) {
                let fresh = self.pool.take();
                let held = std::mem::replace(slot, fresh);
                self.pool.keep(held);
            }
        }
    }

    /// Sends what `machine` has until it has no more, the socket blocks, or `budget` GSO batches
    /// went out. A batch the socket does not take is kept and goes first the next time.
    ///
    /// # Errors
    /// What the system said; a batch that it refuses is lost, as on the network.
    pub fn flush(
        &mut self,
        machine: &mut Machine,
        now: Instant,
        budget: usize,
    ) -> io::Result<Flushed> {
        let mut flushed = Flushed::default();
        while flushed.batches < budget {
            let transmit = match self.pending.take() {
                Some(pending) => pending,
                None => match machine.poll_transmit(now, &mut self.buffer) {
                    Some(transmit) => transmit,
                    None => return Ok(flushed),
                },
            };
            match self.send(&transmit) {
                Ok(()) => {
                    flushed.batches += 1;
                    flushed.bytes += transmit.size;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = Some(transmit);
                    return Ok(flushed);
                }
                Err(error) => return Err(error),
            }
            machine.set_max_gso_segments(self.state.max_gso_segments());
        }
        flushed.more = true;
        Ok(flushed)
    }

    /// One `sendmsg`. Errors of a destination are the destination's, and count as losses; quinn-udp
    /// turns GSO off when the driver refuses it.
    fn send(&self, transmit: &Transmit) -> io::Result<()> {
        let message = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.map(ecn_to_udp),
            contents: &self.buffer[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        self.state.send((&self.socket).into(), &message)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Cuts a received message into its datagrams.
fn hand_over(mut data: BytesMut, meta: &RecvMeta, machine: &mut Machine, now: Instant) -> usize {
    let ecn = meta.ecn.map(ecn_from_udp);
    let mut datagrams = 0;
    while !data.is_empty() {
        let stride = meta.stride.clamp(1, data.len());
        machine.handle_udp(now, meta.addr, meta.dst_ip, ecn, data.split_to(stride));
        datagrams += 1;
    }
    datagrams
}

const fn ecn_to_udp(ecn: EcnCodepoint) -> quinn_udp::EcnCodepoint {
    match ecn {
        EcnCodepoint::Ect0 => quinn_udp::EcnCodepoint::Ect0,
        EcnCodepoint::Ect1 => quinn_udp::EcnCodepoint::Ect1,
        EcnCodepoint::Ce => quinn_udp::EcnCodepoint::Ce,
    }
}

const fn ecn_from_udp(ecn: quinn_udp::EcnCodepoint) -> EcnCodepoint {
    match ecn {
        quinn_udp::EcnCodepoint::Ect0 => EcnCodepoint::Ect0,
        quinn_udp::EcnCodepoint::Ect1 => EcnCodepoint::Ect1,
        quinn_udp::EcnCodepoint::Ce => EcnCodepoint::Ce,
    }
}
