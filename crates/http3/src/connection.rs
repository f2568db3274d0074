//! One HTTP/3 connection as a state machine.

use bytes::Bytes;

use crate::{Code, RequestHead, ResponseHead, SendError, StreamId};

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Client,
    /// Answers them.
    Server,
}

/// What we announce and what we bound. Every bound is per connection unless its name says else.
#[derive(Clone, Debug)]
pub struct Config {
    /// SETTINGS_MAX_FIELD_SECTION_SIZE that we announce and enforce.
    pub max_field_section_bytes: u64,
    /// Announce SETTINGS_ENABLE_CONNECT_PROTOCOL = 1 (servers).
    pub extended_connect: bool,
    /// Announce SETTINGS_H3_DATAGRAM = 1; must agree with the QUIC transport parameter.
    pub datagrams: bool,
    /// Further settings to announce (WebTransport, deprecated datagram ids).
    pub extra_settings: Vec<(u64, u64)>,
    /// Varies the GREASE setting, frame and stream types (RFC 9114 §7.2.8); `None` sends none.
    pub grease_seed: Option<u64>,
    /// HTTP Datagrams kept for a request stream whose header section has not arrived.
    pub early_datagrams_per_stream: usize,
    /// Bytes of such datagrams over the connection.
    pub early_datagram_bytes: usize,
    /// How long such datagrams are kept (about one round trip).
    pub early_datagram_ms: u64,
    /// Request streams at one time; more are rejected with H3_REQUEST_REJECTED.
    pub max_requests: usize,
    /// Frames that carry nothing for us (unknown, GREASE, empty DATA) per control stream or
    /// request before the connection ends with H3_EXCESSIVE_LOAD (RFC 9114 §10.5).
    pub max_useless_frames: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_field_section_bytes: 16 * 1024,
            extended_connect: true,
            datagrams: true,
            extra_settings: Vec::new(),
            grease_seed: Some(0),
            early_datagrams_per_stream: 16,
            early_datagram_bytes: 64 * 1024,
            early_datagram_ms: 250,
            max_requests: 128,
            max_useless_frames: 10_000,
        }
    }
}

/// What the peer did.
#[derive(Debug)]
pub enum Event {
    /// The peer's SETTINGS arrived; ids and values as sent, unknown ones included.
    Settings(Vec<(u64, u64)>),
    /// A whole, valid request header section (server).
    Request {
        /// Its stream.
        stream: StreamId,
        /// What was asked.
        head: RequestHead,
    },
    /// A whole, valid response header section (client); 1xx are delivered too.
    Response {
        /// Its stream.
        stream: StreamId,
        /// What was answered.
        head: ResponseHead,
    },
    /// Bytes of DATA frames, in order, split anywhere.
    Data {
        /// Its stream.
        stream: StreamId,
        /// A slice of what the transport delivered; not copied.
        data: Bytes,
    },
    /// The peer finished its side of the stream cleanly.
    Finished {
        /// Its stream.
        stream: StreamId,
    },
    /// The peer reset the stream, stopped reading it, or broke a rule on it that ends the stream
    /// alone. Nothing more comes from it, and what we send on it goes nowhere.
    Reset {
        /// Its stream.
        stream: StreamId,
        /// The code, the peer's or the one we answered with.
        code: Code,
    },
    /// The peer sent GOAWAY: requests (client) with this id and above were not processed.
    GoAway {
        /// The id it named.
        id: u64,
    },
}

/// What the driver must do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Append to our control stream; the driver opens it, as the first unidirectional stream, at
    /// the first of these, and never finishes it.
    Control(Bytes),
    /// Append to a request stream, then finish it if `fin`.
    Stream {
        /// Its stream.
        stream: StreamId,
        /// What to append; may be empty.
        data: Bytes,
        /// Finish our side.
        fin: bool,
    },
    /// Abandon our side (RESET_STREAM).
    Reset {
        /// Its stream.
        stream: StreamId,
        /// Why.
        code: Code,
    },
    /// Ask the peer to stop sending (STOP_SENDING).
    StopSending {
        /// Its stream.
        stream: StreamId,
        /// Why.
        code: Code,
    },
    /// Close the QUIC connection. Nothing follows.
    Close {
        /// Why.
        code: Code,
        /// For the peer's log; names the rule that was broken.
        reason: &'static str,
    },
}

/// What became of an HTTP Datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum DatagramIn {
    /// Hand it to the request.
    Deliver {
        /// Its stream.
        stream: StreamId,
        /// The HTTP Datagram Payload: what follows the Quarter Stream ID; not copied.
        payload: Bytes,
    },
    /// Kept; comes out of [`Connection::poll_early_datagram`] once the request is accepted.
    Kept,
    /// Dropped; count it.
    Dropped(DatagramDrop),
    /// The connection is being closed, or the stream reset: see the outputs.
    Error,
}

/// Why an HTTP Datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramDrop {
    /// The stream's receive side is closed (RFC 9297 §2.1).
    StreamClosed,
    /// The early-datagram bounds are reached.
    EarlyBufferFull,
}

/// One HTTP/3 connection.
///
/// The driver calls `handle_*` as QUIC delivers, then drains [`poll_event`](Self::poll_event) and
/// [`poll_output`](Self::poll_output). A rule the peer breaks shows up as outputs (`Reset`,
/// `Close`), never as a panic or a `Result`.
#[derive(Debug)]
pub struct Connection {
    _role: Role,
}

#[allow(unused_variables, clippy::todo, reason = "seam")]
impl Connection {
    /// A new connection; our SETTINGS are its first output.
    pub fn new(role: Role, config: Config) -> Self {
        todo!()
    }

    /// In-order bytes of a stream the peer writes; `fin` with the last of them.
    pub fn handle_stream(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        todo!()
    }

    /// The peer reset its side of a stream.
    pub fn handle_reset(&mut self, stream: StreamId, code: Code) {
        todo!()
    }

    /// The peer asked us to stop sending on a stream.
    pub fn handle_stop_sending(&mut self, stream: StreamId, code: Code) {
        todo!()
    }

    /// A QUIC DATAGRAM's payload (RFC 9297 §2.1). `now_ms` is any monotonic millisecond count.
    pub fn handle_datagram(&mut self, payload: Bytes, now_ms: u64) -> DatagramIn {
        todo!()
    }

    /// The next early datagram of a stream whose datagrams were accepted.
    pub fn poll_early_datagram(&mut self) -> Option<(StreamId, Bytes)> {
        todo!()
    }

    /// Drops early datagrams older than the bound.
    pub fn handle_timeout(&mut self, now_ms: u64) {
        todo!()
    }

    /// The next thing the peer did.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }

    /// The next thing the driver must do.
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// The value the peer announced for a setting; `None` before its SETTINGS or without it.
    pub fn peer_setting(&self, id: u64) -> Option<u64> {
        todo!()
    }

    /// Whether SETTINGS_H3_DATAGRAM = 1 was sent **and** received (RFC 9297 §2.1.1).
    pub fn datagrams_ready(&self) -> bool {
        todo!()
    }

    /// Sends a request on `stream`, a bidirectional stream that the driver has just opened
    /// (client). An extended CONNECT stays open; another request is finished if `fin`.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_request(
        &mut self,
        stream: StreamId,
        head: &RequestHead,
        fin: bool,
    ) -> Result<(), SendError> {
        todo!()
    }

    /// Answers a request (server). With `fin`, the answer is complete, and the peer is asked with
    /// STOP_SENDING(H3_NO_ERROR) to stop sending a body nobody reads (RFC 9114 §4.1).
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_response(
        &mut self,
        stream: StreamId,
        head: &ResponseHead,
        fin: bool,
    ) -> Result<(), SendError> {
        todo!()
    }

    /// Sends `data` in one DATA frame.
    ///
    /// # Errors
    /// [`SendError`]: nothing was sent.
    pub fn send_data(&mut self, stream: StreamId, data: Bytes, fin: bool) -> Result<(), SendError> {
        todo!()
    }

    /// Abandons a request in both directions.
    pub fn abort(&mut self, stream: StreamId, code: Code) {
        todo!()
    }

    /// Says that the request on `stream` has datagram semantics: its datagrams are delivered from
    /// now on, kept ones first (RFC 9297 §2).
    pub fn accept_datagrams(&mut self, stream: StreamId) {
        todo!()
    }

    /// Whether a datagram may be sent for `stream` now: settings exchanged and the stream's send
    /// side open (RFC 9297 §2.1).
    pub fn may_send_datagram(&self, stream: StreamId) -> bool {
        todo!()
    }

    /// Graceful shutdown (RFC 9114 §5.2): the first call announces GOAWAY(2^62 − 4), the second
    /// the real last id; from then on new requests are rejected (server).
    pub fn shutdown(&mut self) {
        todo!()
    }

    /// Closes the connection at once.
    pub fn close(&mut self, code: Code, reason: &'static str) {
        todo!()
    }

    /// Request streams that are open in at least one direction.
    pub fn open_requests(&self) -> usize {
        todo!()
    }
}
