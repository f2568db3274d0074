//! What comes out of a connection.

use bytes::Bytes;

use crate::{Code, RequestHead, ResponseHead, StreamId};

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
    /// alone. Nothing more comes from it, and what we send on it goes nowhere. A server that has
    /// not seen [`Event::Request`] for a stream sees nothing else of it either.
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
