//! The peer's control stream (RFC 9114 §6.2.1, §7.2).

use bytes::Bytes;

use crate::{
    Code, Role,
    error::Fault,
    frame::{self, FrameDecoder, Step, Treatment},
    load::UselessFrames,
    settings::{MAX_SETTINGS_BYTES, PeerSettings},
};

/// What the peer's control stream says.
#[derive(Debug)]
pub(crate) enum ControlFrame {
    /// Its settings, once.
    Settings(PeerSettings),
    /// It goes away.
    GoAway(u64),
}

/// The state of the peer's control stream.
#[derive(Debug)]
pub(crate) struct Control {
    role: Role,
    frames: FrameDecoder,
    has_settings: bool,
    max_push_id: Option<u64>,
    useless: UselessFrames,
}

impl Control {
    /// At its first frame; `role` is ours.
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            frames: FrameDecoder::default(),
            has_settings: false,
            max_push_id: None,
            useless: UselessFrames::default(),
        }
    }

    /// The next frame that matters, consuming from `input`.
    pub(crate) fn next(
        &mut self,
        input: &mut Bytes,
        max_useless: u32,
    ) -> Result<Option<ControlFrame>, Fault> {
        while let Some(step) = self.frames.next(input) {
            match step {
                Step::Header { kind, length } => {
                    let treatment = self.admit(kind, length, max_useless)?;
                    self.frames.treat(treatment);
                }
                Step::Whole { kind, payload } => {
                    if let Some(frame) = self.read(kind, &payload)? {
                        return Ok(Some(frame));
                    }
                }
                Step::Piece(_) => {}
            }
        }
        Ok(None)
    }

    /// The count of useless frames starts anew.
    pub(crate) fn reset_load(&mut self) {
        self.useless.reset();
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.frames.retained_bytes()
    }

    /// Decides about a frame by its type and length, before any of it is kept.
    fn admit(&mut self, kind: u64, length: u64, max_useless: u32) -> Result<Treatment, Fault> {
        let unexpected = |reason| Err(Fault::Connection(Code::H3_FRAME_UNEXPECTED, reason));
        match kind {
            // "If the first frame of the control stream is any other frame type, this MUST be
            // treated as a connection error of type H3_MISSING_SETTINGS." (§6.2.1)
            _ if !self.has_settings && kind != frame::SETTINGS => {
                let reason = "the control stream does not begin with SETTINGS";
                return Err(Fault::Connection(Code::H3_MISSING_SETTINGS, reason));
            }
            // "If an endpoint receives a second SETTINGS frame on the control stream, the
            // endpoint MUST respond with a connection error of type H3_FRAME_UNEXPECTED."
            // (§7.2.4)
            frame::SETTINGS if self.has_settings => unexpected("second SETTINGS"),
            frame::SETTINGS if length > MAX_SETTINGS_BYTES => {
                let reason = "SETTINGS is too long";
                return Err(Fault::Connection(Code::H3_EXCESSIVE_LOAD, reason));
            }
            frame::SETTINGS => {
                self.has_settings = true;
                return Ok(Treatment::Collect);
            }
            frame::DATA | frame::HEADERS | frame::PUSH_PROMISE => {
                unexpected("DATA, HEADERS or PUSH_PROMISE on the control stream")
            }
            _ if frame::is_reserved_http2(kind) => unexpected("frame type of HTTP/2"),
            // "A server MUST NOT send a MAX_PUSH_ID frame." (§7.2.7)
            frame::MAX_PUSH_ID if self.role == Role::Client => unexpected("MAX_PUSH_ID"),
            frame::GOAWAY | frame::MAX_PUSH_ID | frame::CANCEL_PUSH => {
                // The payload is one varint, of 1 to 8 bytes.
                if !(1..=8).contains(&length) {
                    return Err(Fault::Connection(
                        Code::H3_FRAME_ERROR,
                        "frame of wrong length",
                    ));
                }
                Ok(Treatment::Collect)
            }
            _ => Ok(Treatment::Skip),
        }
        .and_then(|treatment| self.useless.add(max_useless).map(|()| treatment))
    }

    fn read(&mut self, kind: u64, payload: &[u8]) -> Result<Option<ControlFrame>, Fault> {
        if kind == frame::SETTINGS {
            return PeerSettings::decode(payload)
                .map(ControlFrame::Settings)
                .map(Some);
        }
        let Some(id) = frame::decode_id(payload) else {
            return Err(Fault::Connection(
                Code::H3_FRAME_ERROR,
                "frame is not one integer",
            ));
        };
        match kind {
            frame::GOAWAY => Ok(Some(ControlFrame::GoAway(id))),
            // "receipt of a MAX_PUSH_ID frame that contains a smaller value than previously
            // received MUST be treated as a connection error of type H3_ID_ERROR" (§7.2.7)
            frame::MAX_PUSH_ID if self.max_push_id.is_some_and(|earlier| id < earlier) => Err(
                Fault::Connection(Code::H3_ID_ERROR, "MAX_PUSH_ID became smaller"),
            ),
            frame::MAX_PUSH_ID => {
                self.max_push_id = Some(id);
                Ok(None)
            }
            // We promise no push as a server and allow none as a client, so every push id is one
            // that may not be named: H3_ID_ERROR (§7.2.3).
            _ => Err(Fault::Connection(
                Code::H3_ID_ERROR,
                "CANCEL_PUSH without a push",
            )),
        }
    }
}
