//! QUIC and HTTP/3 for any number of connections, as a state machine.

mod accept;
mod conn;
mod datagrams;
mod query;
mod service;
mod streams;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use masque_http3 as http3;
use quinn_proto::{DatagramEvent, EcnCodepoint, Endpoint, Transmit, TransportConfig, VarInt};

pub use accept::ConnectError;
pub use datagrams::DatagramSendError;
pub use query::{ConnectionStats, ExportError};
pub use streams::OpenError;

use self::conn::{Conn, Overdue};
use crate::{
    Admission, CloseReason, ConnId, Event, MachineConfig, PathFloor, ShardId, admission::Register,
    deadlines::Deadlines, pool::PieceAllocator, tls,
};

/// Answers that no connection owns (Retry, Version Negotiation, stateless resets) waiting to be
/// sent; more are dropped, as the network would drop them.
const MAX_RESPONSES: usize = 1024;

/// Datagrams are written into chunks of this size.
const SEND_CHUNK_BYTES: usize = 256 * 1024;

/// Send chunks that are kept until their datagrams are gone; beyond it they are left to the
/// allocator.
const MAX_SEND_CHUNKS: usize = 256;

/// The largest UDP payload of one system call, GSO included: 65,535 less the IPv4 and UDP headers.
const MAX_BATCH_BYTES: usize = 65_507;

/// Events that wait for the driver before no further connection is looked at; one connection adds
/// some hundreds at most (`streams::MAX_EVENTS_A_TURN`).
const MAX_WAITING_EVENTS: usize = 4096;

/// Events that a drained queue keeps room for; what a burst needed beyond is given back.
const KEPT_EVENTS: usize = 256;

/// What a machine counted; counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineStats {
    /// HTTP Datagrams queued to be sent.
    pub datagrams_sent: u64,
    /// HTTP Datagrams dropped because the connection's queue was full.
    pub datagrams_queue_full: u64,
    /// HTTP Datagrams that did not fit the path.
    pub datagrams_too_large: u64,
    /// HTTP Datagrams delivered to requests.
    pub datagrams_received: u64,
    /// HTTP Datagrams for streams that are closed, or too many ahead of their request.
    pub datagrams_unclaimed: u64,
    /// Connections accepted or begun.
    pub handshakes_begun: u64,
    /// Handshakes completed.
    pub handshakes_completed: u64,
    /// Initials answered with a Retry.
    pub handshakes_retried: u64,
    /// Initials refused because a bound on connections was reached.
    pub handshakes_refused: u64,
    /// Initials left unanswered because too many handshakes were running.
    pub handshakes_ignored: u64,
    /// Connections closed because nobody used them for too long ([`UnusedBounds`](crate::UnusedBounds)).
    pub connections_unused: u64,
    /// Connections closed because nobody used them and others asked for their place.
    pub connections_evicted: u64,
    /// Answers without a connection that were dropped at their bound.
    pub responses_dropped: u64,
    /// Streams abandoned because their backlog passed its bound.
    pub streams_overrun: u64,
    /// Chunks taken from the allocator for datagrams to send; stands still at steady state.
    pub send_chunks_fresh: u64,
    /// Chunks used again for datagrams to send.
    pub send_chunks_reused: u64,
}

/// One slot of the connection table.
#[derive(Default)]
struct Slot {
    generation: u32,
    conn: Option<Box<Conn>>,
}

/// A QUIC endpoint with HTTP/3 on every connection, without sockets and without a clock.
///
/// One thread drives it. A turn is:
///
/// 1. [`handle_udp`](Self::handle_udp) for every datagram received, and
///    [`handle_timeouts`](Self::handle_timeouts) once;
/// 2. [`poll_event`](Self::poll_event) until `None`, acting on requests through
///    [`http`](Self::http);
/// 3. [`poll_datagram`](Self::poll_datagram) until `None` or until the turn's budget is used;
/// 4. [`send_datagram`](Self::send_datagram) for what other interfaces brought;
/// 5. [`poll_transmit`](Self::poll_transmit) until `None` or until the socket blocks;
/// 6. wait for a socket or [`next_deadline`](Self::next_deadline).
///
/// Nothing here looks at all connections: a turn costs what the connections with something to do
/// cost, and an idle one costs its timers.
pub struct Machine {
    config: MachineConfig,
    http_config: http3::Config,
    role: http3::Role,
    endpoint: Endpoint,
    transport_tunnel: Arc<TransportConfig>,
    transport_quic: Arc<TransportConfig>,
    server: Option<accept::ServerConfigs>,
    slots: Vec<Slot>,
    register: Register,
    deadlines: Deadlines,
    /// Connections whose state changed and that must be looked at.
    service: VecDeque<u32>,
    /// Connections that may have packets to send, in the order of their turns.
    transmit: VecDeque<u32>,
    /// Connections that may have datagrams for us, in the order of their turns.
    receive: VecDeque<u32>,
    /// Connections that had more to read than one turn takes.
    read_later: VecDeque<u32>,
    /// Connections that had no room for datagrams and may have some.
    roomy: VecDeque<u32>,
    /// Datagrams that the first of `receive` may still give before the next one's turn.
    quantum_left: u32,
    events: VecDeque<Event>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    scratch: Vec<u8>,
    pieces: PieceAllocator,
    /// About so many bytes of datagrams were queued since everything had been sent.
    unsent_bytes: usize,
    stats: MachineStats,
    epoch: Instant,
    now: Instant,
}

impl Machine {
    /// A machine that accepts connections. `server` comes from
    /// [`server_config`](crate::server_config); its transport parameters are replaced by those of
    /// `config.tuning`.
    pub fn server(
        config: MachineConfig,
        server: Arc<quinn_proto::ServerConfig>,
        http: http3::Config,
        shard: ShardId,
        now: Instant,
    ) -> Self {
        Self::new(config, Some(server), http, shard, now)
    }

    /// A machine that makes connections.
    pub fn client(config: MachineConfig, http: http3::Config, now: Instant) -> Self {
        Self::new(config, None, http, ShardId::SINGLE, now)
    }

    fn new(
        config: MachineConfig,
        server: Option<Arc<quinn_proto::ServerConfig>>,
        http_config: http3::Config,
        shard: ShardId,
        now: Instant,
    ) -> Self {
        let role = if server.is_some() {
            http3::Role::Server
        } else {
            http3::Role::Client
        };
        let transport_tunnel = config.tuning.build(role, PathFloor::Tunnel);
        let transport_quic = config.tuning.build(role, PathFloor::Quic);
        let server = server
            .map(|server| accept::ServerConfigs::new(&server, &transport_tunnel, &transport_quic));
        let base = server.as_ref().map(|server| server.quic.clone());
        let endpoint = Endpoint::new(Arc::new(config.endpoint(shard)), base, true, None);
        Self {
            role,
            quantum_left: config.datagram_quantum.max(1),
            config,
            http_config,
            endpoint,
            transport_tunnel,
            transport_quic,
            server,
            slots: Vec::new(),
            register: Register::default(),
            deadlines: Deadlines::default(),
            service: VecDeque::new(),
            transmit: VecDeque::new(),
            receive: VecDeque::new(),
            read_later: VecDeque::new(),
            roomy: VecDeque::new(),
            events: VecDeque::new(),
            responses: VecDeque::new(),
            scratch: Vec::with_capacity(2048),
            pieces: PieceAllocator::new(SEND_CHUNK_BYTES, MAX_SEND_CHUNKS),
            unsent_bytes: 0,
            stats: MachineStats::default(),
            epoch: now,
            now,
        }
    }

    /// Replaces the server configuration for connections to come; those that are open keep theirs.
    pub fn set_server_config(&mut self, server: &quinn_proto::ServerConfig) {
        let configs =
            accept::ServerConfigs::new(server, &self.transport_tunnel, &self.transport_quic);
        self.endpoint.set_server_config(Some(configs.quic.clone()));
        self.server = Some(configs);
    }

    /// Replaces the bounds on handshakes to come.
    pub fn set_admission(&mut self, admission: Admission) {
        self.config.admission = admission;
    }

    /// Sets how many segments one GSO batch may have; a socket whose driver cannot segment falls
    /// back to one.
    pub fn set_max_gso_segments(&mut self, segments: usize) {
        self.config.max_gso_segments = segments.max(1);
    }

    /// Takes one received UDP datagram. `local_ip` is the address it was sent to.
    pub fn handle_udp(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        local_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        self.now = now;
        let size = data.len();
        self.scratch.clear();
        match self
            .endpoint
            .handle(now, remote, local_ip, ecn, data, &mut self.scratch)
        {
            None => {}
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(conn) = self
                    .slots
                    .get_mut(handle.0)
                    .and_then(|slot| slot.conn.as_mut())
                {
                    if conn.is_handshaking() {
                        conn.heard = true;
                        tls::clear_certificate_error();
                        conn.quic.handle_event(event);
                        conn.certificate_error =
                            tls::take_certificate_error().or(conn.certificate_error.take());
                    } else {
                        conn.quic.handle_event(event);
                    }
                    schedule(&mut self.service, &mut conn.in_service, handle.0 as u32);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, size),
            Some(DatagramEvent::Response(transmit)) => self.respond(transmit),
        }
    }

    /// Runs every timer that is due, and begins a turn: a connection whose streams brought more than
    /// one turn takes is read on.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.now = now;
        self.read_on();
        while let Some(index) = self.deadlines.pop_due(now) {
            let Some(conn) = self.slots[index as usize].conn.as_mut() else {
                continue;
            };
            let overdue = conn.handle_timeouts(now, self.epoch, &mut self.events);
            schedule(&mut self.service, &mut conn.in_service, index);
            match overdue {
                None => {}
                Some(Overdue::Handshake) => {
                    let reason = CloseReason::HandshakeTimeout { heard: conn.heard };
                    self.close_locally(index, VarInt::from_u32(0), Bytes::new(), reason);
                }
                Some(Overdue::Use) => {
                    self.stats.connections_unused += 1;
                    self.close_unused(index, "not in use for too long");
                }
            }
        }
    }

    /// When something is to be done without anything being received: a timer's time, or now when
    /// a queue is not empty. `None` when nothing is to be done at all.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.has_work() {
            Some(self.now)
        } else {
            self.deadlines.earliest()
        }
    }

    /// The earliest timer alone, or now when streams wait to be read on; for a driver whose socket
    /// does not take packets now.
    pub fn next_timer(&self) -> Option<Instant> {
        if self.read_later.is_empty() {
            self.deadlines.earliest()
        } else {
            Some(self.now)
        }
    }

    fn has_work(&self) -> bool {
        !(self.service.is_empty()
            && self.transmit.is_empty()
            && self.receive.is_empty()
            && self.read_later.is_empty()
            && self.events.is_empty()
            && self.responses.is_empty())
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.settle();
        }
        let event = self.events.pop_front();
        if self.events.is_empty() && self.events.capacity() > KEPT_EVENTS {
            self.events.shrink_to(KEPT_EVENTS);
        }
        event
    }

    /// The next packets to send: `size` bytes in `buf`, in segments of `segment_size` if given.
    /// Connections take turns, one GSO batch each.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.now = now;
        self.settle();
        buf.clear();
        if let Some((transmit, packet)) = self.responses.pop_front() {
            buf.extend_from_slice(&packet);
            return Some(transmit);
        }
        while let Some(index) = self.transmit.pop_front() {
            let Some(conn) = self.slots[index as usize].conn.as_mut() else {
                continue;
            };
            if std::mem::take(&mut conn.wants_room) {
                schedule(&mut self.roomy, &mut conn.in_roomy, index);
            }
            let segments = (MAX_BATCH_BYTES / usize::from(conn.udp_payload.max(1)))
                .clamp(1, self.config.max_gso_segments);
            if let Some(mut transmit) = conn.quic.poll_transmit(now, segments, buf) {
                self.transmit.push_back(index);
                if !self.config.tuning.congestion.marks_ecn() {
                    transmit.ecn = None;
                }
                self.unsent_bytes = self.unsent_bytes.saturating_sub(transmit.size);
                return Some(transmit);
            }
            conn.in_transmit = false;
            let deadline = conn.next_deadline();
            // quinn-proto gives a connection up while building a packet when its keys are used
            // up; that shows as an event.
            if conn.is_open() && conn.quic.is_closed() {
                schedule(&mut self.service, &mut conn.in_service, index);
            }
            self.deadlines.set(index, deadline);
        }
        self.unsent_bytes = 0;
        None
    }

    /// Whether datagrams for at least one whole GSO batch were queued and may be sent. A driver that
    /// then sends one before it queues more finds the bytes in the processor's cache.
    pub fn has_batch(&self) -> bool {
        self.unsent_bytes >= MAX_BATCH_BYTES
    }

    /// The HTTP/3 connection of `conn`, `None` before [`Event::Connected`] and after
    /// [`Event::Closed`]. What is sent through it goes out with the next
    /// [`poll_transmit`](Self::poll_transmit).
    pub fn http(&mut self, conn: ConnId) -> Option<&mut http3::Connection> {
        let found = live(&mut self.slots, conn)?;
        schedule(&mut self.service, &mut found.in_service, conn.index);
        found.http_touched = true;
        found.sendable = None;
        found.http.as_deref_mut()
    }

    /// The HTTP/3 connection of `conn`, to look at.
    pub fn http_ref(&self, conn: ConnId) -> Option<&http3::Connection> {
        self.conn(conn)?.http.as_deref()
    }

    /// Closes a connection at once with an application code (RFC 9000 §10.2); [`Event::Closed`]
    /// follows. Nothing happens if it is closed already.
    pub fn close(&mut self, conn: ConnId, code: http3::Code, reason: &str) {
        if live(&mut self.slots, conn).is_none() {
            return;
        }
        let why = CloseReason::Local {
            code,
            reason: reason.to_owned(),
        };
        let bytes = Bytes::copy_from_slice(reason.as_bytes());
        self.close_locally(conn.index, varint(code.0), bytes, why);
    }

    /// Says whether a connection carries what this server is for. One that does not is closed with
    /// H3_NO_ERROR after the time of [`Admission::unused`], sooner when its place is asked for; a new
    /// one does not. Nothing happens without such a bound, nor to a connection that we made.
    pub fn set_in_use(&mut self, conn: ConnId, in_use: bool) {
        let Some(bounds) = self.config.admission.unused else {
            return;
        };
        let Some(found) = live(&mut self.slots, conn) else {
            return;
        };
        if in_use {
            found.use_begins(&mut self.register);
        } else {
            let patience = Duration::from_millis(bounds.after_use_ms.into());
            found.use_ends(self.now + patience, &mut self.register);
        }
        // The deadline may be another one.
        schedule(&mut self.service, &mut found.in_service, conn.index);
    }

    /// Closes a connection that nobody uses: "An endpoint that completes a graceful shutdown SHOULD
    /// use the H3_NO_ERROR error code when closing the connection" (RFC 9114 §5.2). There is no
    /// request that a GOAWAY could save.
    fn close_unused(&mut self, index: u32, text: &'static str) {
        let code = http3::Code::H3_NO_ERROR;
        let reason = CloseReason::Local {
            code,
            reason: text.to_owned(),
        };
        let bytes = Bytes::from_static(text.as_bytes());
        self.close_locally(index, varint(code.0), bytes, reason);
    }

    fn close_locally(&mut self, index: u32, code: VarInt, text: Bytes, reason: CloseReason) {
        let Some(conn) = self.slots[index as usize].conn.as_mut() else {
            return;
        };
        conn.quic.close(self.now, code, text);
        self.closed(index, reason);
    }

    /// Ends our side of a connection: the event, and what nobody needs any more.
    fn closed(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.slots[index as usize].conn.as_mut() else {
            return;
        };
        if let Some(admitted) = conn.close() {
            self.register.closed(admitted);
        }
        if !std::mem::replace(&mut conn.closed_told, true) {
            self.events.push_back(Event::Closed {
                conn: conn.id,
                reason,
            });
        }
        schedule(&mut self.service, &mut conn.in_service, index);
    }

    fn respond(&mut self, transmit: Transmit) {
        if self.responses.len() >= MAX_RESPONSES {
            self.stats.responses_dropped += 1;
            return;
        }
        let packet = self.scratch[..transmit.size].to_vec();
        self.responses.push_back((transmit, packet));
    }

    fn conn(&self, id: ConnId) -> Option<&Conn> {
        let slot = self.slots.get(id.index as usize)?;
        let conn = slot.conn.as_deref()?;
        (slot.generation == id.generation && conn.is_live()).then_some(conn)
    }

    fn now_ms(&self) -> u64 {
        millis(self.epoch, self.now)
    }
}

/// The connection `id` names, if it is not closed.
fn live(slots: &mut [Slot], id: ConnId) -> Option<&mut Conn> {
    let slot = slots.get_mut(id.index as usize)?;
    let conn = slot.conn.as_deref_mut()?;
    (slot.generation == id.generation && conn.is_live()).then_some(conn)
}

/// Queues `index` unless it is queued.
fn schedule(queue: &mut VecDeque<u32>, queued: &mut bool, index: u32) {
    if !std::mem::replace(queued, true) {
        queue.push_back(index);
    }
}

fn millis(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX)
}

/// An application code as QUIC carries it; HTTP/3 codes are small, a larger one is cut to the
/// largest there is.
fn varint(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}
