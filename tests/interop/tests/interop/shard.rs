//! A machine on a socket, driven as a shard of the gateway drives it.

use std::{
    net::SocketAddr,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_transport::{
    ConnId, Event, Machine,
    http3::StreamId,
    sockets::{SocketOptions, UdpSocket},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Datagrams received, and GSO batches sent, in one turn at most.
const BUDGET: usize = 512;

pub(crate) struct Shard {
    pub(crate) machine: Machine,
    socket: UdpSocket,
}

/// What a turn brought.
#[derive(Debug)]
pub(crate) enum Got {
    Event(Event),
    Datagram(ConnId, StreamId, Bytes),
}

impl Shard {
    pub(crate) fn new(mut machine: Machine) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let socket = UdpSocket::bind(&SocketOptions::new(loopback)).unwrap();
        machine.set_max_gso_segments(socket.max_gso_segments());
        Self { machine, socket }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    /// Receives and runs timers; `on` may send in answer. Then sends, and waits for more, at most
    /// `limit`.
    pub(crate) fn turn(&mut self, limit: Duration, mut on: impl FnMut(&mut Machine, Got)) {
        let now = Instant::now();
        self.socket
            .recv_batch(&mut self.machine, now, BUDGET)
            .unwrap();
        self.machine.handle_timeouts(now);
        while let Some(event) = self.machine.poll_event() {
            on(&mut self.machine, Got::Event(event));
        }
        while let Some((conn, stream, payload)) = self.machine.poll_datagram() {
            on(&mut self.machine, Got::Datagram(conn, stream, payload));
        }
        self.socket.flush(&mut self.machine, now, BUDGET).unwrap();
        self.wait(limit);
    }

    fn wait(&self, limit: Duration) {
        let (deadline, events) = if self.socket.is_blocked() {
            let both = PollFlags::POLLIN | PollFlags::POLLOUT;
            (self.machine.next_timer(), both)
        } else {
            (self.machine.next_deadline(), PollFlags::POLLIN)
        };
        let until = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = until.unwrap_or(limit).min(limit);
        let mut fds = [PollFd::new(self.socket.as_fd(), events)];
        poll(&mut fds, PollTimeout::try_from(timeout).unwrap()).unwrap();
    }
}
