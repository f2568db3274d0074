//! Context IDs of HTTP Datagrams (RFC 9484 §5, §6).

use bytes::{Buf, Bytes};
use masque_http3::{StreamId, varint};

use crate::{Role, capsule_type};

/// The Context ID of IP packets.
pub const IP_PACKET: u64 = 0;

/// What precedes an IP packet in an HTTP Datagram Payload: Context ID 0.
pub const IP_PACKET_PREFIX: [u8; 1] = [0];

/// Which end allocates a Context ID: "Non-zero even-numbered Context IDs are client-allocated, and
/// odd-numbered Context IDs are proxy-allocated" (RFC 9484 §5). `None` for 0, which nobody does.
pub const fn allocated_by(context_id: u64) -> Option<Role> {
    match context_id {
        IP_PACKET => None,
        id if id % 2 == 0 => Some(Role::Client),
        _ => Some(Role::Proxy),
    }
}

/// Splits an HTTP Datagram Payload into its Context ID and the rest, without copying. `None` when
/// it ends inside the Context ID.
pub fn split(mut payload: Bytes) -> Option<(u64, Bytes)> {
    let (context_id, length) = varint::decode(&payload)?;
    payload.advance(length);
    Some((context_id, payload))
}

/// What precedes an IP packet in a QUIC DATAGRAM frame: Quarter Stream ID (RFC 9297 §2.1) and
/// Context ID 0. Made once per tunnel, copied before each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramPrefix {
    bytes: [u8; 9],
    length: u8,
}

impl DatagramPrefix {
    /// The prefix of the tunnel on `stream`.
    pub const fn new(stream: StreamId) -> Self {
        let (quarter, length) = varint::encode(stream.quarter());
        // The byte behind the varint is already the Context ID: 0.
        let mut bytes = [0; 9];
        let mut index = 0;
        while index < length {
            bytes[index] = quarter[index];
            index += 1;
        }
        Self {
            bytes,
            length: length as u8 + 1,
        }
    }

    /// The bytes; 2 to 9 of them.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// What precedes an IP packet of `packet_bytes` bytes in a DATAGRAM capsule (RFC 9297 §3.5): Type,
/// Length and Context ID 0; the first `usize` bytes of the array.
pub fn datagram_capsule_prefix(packet_bytes: usize) -> ([u8; 10], usize) {
    let length = packet_bytes as u64 + IP_PACKET_PREFIX.len() as u64;
    let (encoded, length_bytes) = varint::encode(length);
    let mut prefix = [0; 10];
    prefix[0] = capsule_type::DATAGRAM as u8;
    prefix[1..=length_bytes].copy_from_slice(&encoded[..length_bytes]);
    (prefix, length_bytes + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n56_allocation_is_by_parity() {
        assert_eq!(allocated_by(0), None);
        assert_eq!(allocated_by(2), Some(Role::Client));
        assert_eq!(allocated_by(3), Some(Role::Proxy));
        assert_eq!(allocated_by(varint::MAX), Some(Role::Proxy));
    }

    #[test]
    fn n56_payload_splits_without_copying() {
        let payload = Bytes::from_static(&[0x40, 0x02, 0x45, 0x00]);
        let (id, rest) = split(payload.clone()).unwrap();
        assert_eq!(
            (id, &rest[..]),
            (2, &[0x45, 0x00][..]),
            "non-minimal varints are legal"
        );
        assert_eq!(rest.as_ptr(), payload[2..].as_ptr());
        assert_eq!(split(Bytes::new()), None);
        assert_eq!(split(Bytes::from_static(&[0xc0, 0, 0])), None);
        assert_eq!(split(Bytes::from_static(&[0])), Some((0, Bytes::new())));
    }

    #[test]
    fn n22_datagram_prefix_is_quarter_stream_id_and_context_zero() {
        assert_eq!(DatagramPrefix::new(StreamId(44)).as_slice(), [11, 0]);
        let large = DatagramPrefix::new(StreamId(1 << 40));
        let (quarter, used) = varint::decode(large.as_slice()).unwrap();
        assert_eq!((quarter, &large.as_slice()[used..]), (1 << 38, &[0][..]));
        assert_eq!(large.as_slice().len(), 9);
    }

    #[test]
    fn n78_capsule_prefix_frames_a_packet() {
        for packet_bytes in [0, 20, 62, 63, 1500, 65_535] {
            let (prefix, used) = datagram_capsule_prefix(packet_bytes);
            let mut decoder = crate::CapsuleDecoder::new();
            decoder.push([&prefix[..used], &vec![7; packet_bytes]].concat().into());
            let Some(crate::Capsule::Datagram(payload)) = decoder.poll().unwrap() else {
                panic!("no datagram for {packet_bytes}");
            };
            assert_eq!(payload.len(), packet_bytes + 1);
            assert_eq!(payload[0], 0);
            decoder.finish().unwrap();
        }
    }
}
