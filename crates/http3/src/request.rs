//! One request stream, seen from either end (RFC 9114 §4.1).

use bytes::Bytes;

use crate::{
    Code, RequestHead, ResponseHead, Role,
    error::Fault,
    frame::{self, FrameDecoder, Step, Treatment},
    headers::{
        codec,
        validate::{self, Malformed},
    },
    load::{SHORT_DATA_BYTES, UselessFrames},
};

/// What the peer sent on a request stream.
#[derive(Debug)]
pub(crate) enum Received {
    /// The request (server).
    Request(RequestHead),
    /// A response, interim or final (client).
    Response(ResponseHead),
    /// Content or tunnel data.
    Data(Bytes),
}

/// Bounds that hold for every request of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max_field_section_bytes: u64,
    pub(crate) max_useless_frames: u32,
    pub(crate) extended_connect: bool,
}

/// What our side of the stream may still carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendState {
    /// A final response (server).
    Head,
    /// Content or tunnel data.
    Body,
    /// Nothing.
    Closed,
}

/// What an HTTP Datagram of this request means (RFC 9297 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramUse {
    /// Not known yet: datagrams are kept for a while.
    Undecided,
    /// Datagrams belong to the request.
    Accepted,
    /// "associated with a request that has no known semantics for HTTP Datagrams": the stream is
    /// aborted.
    Unknown,
    /// The request was refused: datagrams sent before the peer knew are dropped.
    Refused,
}

/// What a request asks for, as far as framing depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Connect,
    Head,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The header section, or a further response.
    Head,
    /// Content, then perhaps trailers.
    Body,
    /// The trailers came.
    Trailers,
}

/// The state of one request stream.
#[derive(Debug)]
pub(crate) struct Request {
    role: Role,
    frames: FrameDecoder,
    phase: Phase,
    method: Method,
    /// A CONNECT that was accepted.
    is_tunnel: bool,
    /// Content that Content-Length announced and that has not come.
    content_left: Option<u64>,
    useless: UselessFrames,
    short_data: UselessFrames,
    /// The peer may send more.
    pub(crate) is_receiving: bool,
    /// What we may send.
    pub(crate) send: SendState,
    /// What datagrams mean.
    pub(crate) datagrams: DatagramUse,
}

impl Request {
    /// A request that is arriving (server).
    pub(crate) fn incoming() -> Self {
        Self::new(
            Role::Server,
            Method::Other,
            SendState::Head,
            DatagramUse::Undecided,
        )
    }

    /// A request that we send (client).
    pub(crate) fn outgoing(head: &RequestHead, fin: bool) -> Self {
        let send = if fin {
            SendState::Closed
        } else {
            SendState::Body
        };
        Self::new(Role::Client, method(head), send, datagram_use(head))
    }

    fn new(role: Role, method: Method, send: SendState, datagrams: DatagramUse) -> Self {
        Self {
            role,
            frames: FrameDecoder::default(),
            phase: Phase::Head,
            method,
            is_tunnel: false,
            content_left: None,
            useless: UselessFrames::default(),
            short_data: UselessFrames::default(),
            is_receiving: true,
            send,
            datagrams,
        }
    }

    /// The next thing in `input`, consuming from it.
    pub(crate) fn next(
        &mut self,
        input: &mut Bytes,
        limits: &Limits,
    ) -> Result<Option<Received>, Fault> {
        while let Some(step) = self.frames.next(input) {
            match step {
                Step::Header { kind, length } => {
                    let treatment = self.admit(kind, length, limits)?;
                    self.frames.treat(treatment);
                }
                Step::Piece(data) => return Ok(Some(Received::Data(data))),
                Step::Whole { payload, .. } => {
                    let received = self.section(payload, limits)?;
                    if received.is_some() {
                        return Ok(received);
                    }
                }
            }
        }
        Ok(None)
    }

    /// The peer finished its side.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        if !self.frames.is_between_frames() {
            let reason = "a stream ended inside a frame";
            return Err(Fault::Connection(Code::H3_FRAME_ERROR, reason));
        }
        match (self.phase, self.role) {
            (Phase::Head, Role::Server) => Err(Fault::Stream(Code::H3_REQUEST_INCOMPLETE)),
            (Phase::Head, Role::Client) => Err(Fault::Stream(Code::H3_MESSAGE_ERROR)),
            // "the value of a Content-Length header field does not equal the sum of the DATA
            // frame lengths received" (§4.1.2)
            _ if self.content_left.is_some_and(|left| left > 0) => {
                Err(Fault::Stream(Code::H3_MESSAGE_ERROR))
            }
            _ => {
                self.is_receiving = false;
                Ok(())
            }
        }
    }

    /// Whether the application knows of the request: it sent it, or the header section was handed
    /// out.
    pub(crate) fn is_announced(&self) -> bool {
        self.role == Role::Client || self.phase != Phase::Head
    }

    /// Whether it is a CONNECT, extended or not.
    pub(crate) fn is_connect(&self) -> bool {
        self.method == Method::Connect
    }

    /// Whether it is a CONNECT that was accepted.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.is_tunnel
    }

    /// We answer with `status` (server).
    pub(crate) fn respond(&mut self, status: u16) {
        if status < 200 {
            return;
        }
        self.send = SendState::Body;
        self.answered(status);
    }

    /// The count of useless frames starts anew.
    pub(crate) fn reset_load(&mut self) {
        self.useless.reset();
        self.short_data.reset();
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.frames.retained_bytes()
    }

    /// Decides about a frame by its type and length, before any of it is kept.
    fn admit(&mut self, kind: u64, length: u64, limits: &Limits) -> Result<Treatment, Fault> {
        match kind {
            frame::DATA => self.admit_data(length, limits),
            // "Once the CONNECT method has completed, only DATA frames are permitted to be sent
            // on the stream. (...) Receipt of any other known frame type MUST be treated as a
            // connection error of type H3_FRAME_UNEXPECTED." (§4.4)
            frame::HEADERS if self.is_tunnel => Err(unexpected("HEADERS in a tunnel")),
            frame::HEADERS if self.phase == Phase::Trailers => {
                Err(unexpected("HEADERS after the trailers"))
            }
            frame::HEADERS if length > limits.max_field_section_bytes => {
                Err(Fault::FieldSectionTooLarge)
            }
            frame::HEADERS => Ok(Treatment::Collect),
            // We send no MAX_PUSH_ID: "A client MUST treat receipt of a PUSH_PROMISE frame that
            // contains a larger Push ID than the client has advertised as a connection error of
            // H3_ID_ERROR." (§7.2.5)
            frame::PUSH_PROMISE if self.role == Role::Client && !self.is_tunnel => {
                let reason = "PUSH_PROMISE without MAX_PUSH_ID";
                Err(Fault::Connection(Code::H3_ID_ERROR, reason))
            }
            frame::PUSH_PROMISE
            | frame::SETTINGS
            | frame::GOAWAY
            | frame::MAX_PUSH_ID
            | frame::CANCEL_PUSH => Err(unexpected("frame not allowed on a request stream")),
            _ if frame::is_reserved_http2(kind) => Err(unexpected("frame type of HTTP/2")),
            // "Implementations MUST ignore unknown or unsupported values" (§9)
            _ => self
                .useless
                .add(limits.max_useless_frames)
                .map(|()| Treatment::Skip),
        }
    }

    fn admit_data(&mut self, length: u64, limits: &Limits) -> Result<Treatment, Fault> {
        match self.phase {
            Phase::Head => return Err(unexpected("DATA before HEADERS")),
            Phase::Trailers => return Err(unexpected("DATA after the trailers")),
            Phase::Body => {}
        }
        match length {
            0 => self.useless.add(limits.max_useless_frames)?,
            1..SHORT_DATA_BYTES => self.short_data.add(limits.max_useless_frames)?,
            _ => self.short_data.make_up(),
        }
        if let Some(left) = &mut self.content_left {
            *left = left
                .checked_sub(length)
                .ok_or(Fault::Stream(Code::H3_MESSAGE_ERROR))?;
        }
        Ok(Treatment::Stream)
    }

    /// A whole field section came.
    fn section(&mut self, payload: Bytes, limits: &Limits) -> Result<Option<Received>, Fault> {
        let lines = codec::decode(payload, limits.max_field_section_bytes)?;
        match (self.phase, self.role) {
            (Phase::Head, Role::Server) => {
                let head = validate::request(&lines)?;
                self.requested(&head, limits)?;
                Ok(Some(Received::Request(head)))
            }
            (Phase::Head, Role::Client) => {
                let head = validate::response(&lines)?;
                self.responded(&head, limits)?;
                Ok(Some(Received::Response(head)))
            }
            _ => {
                validate::trailers(&lines)?;
                self.phase = Phase::Trailers;
                Ok(None)
            }
        }
    }

    fn requested(&mut self, head: &RequestHead, limits: &Limits) -> Result<(), Fault> {
        if head.protocol.is_some() && !limits.extended_connect {
            return Err(Malformed(":protocol was not announced").into());
        }
        let content_length = validate::content_length(&head.fields)?;
        self.method = method(head);
        self.datagrams = datagram_use(head);
        self.content_left = match self.method {
            // A CONNECT has no content (RFC 9110 §9.3.6), and with the Capsule Protocol
            // Content-Length is forbidden (RFC 9297 §3.2).
            Method::Connect if head.protocol.is_some() && content_length.is_some() => {
                return Err(Malformed("content-length in an extended CONNECT").into());
            }
            Method::Connect if content_length.is_some_and(|length| length > 0) => {
                return Err(Malformed("content-length in a CONNECT").into());
            }
            Method::Connect => None,
            Method::Head | Method::Other => content_length,
        };
        self.phase = Phase::Body;
        Ok(())
    }

    fn responded(&mut self, head: &ResponseHead, limits: &Limits) -> Result<(), Fault> {
        if head.status < 200 {
            return self.useless.add(limits.max_useless_frames);
        }
        self.content_left = content_of_response(self.method, head)?;
        self.phase = Phase::Body;
        self.answered(head.status);
        Ok(())
    }

    /// The final status is known at both ends.
    fn answered(&mut self, status: u16) {
        let is_success = (200..300).contains(&status);
        self.is_tunnel = self.is_connect() && is_success;
        if !is_success && self.is_connect() {
            self.datagrams = DatagramUse::Refused;
        }
    }
}

fn method(head: &RequestHead) -> Method {
    match head.method.as_str() {
        "CONNECT" => Method::Connect,
        "HEAD" => Method::Head,
        _ => Method::Other,
    }
}

/// Only an upgrade token can give datagrams a meaning.
fn datagram_use(head: &RequestHead) -> DatagramUse {
    match head.protocol {
        Some(_) => DatagramUse::Undecided,
        None => DatagramUse::Unknown,
    }
}

/// How much content a final response has, if that is known.
fn content_of_response(method: Method, head: &ResponseHead) -> Result<Option<u64>, Malformed> {
    match (method, head.status) {
        // "A client MUST ignore any Content-Length or Transfer-Encoding header fields received in
        // a successful response to CONNECT." (RFC 9110 §9.3.6)
        (Method::Connect, 200..300) => Ok(None),
        // Never content, whatever Content-Length says (RFC 9110 §6.4.1).
        (Method::Head, _) | (_, 204 | 304) => {
            validate::content_length(&head.fields)?;
            Ok(Some(0))
        }
        _ => validate::content_length(&head.fields),
    }
}

const fn unexpected(reason: &'static str) -> Fault {
    Fault::Connection(Code::H3_FRAME_UNEXPECTED, reason)
}
