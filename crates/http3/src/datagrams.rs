//! HTTP Datagrams in QUIC DATAGRAM frames (RFC 9297 §2.1).

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use foldhash::fast::FixedState;

use crate::{Config, StreamId, varint};

/// The largest Quarter Stream ID: "The largest legal QUIC stream ID value is 2^62-1, so the
/// largest legal value of the Quarter Stream ID field is 2^60-1." (RFC 9297 §2.1)
pub(crate) const MAX_QUARTER_STREAM_ID: u64 = (1 << 60) - 1;

/// The Quarter Stream ID field in front of every HTTP Datagram of a request stream: the first
/// `usize` bytes of the array.
pub const fn datagram_prefix(stream: StreamId) -> ([u8; 8], usize) {
    varint::encode(stream.quarter())
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
    /// Kept; comes out of
    /// [`Connection::poll_early_datagram`](crate::Connection::poll_early_datagram) once the
    /// request is accepted.
    Kept,
    /// Dropped; count it.
    Dropped(DatagramDrop),
    /// The connection is being closed, or the stream reset: see the outputs.
    Error,
}

/// Why an HTTP Datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DatagramDrop {
    /// The stream's receive side is closed (RFC 9297 §2.1), or the request was refused.
    StreamClosed,
    /// The early-datagram bounds are reached.
    EarlyBufferFull,
    /// HTTP Datagrams are not in use: SETTINGS_H3_DATAGRAM = 1 was not sent, or the peer's
    /// SETTINGS arrived without it (RFC 9297 §2.1.1).
    NotNegotiated,
    /// A stream that will never be a request here: one we did not open (client), or one beyond
    /// the id of our GOAWAY (server).
    UnknownStream,
}

/// Datagrams that came before anybody could say what they mean.
///
/// "If an HTTP/3 Datagram is received and its Quarter Stream ID field maps to a stream that has not
/// yet been created, the receiver SHALL either drop that datagram silently or buffer it
/// temporarily (on the order of a round trip)" (RFC 9297 §2.1).
#[derive(Debug)]
pub(crate) struct EarlyDatagrams {
    /// In the order of arrival.
    waiting: VecDeque<Early>,
    /// How many of them each stream has.
    per_stream: HashMap<u64, usize, FixedState>,
    /// Of accepted requests, to be handed out.
    ready: VecDeque<(StreamId, Bytes)>,
    /// What `waiting` and `ready` cost.
    cost_bytes: usize,
    max_per_stream: usize,
    max_bytes: usize,
    max_age_ms: u64,
}

#[derive(Debug)]
struct Early {
    number: u64,
    payload: Bytes,
    arrived_ms: u64,
}

/// What a kept datagram costs besides its payload, so that empty ones are bounded too.
pub(crate) const EARLY_OVERHEAD_BYTES: usize = 64;

impl EarlyDatagrams {
    /// None yet.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            waiting: VecDeque::new(),
            per_stream: HashMap::default(),
            ready: VecDeque::new(),
            cost_bytes: 0,
            max_per_stream: config.early_datagrams_per_stream,
            max_bytes: config.early_datagram_bytes,
            max_age_ms: config.early_datagram_ms,
        }
    }

    /// Keeps a datagram of request `number`; `false` if a bound is reached. The payload is
    /// copied: a slice would hold the whole packet, or a batch of packets, in memory.
    pub(crate) fn keep(&mut self, number: u64, payload: &[u8], now_ms: u64) -> bool {
        self.expire(now_ms);
        let count = self.per_stream.get(&number).copied().unwrap_or(0);
        if count >= self.max_per_stream || self.cost_bytes + cost(payload) > self.max_bytes {
            return false;
        }
        self.per_stream.insert(number, count + 1);
        self.cost_bytes += cost(payload);
        let payload = Bytes::copy_from_slice(payload);
        self.waiting.push_back(Early {
            number,
            payload,
            arrived_ms: now_ms,
        });
        true
    }

    /// Whether request `number` has any waiting.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.per_stream.contains_key(&number)
    }

    /// Request `number` was accepted: its datagrams are handed out from now on.
    pub(crate) fn accept(&mut self, number: u64) {
        for early in self.take(number) {
            self.ready.push_back((StreamId(number * 4), early.payload));
        }
    }

    /// Request `number` receives nothing more.
    pub(crate) fn forget(&mut self, number: u64) {
        for early in self.take(number) {
            self.cost_bytes -= cost(&early.payload);
        }
        if !self.ready.is_empty() {
            let stream = StreamId(number * 4);
            let cost_bytes = &mut self.cost_bytes;
            self.ready.retain(|(ready, payload)| {
                if *ready == stream {
                    *cost_bytes -= cost(payload);
                }
                *ready != stream
            });
        }
    }

    /// Drops what waited too long.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some(early) = self.waiting.front()
            && now_ms.saturating_sub(early.arrived_ms) >= self.max_age_ms
        {
            self.cost_bytes -= cost(&early.payload);
            if let Some(count) = self.per_stream.get_mut(&early.number) {
                *count -= 1;
                if *count == 0 {
                    self.per_stream.remove(&early.number);
                }
            }
            self.waiting.pop_front();
        }
    }

    /// The next datagram of an accepted request.
    pub(crate) fn poll(&mut self) -> Option<(StreamId, Bytes)> {
        let (stream, payload) = self.ready.pop_front()?;
        self.cost_bytes -= cost(&payload);
        Some((stream, payload))
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.per_stream.clear();
        self.ready.clear();
        self.cost_bytes = 0;
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.cost_bytes
    }

    /// Removes the waiting datagrams of a stream, in their order.
    fn take(&mut self, number: u64) -> Vec<Early> {
        if self.per_stream.remove(&number).is_none() {
            return Vec::new();
        }
        let (taken, left) = self
            .waiting
            .drain(..)
            .partition::<Vec<_>, _>(|early| early.number == number);
        self.waiting = left.into();
        taken
    }
}

fn cost(payload: &[u8]) -> usize {
    payload.len() + EARLY_OVERHEAD_BYTES
}
