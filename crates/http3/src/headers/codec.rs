//! Field sections on the wire: QPACK without a dynamic table (RFC 9204).

use bytes::{Bytes, BytesMut};
use qpack::{DecoderError, HeaderField};

use crate::{
    Code, RequestHead, ResponseHead, SendError,
    error::Fault,
    frame,
    headers::validate::{self, Malformed},
};

/// A decoded field line; nothing about it is checked yet.
pub(crate) type Line = HeaderField;

/// Decodes a field section whose size, as RFC 9114 §4.2.2 counts it, is at most `max_bytes`.
///
/// The caller has bounded the encoded length, so that Huffman coding (at best 5 bits a byte) and
/// references to the static table cannot make more of it than the check below lets pass.
pub(crate) fn decode(mut section: Bytes, max_bytes: u64) -> Result<Vec<Line>, Fault> {
    // The crate reads the prefix and, having no table, forgets it. "If the decoder encounters a
    // value of EncodedInsertCount that could not have been produced by a conformant encoder, it
    // MUST treat this as a connection error of type QPACK_DECOMPRESSION_FAILED" (RFC 9204
    // §4.5.1.1); we announce a table capacity of 0, so only 0 is possible. A negative Base is
    // invalid with it (§4.5.1.2).
    match section.as_ref() {
        [0, sign_and_delta, ..] if sign_and_delta & 0x80 == 0 => {}
        _ => return Err(failed("field section refers to a dynamic table")),
    }
    match qpack::decode_stateless(&mut section, max_bytes) {
        Ok(decoded) => Ok(decoded.fields),
        Err(DecoderError::HeaderTooLong(_)) => Err(Fault::FieldSectionTooLarge),
        Err(_) => Err(failed("field section cannot be decoded")),
    }
}

const fn failed(reason: &'static str) -> Fault {
    Fault::Connection(Code::QPACK_DECOMPRESSION_FAILED, reason)
}

/// A HEADERS frame with a request in it, checked against the rules and the peer's limit.
pub(crate) fn encode_request(head: &RequestHead, limit_bytes: u64) -> Result<Bytes, SendError> {
    let pseudo = [
        (":method", Some(&head.method)),
        (":protocol", head.protocol.as_ref()),
        (":scheme", head.scheme.as_ref()),
        (":authority", head.authority.as_ref()),
        (":path", head.path.as_ref()),
    ];
    let lines: Vec<Line> = pseudo
        .into_iter()
        .filter_map(|(name, value)| Some(Line::new(name, value?.as_str())))
        .chain(
            head.fields
                .iter()
                .map(|field| Line::new(field.name.as_str(), &*field.value)),
        )
        .collect();
    validate::request(&lines)?;
    encode(&lines, limit_bytes)
}

/// A HEADERS frame with a response in it, checked against the rules and the peer's limit.
pub(crate) fn encode_response(head: &ResponseHead, limit_bytes: u64) -> Result<Bytes, SendError> {
    let lines: Vec<Line> = std::iter::once(Line::new(":status", head.status.to_string()))
        .chain(
            head.fields
                .iter()
                .map(|field| Line::new(field.name.as_str(), &*field.value)),
        )
        .collect();
    validate::response(&lines)?;
    encode(&lines, limit_bytes)
}

fn encode(lines: &[Line], limit_bytes: u64) -> Result<Bytes, SendError> {
    // "An implementation that has received this parameter SHOULD NOT send an HTTP message header
    // that exceeds the indicated size" (RFC 9114 §4.2.2).
    let size_bytes: u64 = lines.iter().map(|line| line.mem_size() as u64).sum();
    if size_bytes > limit_bytes {
        return Err(SendError::FieldSectionTooLarge {
            size_bytes,
            limit_bytes,
        });
    }
    let mut section = Vec::new();
    qpack::encode_stateless(&mut section, lines)
        .map_err(|_| SendError::Malformed("QPACK cannot encode the header section"))?;
    let mut out = BytesMut::with_capacity(section.len() + 9);
    frame::put_header(&mut out, frame::HEADERS, section.len());
    out.extend_from_slice(&section);
    Ok(out.freeze())
}

impl From<Malformed> for SendError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl From<Malformed> for Fault {
    /// "Malformed requests or responses (...) MUST be treated as a stream error of type
    /// H3_MESSAGE_ERROR" (RFC 9114 §4.1.2).
    fn from(_: Malformed) -> Self {
        Self::Stream(Code::H3_MESSAGE_ERROR)
    }
}
