//! The Capsule Protocol (RFC 9297 §3) with the capsules of CONNECT-IP (RFC 9484 §4.7).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use masque_http3::varint;

use crate::{AssignedAddress, CapsuleError, IpRange, RequestedAddress, route};

/// The longest ADDRESS_ASSIGN, ADDRESS_REQUEST or ROUTE_ADVERTISEMENT that is read, in bytes of its
/// value. RFC 9297 §3.2 leaves the limit to each capsule type; the longest lists in use have a few
/// hundred entries of at most 34 bytes.
pub const MAX_CONTROL_CAPSULE_BYTES: u64 = 64 * 1024;

/// The longest DATAGRAM capsule value that is read: the longest IP packet and the longest Context
/// ID. Longer ones are discarded without buffering.
pub const MAX_DATAGRAM_CAPSULE_BYTES: u64 = 65_535 + 8;

/// Capsule types (RFC 9297 §5.4, RFC 9484 §12.4).
pub mod capsule_type {
    /// DATAGRAM (RFC 9297 §3.5).
    pub const DATAGRAM: u64 = 0x00;
    /// ADDRESS_ASSIGN (RFC 9484 §4.7.1).
    pub const ADDRESS_ASSIGN: u64 = 0x01;
    /// ADDRESS_REQUEST (RFC 9484 §4.7.2).
    pub const ADDRESS_REQUEST: u64 = 0x02;
    /// ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3).
    pub const ROUTE_ADVERTISEMENT: u64 = 0x03;

    /// WRAP_UP (draft-ietf-httpbis-wrap-up §5): provisional; another value comes with the RFC. A peer
    /// that does not know this one skips it.
    pub const WRAP_UP: u64 = 0x272d_da5e;

    /// The `n`th type reserved to exercise that unknown types are ignored: 0x29·N + 0x17
    /// (RFC 9297 §5.4).
    pub const fn grease(n: u64) -> u64 {
        // 2^56 · 0x29 stays below 2^62.
        0x29 * (n & ((1 << 56) - 1)) + 0x17
    }
}

/// One capsule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capsule {
    /// An HTTP Datagram Payload: Context ID and what follows (RFC 9484 §6).
    Datagram(Bytes),
    /// The full list of prefixes now assigned to the receiver.
    AddressAssign(Vec<AssignedAddress>),
    /// Prefixes that the sender wants; at least one.
    AddressRequest(Vec<RequestedAddress>),
    /// The full list of ranges that the sender now routes, in the order of RFC 9484 §4.7.3.
    RouteAdvertisement(Vec<IpRange>),
    /// A capsule of another type; its value is skipped unread.
    Unknown {
        /// Its type.
        capsule_type: u64,
        /// The length of the value in bytes.
        length_bytes: u64,
    },
}

impl Capsule {
    /// The capsule on the wire. An unknown capsule has no value here, and encodes as an empty one.
    pub fn encode(&self) -> Bytes {
        let (capsule_type, value) = match self {
            Self::Datagram(payload) => (capsule_type::DATAGRAM, payload.clone()),
            Self::AddressAssign(list) => (
                capsule_type::ADDRESS_ASSIGN,
                encode_list(list, AssignedAddress::encode),
            ),
            Self::AddressRequest(list) => (
                capsule_type::ADDRESS_REQUEST,
                encode_list(list, RequestedAddress::encode),
            ),
            Self::RouteAdvertisement(list) => (
                capsule_type::ROUTE_ADVERTISEMENT,
                encode_list(list, IpRange::encode),
            ),
            Self::Unknown { capsule_type, .. } => (*capsule_type, Bytes::new()),
        };
        encode_raw(capsule_type, &value)
    }
}

/// A capsule of any type on the wire.
pub(crate) fn encode_raw(capsule_type: u64, value: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + value.len());
    varint::put(&mut out, capsule_type);
    varint::put(&mut out, value.len() as u64);
    out.put_slice(value);
    out.freeze()
}

fn encode_list<T>(list: &[T], encode: impl Fn(&T, &mut BytesMut)) -> Bytes {
    let mut value = BytesMut::new();
    for entry in list {
        encode(entry, &mut value);
    }
    value.freeze()
}

/// Type and length take at most two varints of 8 bytes.
const MAX_HEADER_BYTES: usize = 16;

/// Capsules out of a stream of bytes, however it is cut.
///
/// After each [`push`](Self::push), call [`poll`](Self::poll) until it gives `None`: then the
/// decoder holds at most one capsule header, or the value of one known capsule up to its maximum.
/// Unknown capsules pass through without being kept, whatever their length (RFC 9297 §3.2:
/// endpoints MUST silently drop a capsule of unknown type and skip over it to parse the next).
#[derive(Debug, Default)]
pub struct CapsuleDecoder {
    input: Bytes,
    state: State,
    discarded_datagrams: u64,
}

#[derive(Debug)]
enum State {
    Header {
        bytes: [u8; MAX_HEADER_BYTES],
        filled: usize,
    },
    Value {
        capsule_type: u64,
        length: usize,
        partial: BytesMut,
    },
    Skip {
        remaining_bytes: u64,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Header {
            bytes: [0; MAX_HEADER_BYTES],
            filled: 0,
        }
    }
}

impl CapsuleDecoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes of the stream. Bytes that [`poll`](Self::poll) has not consumed are
    /// copied together with them.
    pub fn push(&mut self, data: Bytes) {
        if self.input.is_empty() {
            self.input = data;
        } else {
            let mut joined = BytesMut::with_capacity(self.input.len() + data.len());
            joined.put_slice(&self.input);
            joined.put_slice(&data);
            self.input = joined.freeze();
        }
    }

    /// The next capsule, or `None` when more bytes are needed. A DATAGRAM capsule that lies in one
    /// pushed buffer is a slice of it.
    ///
    /// # Errors
    /// The stream is malformed ([`CapsuleError::code`]); the decoder must not be used again.
    pub fn poll(&mut self) -> Result<Option<Capsule>, CapsuleError> {
        loop {
            match &mut self.state {
                State::Header { .. } => match self.poll_header()? {
                    HeaderStep::NeedMore => return Ok(None),
                    HeaderStep::Again => {}
                    HeaderStep::Seen(capsule) => return Ok(Some(capsule)),
                },
                State::Value {
                    capsule_type,
                    length,
                    partial,
                } => {
                    let missing = *length - partial.len();
                    let value = if partial.is_empty() && self.input.len() >= missing {
                        self.input.split_to(missing)
                    } else {
                        let taken = missing.min(self.input.len());
                        partial.put_slice(&self.input.split_to(taken));
                        if taken < missing {
                            return Ok(None);
                        }
                        std::mem::take(partial).freeze()
                    };
                    let capsule_type = *capsule_type;
                    self.state = State::default();
                    return decode_value(capsule_type, value).map(Some);
                }
                State::Skip { remaining_bytes } => {
                    let available = self.input.len() as u64;
                    if available < *remaining_bytes {
                        *remaining_bytes -= available;
                        self.input.clear();
                        return Ok(None);
                    }
                    // Below `available`, which is a usize.
                    self.input.advance(*remaining_bytes as usize);
                    self.state = State::default();
                }
            }
        }
    }

    /// Says that the stream ended. Call it when [`poll`](Self::poll) gives `None`.
    ///
    /// # Errors
    /// [`CapsuleError::StreamEnded`] inside a capsule (RFC 9297 §3.3: if the receive side "is
    /// terminated cleanly … and the last capsule on the stream was truncated, this MUST be treated
    /// as if it were a malformed or incomplete message").
    pub fn finish(&self) -> Result<(), CapsuleError> {
        match (&self.state, self.input.is_empty()) {
            (State::Header { filled: 0, .. }, true) => Ok(()),
            _ => Err(CapsuleError::StreamEnded),
        }
    }

    /// DATAGRAM capsules that were too long and were discarded unread.
    pub const fn discarded_datagrams(&self) -> u64 {
        self.discarded_datagrams
    }

    /// Bytes held: pushed ones that are not consumed, and the part of a capsule that has arrived.
    pub fn buffered_bytes(&self) -> usize {
        self.input.len()
            + match &self.state {
                State::Header { filled, .. } => *filled,
                State::Value { partial, .. } => partial.len(),
                State::Skip { .. } => 0,
            }
    }

    /// Whether pushed bytes wait for [`poll`](Self::poll).
    pub fn has_unread(&self) -> bool {
        !self.input.is_empty()
    }

    fn poll_header(&mut self) -> Result<HeaderStep, CapsuleError> {
        let State::Header { bytes, filled } = &mut self.state else {
            return Ok(HeaderStep::Again);
        };
        let taken = (MAX_HEADER_BYTES - *filled).min(self.input.len());
        bytes[*filled..*filled + taken].copy_from_slice(&self.input[..taken]);
        let known = &bytes[..*filled + taken];
        let header = varint::decode(known).and_then(|(capsule_type, type_bytes)| {
            let (length, length_bytes) = varint::decode(&known[type_bytes..])?;
            Some((capsule_type, length, type_bytes + length_bytes))
        });
        let Some((capsule_type, length_bytes, header_bytes)) = header else {
            // Two varints fit in the header, so this is short of bytes and took all there were.
            *filled += taken;
            self.input.advance(taken);
            return Ok(HeaderStep::NeedMore);
        };
        self.input.advance(header_bytes - *filled);
        self.begin_value(capsule_type, length_bytes)
    }

    fn begin_value(
        &mut self,
        capsule_type: u64,
        length_bytes: u64,
    ) -> Result<HeaderStep, CapsuleError> {
        let max_bytes = match capsule_type {
            capsule_type::DATAGRAM => MAX_DATAGRAM_CAPSULE_BYTES,
            capsule_type::ADDRESS_ASSIGN
            | capsule_type::ADDRESS_REQUEST
            | capsule_type::ROUTE_ADVERTISEMENT => MAX_CONTROL_CAPSULE_BYTES,
            _ => {
                self.state = State::Skip {
                    remaining_bytes: length_bytes,
                };
                return Ok(HeaderStep::Seen(Capsule::Unknown {
                    capsule_type,
                    length_bytes,
                }));
            }
        };
        if length_bytes <= max_bytes {
            // At most 64 KiB and a few bytes. The buffer grows with what arrives, not with what is
            // announced.
            let length = length_bytes as usize;
            self.state = State::Value {
                capsule_type,
                length,
                partial: BytesMut::new(),
            };
            return Ok(HeaderStep::Again);
        }
        if capsule_type == capsule_type::DATAGRAM {
            // RFC 9297 §3.5: an endpoint that cannot take a DATAGRAM capsule of this size discards
            // it without buffering its value.
            self.discarded_datagrams = self.discarded_datagrams.saturating_add(1);
            self.state = State::Skip {
                remaining_bytes: length_bytes,
            };
            return Ok(HeaderStep::Again);
        }
        Err(CapsuleError::TooLong {
            capsule_type,
            length_bytes,
            max_bytes,
        })
    }
}

enum HeaderStep {
    NeedMore,
    Again,
    Seen(Capsule),
}

fn decode_value(capsule_type: u64, value: Bytes) -> Result<Capsule, CapsuleError> {
    let mut reader = Reader {
        capsule_type,
        rest: &value,
    };
    match capsule_type {
        capsule_type::ADDRESS_ASSIGN => reader
            .entries(AssignedAddress::decode)
            .map(Capsule::AddressAssign),
        capsule_type::ADDRESS_REQUEST => {
            let list = reader.entries(RequestedAddress::decode)?;
            // RFC 9484 §4.7.2: "If an endpoint receives an ADDRESS_REQUEST capsule that contains
            // zero Requested Addresses, it MUST abort the IP proxying request stream."
            if list.is_empty() {
                return Err(CapsuleError::EmptyAddressRequest);
            }
            Ok(Capsule::AddressRequest(list))
        }
        capsule_type::ROUTE_ADVERTISEMENT => {
            let list = reader.entries(IpRange::decode)?;
            route::check_order(&list)?;
            Ok(Capsule::RouteAdvertisement(list))
        }
        _ => Ok(Capsule::Datagram(value)),
    }
}

/// Reads the fields of a capsule value; running short is an error of the capsule.
pub(crate) struct Reader<'a> {
    capsule_type: u64,
    rest: &'a [u8],
}

impl Reader<'_> {
    pub(crate) fn varint(&mut self) -> Result<u64, CapsuleError> {
        let (value, length) = varint::decode(self.rest).ok_or_else(|| self.truncated())?;
        self.rest = &self.rest[length..];
        Ok(value)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CapsuleError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], CapsuleError> {
        let (bytes, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn entries<T>(
        &mut self,
        decode: impl Fn(&mut Self) -> Result<T, CapsuleError>,
    ) -> Result<Vec<T>, CapsuleError> {
        let mut list = Vec::new();
        while !self.rest.is_empty() {
            list.push(decode(self)?);
        }
        Ok(list)
    }

    const fn truncated(&self) -> CapsuleError {
        CapsuleError::Truncated {
            capsule_type: self.capsule_type,
        }
    }
}

#[cfg(test)]
mod tests;
