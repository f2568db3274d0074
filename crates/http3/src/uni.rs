//! Unidirectional streams the peer opens (RFC 9114 §6.2).

use bytes::{Buf, Bytes};

use crate::{
    Code, Role, StreamId,
    closed::ClosedStreams,
    control::{Control, ControlFrame},
    error::Fault,
    qpack_streams::{self, DecoderStream},
    varint,
};

/// Streams whose type has not arrived in full, at one time. Each costs the peer a stream of its
/// QUIC credit; more end the connection with H3_EXCESSIVE_LOAD.
pub(crate) const MAX_UNTYPED_STREAMS: usize = 128;

/// Stream types (RFC 9114 §6.2, RFC 9204 §4.2).
const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const QPACK_ENCODER: u64 = 0x02;
const QPACK_DECODER: u64 = 0x03;

/// What a piece of a unidirectional stream leads to.
#[derive(Debug)]
pub(crate) enum UniStep {
    /// A frame of the control stream.
    Control(ControlFrame),
    /// Nobody here reads this stream: ask the peer to stop.
    Unwanted,
}

/// The peer's unidirectional streams.
#[derive(Debug)]
pub(crate) struct UniStreams {
    role: Role,
    untyped: Vec<Untyped>,
    control: Option<(StreamId, Control)>,
    encoder: Option<StreamId>,
    decoder: Option<(StreamId, DecoderStream)>,
    /// Streams that ended or that we asked to stop: what still comes on them is dropped.
    closed: ClosedStreams,
}

/// A stream whose type is being read.
#[derive(Debug)]
struct Untyped {
    stream: StreamId,
    bytes: [u8; 8],
    length: usize,
}

impl UniStreams {
    /// None yet; `role` is ours.
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            untyped: Vec::new(),
            control: None,
            encoder: None,
            decoder: None,
            closed: ClosedStreams::new(MAX_UNTYPED_STREAMS),
        }
    }

    /// The next step, consuming from `input`.
    pub(crate) fn next(
        &mut self,
        stream: StreamId,
        input: &mut Bytes,
        max_useless: u32,
    ) -> Result<Option<UniStep>, Fault> {
        if !self.is_typed(stream) {
            if self.closed.contains(number(stream)) {
                input.clear();
                return Ok(None);
            }
            match self.read_type(stream, input)? {
                Some(kind) if !self.open(stream, kind)? => {
                    self.close(stream)?;
                    input.clear();
                    return Ok(Some(UniStep::Unwanted));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
        if let Some((control_stream, control)) = &mut self.control
            && *control_stream == stream
        {
            return Ok(control.next(input, max_useless)?.map(UniStep::Control));
        }
        if self.encoder == Some(stream) {
            qpack_streams::read_encoder(input)?;
        }
        if let Some((decoder_stream, decoder)) = &mut self.decoder
            && *decoder_stream == stream
        {
            decoder.read(input)?;
        }
        input.clear();
        Ok(None)
    }

    /// The peer ended or reset a stream. "If either control stream is closed at any point, this
    /// MUST be treated as a connection error of type H3_CLOSED_CRITICAL_STREAM" (RFC 9114
    /// §6.2.1); the same holds for the QPACK streams (RFC 9204 §4.2). Others may end any time,
    /// even before their type is known (RFC 9114 §6.2).
    pub(crate) fn end(&mut self, stream: StreamId) -> Result<(), Fault> {
        if self.is_typed(stream) {
            let reason = "a control or QPACK stream was closed";
            return Err(Fault::Connection(Code::H3_CLOSED_CRITICAL_STREAM, reason));
        }
        self.untyped.retain(|untyped| untyped.stream != stream);
        self.close(stream)
    }

    /// The count of useless frames starts anew.
    pub(crate) fn reset_load(&mut self) {
        if let Some((_, control)) = &mut self.control {
            control.reset_load();
        }
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.untyped.capacity() * size_of::<Untyped>()
            + self
                .control
                .as_ref()
                .map_or(0, |(_, control)| control.retained_bytes())
            + self.closed.retained_bytes()
    }

    /// Whether the stream is one of the three that stay open.
    fn is_typed(&self, stream: StreamId) -> bool {
        self.control
            .as_ref()
            .is_some_and(|(control, _)| *control == stream)
            || self.encoder == Some(stream)
            || self
                .decoder
                .as_ref()
                .is_some_and(|(decoder, _)| *decoder == stream)
    }

    /// Reads the stream's type, byte by byte if it must.
    fn read_type(&mut self, stream: StreamId, input: &mut Bytes) -> Result<Option<u64>, Fault> {
        let index = match self
            .untyped
            .iter()
            .position(|untyped| untyped.stream == stream)
        {
            Some(index) => index,
            None if input.is_empty() => return Ok(None),
            None if self.untyped.len() >= MAX_UNTYPED_STREAMS => {
                let reason = "too many unidirectional streams without a type";
                return Err(Fault::Connection(Code::H3_EXCESSIVE_LOAD, reason));
            }
            None => {
                self.untyped.push(Untyped {
                    stream,
                    bytes: [0; 8],
                    length: 0,
                });
                self.untyped.len() - 1
            }
        };
        let untyped = &mut self.untyped[index];
        while !input.is_empty() {
            // A varint is whole after 8 bytes, so there is room while it is not.
            untyped.bytes[untyped.length] = input.get_u8();
            untyped.length += 1;
            if let Some((kind, _)) = varint::decode(&untyped.bytes[..untyped.length]) {
                self.untyped.swap_remove(index);
                return Ok(Some(kind));
            }
        }
        Ok(None)
    }

    /// Takes a stream of a known type into use; `false` if nobody reads such a stream.
    fn open(&mut self, stream: StreamId, kind: u64) -> Result<bool, Fault> {
        let repeated = match kind {
            CONTROL => self
                .control
                .replace((stream, Control::new(self.role)))
                .is_some(),
            QPACK_ENCODER => self.encoder.replace(stream).is_some(),
            QPACK_DECODER => self
                .decoder
                .replace((stream, DecoderStream::default()))
                .is_some(),
            // "Only servers can push; if a server receives a client-initiated push stream, this
            // MUST be treated as a connection error of type H3_STREAM_CREATION_ERROR." (§6.2.2)
            PUSH if self.role == Role::Server => {
                let reason = "push stream from a client";
                return Err(Fault::Connection(Code::H3_STREAM_CREATION_ERROR, reason));
            }
            // We send no MAX_PUSH_ID, so any push id is beyond it: H3_ID_ERROR (§4.6).
            PUSH => {
                let reason = "push stream without MAX_PUSH_ID";
                return Err(Fault::Connection(Code::H3_ID_ERROR, reason));
            }
            // "Recipients of unknown stream types MUST either abort reading of the stream or
            // discard incoming data without further processing. If reading is aborted, the
            // recipient SHOULD use the H3_STREAM_CREATION_ERROR error code" (§6.2)
            _ => return Ok(false),
        };
        if repeated {
            let reason = "second control or QPACK stream";
            return Err(Fault::Connection(Code::H3_STREAM_CREATION_ERROR, reason));
        }
        Ok(true)
    }

    fn close(&mut self, stream: StreamId) -> Result<(), Fault> {
        self.closed.insert(number(stream)).map_err(|_| {
            Fault::Connection(Code::H3_EXCESSIVE_LOAD, "too many streams were left out")
        })
    }
}

/// The position of a stream among those of its type (RFC 9000 §2.1).
const fn number(stream: StreamId) -> u64 {
    stream.0 >> 2
}
