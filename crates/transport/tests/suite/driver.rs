//! A machine on a real socket, driven as a shard drives it.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_transport::{
    ConnId, Event, Machine,
    http3::{self, Field, ResponseHead, StreamId},
    sockets::UdpSocket,
};

/// Datagrams received, and GSO batches sent, in one turn at most.
const BUDGET: usize = 512;

pub(crate) struct Driver {
    pub(crate) machine: Machine,
    pub(crate) socket: UdpSocket,
    pub(crate) received: u64,
    pub(crate) turns: u64,
}

impl Driver {
    pub(crate) fn new(mut machine: Machine, socket: UdpSocket) -> Self {
        machine.set_max_gso_segments(socket.max_gso_segments());
        Self {
            machine,
            socket,
            received: 0,
            turns: 0,
        }
    }

    /// One turn: receive, timers, events, datagrams, `fill`, send.
    pub(crate) fn turn(
        &mut self,
        mut on_event: impl FnMut(&mut Machine, Event),
        mut on_datagram: impl FnMut(ConnId, StreamId, Bytes),
        fill: impl FnOnce(&mut Machine),
    ) {
        self.turns += 1;
        let now = Instant::now();
        let got = self
            .socket
            .recv_batch(&mut self.machine, now, BUDGET)
            .unwrap();
        self.received += got.datagrams as u64;
        self.machine.handle_timeouts(now);
        while let Some(event) = self.machine.poll_event() {
            on_event(&mut self.machine, event);
        }
        while let Some((conn, stream, payload)) = self.machine.poll_datagram() {
            on_datagram(conn, stream, payload);
        }
        fill(&mut self.machine);
        self.socket.flush(&mut self.machine, now, BUDGET).unwrap();
    }

    /// Waits for the socket or the machine's deadline, at most `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let blocked = self.socket.is_blocked();
        let deadline = self.socket.next_deadline(&self.machine);
        let until = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = until.unwrap_or(limit).min(limit);
        let events = if blocked {
            libc::POLLIN | libc::POLLOUT
        } else {
            libc::POLLIN
        };
        let mut poll = libc::pollfd {
            fd: self.socket.as_raw_fd(),
            events,
            revents: 0,
        };
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: one pollfd and a timespec that outlive the call.
        unsafe { libc::ppoll(&raw mut poll, 1, &raw const timeout, std::ptr::null()) };
    }
}

/// What a server does with an event: takes every request with datagrams.
pub(crate) fn accept_all(machine: &mut Machine, event: &Event) -> Option<(ConnId, StreamId)> {
    let Event::Http {
        conn,
        event: http3::Event::Request { stream, .. },
    } = event
    else {
        return None;
    };
    let http = machine.http(*conn)?;
    let head = ResponseHead {
        status: 200,
        fields: vec![Field::new("capsule-protocol", "?1")],
    };
    http.send_response(*stream, &head, false).unwrap();
    http.accept_datagrams(*stream);
    Some((*conn, *stream))
}

/// Processor time this thread has used.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the timespec outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
