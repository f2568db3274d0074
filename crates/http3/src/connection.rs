//! One HTTP/3 connection as a state machine.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use crate::{
    Code, Config, Event, Output, Role, StreamId,
    datagrams::EarlyDatagrams,
    frame,
    goaway::GoAway,
    load,
    request::{Limits, SendState},
    request_table::RequestTable,
    settings::{self, PeerSettings},
    uni::UniStreams,
    varint,
};

mod datagram;
mod receive;
mod send;

/// Entries that a drained queue keeps room for; what a burst needed beyond is given back.
const KEPT_QUEUE_ENTRIES: usize = 8;

/// One HTTP/3 connection.
///
/// The driver calls `handle_*` as QUIC delivers, then drains [`poll_event`](Self::poll_event) and
/// [`poll_output`](Self::poll_output). A rule the peer breaks shows up as outputs (`Reset`,
/// `Close`), never as a panic or a `Result`.
///
/// What is kept between two calls is bounded by the [`Config`], whatever the peer sends; events
/// and outputs wait until they are drained and are bounded by what the calls before were given: a
/// piece of a stream makes no more events than it has bytes, and one for its end. A driver that
/// looks at [`waiting_events`](Self::waiting_events) between small pieces bounds what waits.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    config: Config,
    limits: Limits,
    events: VecDeque<Event>,
    outputs: VecDeque<Output>,
    is_closed: bool,
    uni: UniStreams,
    peer: Option<PeerSettings>,
    /// SETTINGS_H3_DATAGRAM = 1 went both ways.
    datagrams_ready: bool,
    requests: RequestTable,
    /// How many request streams QUIC has let the peer open; `u64::MAX` if unknown.
    request_stream_limit: u64,
    goaway: GoAway,
    early: EarlyDatagrams,
    /// When the present window of the useless frame counts began.
    load_window_ms: Option<u64>,
}

impl Connection {
    /// A new connection; our SETTINGS are its first output.
    pub fn new(role: Role, config: Config) -> Self {
        let limits = Limits {
            max_field_section_bytes: config.max_field_section_bytes,
            max_useless_frames: config.max_useless_frames,
            extended_connect: config.extended_connect,
        };
        Self {
            role,
            limits,
            events: VecDeque::new(),
            outputs: VecDeque::from([Output::Control(control_preface(role, &config))]),
            is_closed: false,
            uni: UniStreams::new(role),
            peer: None,
            datagrams_ready: false,
            requests: RequestTable::new(config.max_requests),
            request_stream_limit: u64::MAX,
            goaway: GoAway::default(),
            early: EarlyDatagrams::new(&config),
            load_window_ms: None,
            config,
        }
    }

    /// Tells how many request streams QUIC has let the peer open so far (the largest MAX_STREAMS
    /// sent, RFC 9000 §19.11; server). A datagram for a stream beyond ends the connection with
    /// H3_ID_ERROR (RFC 9297 §2.1, a SHOULD). Not called, no stream is beyond.
    pub fn limit_request_streams(&mut self, streams: u64) {
        self.request_stream_limit = streams;
    }

    /// Drops early datagrams older than the bound, and starts the counts of useless frames anew
    /// each minute. To be called every [`Config::early_datagram_ms`] or so, with the clock of
    /// [`handle_datagram`](Self::handle_datagram).
    pub fn handle_timeout(&mut self, now_ms: u64) {
        self.early.expire(now_ms);
        let start_ms = *self.load_window_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(start_ms) >= load::WINDOW_MS {
            self.load_window_ms = Some(now_ms);
            self.uni.reset_load();
            self.requests.reset_load();
        }
    }

    /// The next thing the peer did.
    pub fn poll_event(&mut self) -> Option<Event> {
        let event = self.events.pop_front();
        give_back(&mut self.events);
        event
    }

    /// The next thing the driver must do.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        give_back(&mut self.outputs);
        output
    }

    /// How many events [`poll_event`](Self::poll_event) would give now.
    pub fn waiting_events(&self) -> usize {
        self.events.len()
    }

    /// The value the peer announced for a setting; `None` before its SETTINGS or without it.
    pub fn peer_setting(&self, id: u64) -> Option<u64> {
        let settings = self.peer.as_ref()?.all();
        settings
            .iter()
            .find(|(announced, _)| *announced == id)
            .map(|(_, value)| *value)
    }

    /// Graceful shutdown (RFC 9114 §5.2): the first call announces GOAWAY(2^62 − 4), the second
    /// the real last id; from then on new requests are rejected (server). A client names push
    /// ids, 2^62 − 1 and then 0, as there are no pushes.
    pub fn shutdown(&mut self) {
        if !self.is_closed
            && let Some(frame) = self.goaway.shut_down(self.role)
        {
            self.outputs.push_back(Output::Control(frame));
        }
    }

    /// Closes the connection at once.
    pub fn close(&mut self, code: Code, reason: &'static str) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        self.datagrams_ready = false;
        self.requests.clear();
        self.early.clear();
        self.outputs.push_back(Output::Close { code, reason });
    }

    /// Whether [`Output::Close`] was given out or waits to be.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Request streams that are open in at least one direction.
    pub fn open_requests(&self) -> usize {
        self.requests.len()
    }

    /// Roughly the bytes kept on the heap on behalf of the peer: partial frames, early datagrams,
    /// stream tables, events and outputs not yet polled (without the data of these, which the
    /// transport delivered or the application gave); room counts, used or not.
    pub fn retained_bytes(&self) -> usize {
        self.uni.retained_bytes()
            + self.requests.retained_bytes()
            + self.early.retained_bytes()
            + self.peer.as_ref().map_or(0, |peer| size_of_val(peer.all()))
            + self.events.capacity() * size_of::<Event>()
            + self.outputs.capacity() * size_of::<Output>()
    }

    /// The largest field section the peer accepts.
    fn peer_max_field_section_bytes(&self) -> u64 {
        self.peer
            .as_ref()
            .map_or(u64::MAX, |peer| peer.max_field_section_bytes)
    }

    /// Gives a request up in the directions that are still open, and forgets it.
    fn terminate(&mut self, stream: StreamId, reset: Code, stop: Code) {
        let Some(request) = self.requests.get(stream.quarter()) else {
            return;
        };
        let (is_sending, is_receiving) = (request.send != SendState::Closed, request.is_receiving);
        if is_sending {
            self.outputs.push_back(Output::Reset {
                stream,
                code: reset,
            });
        }
        if is_receiving {
            self.outputs
                .push_back(Output::StopSending { stream, code: stop });
        }
        self.forget(stream);
    }

    /// Drops the state of a request if both directions are closed.
    fn settle(&mut self, stream: StreamId) {
        let is_over = self
            .requests
            .get(stream.quarter())
            .is_some_and(|request| !request.is_receiving && request.send == SendState::Closed);
        if is_over {
            self.forget(stream);
        }
    }

    /// Drops the state of a request, whether there is any or not.
    fn forget(&mut self, stream: StreamId) {
        self.early.forget(stream.quarter());
        // Our own streams make gaps only if we leave some out, so a client needs no bound.
        if self.requests.remove(stream.quarter()).is_err() && self.role == Role::Server {
            self.close(Code::H3_EXCESSIVE_LOAD, "too many streams were left out");
        }
    }
}

/// Gives the room back that a burst needed, once the queue is empty.
fn give_back<T>(queue: &mut VecDeque<T>) {
    if queue.is_empty() && queue.capacity() > KEPT_QUEUE_ENTRIES {
        queue.shrink_to(KEPT_QUEUE_ENTRIES);
    }
}

/// What our control stream begins with: its type, SETTINGS, a GREASE frame.
fn control_preface(role: Role, config: &Config) -> Bytes {
    /// The type of a control stream (RFC 9114 §6.2.1).
    const CONTROL_STREAM: u64 = 0x00;
    let ours = settings::encode(role, config);
    let mut out = BytesMut::new();
    varint::put(&mut out, CONTROL_STREAM);
    frame::put_header(&mut out, frame::SETTINGS, ours.len());
    out.extend_from_slice(&ours);
    if let Some(seed) = config.grease_seed {
        let payload = seed.to_be_bytes();
        let length = usize::from(payload[7] % 8);
        frame::put_header(&mut out, settings::grease_id(!seed), length);
        out.extend_from_slice(&payload[..length]);
    }
    out.freeze()
}
