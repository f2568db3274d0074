//! No bytes make any public function panic, also when a header is used with another packet.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::edit::{ChecksumState, clamp_mss, complete_checksum, decrement_hop_limit, set_ecn};
use crate::flow::flow_key;
use crate::fragment::fragments;
use crate::icmp::{IcmpError, Unreachable, build_echo_reply, build_error, classify, quoted_flow};
use crate::ip::{Ecn, IpHeader, parse};
use crate::merge::{Merger, Push};
use crate::reference::{V4_A, V6_A, broken_packets, packets};
use crate::segment::{GsoInfo, GsoKind, PartialChecksum, segments};

fn run_all(packet: &[u8], header: &IpHeader, gso: &GsoInfo) {
    let mut copy = packet.to_vec();
    let mut out = [0; 2048];
    let _ = flow_key(header, packet);
    let _ = classify(header, packet);
    let _ = quoted_flow(header, packet);
    let _ = clamp_mss(&mut copy, header, 1200, ChecksumState::Complete);
    let _ = decrement_hop_limit(&mut copy);
    set_ecn(&mut copy, Ecn::Ce);
    if let Some(partial) = gso.checksum {
        let _ = complete_checksum(&mut copy, partial);
    }
    for source in [V4_A, V6_A] {
        let reason = IcmpError::DestinationUnreachable(Unreachable::NoRoute);
        let _ = build_error(&mut out, packet, source, reason);
        let _ = build_error(&mut out[..40], packet, source, IcmpError::TimeExceeded);
    }
    let _ = build_echo_reply(&mut out, packet);
    if let Ok(mut segments) = segments(packet, gso) {
        let mut out = vec![0; segments.max_packet_bytes()];
        let mut written = 0;
        while let Some(bytes) = segments.write_next(&mut out) {
            assert!(bytes <= out.len());
            written += 1;
        }
        assert_eq!((written, segments.remaining()), (segments.count(), 0));
    }
    if let Ok(mut fragments) = fragments(packet, gso.segment_bytes.into()) {
        let count = fragments.count();
        let written = std::iter::from_fn(|| fragments.write_next(&mut copy)).count();
        assert_eq!((written, fragments.remaining()), (count, 0));
    }
    let mut merger = Merger::new(1);
    assert!(!matches!(
        merger.push(packet, header),
        Push::Full | Push::Merged(_)
    ));
    let _ = merger.push(packet, header);
    assert!(
        merger
            .outputs()
            .all(|output| output.total_bytes() >= packet.len())
    );
}

fn gso_infos() -> impl Strategy<Value = GsoInfo> {
    let kind = prop_oneof![
        Just(GsoKind::None),
        Just(GsoKind::TcpV4),
        Just(GsoKind::TcpV6),
        Just(GsoKind::UdpL4)
    ];
    let checksum = prop_oneof![
        Just(None),
        (0..80u16, 0..20u16).prop_map(|(start, offset)| Some(PartialChecksum { start, offset })),
        any::<(u16, u16)>().prop_map(|(start, offset)| Some(PartialChecksum { start, offset })),
    ];
    (
        kind,
        prop_oneof![0..50u16, any::<u16>()],
        any::<u16>(),
        checksum,
    )
        .prop_map(|(kind, segment_bytes, header_bytes, checksum)| GsoInfo {
            kind,
            segment_bytes,
            header_bytes,
            checksum,
        })
}

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..200), gso in gso_infos()) {
        if let Ok(header) = parse(&bytes) {
            run_all(&bytes, &header, &gso);
        }
    }

    #[test]
    fn broken_packets_of_every_kind(packet in broken_packets(), gso in gso_infos()) {
        if let Ok(header) = parse(&packet) {
            run_all(&packet, &header, &gso);
        }
    }

    #[test]
    fn a_header_of_another_packet(packet in packets(), other in broken_packets(), gso in gso_infos()) {
        let header = parse(&packet).unwrap();
        run_all(&other, &header, &gso);
    }
}
