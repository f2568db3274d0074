//! Many clients in one thread: a tunnel and a socket each, no device.

use std::{
    net::{SocketAddr, UdpSocket},
    ops::Range,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_client::{AttachConfig, Tunnel, TunnelEvent};
use masque_testkit::Netns;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::{failure::Failure, interrupt};

/// Timers of all tunnels are looked at so often; those of QUIC are an order slower.
const SWEEP: Duration = Duration::from_millis(10);
/// The longest datagram a gateway sends.
const DATAGRAM_BYTES: usize = 2048;
/// A session that is not up by then never will be.
const UP_WITHIN: Duration = Duration::from_secs(60);

struct Client {
    tunnel: Tunnel,
    socket: UdpSocket,
    up: bool,
}

/// Load of sessions.
pub(crate) struct Clients {
    clients: Vec<Client>,
    epoll: Epoll,
    buffer: Vec<u8>,
    swept: Instant,
}

impl Clients {
    /// A tunnel for each configuration; nothing is sent yet.
    pub(crate) fn open(ns: &Netns, configs: &[AttachConfig]) -> Result<Self, Failure> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|e| Failure::Machine(e.to_string()))?;
        let sockets = ns.enter(|| {
            configs
                .iter()
                .map(|_| UdpSocket::bind("0.0.0.0:0"))
                .collect::<Result<Vec<_>, _>>()
        });
        let sockets = sockets.map_err(Failure::io("a client's socket"))?;
        let now = Instant::now();
        let mut clients = Vec::with_capacity(configs.len());
        for (i, (config, socket)) in configs.iter().zip(sockets).enumerate() {
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&(i as u64).to_le_bytes());
            seed[8..12].copy_from_slice(&std::process::id().to_le_bytes());
            let tunnel =
                Tunnel::new(config, seed, now).map_err(|e| Failure::Usage(e.to_string()))?;
            socket
                .set_nonblocking(true)
                .map_err(Failure::io("a client's socket"))?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, i as u64);
            epoll
                .add(socket.as_fd(), event)
                .map_err(|e| Failure::Machine(e.to_string()))?;
            clients.push(Client {
                tunnel,
                socket,
                up: false,
            });
        }
        Ok(Self {
            clients,
            epoll,
            buffer: Vec::new(),
            swept: now,
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    /// How many have a tunnel now.
    pub(crate) fn up(&self) -> usize {
        self.clients.iter().filter(|c| c.up).count()
    }

    /// Sets `range` up, `parallel` at a time; how long that took.
    pub(crate) fn bring_up(
        &mut self,
        range: Range<usize>,
        parallel: usize,
    ) -> Result<Duration, Failure> {
        let start = Instant::now();
        let (wanted, mut next, already) = (range.len(), range.start, self.up());
        loop {
            let up = self.up() - already;
            if up >= wanted {
                return Ok(start.elapsed());
            }
            if start.elapsed() > UP_WITHIN {
                let seconds = UP_WITHIN.as_secs();
                return Err(Failure::Traffic(format!(
                    "{up} of {wanted} sessions are up after {seconds} s"
                )));
            }
            while next < range.end && next - range.start - up.min(next - range.start) < parallel {
                let now = Instant::now();
                self.clients[next].tunnel.start(now);
                self.turn(next, now)?;
                next += 1;
            }
            self.wait(SWEEP)?;
        }
    }

    /// Keeps everything alive for a while.
    pub(crate) fn idle(&mut self, time: Duration) -> Result<(), Failure> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.wait(SWEEP)?;
        }
        Ok(())
    }

    /// Serves what arrives within `time`, then the timers.
    fn wait(&mut self, time: Duration) -> Result<(), Failure> {
        interrupt::check()?;
        let mut events = [EpollEvent::empty(); 256];
        let timeout = EpollTimeout::try_from(time).unwrap_or(EpollTimeout::ZERO);
        let count = self.epoll.wait(&mut events, timeout).unwrap_or_default();
        let now = Instant::now();
        for event in &events[..count] {
            let Ok(at) = usize::try_from(event.data()) else {
                continue;
            };
            self.receive(at, now);
            self.turn(at, now)?;
        }
        if now >= self.swept + SWEEP {
            self.swept = now;
            for at in 0..self.clients.len() {
                if self.clients[at]
                    .tunnel
                    .next_deadline()
                    .is_some_and(|d| d <= now)
                {
                    self.turn(at, now)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, at: usize, now: Instant) {
        let client = &mut self.clients[at];
        let mut data = [0; DATAGRAM_BYTES];
        while let Ok((n, from)) = client.socket.recv_from(&mut data) {
            client
                .tunnel
                .handle_udp(now, from, None, BytesMut::from(&data[..n]));
        }
    }

    fn turn(&mut self, at: usize, now: Instant) -> Result<(), Failure> {
        let client = &mut self.clients[at];
        client.tunnel.handle_timeouts(now);
        while let Some(event) = client.tunnel.poll_event() {
            match event {
                TunnelEvent::Up(_) => client.up = true,
                TunnelEvent::Down { .. } => client.up = false,
                TunnelEvent::Closed(why) => {
                    let why = why.map_or_else(|| "closed".to_owned(), |e| e.to_string());
                    return Err(Failure::Traffic(format!("session {at}: {why}")));
                }
                _ => {}
            }
        }
        while client.tunnel.poll_packet().is_some() {}
        while let Some(transmit) = client.tunnel.poll_transmit(now, &mut self.buffer) {
            send(
                &client.socket,
                transmit.destination,
                &self.buffer[..transmit.size],
                transmit.segment_size,
            );
        }
        Ok(())
    }
}

/// What the kernel refuses is lost; QUIC repeats what matters.
fn send(socket: &UdpSocket, to: SocketAddr, data: &[u8], segment: Option<usize>) {
    for packet in data.chunks(segment.unwrap_or(data.len()).max(1)) {
        let _ = socket.send_to(packet, to);
    }
}
