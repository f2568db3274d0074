//! One UDP port as one shard serves it: a socket of the port's group and a QUIC machine.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use masque_http3::{self as http3, Code};
use masque_transport::{Machine, sockets::UdpSocket};

use super::{figures::ShardFigures, wait::Source};
use crate::command::PortSetup;

/// QUIC datagrams received a turn before the other sources get theirs.
const DATAGRAMS_A_TURN: usize = 512;
/// GSO batches sent a turn.
const BATCHES_A_TURN: usize = 64;

/// Rounds of batches that say to the clients of a port that it closes.
const CLOSE_ROUNDS: usize = 2048;
/// How long such a round waits for a socket that is full.
const CLOSE_PAUSE: Duration = Duration::from_micros(50);

/// A socket and its machine.
pub(crate) struct Port {
    number: u16,
    /// The socket may have something.
    pub(crate) ready: bool,
    socket: UdpSocket,
    /// QUIC and HTTP/3 of the connections that arrive here.
    pub(crate) machine: Machine,
    /// Connections with an HTTP/3 layer, for GOAWAY.
    connections: BTreeSet<masque_transport::ConnId>,
}

impl Port {
    /// Ready to receive.
    pub(crate) fn new(setup: PortSetup, now: Instant) -> Self {
        let mut config = setup.machine;
        config.max_gso_segments = setup.socket.max_gso_segments();
        // A shard tells which connections have tunnels.
        config.admission.unused.get_or_insert_default();
        let http = http3::Config::default();
        let machine = Machine::server(config, setup.server, http, setup.shard, now);
        Self {
            number: setup.port,
            ready: true,
            socket: setup.socket,
            machine,
            connections: BTreeSet::new(),
        }
    }

    /// The UDP port.
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// What the poller calls it.
    pub(crate) const fn source(&self) -> Source {
        Source::Port(self.number)
    }

    /// Its socket.
    pub(crate) const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// When it must be looked at again, whatever arrives. A blocked socket has nothing to do before it
    /// is writable.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.socket.next_deadline(&self.machine)
    }

    /// A handshake was completed.
    pub(crate) fn connected(&mut self, conn: masque_transport::ConnId) {
        self.connections.insert(conn);
    }

    /// A connection is over.
    pub(crate) fn closed(&mut self, conn: masque_transport::ConnId) {
        self.connections.remove(&conn);
    }

    /// Takes what the socket has; `true` when the budget ended it.
    pub(crate) fn receive(&mut self, now: Instant, figures: &mut ShardFigures) -> bool {
        if !std::mem::take(&mut self.ready) {
            return false;
        }
        match self
            .socket
            .recv_batch(&mut self.machine, now, DATAGRAMS_A_TURN)
        {
            Ok(received) => {
                self.ready = received.more;
                received.more
            }
            Err(error) => {
                // Errors of single packets (an ICMP answer to one client) end up here as well.
                tracing::debug!(port = self.number, %error, "UDP receive");
                figures.receive_errors += 1;
                false
            }
        }
    }

    /// Sends what the machine has; `true` when the budget ended it.
    pub(crate) fn send(&mut self, now: Instant, figures: &mut ShardFigures) -> bool {
        self.send_batches(now, BATCHES_A_TURN, figures)
    }

    /// Sends a GSO batch if the machine has a whole one.
    pub(crate) fn send_full(&mut self, figures: &mut ShardFigures) {
        if self.machine.has_batch() && !self.socket.is_blocked() {
            self.send_batches(Instant::now(), 1, figures);
        }
    }

    fn send_batches(&mut self, now: Instant, budget: usize, figures: &mut ShardFigures) -> bool {
        match self.socket.flush(&mut self.machine, now, budget) {
            Ok(flushed) => {
                self.machine
                    .set_max_gso_segments(self.socket.max_gso_segments());
                flushed.more
            }
            Err(error) => {
                tracing::debug!(port = self.number, %error, "UDP send");
                figures.send_errors += 1;
                true
            }
        }
    }

    /// GOAWAY on every connection (RFC 9114 §5.2): first the announcement, then the last id.
    pub(crate) fn announce_shutdown(&mut self) {
        for conn in &self.connections {
            if let Some(http) = self.machine.http(*conn) {
                http.shutdown();
            }
        }
    }

    /// GOAWAY on a connection that came after a shutdown began: it never had a request, so the last id
    /// is 0 at once, and "requests on the connection that were not processed" can be sent to another
    /// gateway without asking (RFC 9114 §5.2).
    pub(crate) fn turn_away(&mut self, conn: masque_transport::ConnId) {
        if let Some(http) = self.machine.http(conn) {
            // The announcement and the last id.
            http.shutdown();
            http.shutdown();
        }
    }

    /// Closes every connection and sends what says so.
    pub(crate) fn close(
        &mut self,
        now: Instant,
        code: Code,
        reason: &str,
        figures: &mut ShardFigures,
    ) {
        for conn in std::mem::take(&mut self.connections) {
            self.machine.close(conn, code, reason);
        }
        // Each connection is a batch of its own, more than one turn sends.
        for _ in 0..CLOSE_ROUNDS {
            let more = self.send(now, figures);
            if self.socket.is_blocked() {
                std::thread::sleep(CLOSE_PAUSE);
            } else if !more {
                break;
            }
        }
    }
}
