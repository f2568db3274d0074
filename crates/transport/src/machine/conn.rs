//! What a machine keeps of one connection.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_http3 as http3;
use quinn_proto::{Dir, StreamId as QuicStreamId};

use super::{millis, query::canonical};
use crate::{
    ConnId, Event, PathFloor,
    admission::{Admitted, Register},
    tls::PeerCertificateError,
    tuning::MIN_TUNNEL_UDP_PAYLOAD_BYTES,
};

/// How long MTU discovery has before a path that is still too small is reported: a few probes at
/// an ordinary round trip time, each lost three times.
const PATH_SETTLE: Duration = Duration::from_secs(2);

/// How often HTTP/3 is told the time while its connection has something to do.
const HTTP_TICK_MS: u64 = 100;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Handshaking,
    Open,
    /// Closed for the driver; QUIC keeps it until its last packets are out (RFC 9000 §10.2).
    Closed,
}

/// What a connection took too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Handshake,
    /// Nobody uses it.
    Use,
}

/// Bytes and the end of a stream that flow control does not let through yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    pub(super) chunks: VecDeque<Bytes>,
    pub(super) bytes: usize,
    pub(super) fin: bool,
}

/// The stream datagrams were last sent on, with its Quarter Stream ID as it goes on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sendable {
    pub(super) stream: http3::StreamId,
    pub(super) prefix: [u8; 8],
    pub(super) prefix_length: usize,
}

pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) quic: quinn_proto::Connection,
    pub(super) http: Option<Box<http3::Connection>>,
    phase: Phase,
    pub(super) in_service: bool,
    pub(super) in_transmit: bool,
    pub(super) in_receive: bool,
    pub(super) in_read_later: bool,
    pub(super) in_roomy: bool,
    /// It had no room when it was asked last.
    pub(super) wants_room: bool,
    /// As many events came in this turn as one turn takes; nothing is read before the next.
    pub(super) reads_later: bool,
    /// The driver may have changed `http`, so outputs and kept datagrams may wait.
    pub(super) http_touched: bool,
    /// Datagrams may be kept for requests that were not accepted yet.
    pub(super) early_datagrams: bool,
    pub(super) closed_told: bool,
    path_small_told: bool,
    /// Whether any packet was received.
    pub(super) heard: bool,
    pub(super) certificate_error: Option<PeerCertificateError>,
    pub(super) peer_key: Option<[u8; 32]>,
    pub(super) remote: SocketAddr,
    /// Largest QUIC DATAGRAM payload; 0 when the peer takes none.
    pub(super) max_datagram: usize,
    /// Current UDP payload of the path.
    pub(super) udp_payload: u16,
    /// Bytes of datagrams that may wait to be sent.
    pub(super) queue_limit: usize,
    /// How many a caller with a queue of its own lets wait.
    pub(super) room_limit: usize,
    pub(super) sendable: Option<Sendable>,
    pub(super) dropped_queue_full: u64,
    pub(super) control: Option<QuicStreamId>,
    /// Bidirectional streams the peer has opened so far.
    pub(super) peer_opened: u64,
    /// Control bytes wait for the peer to permit the control stream.
    pub(super) control_waits: bool,
    pub(super) streams_overrun: u64,
    pub(super) backlogs: HashMap<http3::StreamId, Backlog, foldhash::quality::RandomState>,
    /// Streams the driver does not want to read now.
    pub(super) paused: Vec<http3::StreamId>,
    /// Streams with something to read, in the order of their turns.
    pub(super) readable: VecDeque<QuicStreamId>,
    admitted: Option<Admitted>,
    handshake_deadline: Option<Instant>,
    settle_deadline: Option<Instant>,
    early_deadline: Option<Instant>,
    /// When it is closed unless it is used.
    unused_deadline: Option<Instant>,
    /// When HTTP/3's clock was last set.
    http_ticked_ms: u64,
}

impl Conn {
    pub(super) fn new(
        id: ConnId,
        quic: quinn_proto::Connection,
        admitted: Option<Admitted>,
        handshake_deadline: Instant,
    ) -> Self {
        Self {
            id,
            remote: quic.remote_address(),
            quic,
            http: None,
            phase: Phase::Handshaking,
            in_service: false,
            in_transmit: false,
            in_receive: false,
            in_read_later: false,
            in_roomy: false,
            wants_room: false,
            reads_later: false,
            http_touched: false,
            early_datagrams: false,
            closed_told: false,
            path_small_told: false,
            heard: false,
            certificate_error: None,
            peer_key: None,
            max_datagram: 0,
            udp_payload: crate::tuning::MIN_QUIC_UDP_PAYLOAD_BYTES,
            queue_limit: 0,
            room_limit: 0,
            sendable: None,
            dropped_queue_full: 0,
            control: None,
            peer_opened: 0,
            control_waits: false,
            streams_overrun: 0,
            backlogs: HashMap::default(),
            paused: Vec::new(),
            readable: VecDeque::new(),
            admitted,
            handshake_deadline: Some(handshake_deadline),
            settle_deadline: None,
            early_deadline: None,
            unused_deadline: None,
            http_ticked_ms: 0,
        }
    }

    /// Tells HTTP/3 how many request streams QUIC lets the peer open, so that a datagram for one
    /// beyond is an error (RFC 9297 §2.1).
    pub(super) fn tell_stream_limit(&mut self) {
        let Some(http) = self.http.as_deref_mut() else {
            return;
        };
        let open = self.quic.streams().remote_open_streams(Dir::Bi);
        let permitted = self.quic.max_concurrent_streams(Dir::Bi);
        // The closed ones and those that may be open; what was told to the peer is never more.
        http.limit_request_streams(self.peer_opened.saturating_sub(open) + permitted);
    }

    /// Lets HTTP/3 forget what is too old, now and then.
    pub(super) fn tick_http(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.http_ticked_ms) >= HTTP_TICK_MS
            && let Some(http) = self.http.as_deref_mut()
        {
            self.http_ticked_ms = now_ms;
            http.handle_timeout(now_ms);
        }
    }

    pub(super) const fn is_handshaking(&self) -> bool {
        matches!(self.phase, Phase::Handshaking)
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    pub(super) const fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Closed)
    }

    /// The handshake is complete.
    pub(super) fn open(&mut self, now: Instant, register: &mut Register) {
        self.phase = Phase::Open;
        self.handshake_deadline = None;
        self.settle_deadline = Some(now + PATH_SETTLE);
        if let Some(admitted) = &mut self.admitted {
            register.handshake_done(admitted);
        }
    }

    /// Somebody uses it, if the peer made it and it is open.
    pub(super) fn use_begins(&mut self, register: &mut Register) {
        if let Some(admitted) = &mut self.admitted {
            register.used(admitted);
            self.unused_deadline = None;
        }
    }

    /// Nobody uses it, if the peer made it and it is open; it is closed at `deadline`, or at the
    /// one that was set when that began.
    pub(super) fn use_ends(&mut self, deadline: Instant, register: &mut Register) {
        if self.is_open()
            && let Some(admitted) = &mut self.admitted
        {
            register.unused(admitted, self.id.index);
            self.unused_deadline.get_or_insert(deadline);
        }
    }

    /// It is open, and no deadline runs for its use.
    pub(super) const fn is_in_use(&self) -> bool {
        self.is_open() && self.unused_deadline.is_none()
    }

    /// The driver is done with it.
    pub(super) fn close(&mut self) -> Option<Admitted> {
        self.phase = Phase::Closed;
        self.http = None;
        self.sendable = None;
        self.backlogs = HashMap::default();
        self.paused = Vec::new();
        self.readable = VecDeque::new();
        self.handshake_deadline = None;
        self.settle_deadline = None;
        self.early_deadline = None;
        self.unused_deadline = None;
        self.admitted.take()
    }

    pub(super) fn keep_early_until(&mut self, deadline: Instant) {
        self.early_datagrams = true;
        self.early_deadline.get_or_insert(deadline);
    }

    /// The earliest of QUIC's timers and ours.
    pub(super) fn next_deadline(&mut self) -> Option<Instant> {
        let ours = [
            self.handshake_deadline,
            self.settle_deadline,
            self.early_deadline,
            self.unused_deadline,
        ];
        ours.into_iter()
            .flatten()
            .chain(self.quic.poll_timeout())
            .min()
    }

    /// Runs due timers; what took too long.
    pub(super) fn handle_timeouts(
        &mut self,
        now: Instant,
        epoch: Instant,
        events: &mut VecDeque<Event>,
    ) -> Option<Overdue> {
        self.quic.handle_timeout(now);
        if self.early_deadline.is_some_and(|deadline| deadline <= now) {
            self.early_deadline = None;
            self.early_datagrams = false;
            if let Some(http) = self.http.as_deref_mut() {
                http.handle_timeout(millis(epoch, now));
            }
        }
        if self.settle_deadline.is_some_and(|deadline| deadline <= now) {
            self.settle_deadline = None;
            self.tell_small_path(events);
        }
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|at| at <= now);
        match self.phase {
            Phase::Handshaking if is_due(self.handshake_deadline) => Some(Overdue::Handshake),
            Phase::Open if is_due(self.unused_deadline) => Some(Overdue::Use),
            _ => None,
        }
    }

    /// Reads again what may have changed with the packets of this turn.
    pub(super) fn refresh(&mut self, bound: crate::QueueBound, events: &mut VecDeque<Event>) {
        let path = self.quic.stats().path;
        self.queue_limit = bound.bytes(path.cwnd, path.rtt);
        self.room_limit = bound.room_bytes(path.cwnd, path.rtt);
        self.udp_payload = path.current_mtu;
        let max_datagram = self.quic.datagrams().max_size().unwrap_or(0);
        if max_datagram != self.max_datagram {
            self.max_datagram = max_datagram;
            events.push_back(Event::DatagramSize {
                conn: self.id,
                max_bytes: max_datagram,
            });
            if self.settle_deadline.is_none() {
                self.tell_small_path(events);
            }
        }
        let remote = self.quic.remote_address();
        if remote != self.remote {
            self.remote = remote;
            let remote = canonical(remote);
            events.push_back(Event::Migrated {
                conn: self.id,
                remote,
            });
        }
    }

    fn tell_small_path(&mut self, events: &mut VecDeque<Event>) {
        let small = self.udp_payload < MIN_TUNNEL_UDP_PAYLOAD_BYTES;
        if small && !self.path_small_told {
            let udp_payload_bytes = self.udp_payload;
            events.push_back(Event::PathTooSmall {
                conn: self.id,
                udp_payload_bytes,
            });
        }
        self.path_small_told = small;
    }
}

impl PathFloor {
    /// The floor for a connection whose first Initial came in a datagram of `size` bytes: one
    /// padded for a tunnel has shown that the path takes it.
    pub(super) const fn of_initial(size: usize) -> Self {
        if size >= MIN_TUNNEL_UDP_PAYLOAD_BYTES as usize {
            Self::Tunnel
        } else {
            Self::Quic
        }
    }
}
