//! HTTP/3 frames, as bytes.

use bytes::{BufMut, BytesMut};
use masque_http3::varint;
use qpack::HeaderField;

/// Frame types (RFC 9114 §7.2).
pub const DATA: u64 = 0x0;
/// HEADERS.
pub const HEADERS: u64 = 0x1;
/// SETTINGS.
pub const SETTINGS: u64 = 0x4;
/// GOAWAY.
pub const GOAWAY: u64 = 0x7;

/// Capsule types (RFC 9484 §4.7).
pub const ADDRESS_ASSIGN: u64 = 1;
/// ADDRESS_REQUEST.
pub const ADDRESS_REQUEST: u64 = 2;
/// ROUTE_ADVERTISEMENT.
pub const ROUTE_ADVERTISEMENT: u64 = 3;

/// One frame.
pub fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    varint::put(&mut out, kind);
    varint::put(&mut out, payload.len() as u64);
    out.put_slice(payload);
    out.to_vec()
}

/// A control stream that begins as it should.
pub fn control(settings: &[(u64, u64)]) -> Vec<u8> {
    let mut payload = BytesMut::new();
    for (id, value) in settings {
        varint::put(&mut payload, *id);
        varint::put(&mut payload, *value);
    }
    let mut out = vec![0];
    out.extend(frame(SETTINGS, &payload));
    out
}

/// The settings of an ordinary client.
pub const USUAL: [(u64, u64); 2] = [(0x33, 1), (0x6, 16_384)];

/// A HEADERS frame; names and values as given, right or wrong.
pub fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let fields = fields
        .iter()
        .map(|(name, value)| HeaderField::new(name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    let mut block = BytesMut::new();
    qpack::encode_stateless(&mut block, fields).expect("a field section");
    frame(HEADERS, &block)
}

/// The request for a tunnel to production, whole.
pub fn connect_ip(path: &str) -> Vec<u8> {
    headers(&[
        (":method", "CONNECT"),
        (":protocol", "connect-ip"),
        (":scheme", "https"),
        (":authority", "192.0.2.1:4433"),
        (":path", path),
        ("capsule-protocol", "?1"),
    ])
}

/// A tunnel to everything.
pub const PATH: &str = "/vpc/production-vpc/masque/ip/*/*/";

/// One capsule in one DATA frame.
pub fn capsule(kind: u64, value: &[u8]) -> Vec<u8> {
    frame(DATA, &frame(kind, value))
}

/// The next frame of `input` and how long it is; `None` if it is not whole.
pub fn split(input: &[u8]) -> Option<(u64, Vec<u8>, usize)> {
    let (kind, first) = varint::decode(input)?;
    let (length, second) = varint::decode(&input[first..])?;
    let start = first + second;
    let end = start + usize::try_from(length).ok()?;
    Some((kind, input.get(start..end)?.to_vec(), end))
}

/// `:status` of a field section.
pub fn status(block: &[u8]) -> u16 {
    let decoded = qpack::decode_stateless(&mut &block[..], 65_536).expect("a field section");
    let mut fields = decoded.fields.into_iter().map(|field| field.into_inner());
    let (_, value) = fields
        .find(|(name, _)| name.as_ref() == b":status")
        .expect(":status");
    std::str::from_utf8(&value)
        .expect("text")
        .parse()
        .expect("a number")
}

/// A field's value in a field section.
pub fn field(block: &[u8], wanted: &str) -> Option<String> {
    let decoded = qpack::decode_stateless(&mut &block[..], 65_536).expect("a field section");
    let mut fields = decoded.fields.into_iter().map(|field| field.into_inner());
    let (_, value) = fields.find(|(name, _)| name.as_ref() == wanted.as_bytes())?;
    Some(String::from_utf8_lossy(&value).into_owned())
}
