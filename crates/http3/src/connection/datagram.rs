//! HTTP Datagrams of requests (RFC 9297 §2).

use bytes::{Buf, Bytes};

use super::Connection;
use crate::{
    Code, DatagramDrop, DatagramIn, Role, StreamId,
    datagrams::MAX_QUARTER_STREAM_ID,
    error::Fault,
    request::{DatagramUse, SendState},
    varint,
};

impl Connection {
    /// A QUIC DATAGRAM's payload (RFC 9297 §2.1). `now_ms` is any monotonic millisecond count.
    pub fn handle_datagram(&mut self, mut payload: Bytes, now_ms: u64) -> DatagramIn {
        if self.is_closed {
            return DatagramIn::Error;
        }
        if !self.config.datagrams || self.peer.as_ref().is_some_and(|peer| !peer.datagrams) {
            return DatagramIn::Dropped(DatagramDrop::NotNegotiated);
        }
        // "Receipt of an HTTP/3 Datagram that includes a larger value MUST be treated as an HTTP/3
        // connection error of type H3_DATAGRAM_ERROR", and so is one too short for the field.
        let number = match varint::decode(&payload) {
            Some((number, used)) if number <= MAX_QUARTER_STREAM_ID => {
                payload.advance(used);
                number
            }
            _ => {
                self.close(
                    Code::H3_DATAGRAM_ERROR,
                    "datagram without a Quarter Stream ID",
                );
                return DatagramIn::Error;
            }
        };
        let stream = StreamId(number * 4);
        let Some(request) = self.requests.get(number) else {
            return self.datagram_without_request(number, &payload, now_ms);
        };
        // "If a datagram is received after the corresponding stream's receive side is closed, the
        // received datagrams MUST be silently dropped."
        if !request.is_receiving {
            return DatagramIn::Dropped(DatagramDrop::StreamClosed);
        }
        match request.datagrams {
            DatagramUse::Accepted => DatagramIn::Deliver { stream, payload },
            DatagramUse::Undecided => self.keep_datagram(number, &payload, now_ms),
            DatagramUse::Refused => DatagramIn::Dropped(DatagramDrop::StreamClosed),
            DatagramUse::Unknown => {
                self.fail(stream, Fault::Stream(Code::H3_DATAGRAM_ERROR));
                DatagramIn::Error
            }
        }
    }

    /// The next early datagram of a stream whose datagrams were accepted.
    pub fn poll_early_datagram(&mut self) -> Option<(StreamId, Bytes)> {
        self.early.poll()
    }

    /// Whether SETTINGS_H3_DATAGRAM = 1 was sent **and** received (RFC 9297 §2.1.1).
    pub fn datagrams_ready(&self) -> bool {
        self.datagrams_ready
    }

    /// Whether the peer's SETTINGS allow HTTP Datagrams; `None` before they came.
    pub fn peer_takes_datagrams(&self) -> Option<bool> {
        self.peer.as_ref().map(|peer| peer.datagrams)
    }

    /// Says that the request on `stream` has datagram semantics: its datagrams are delivered from
    /// now on, kept ones first (RFC 9297 §2). Until then those of an extended CONNECT are kept as
    /// early ones, and one of any other request aborts it.
    pub fn accept_datagrams(&mut self, stream: StreamId) {
        if let Some(request) = self.requests.get_mut(stream.quarter())
            && stream.is_request()
        {
            request.datagrams = DatagramUse::Accepted;
            if request.is_receiving {
                self.early.accept(stream.quarter());
            }
        }
    }

    /// Says that the extended CONNECT on `stream` has no datagram semantics (a WebSocket, say):
    /// a datagram aborts it with H3_DATAGRAM_ERROR (RFC 9297 §2), also one that was kept.
    pub fn refuse_datagrams(&mut self, stream: StreamId) {
        if let Some(request) = self.requests.get_mut(stream.quarter())
            && stream.is_request()
        {
            request.datagrams = DatagramUse::Unknown;
            if self.early.has(stream.quarter()) {
                self.fail(stream, Fault::Stream(Code::H3_DATAGRAM_ERROR));
            }
        }
    }

    /// Whether a datagram may be sent for `stream` now: settings exchanged and the stream's send
    /// side open (RFC 9297 §2.1).
    pub fn may_send_datagram(&self, stream: StreamId) -> bool {
        self.datagrams_ready
            && stream.is_request()
            && self
                .requests
                .get(stream.quarter())
                .is_some_and(|request| request.send != SendState::Closed)
    }

    /// A datagram for a stream that is over, or that has not begun.
    fn datagram_without_request(&mut self, number: u64, payload: &[u8], now_ms: u64) -> DatagramIn {
        if self.requests.is_closed(number) {
            return DatagramIn::Dropped(DatagramDrop::StreamClosed);
        }
        // "If an HTTP/3 Datagram is received and its Quarter Stream ID field maps to a stream that
        // cannot be created due to client-initiated bidirectional stream limits, it SHOULD be
        // treated as an HTTP/3 connection error of type H3_ID_ERROR."
        if self.role == Role::Server && number >= self.request_stream_limit {
            self.close(Code::H3_ID_ERROR, "datagram for a stream beyond the limit");
            return DatagramIn::Error;
        }
        if self.role == Role::Client || self.goaway.rejects(number) {
            return DatagramIn::Dropped(DatagramDrop::UnknownStream);
        }
        self.keep_datagram(number, payload, now_ms)
    }

    fn keep_datagram(&mut self, number: u64, payload: &[u8], now_ms: u64) -> DatagramIn {
        if self.early.keep(number, payload, now_ms) {
            DatagramIn::Kept
        } else {
            DatagramIn::Dropped(DatagramDrop::EarlyBufferFull)
        }
    }
}
