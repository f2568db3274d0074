use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::build::{build_ip, build_udp};
use crate::reference::{V4_A, V4_B, V6_A, V6_B, check_packet, naive_sum, resum};

fn field(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn header_bytes(packet: &[u8]) -> usize {
    usize::from(packet[0] & 15) * 4
}

/// An IPv4 packet with these options, flags and offset.
fn packet(options: &[u8], flags_and_offset: u16, data: &[u8]) -> Vec<u8> {
    let mut packet = build_ip(V4_A, V4_B, 99, data);
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + u8::try_from(options.len() / 4).unwrap();
    let total = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[4..6].copy_from_slice(&0xabcd_u16.to_be_bytes());
    packet[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    resum(&mut packet);
    packet
}

/// All fragments of a packet.
fn cut(packet: &[u8], mtu_bytes: usize) -> Vec<Vec<u8>> {
    let mut fragments = fragments(packet, mtu_bytes).unwrap();
    let mut out = vec![0xee; mtu_bytes];
    let mut all = Vec::new();
    while let Some(expected) = fragments.next_packet_bytes() {
        let before = fragments.remaining();
        assert_eq!(fragments.write_next(&mut out[..expected - 1]), None);
        assert_eq!(fragments.remaining(), before, "nothing was lost");
        assert_eq!(fragments.write_next(&mut out), Some(expected));
        all.push(out[..expected].to_vec());
    }
    assert_eq!((all.len(), fragments.remaining()), (fragments.count(), 0));
    assert_eq!(fragments.write_next(&mut out), None);
    all
}

/// Reassembly as RFC 791 §3.2 has it: what it gives for the fragments of `original`, which must be
/// in order and without overlap, is the data of `original`.
fn reassemble(original: &[u8], parts: &[Vec<u8>], mtu_bytes: usize) -> Vec<u8> {
    let mut data = Vec::new();
    let first_unit = usize::from(field(original, 6) & 0x1fff);
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        assert!(part.len() <= mtu_bytes);
        assert_eq!(usize::from(field(part, 2)), part.len());
        assert_eq!(naive_sum(&part[..header_bytes(part)]), 0xffff);
        // Type of service, identification, hop limit, protocol, addresses.
        for range in [1..2, 4..6, 8..10, 12..20] {
            assert_eq!(part[range.clone()], original[range]);
        }
        let (flags, unit) = (field(part, 6) >> 13, usize::from(field(part, 6) & 0x1fff));
        assert_eq!(unit * 8, first_unit * 8 + data.len());
        let more = !last || field(original, 6) & 0x2000 != 0;
        assert_eq!(flags & 3, u16::from(more));
        let part_data = &part[header_bytes(part)..];
        assert!(!part_data.is_empty());
        assert!(last || part_data.len().is_multiple_of(8));
        data.extend(part_data);
    }
    data
}

/// What RFC 791 §3.1 says of the options that the generator knows.
fn copied(options: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let kept = options.iter().filter(|(kind, _)| *kind >= 128);
    let mut bytes: Vec<u8> = kept.flat_map(encode).collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn encode((kind, value): &(u8, Vec<u8>)) -> Vec<u8> {
    if *kind == 1 {
        return vec![1];
    }
    let mut bytes = vec![*kind, u8::try_from(value.len() + 2).unwrap()];
    bytes.extend(value);
    bytes
}

fn options() -> impl Strategy<Value = Vec<(u8, Vec<u8>)>> {
    let option = (prop_oneof![Just(1u8), 2..=255u8], vec(any::<u8>(), 0..8));
    vec(option, 0..6).prop_map(|mut options| {
        while options
            .iter()
            .map(|option| encode(option).len())
            .sum::<usize>()
            > 40
        {
            options.pop();
        }
        options
    })
}

proptest! {
    #[test]
    fn fragments_are_reassembled(
        options in options(),
        data in vec(any::<u8>(), 0..4_000),
        mtu_bytes in 68..1_600usize,
        narrower in 68..800usize,
        offset in prop_oneof![Just(0u16), 0..4_000u16],
        more in any::<bool>(),
    ) {
        let mut encoded: Vec<u8> = options.iter().flat_map(encode).collect();
        encoded.resize(encoded.len().next_multiple_of(4), 0);
        let original = packet(&encoded, offset | if more { 0x2000 } else { 0 }, &data);
        let parts = cut(&original, mtu_bytes);
        if original.len() <= mtu_bytes {
            prop_assert_eq!(&parts, &[original]);
            return Ok(());
        }
        prop_assert_eq!(reassemble(&original, &parts, mtu_bytes), data.clone());
        prop_assert_eq!(&parts[0][20..header_bytes(&parts[0])], encoded);
        for part in &parts[1..] {
            prop_assert_eq!(&part[20..header_bytes(part)], copied(&options));
        }
        // Every fragment but the last is as long as it may be: no more of them than needed.
        for part in &parts[..parts.len() - 1] {
            prop_assert!(part.len() + 8 > mtu_bytes);
        }
        // A second router with a narrower link.
        let again: Vec<Vec<u8>> = parts.iter().flat_map(|part| cut(part, narrower)).collect();
        prop_assert_eq!(reassemble(&original, &again, narrower), data);
    }

    #[test]
    fn no_bytes_make_it_panic(
        mut bytes in vec(any::<u8>(), 20..300),
        words in 5..=15u8,
        offset in any::<u16>(),
        mtu_bytes in 0..320usize,
    ) {
        bytes[0] = 0x40 | words;
        bytes.resize(bytes.len().max(usize::from(words) * 4), 0);
        let total = u16::try_from(bytes.len()).unwrap();
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        bytes[6..8].copy_from_slice(&offset.to_be_bytes());
        resum(&mut bytes);
        if fragments(&bytes, mtu_bytes).is_ok() {
            let data = reassemble_or_whole(&bytes, mtu_bytes);
            prop_assert_eq!(&data[..], &bytes[usize::from(words) * 4..]);
        }
    }
}

fn reassemble_or_whole(packet: &[u8], mtu_bytes: usize) -> Vec<u8> {
    let parts = cut(packet, mtu_bytes);
    if parts.len() == 1 {
        return packet[header_bytes(packet)..].to_vec();
    }
    reassemble(packet, &parts, mtu_bytes)
}

#[test]
fn a_long_datagram_becomes_three() {
    let mut original = build_udp(V4_A, V4_B, 7, 9, &[0x5a; 3_000]);
    original[6] = 0;
    resum(&mut original);
    let parts = cut(&original, 1_400);
    let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
    assert_eq!(lengths, [1_396, 1_396, 276]);
    let data = reassemble(&original, &parts, 1_400);
    let mut whole = original[..20].to_vec();
    whole.extend(data);
    assert_eq!(check_packet(&whole), Ok(()));
}

#[test]
fn the_smallest_mtu_of_rfc_791_takes_the_longest_header() {
    let all = [0x94u8, 4, 0, 0].repeat(10);
    let original = packet(&all, 0, &[1; 100]);
    let parts = cut(&original, 68);
    assert_eq!(parts.len(), 13);
    assert_eq!(reassemble(&original, &parts, 68), [1; 100]);
    assert_eq!(fragments(&original, 67).unwrap_err(), FragmentError::NoRoom);
}

#[test]
fn what_must_not_be_fragmented_is_not() {
    let dont = packet(&[], 0x4000, &[0; 100]);
    let v6 = build_ip(V6_A, V6_B, 99, &[0; 100]);
    for packet in [dont, v6] {
        assert!(!may_be_fragmented(&packet));
        let length = packet.len();
        assert_eq!(fragments(&packet, length).unwrap().count(), 1);
        let refused = fragments(&packet, length - 1).unwrap_err();
        assert_eq!(refused, FragmentError::Forbidden);
    }
    assert!(may_be_fragmented(&packet(&[], 0, &[])));
    assert!(!may_be_fragmented(&[]));
}

#[test]
fn a_fragment_beyond_the_longest_packet_is_refused() {
    // 8,187 units and 19 bytes behind a header of 20 are 65,535.
    let far = |data: usize| packet(&[], 8_187, &vec![0; data]);
    assert_eq!(fragments(&far(19), 38).unwrap().count(), 2);
    assert_eq!(fragments(&far(20), 38).unwrap_err(), FragmentError::TooFar);
}

#[test]
fn a_broken_packet_is_refused() {
    let mut broken = build_udp(V4_A, V4_B, 7, 9, &[0; 100]);
    broken[8] ^= 1;
    let error = FragmentError::Packet(PacketError::BadChecksum);
    assert_eq!(fragments(&broken, 68).unwrap_err(), error);
}
