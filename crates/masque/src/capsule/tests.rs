use proptest::prelude::*;

use super::*;
use crate::from_prefixes;

/// Every capsule of a stream given in pieces, and what ended it.
fn decode(pieces: &[&[u8]]) -> (Vec<Capsule>, Result<(), CapsuleError>) {
    let mut decoder = CapsuleDecoder::new();
    let mut capsules = Vec::new();
    for piece in pieces {
        decoder.push(Bytes::copy_from_slice(piece));
        loop {
            match decoder.poll() {
                Ok(Some(capsule)) => capsules.push(capsule),
                Ok(None) => break,
                Err(error) => return (capsules, Err(error)),
            }
        }
    }
    let end = decoder.finish();
    (capsules, end)
}

fn unknown(capsule_type: u64, length_bytes: u64) -> Capsule {
    Capsule::Unknown {
        capsule_type,
        length_bytes,
    }
}

fn header(capsule_type: u64, length: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(&mut out, capsule_type);
    varint::put(&mut out, length);
    out
}

#[test]
fn n28_unknown_capsules_are_skipped_in_full() {
    let stream = [
        encode_raw(capsule_type::grease(0), b""),
        encode_raw(0x1ace_79ec, &[0xff; 300]),
        Capsule::Datagram(Bytes::from_static(&[0, 0x45])).encode(),
        encode_raw(capsule_type::grease(1 << 50), b"x"),
    ]
    .concat();
    let expected = vec![
        unknown(0x17, 0),
        unknown(0x1ace_79ec, 300),
        Capsule::Datagram(Bytes::from_static(&[0, 0x45])),
        unknown(0x29 * (1 << 50) + 0x17, 1),
    ];
    assert_eq!(decode(&[&stream]), (expected.clone(), Ok(())));
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(decode(&single), (expected, Ok(())));
    assert!(capsule_type::grease(u64::MAX) <= varint::MAX);
}

#[test]
fn n29_a_huge_unknown_capsule_needs_no_memory() {
    let mut decoder = CapsuleDecoder::new();
    decoder.push(header(0x4242, varint::MAX).into());
    assert_eq!(decoder.poll(), Ok(Some(unknown(0x4242, varint::MAX))));
    let megabyte = Bytes::from(vec![0; 1 << 20]);
    for _ in 0..64 {
        decoder.push(megabyte.clone());
        assert_eq!(decoder.poll(), Ok(None));
        assert_eq!(decoder.buffered_bytes(), 0);
    }
    assert_eq!(decoder.finish(), Err(CapsuleError::StreamEnded));
}

#[test]
fn n29_control_capsules_are_bounded() {
    for capsule_type in 1..=3 {
        let mut decoder = CapsuleDecoder::new();
        decoder.push(header(capsule_type, MAX_CONTROL_CAPSULE_BYTES).into());
        assert_eq!(decoder.poll(), Ok(None), "the longest is read");
        let length_bytes = MAX_CONTROL_CAPSULE_BYTES + 1;
        let error = decode(&[&header(capsule_type, length_bytes)])
            .1
            .unwrap_err();
        let max_bytes = MAX_CONTROL_CAPSULE_BYTES;
        assert_eq!(
            error,
            CapsuleError::TooLong {
                capsule_type,
                length_bytes,
                max_bytes
            }
        );
        assert_eq!(error.code(), masque_http3::Code::H3_EXCESSIVE_LOAD);
    }
}

#[test]
fn n29_announced_length_reserves_no_memory() {
    let mut decoder = CapsuleDecoder::new();
    decoder.push(header(1, MAX_CONTROL_CAPSULE_BYTES).into());
    assert_eq!(decoder.poll(), Ok(None));
    let State::Value { partial, .. } = &decoder.state else {
        panic!("no value")
    };
    assert_eq!(partial.capacity(), 0);
}

#[test]
fn n33_oversize_datagram_capsules_are_discarded_unbuffered() {
    let mut decoder = CapsuleDecoder::new();
    let length = MAX_DATAGRAM_CAPSULE_BYTES + 1;
    decoder.push(header(0, length).into());
    for _ in 0..length {
        assert_eq!(decoder.poll(), Ok(None));
        decoder.push(Bytes::from_static(&[0]));
    }
    assert_eq!(decoder.poll(), Ok(None));
    assert_eq!(
        (decoder.buffered_bytes(), decoder.discarded_datagrams()),
        (0, 1)
    );
    decoder.finish().unwrap();
    decoder.push(Capsule::Datagram(Bytes::from_static(&[0, 1])).encode());
    assert_eq!(
        decoder.poll(),
        Ok(Some(Capsule::Datagram(Bytes::from_static(&[0, 1]))))
    );
}

#[test]
fn n33_a_whole_datagram_is_not_copied() {
    let mut stream = BytesMut::new();
    for byte in [1, 2] {
        stream.put_slice(&Capsule::Datagram(Bytes::from(vec![byte; 100])).encode());
    }
    let stream = stream.freeze();
    let mut decoder = CapsuleDecoder::new();
    decoder.push(stream.clone());
    for offset in [3, 106] {
        let Some(Capsule::Datagram(payload)) = decoder.poll().unwrap() else {
            panic!("none")
        };
        assert_eq!(payload.as_ptr(), stream[offset..].as_ptr());
    }
}

#[test]
fn n31_truncation_at_the_end_of_the_stream() {
    let stream = Capsule::Datagram(Bytes::from_static(&[0, 0x45, 0])).encode();
    assert_eq!(decode(&[&stream]).1, Ok(()));
    assert_eq!(decode(&[]).1, Ok(()));
    for end in 1..stream.len() {
        let (capsules, result) = decode(&[&stream[..end]]);
        assert_eq!(
            (capsules, result),
            (vec![], Err(CapsuleError::StreamEnded)),
            "{end}"
        );
    }
    assert_eq!(
        CapsuleError::StreamEnded.code(),
        masque_http3::Code::H3_MESSAGE_ERROR
    );
    assert_eq!(
        decode(&[&header(0x4242, 1)]).1,
        Err(CapsuleError::StreamEnded)
    );
}

#[test]
fn n28_types_and_lengths_in_long_varints() {
    // Type 0 and length 2, in eight bytes each.
    let mut stream = vec![0xc0, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 2];
    stream.extend([0, 0x60]);
    let expected = vec![Capsule::Datagram(Bytes::from_static(&[0, 0x60]))];
    assert_eq!(decode(&[&stream]), (expected.clone(), Ok(())));
    let single: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(decode(&single), (expected, Ok(())));
}

fn prefix() -> impl Strategy<Value = ipnet::IpNet> {
    let v4 = (any::<u32>(), 0..=32u8).prop_map(|(bits, length)| {
        ipnet::IpNet::new(std::net::Ipv4Addr::from(bits).into(), length)
    });
    let v6 = (any::<u128>(), 0..=128u8).prop_map(|(bits, length)| {
        ipnet::IpNet::new(std::net::Ipv6Addr::from(bits).into(), length)
    });
    prop_oneof![v4, v6].prop_map(|prefix| prefix.unwrap().trunc())
}

fn capsule() -> impl Strategy<Value = Capsule> {
    let id = 0..=varint::MAX;
    let assigned = (id.clone(), prefix())
        .prop_map(|(request_id, prefix)| AssignedAddress { request_id, prefix });
    let requested = (1..=varint::MAX, prefix())
        .prop_map(|(request_id, prefix)| RequestedAddress { request_id, prefix });
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200)
            .prop_map(|bytes| Capsule::Datagram(bytes.into())),
        prop::collection::vec(assigned, 0..8).prop_map(Capsule::AddressAssign),
        prop::collection::vec(requested, 1..8).prop_map(Capsule::AddressRequest),
        (prop::collection::vec(prefix(), 0..8), any::<Option<u8>>())
            .prop_map(|(set, protocol)| Capsule::RouteAdvertisement(from_prefixes(&set, protocol))),
        (4..=varint::MAX).prop_map(|capsule_type| unknown(capsule_type, 0)),
    ]
}

/// Cuts `bytes` at the given positions.
fn cut<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in cuts.into_iter().chain([bytes.len()]) {
        pieces.push(&bytes[start..end]);
        start = end;
    }
    pieces
}

proptest! {
    #[test]
    fn n31_round_trip_in_any_fragmentation(
        capsules in prop::collection::vec(capsule(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
    ) {
        let stream: Vec<u8> = capsules.iter().flat_map(|capsule| capsule.encode()).collect();
        prop_assert_eq!(decode(&cut(&stream, &cuts)), (capsules, Ok(())));
    }

    #[test]
    fn n31_any_bytes_end_alike_in_any_fragmentation(
        head in prop::collection::vec(0..8u8, 0..4),
        tail in prop::collection::vec(any::<u8>(), 0..400),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let stream = [head, tail].concat();
        let whole = decode(&[&stream]);
        prop_assert_eq!(decode(&cut(&stream, &cuts)), whole);
    }

    #[test]
    fn n29_memory_is_bounded_by_what_arrived(
        pieces in prop::collection::vec(prop::collection::vec(0..70u8, 0..3000), 0..60),
    ) {
        let mut decoder = CapsuleDecoder::new();
        'stream: for piece in pieces {
            decoder.push(piece.into());
            loop {
                match decoder.poll() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
            prop_assert!(decoder.buffered_bytes() as u64 <= MAX_DATAGRAM_CAPSULE_BYTES);
        }
    }

    #[test]
    fn n31_a_changed_length_is_noticed(
        list in prop::collection::vec(prefix(), 1..8),
        by in 1..7u8,
    ) {
        let entries: Vec<_> = list.iter().copied().map(AssignedAddress::unprompted).collect();
        let value = Capsule::AddressAssign(entries).encode();
        let (_, length_bytes) = varint::decode(&value[1..]).unwrap();
        let value = &value[1 + length_bytes..];
        // One entry takes at least seven bytes, so fewer bytes never make a whole list.
        let short = encode_raw(1, &value[..value.len() - usize::from(by).min(6)]);
        prop_assert!(decode(&[&short]).1.is_err());
        let trailing = encode_raw(1, &[value, &vec![4; usize::from(by).min(6)]].concat());
        prop_assert!(decode(&[&trailing]).1.is_err());
    }
}
