//! One connection against raw bytes.

use bytes::Bytes;
use masque_http3::{
    Code, Config, Connection, DatagramIn, Event, Output, RequestHead, Role, StreamId, varint,
};

use crate::harness::push_event;

/// The peer's control stream, and further unidirectional streams it opens.
pub(crate) const fn peer_uni(role: Role, index: u64) -> StreamId {
    match role {
        Role::Client => StreamId(4 * index + 3),
        Role::Server => StreamId(4 * index + 2),
    }
}

/// A connection and all that came out of it.
pub(crate) struct Raw {
    pub(crate) http: Connection,
    pub(crate) events: Vec<Event>,
    pub(crate) outputs: Vec<Output>,
    role: Role,
}

impl Raw {
    pub(crate) fn new(role: Role, config: Config) -> Self {
        let http = Connection::new(role, config);
        Self {
            http,
            events: Vec::new(),
            outputs: Vec::new(),
            role,
        }
    }

    /// A connection whose peer sent its SETTINGS; what came out is forgotten.
    pub(crate) fn ready(role: Role) -> Self {
        Self::ready_with(role, Config::default())
    }

    pub(crate) fn ready_with(role: Role, config: Config) -> Self {
        let mut raw = Self::new(role, config);
        let settings = settings(&[(0x08, 1), (0x33, 1)]);
        raw.feed(peer_uni(role, 0), &[&[0][..], &settings].concat());
        assert_eq!(raw.closed(), None);
        raw.events.clear();
        raw.outputs.clear();
        raw
    }

    pub(crate) fn server() -> Self {
        Self::ready(Role::Server)
    }

    pub(crate) fn client() -> Self {
        Self::ready(Role::Client)
    }

    /// A client that sent `head` on stream 0.
    pub(crate) fn requesting(head: &RequestHead) -> Self {
        let mut raw = Self::client();
        raw.http.send_request(StreamId(0), head, false).unwrap();
        raw.drain();
        raw.outputs.clear();
        raw
    }

    pub(crate) fn feed(&mut self, stream: StreamId, data: &[u8]) {
        self.http
            .handle_stream(stream, Bytes::copy_from_slice(data), false);
        self.drain();
    }

    /// Bytes on the peer's control stream.
    pub(crate) fn control(&mut self, data: &[u8]) {
        self.feed(peer_uni(self.role, 0), data);
    }

    pub(crate) fn fin(&mut self, stream: StreamId) {
        self.http.handle_stream(stream, Bytes::new(), true);
        self.drain();
    }

    pub(crate) fn datagram(&mut self, payload: &[u8]) -> DatagramIn {
        let result = self
            .http
            .handle_datagram(Bytes::copy_from_slice(payload), 0);
        self.drain();
        result
    }

    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.http.poll_event() {
            push_event(&mut self.events, event);
        }
        self.outputs
            .extend(std::iter::from_fn(|| self.http.poll_output()));
    }

    /// The code the connection was closed with.
    pub(crate) fn closed(&self) -> Option<Code> {
        self.outputs.iter().find_map(|output| match output {
            Output::Close { code, .. } => Some(*code),
            _ => None,
        })
    }

    /// Asserts that the stream was aborted both ways, and nothing else happened.
    pub(crate) fn assert_aborted(&self, stream: StreamId, code: Code) {
        let expected = [
            Output::Reset { stream, code },
            Output::StopSending { stream, code },
        ];
        assert_eq!(self.outputs, expected);
        assert_eq!(self.http.open_requests(), 0);
    }

    /// Asserts that nothing came out and the connection lives.
    pub(crate) fn assert_quiet(&self) {
        assert!(self.events.is_empty(), "{:?}", self.events);
        assert_eq!(self.outputs, []);
    }

    /// The resets the application was told of.
    pub(crate) fn resets(&self) -> Vec<(StreamId, Code)> {
        let resets = self.events.iter().filter_map(|event| match event {
            Event::Reset { stream, code } => Some((*stream, *code)),
            _ => None,
        });
        resets.collect()
    }
}

/// A server that got `bytes` on stream 0.
pub(crate) fn server_after(bytes: &[u8]) -> Raw {
    let mut raw = Raw::server();
    raw.feed(StreamId(0), bytes);
    raw
}

pub(crate) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = header(kind, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

/// The header of a frame whose payload is to follow.
pub(crate) fn header(kind: u64, length: u64) -> Vec<u8> {
    integers(&[kind, length])
}

pub(crate) fn integers(values: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        varint::put(&mut out, *value);
    }
    out
}

pub(crate) fn settings(pairs: &[(u64, u64)]) -> Vec<u8> {
    let flat: Vec<u64> = pairs.iter().flat_map(|(id, value)| [*id, *value]).collect();
    frame(0x04, &integers(&flat))
}

/// A HEADERS frame, whatever the rules say of its fields.
pub(crate) fn headers(pairs: &[(&str, &str)]) -> Vec<u8> {
    let fields = pairs
        .iter()
        .map(|(name, value)| qpack::HeaderField::new(*name, *value));
    let mut section = Vec::new();
    qpack::encode_stateless(&mut section, fields).unwrap();
    frame(0x01, &section)
}

pub(crate) const GET: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/"),
];
pub(crate) const CONNECT: [(&str, &str); 2] =
    [(":method", "CONNECT"), (":authority", "a.example:443")];
pub(crate) const EXTENDED: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "connect-ip"),
    (":scheme", "https"),
    (":authority", "a.example"),
    (":path", "/"),
];

/// `base` and more fields behind it.
pub(crate) fn with<'a>(
    base: &[(&'a str, &'a str)],
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    [base, more].concat()
}
