use proptest::prelude::*;

use super::*;
use crate::build::{build_icmp_echo, build_ip, build_udp};
use crate::ip::parse;
use crate::reference::{
    V4_A, V4_B, V6_A, V6_B, broken_packets, check_packet, is_icmp_error, packets, resum,
};

const ERRORS: [IcmpError; 8] = [
    IcmpError::DestinationUnreachable(Unreachable::NoRoute),
    IcmpError::DestinationUnreachable(Unreachable::AdminProhibited),
    IcmpError::DestinationUnreachable(Unreachable::BeyondScope),
    IcmpError::DestinationUnreachable(Unreachable::AddressUnreachable),
    IcmpError::DestinationUnreachable(Unreachable::PortUnreachable),
    IcmpError::DestinationUnreachable(Unreachable::SourcePolicyFailed),
    IcmpError::PacketTooBig {
        next_hop_mtu_bytes: 1400,
    },
    IcmpError::TimeExceeded,
];
const TOO_BIG: IcmpError = ERRORS[6];

/// The error about a packet, from the other end of the reference addresses.
fn error_about(packet: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; MAX_ERROR_BYTES];
    let source = if packet[0] >> 4 == 4 { V4_B } else { V6_B };
    let bytes = build_error(&mut out, packet, source, error)?;
    out.truncate(bytes);
    Some(out)
}

fn v4(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn types_codes_and_parameters() {
    let v4_codes = [
        (3, 0),
        (3, 13),
        (3, 13),
        (3, 1),
        (3, 3),
        (3, 13),
        (3, 4),
        (11, 0),
    ];
    let v6_codes = [
        (1, 0),
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 0),
        (3, 0),
    ];
    for (a, b, start, codes) in [(V4_A, V4_B, 20, v4_codes), (V6_A, V6_B, 40, v6_codes)] {
        let packet = build_udp(a, b, 5000, 53, &[7; 300]);
        for (error, (kind, code)) in ERRORS.into_iter().zip(codes) {
            let out = error_about(&packet, error).unwrap();
            check_packet(&out).unwrap();
            let header = parse(&out).unwrap();
            assert_eq!(
                (header.source, header.destination, header.hop_limit),
                (b, a, 64)
            );
            assert_eq!(out[start..start + 2], [kind, code], "{error:?}");
            let parameter = if error == TOO_BIG {
                [0, 0, 5, 120]
            } else {
                [0; 4]
            };
            assert_eq!(out[start + 4..start + 8], parameter, "{error:?}");
            assert_eq!(out[start + 8..], packet, "the whole packet is quoted");
            assert_eq!(classify(&header, &out), Some(IcmpKind::Error));
        }
    }
}

#[test]
fn a_quotation_is_as_long_as_allowed() {
    for (a, b, start, max_bytes) in [(V4_A, V4_B, 28, 576), (V6_A, V6_B, 48, 1280)] {
        let packet = build_udp(a, b, 5000, 53, &[7; 1400]);
        let out = error_about(&packet, TOO_BIG).unwrap();
        assert_eq!(out.len(), max_bytes);
        assert_eq!(out[start..], packet[..max_bytes - start]);
        let mut short = vec![0; max_bytes - 1];
        assert_eq!(build_error(&mut short, &packet, b, TOO_BIG), None);
    }
}

#[test]
fn a_next_hop_mtu_is_never_below_the_minimum() {
    let mtu = |packet: &[u8], at: usize, next_hop_mtu_bytes| {
        let out = error_about(packet, IcmpError::PacketTooBig { next_hop_mtu_bytes }).unwrap();
        u32::from_be_bytes([out[at], out[at + 1], out[at + 2], out[at + 3]])
    };
    let v4 = build_udp(V4_A, V4_B, 1, 2, b"x");
    let v6 = build_udp(V6_A, V6_B, 1, 2, b"x");
    for (asked, of_v4, of_v6) in [
        (0, 68, 1280),
        (1000, 1000, 1280),
        (1399, 1399, 1399),
        (1 << 20, 0xffff, 1 << 20),
    ] {
        assert_eq!(mtu(&v4, 24, asked), of_v4);
        assert_eq!(mtu(&v6, 44, asked), of_v6);
    }
}

#[test]
fn errors_are_never_answered() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let packet = build_udp(a, b, 1, 2, b"x");
        for error in ERRORS {
            let first = error_about(&packet, error).unwrap();
            assert_eq!(error_about(&first, TOO_BIG), None, "{error:?}");
        }
        let echo = build_icmp_echo(a, b, 1, 2, b"x");
        assert!(
            error_about(&echo, TOO_BIG).is_some(),
            "an echo request is no error"
        );
    }
    let redirects = [
        build_ip(V4_A, V4_B, 1, &[5; 8]),
        build_ip(V6_A, V6_B, 58, &[137; 40]),
    ];
    let unknown = [
        build_ip(V6_A, V6_B, 58, &[127; 8]),
        build_ip(V6_A, V6_B, 58, &[1; 7]),
    ];
    for packet in redirects.iter().chain(&unknown) {
        assert_eq!(error_about(packet, TOO_BIG), None, "{packet:02x?}");
    }
    // ICMP of the other family is just an unknown protocol.
    assert!(error_about(&build_ip(V6_A, V6_B, 1, &[3; 8]), TOO_BIG).is_some());
}

#[test]
fn fragments_but_the_first_are_not_answered() {
    for (offset, answered) in [(0u16, true), (8, false)] {
        let field = (offset | 1).to_be_bytes();
        let fragment = [
            17, 0, field[0], field[1], 0, 0, 0, 1, 0, 53, 0, 53, 0, 8, 0, 0,
        ];
        let packet = build_ip(V6_A, V6_B, 44, &fragment);
        assert_eq!(error_about(&packet, TOO_BIG).is_some(), answered);
        let mut packet = build_udp(V4_A, V4_B, 1, 2, b"x");
        let field = ((offset / 8) | 0x2000).to_be_bytes();
        packet[6..8].copy_from_slice(&field);
        resum(&mut packet);
        assert_eq!(error_about(&packet, TOO_BIG).is_some(), answered);
    }
}

#[test]
fn groups_and_sources_that_are_no_host_are_not_answered() {
    let not_a_host = [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
    ];
    for source in not_a_host.map(v4) {
        let packet = build_udp(source, V4_B, 1, 2, b"x");
        assert_eq!(error_about(&packet, TOO_BIG), None, "{source}");
    }
    for source in ["::", "::1", "ff02::1"].map(v4) {
        let packet = build_udp(source, V6_B, 1, 2, b"x");
        assert_eq!(error_about(&packet, TOO_BIG), None, "{source}");
    }
    for destination in ["224.0.0.251", "255.255.255.255"].map(v4) {
        let packet = build_udp(V4_A, destination, 1, 2, b"x");
        assert!(
            ERRORS
                .iter()
                .all(|error| error_about(&packet, *error).is_none())
        );
    }
    let packet = build_udp(V6_A, v4("ff0e::1"), 1, 2, b"x");
    for error in ERRORS {
        assert_eq!(
            error_about(&packet, error).is_some(),
            error == TOO_BIG,
            "{error:?}"
        );
    }
}

#[test]
fn an_error_comes_from_an_address_of_its_family() {
    let mut out = [0; MAX_ERROR_BYTES];
    assert_eq!(
        build_error(&mut out, &build_udp(V4_A, V4_B, 1, 2, b""), V6_A, TOO_BIG),
        None
    );
    assert_eq!(
        build_error(&mut out, &build_udp(V6_A, V6_B, 1, 2, b""), V4_A, TOO_BIG),
        None
    );
}

#[test]
fn echo_replies() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let mut request = build_icmp_echo(a, b, 77, 9, &[3; 1232]);
        let mut out = vec![0; request.len()];
        let bytes = build_echo_reply(&mut out, &request).unwrap();
        assert_eq!(bytes, request.len());
        check_packet(&out).unwrap();
        let header = parse(&out).unwrap();
        assert_eq!(
            (header.source, header.destination, header.hop_limit),
            (b, a, 64)
        );
        let kind = IcmpKind::EchoReply {
            identifier: 77,
            sequence: 9,
        };
        assert_eq!(classify(&header, &out), Some(kind));
        let data = header.upper_offset + 8;
        assert_eq!(out[data..], request[data..]);
        assert_eq!(
            build_echo_reply(&mut [0; 1500], &out),
            None,
            "a reply has no reply"
        );
        assert_eq!(build_echo_reply(&mut out[..bytes - 1], &request), None);
        *request.last_mut().unwrap() ^= 1;
        assert_eq!(build_echo_reply(&mut out, &request), None, "a bad checksum");
    }
    assert_eq!(
        build_echo_reply(&mut [0; 99], &build_udp(V4_A, V4_B, 8, 8, b"")),
        None
    );
}

#[test]
fn a_reply_keeps_the_class_but_not_the_congestion() {
    for (a, b, class) in [(V4_A, V4_B, [0x45, 0xb8]), (V6_A, V6_B, [0x6b, 0x80])] {
        let mut request = build_icmp_echo(a, b, 1, 1, b"x");
        // DSCP 46 and congestion experienced.
        request[..2].copy_from_slice(if a.is_ipv4() {
            &[0x45, 0xbb]
        } else {
            &[0x6b, 0xb0]
        });
        if a.is_ipv4() {
            resum(&mut request);
        }
        let mut out = [0; 100];
        build_echo_reply(&mut out, &request).unwrap();
        assert_eq!(out[..2], class);
    }
}

#[test]
fn a_fragment_of_a_request_is_not_answered() {
    let mut request = build_icmp_echo(V4_A, V4_B, 1, 1, b"x");
    request[6] = 0x20;
    resum(&mut request);
    assert_eq!(
        parse(&request).unwrap().fragment,
        Fragment::First { more: true }
    );
    assert_eq!(build_echo_reply(&mut [0; 100], &request), None);
}

#[test]
fn a_multicast_probe_is_answered_from_a_unicast_address() {
    let request = build_icmp_echo(V6_A, v4("ff02::1"), 77, 9, &[3; 1232]);
    let mut out = vec![0; 1280];
    assert_eq!(build_echo_reply(&mut out, &request), None);
    assert_eq!(
        build_echo_reply_from(&mut out, &request, v4("ff02::1")),
        None
    );
    assert_eq!(build_echo_reply_from(&mut out, &request, V4_A), None);
    assert_eq!(build_echo_reply_from(&mut out, &request, V6_B), Some(1280));
    check_packet(&out).unwrap();
    assert_eq!(parse(&out).unwrap().source, V6_B);
    let from_group = build_icmp_echo(v4("::"), V6_B, 77, 9, b"");
    assert_eq!(build_echo_reply(&mut out, &from_group), None);
}

#[test]
fn a_quotation_may_be_cut_short() {
    let packet = build_udp(V4_A, V4_B, 5000, 53, &[7; 300]);
    let key = flow_key(&parse(&packet).unwrap(), &packet);
    for (quoted, expected) in [
        (28, Some(key)),
        (24, Some(key)),
        (22, Some(FlowKey::new(V4_A, V4_B, 17, 0, 0))),
        (19, None),
        (0, None),
    ] {
        let mut message = vec![3, 0, 0, 0, 0, 0, 0, 0];
        message.extend(&packet[..quoted]);
        let error = build_ip(V4_B, V4_A, 1, &message);
        assert_eq!(
            quoted_flow(&parse(&error).unwrap(), &error),
            expected,
            "{quoted}"
        );
    }
    // A router on the way changed what it quotes: hop limit and checksum.
    let mut message = vec![11, 0, 0, 0, 0, 0, 0, 0];
    message.extend(&packet);
    message[8 + 8] = 0;
    let error = build_ip(V4_B, V4_A, 1, &message);
    assert_eq!(quoted_flow(&parse(&error).unwrap(), &error), Some(key));
    // An error of one family about a packet of the other.
    let error = build_ip(
        V6_B,
        V6_A,
        58,
        &[&[1, 0, 0, 0, 0, 0, 0, 0][..], &packet].concat(),
    );
    assert_eq!(quoted_flow(&parse(&error).unwrap(), &error), None);
    let echo = build_icmp_echo(V4_A, V4_B, 1, 1, &packet);
    assert_eq!(quoted_flow(&parse(&echo).unwrap(), &echo), None);
}

#[test]
fn a_packet_may_end_behind_its_header() {
    let igmp = [
        69, 0, 0, 20, 0, 1, 64, 0, 64, 2, 108, 150, 10, 1, 2, 3, 192, 0, 2, 77,
    ];
    let error = IcmpError::DestinationUnreachable(Unreachable::NoRoute);
    let out = error_about(&igmp, error).unwrap();
    assert!(is_icmp_error(&out) && !is_icmp_error(&igmp));
}

proptest! {
    #[test]
    fn an_error_is_right_and_about_its_packet(
        packet in prop_oneof![packets(), broken_packets()],
        error in proptest::sample::select(&ERRORS[..]),
    ) {
        let Some(out) = (!packet.is_empty()).then(|| error_about(&packet, error)).flatten() else {
            return Ok(());
        };
        check_packet(&out).unwrap();
        let original = parse(&packet).unwrap();
        let header = parse(&out).unwrap();
        prop_assert!(!is_icmp_error(&packet));
        prop_assert!(is_icmp_error(&out));
        prop_assert_eq!(header.destination, original.source);
        prop_assert_eq!(error_about(&out, error), None);
        prop_assert_eq!(quoted_flow(&header, &out), Some(flow_key(&original, &packet)));
    }
}
