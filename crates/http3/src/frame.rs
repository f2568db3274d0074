//! HTTP/3 frames out of a byte stream cut anywhere (RFC 9114 §7.1).

use bytes::{Buf, Bytes, BytesMut};

use crate::varint;

/// DATA (RFC 9114 §7.2.1).
pub(crate) const DATA: u64 = 0x00;
/// HEADERS (§7.2.2).
pub(crate) const HEADERS: u64 = 0x01;
/// CANCEL_PUSH (§7.2.3).
pub(crate) const CANCEL_PUSH: u64 = 0x03;
/// SETTINGS (§7.2.4).
pub(crate) const SETTINGS: u64 = 0x04;
/// PUSH_PROMISE (§7.2.5).
pub(crate) const PUSH_PROMISE: u64 = 0x05;
/// GOAWAY (§7.2.6).
pub(crate) const GOAWAY: u64 = 0x07;
/// MAX_PUSH_ID (§7.2.7).
pub(crate) const MAX_PUSH_ID: u64 = 0x0d;

/// Frame types of HTTP/2 without a counterpart: "These frame types MUST NOT be sent, and their
/// receipt MUST be treated as a connection error of type H3_FRAME_UNEXPECTED." (RFC 9114 §7.2.8)
pub(crate) const fn is_reserved_http2(kind: u64) -> bool {
    matches!(kind, 0x02 | 0x06 | 0x08 | 0x09)
}

/// What to do with the payload of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Hand it through piece by piece.
    Stream,
    /// Hand it out once it is whole. The caller has checked the length against a bound.
    Collect,
    /// Drop it as it comes.
    Skip,
}

/// A step of the decoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A frame begins; answer with [`FrameDecoder::treat`], else its payload is skipped.
    Header {
        /// Frame type.
        kind: u64,
        /// Payload bytes.
        length: u64,
    },
    /// A piece of a streamed payload, never empty.
    Piece(Bytes),
    /// A collected payload.
    Whole {
        /// Frame type.
        kind: u64,
        /// The payload.
        payload: Bytes,
    },
}

/// Cuts a stream into frames; keeps only a partial frame header and a payload being collected.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    /// The frame header bytes so far: two varints at most.
    header: [u8; 16],
    header_length: usize,
    /// The frame whose payload is being read.
    body: Option<Body>,
    collected: BytesMut,
}

#[derive(Debug)]
struct Body {
    kind: u64,
    left: u64,
    treatment: Treatment,
}

impl FrameDecoder {
    /// The next step, consuming from `input`; `None` when all of it is used.
    pub(crate) fn next(&mut self, input: &mut Bytes) -> Option<Step> {
        loop {
            let Some(body) = &mut self.body else {
                return self.header(input);
            };
            if body.treatment == Treatment::Collect {
                return self.collect(input);
            }
            let piece = take(input, body.left);
            body.left -= piece.len() as u64;
            let done = body.left == 0;
            let streamed = body.treatment == Treatment::Stream && !piece.is_empty();
            if done {
                self.body = None;
            }
            if streamed {
                return Some(Step::Piece(piece));
            }
            if !done {
                return None;
            }
        }
    }

    /// Decides about the frame whose header was just returned.
    pub(crate) fn treat(&mut self, treatment: Treatment) {
        if let Some(body) = &mut self.body {
            body.treatment = treatment;
        }
    }

    /// Whether the stream stands between two frames: "When a stream terminates cleanly, if the
    /// last frame on the stream was truncated, this MUST be treated as a connection error of type
    /// H3_FRAME_ERROR" (RFC 9114 §7.1).
    pub(crate) fn is_between_frames(&self) -> bool {
        self.body.is_none() && self.header_length == 0
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.collected.capacity()
    }

    fn header(&mut self, input: &mut Bytes) -> Option<Step> {
        loop {
            let known = &self.header[..self.header_length];
            if let Some((kind, used)) = varint::decode(known)
                && let Some((length, _)) = varint::decode(&known[used..])
            {
                self.header_length = 0;
                self.body = Some(Body {
                    kind,
                    left: length,
                    treatment: Treatment::Skip,
                });
                return Some(Step::Header { kind, length });
            }
            // Two varints take 16 bytes at most, so there is room while they are incomplete.
            if input.is_empty() {
                return None;
            }
            self.header[self.header_length] = input.get_u8();
            self.header_length += 1;
        }
    }

    fn collect(&mut self, input: &mut Bytes) -> Option<Step> {
        let body = self.body.as_mut()?;
        let piece = take(input, body.left);
        body.left -= piece.len() as u64;
        let kind = body.kind;
        if body.left > 0 {
            self.collected.extend_from_slice(&piece);
            return None;
        }
        self.body = None;
        let payload = if self.collected.is_empty() {
            piece
        } else {
            self.collected.extend_from_slice(&piece);
            std::mem::take(&mut self.collected).freeze()
        };
        Some(Step::Whole { kind, payload })
    }
}

/// Up to `limit` bytes off the front of `input`, without copying.
fn take(input: &mut Bytes, limit: u64) -> Bytes {
    let length = usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .min(input.len());
    input.split_to(length)
}

/// Appends a frame's type and length.
pub(crate) fn put_header(out: &mut BytesMut, kind: u64, length: usize) {
    varint::put(out, kind);
    varint::put(out, length as u64);
}

/// A frame whose payload is one varint (GOAWAY, MAX_PUSH_ID, CANCEL_PUSH); `None` when the
/// payload is anything but one whole varint.
pub(crate) fn decode_id(payload: &[u8]) -> Option<u64> {
    match varint::decode(payload) {
        Some((id, used)) if used == payload.len() => Some(id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Treats DATA as a stream, HEADERS as collected, the rest as skipped.
    fn steps(decoder: &mut FrameDecoder, input: &[u8], chunk: usize) -> Vec<Step> {
        let mut out = Vec::new();
        for part in input.chunks(chunk) {
            let mut part = Bytes::copy_from_slice(part);
            while let Some(step) = decoder.next(&mut part) {
                if let Step::Header { kind, .. } = step {
                    decoder.treat(match kind {
                        DATA => Treatment::Stream,
                        HEADERS => Treatment::Collect,
                        _ => Treatment::Skip,
                    });
                }
                match (out.last_mut(), step) {
                    (Some(Step::Piece(last)), Step::Piece(piece)) => {
                        *last = [&last[..], &piece[..]].concat().into();
                    }
                    (_, step) => out.push(step),
                }
            }
            assert!(part.is_empty());
        }
        out
    }

    #[test]
    fn every_split_gives_the_same_frames() {
        let input = [
            &[0x01, 0x03][..], // HEADERS
            b"abc",
            &[0x40, 0x21, 0x40, 0x02, 0xff, 0xff], // unknown, both varints longer than needed
            &[0x00, 0x04],                         // DATA
            b"data",
            &[0x01, 0x00, 0x00, 0x00], // empty HEADERS, empty DATA
        ]
        .concat();
        let whole = steps(&mut FrameDecoder::default(), &input, input.len());
        assert_eq!(whole.len(), 8, "{whole:?}");
        assert_eq!(
            whole[1],
            Step::Whole {
                kind: HEADERS,
                payload: "abc".into()
            }
        );
        assert_eq!(whole[4], Step::Piece("data".into()));
        assert_eq!(
            whole[6],
            Step::Whole {
                kind: HEADERS,
                payload: Bytes::new()
            }
        );
        for chunk in 1..input.len() {
            let mut decoder = FrameDecoder::default();
            assert_eq!(
                steps(&mut decoder, &input, chunk),
                whole,
                "chunks of {chunk}"
            );
            assert!(decoder.is_between_frames());
        }
    }

    #[test]
    fn a_streamed_payload_is_not_copied() {
        let input = Bytes::from_static(&[0x00, 0x02, 7, 8]);
        let mut rest = input.clone();
        let mut decoder = FrameDecoder::default();
        assert_eq!(
            decoder.next(&mut rest),
            Some(Step::Header {
                kind: DATA,
                length: 2
            })
        );
        decoder.treat(Treatment::Stream);
        let Some(Step::Piece(piece)) = decoder.next(&mut rest) else {
            panic!("no piece")
        };
        assert_eq!(piece.as_ptr(), input[2..].as_ptr());
    }

    #[test]
    fn a_skipped_payload_is_not_kept() {
        let mut decoder = FrameDecoder::default();
        let mut input = Bytes::from_static(&[0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(
            decoder.next(&mut input),
            Some(Step::Header { kind: 0x21, .. })
        ));
        for _ in 0..100 {
            assert_eq!(decoder.next(&mut Bytes::from_static(&[0; 4096])), None);
        }
        assert_eq!(decoder.retained_bytes(), 0);
        assert!(!decoder.is_between_frames());
    }
}
