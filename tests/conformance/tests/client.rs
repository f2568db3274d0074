//! A running client against a gateway that says what it is told to.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use std::{cell::Cell, net::IpAddr, time::Duration};

use masque_client::{Assignment, PacketAttachment, TunnelEvent};
use masque_conformance::{
    ASSIGNED, Opened, ROUTES, SETTINGS, event,
    frames::{self, ADDRESS_ASSIGN, ADDRESS_REQUEST, GOAWAY, ROUTE_ADVERTISEMENT, control, frame},
    ok, with_client,
};
use masque_packet::build::build_udp;
use masque_protocol::{Capsule, CapsuleDecoder};

const H3_DATAGRAM_ERROR: u64 = 0x33;
const H3_STREAM_CREATION_ERROR: u64 = 0x103;
const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
const H3_FRAME_UNEXPECTED: u64 = 0x105;
const H3_SETTINGS_ERROR: u64 = 0x109;
const H3_MISSING_SETTINGS: u64 = 0x10a;
const H3_MESSAGE_ERROR: u64 = 0x10e;

/// A type that nobody defined, of the kind 0x1f·N + 0x21 that is reserved for that (RFC 9114 §6.2.3,
/// §7.2.8).
const UNKNOWN: u64 = 0x1f * 7 + 0x21;

fn packet(number: u8) -> Vec<u8> {
    build_udp(
        [10, 0, 2, 100].into(),
        [10, 0, 100, 50].into(),
        7,
        9,
        &[number],
    )
}

/// A packet arrives through the tunnel: it works still.
async fn assert_open(opened: &Opened, client: &PacketAttachment, number: u8) {
    let datagram = [&[0, 0][..], &packet(number)].concat();
    let connection = &opened.wire.connection;
    connection.send_datagram(datagram.into()).unwrap();
    assert_eq!(received(client).await.last(), Some(&number));
}

/// The next packet that the application gets.
async fn received(client: &PacketAttachment) -> Vec<u8> {
    for _ in 0..1000 {
        match client.receiver.try_receive() {
            Ok(packet) => return packet,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    panic!("no packet arrives")
}

/// The client ends the connection on which it was told nonsense.
async fn assert_malformed(opened: &Opened, what: &str) {
    assert_eq!(opened.wire.close_code().await, H3_MESSAGE_ERROR, "{what}");
}

/// A capsule of an open tunnel that the client takes for malformed.
fn malformed_capsule(what: &str, kind: u64, value: &[u8]) {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        opened.capsule(kind, value).await;
        assert_malformed(&opened, what).await;
    });
}

async fn down(client: &PacketAttachment) -> String {
    let event = event(client, |event| matches!(event, TunnelEvent::Down { .. })).await;
    match event {
        TunnelEvent::Down { error, .. } => error.to_string(),
        other => panic!("{other:?}"),
    }
}

/// What the client makes of the gateway's next capsule that changes something.
async fn changed(client: &PacketAttachment) -> Assignment {
    let event = event(client, |event| matches!(event, TunnelEvent::Changed(_))).await;
    match event {
        TunnelEvent::Changed(assignment) => assignment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn n06_n07_the_client_opens_one_control_stream_that_begins_with_settings() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        let settings = opened.wire.peer_settings().await;
        let value = |id| {
            let found = settings.iter().find(|(known, _)| *known == id);
            found.map(|(_, value)| *value)
        };
        assert_eq!(value(0x33), Some(1), "SETTINGS_H3_DATAGRAM");
        assert_eq!(value(0x8).unwrap_or(0), 0, "a server's setting");
        let mut ids: Vec<u64> = settings.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), settings.len(), "{settings:?}");
        assert!(ids.iter().all(|id| !(0x2..=0x5).contains(id)));
        assert_open(&opened, &client, 1).await;
    });
}

/// The code that a client closes with when it is told this on unidirectional streams.
fn code_for(streams: &[Vec<u8>]) -> u64 {
    let code = Cell::new(0);
    let told = &code;
    with_client(|server, _client| async move {
        let wire = server.accept().await;
        let mut kept = Vec::new();
        for bytes in streams {
            kept.push(wire.open_uni(bytes).await);
        }
        told.set(wire.close_code().await);
    });
    code.get()
}

#[test]
fn n06_n07_n09_what_a_gateway_must_not_say_closes_the_connection() {
    let usual = control(&SETTINGS);
    let and = |more: Vec<u8>| vec![[usual.clone(), more].concat()];
    let twice = vec![usual.clone(), usual.clone()];
    let no_settings = vec![[vec![0], frame(GOAWAY, &[0])].concat()];
    for (what, streams, code) in [
        ("two control streams", twice, H3_STREAM_CREATION_ERROR),
        ("no SETTINGS first", no_settings, H3_MISSING_SETTINGS),
        (
            "SETTINGS twice",
            and(frame(frames::SETTINGS, &[])),
            H3_FRAME_UNEXPECTED,
        ),
        (
            "DATA on control",
            and(frame(frames::DATA, b"x")),
            H3_FRAME_UNEXPECTED,
        ),
        (
            "HTTP/2's PING",
            and(frame(0x6, &[0; 8])),
            H3_FRAME_UNEXPECTED,
        ),
        (
            "HTTP/2's setting",
            vec![control(&[(0x2, 0)])],
            H3_SETTINGS_ERROR,
        ),
        (
            "a setting twice",
            vec![control(&[(0x6, 9000), (0x6, 9000)])],
            H3_SETTINGS_ERROR,
        ),
        (
            "datagrams: 2",
            vec![control(&[(0x8, 1), (0x33, 2)])],
            H3_SETTINGS_ERROR,
        ),
    ] {
        assert_eq!(code_for(&streams), code, "{what}");
    }
}

#[test]
fn n06_the_end_of_the_control_stream_is_the_end_of_the_connection() {
    with_client(|server, _client| async move {
        let mut wire = server.ready().await;
        wire.finish_control();
        assert_eq!(wire.close_code().await, H3_CLOSED_CRITICAL_STREAM);
    });
}

#[test]
fn n07_n09_what_nobody_defined_is_ignored() {
    with_client(|server, client| async move {
        let mut wire = server.accept().await;
        wire.open_control(&control(&[(0x8, 1), (0x33, 1), (UNKNOWN, 7), (0x7fff, 0)]))
            .await;
        wire.on_control(&frame(UNKNOWN, &[1; 300])).await;
        let _unknown = wire.open_uni(&frame(UNKNOWN, b"a stream")).await;
        let mut opened = Opened::unanswered(wire).await;
        opened.write(&frame(UNKNOWN, b"before the answer")).await;
        opened.write(&ok()).await;
        opened.write(&frame(UNKNOWN, b"after it")).await;
        opened.capsule(ADDRESS_ASSIGN, &ASSIGNED).await;
        opened.capsule(ROUTE_ADVERTISEMENT, &ROUTES).await;
        event(&client, |event| matches!(event, TunnelEvent::Up(_))).await;
        assert_open(&opened, &client, 9).await;
    });
}

#[test]
fn n14_goaway_makes_the_client_open_another_connection_first() {
    with_client(|server, client| async move {
        let mut old = server.tunnel(&client).await;
        // Requests from stream 4 on are not served; the client's is stream 0 (RFC 9114 §5.2).
        old.wire.on_control(&frame(GOAWAY, &[4])).await;
        event(&client, |event| *event == TunnelEvent::Draining).await;
        assert_open(&old, &client, 1).await;
        let new = server.tunnel(&client).await;
        assert_open(&new, &client, 2).await;
        // What the client leaves it closes without an error.
        assert_eq!(old.wire.close_code().await, 0x100);
    });
}

#[test]
fn n22_n23_datagrams_of_impossible_and_of_unknown_streams() {
    with_client(|server, client| async move {
        let opened = server.tunnel(&client).await;
        let connection = &opened.wire.connection;
        // Stream 4 does not exist yet: held back or dropped, but no error (RFC 9297 §2.1).
        connection.send_datagram(vec![1, 0, 1].into()).unwrap();
        assert_open(&opened, &client, 1).await;
        // A quarter stream id of 2^60, of a stream that cannot be.
        let mut datagram = (0xc000_0000_0000_0000 | 1_u64 << 60).to_be_bytes().to_vec();
        datagram.push(0);
        connection.send_datagram(datagram.into()).unwrap();
        assert_eq!(opened.wire.close_code().await, H3_DATAGRAM_ERROR);

        let opened = server.tunnel(&client).await;
        let connection = &opened.wire.connection;
        // The first byte of a variable-length integer of two.
        connection.send_datagram(vec![0x40].into()).unwrap();
        assert_eq!(opened.wire.close_code().await, H3_DATAGRAM_ERROR);
    });
}

#[test]
fn n28_unknown_capsules_of_any_size_are_skipped() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        opened.capsule(UNKNOWN, &[]).await;
        opened.capsule(UNKNOWN, &vec![7; 3_000_000]).await;
        // In pieces, each of which ends in the middle of something.
        let bytes = frame(UNKNOWN, &[7; 999]);
        for piece in bytes.chunks(100) {
            opened.data(piece).await;
        }
        opened
            .capsule(ADDRESS_ASSIGN, &[0, 4, 10, 0, 100, 60, 32])
            .await;
        let assignment = changed(&client).await;
        assert_eq!(assignment.addresses, ["10.0.100.60/32".parse().unwrap()]);
    });
}

#[test]
fn n29_a_known_capsule_beyond_its_bound_ends_the_tunnel() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        // Announced, never sent: nobody waits for it.
        let mut head = vec![u8::try_from(ADDRESS_ASSIGN).unwrap()];
        head.extend((0x8000_0000_u32 | 50_000_000).to_be_bytes());
        opened.data(&head).await;
        assert_malformed(&opened, "50 MB of addresses").await;
        let why = down(&client).await;
        assert!(why.contains("has 50000000 bytes, at most"), "{why}");
    });
}

#[test]
fn n30_n32_n39_the_form_of_the_request() {
    with_client(|server, _client| async move {
        let opened = server.opened().await;
        let field = |name| frames::field(&opened.head, name);
        assert_eq!(field(":method").as_deref(), Some("CONNECT"));
        assert_eq!(field(":protocol").as_deref(), Some("connect-ip"));
        assert_eq!(field(":scheme").as_deref(), Some("https"));
        let path = field(":path");
        assert_eq!(path.as_deref(), Some("/vpc/production-vpc/masque/ip/*/*/"));
        assert!(field(":authority").unwrap().starts_with("127.0.0.1:"));
        assert_eq!(field("capsule-protocol").as_deref(), Some("?1"));
        for name in ["content-length", "content-type", "transfer-encoding"] {
            assert_eq!(field(name), None, "{name}");
        }
    });
}

#[test]
fn n31_truncated_and_inconsistent_capsules_are_malformed() {
    malformed_capsule("half an address", ADDRESS_ASSIGN, &[0, 4, 10, 0]);
    let longer = [0, 4, 10, 0, 0, 1, 32, 0];
    malformed_capsule("a byte after it", ADDRESS_ASSIGN, &longer);
    malformed_capsule("half a route", ROUTE_ADVERTISEMENT, &[4, 10, 0, 0, 0, 10]);
    malformed_capsule("half a request", ADDRESS_REQUEST, &[1, 4, 0, 0]);
}

#[test]
fn n31_a_stream_that_ends_in_a_capsule_is_malformed() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        let whole = frame(ADDRESS_ASSIGN, &ASSIGNED);
        opened.data(&whole[..4]).await;
        opened.send.finish().unwrap();
        assert_malformed(&opened, "the end of the stream").await;
    });
}

#[test]
fn n40_only_200_opens_a_tunnel() {
    for status in ["204", "206", "302", "404"] {
        with_client(|server, client| async move {
            let mut opened = Opened::unanswered(server.ready().await).await;
            let answer = frames::headers(&[(":status", status), ("capsule-protocol", "?1")]);
            opened.write(&answer).await;
            opened.capsule(ADDRESS_ASSIGN, &ASSIGNED).await;
            opened.capsule(ROUTE_ADVERTISEMENT, &ROUTES).await;
            opened.wire.close_code().await;
            let told = |event: &TunnelEvent| {
                matches!(event, TunnelEvent::Down { .. } | TunnelEvent::Up(_))
            };
            let told = event(&client, told).await;
            assert!(matches!(told, TunnelEvent::Down { .. }), "{status}");
        });
    }
}

#[test]
fn n47_addresses_that_are_none_end_the_tunnel() {
    for (what, value) in [
        ("IP version 5", [0, 5, 10, 0, 0, 1, 32]),
        ("a prefix of 33 bits", [0, 4, 10, 0, 0, 1, 33]),
        ("host bits", [0, 4, 10, 0, 0, 1, 24]),
    ] {
        malformed_capsule(what, ADDRESS_ASSIGN, &value);
    }
}

#[test]
fn n48_an_assignment_replaces_all_earlier_ones() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        let both = [ASSIGNED, [0, 4, 10, 0, 100, 60, 32]].concat();
        for (value, wanted) in [
            (both, vec!["10.0.100.50/32", "10.0.100.60/32"]),
            (vec![0, 4, 10, 0, 100, 60, 32], vec!["10.0.100.60/32"]),
        ] {
            opened.capsule(ADDRESS_ASSIGN, &value).await;
            let assignment = changed(&client).await;
            let addresses = assignment.addresses.iter();
            assert_eq!(
                addresses.map(ToString::to_string).collect::<Vec<_>>(),
                wanted
            );
        }
    });
}

/// The client's next capsule.
async fn capsule(opened: &mut Opened) -> Capsule {
    let (kind, value) = opened.reader.capsules(1).await.remove(0);
    let mut decoder = CapsuleDecoder::new();
    decoder.push(frame(kind, &value).into());
    decoder.poll().unwrap().unwrap()
}

#[test]
fn n49_n50_n51_the_client_asks_when_nothing_comes_and_takes_the_answer() {
    with_client(|server, client| async move {
        let mut opened = server.opened().await;
        let Capsule::AddressRequest(requests) = capsule(&mut opened).await else {
            panic!("another capsule")
        };
        let mut ids: Vec<u64> = requests.iter().map(|request| request.request_id).collect();
        assert!(!ids.is_empty() && !ids.contains(&0), "{ids:?}");
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), requests.len(), "fresh ids");
        let mut answer = Vec::new();
        for request in &requests {
            let id = u8::try_from(request.request_id).unwrap();
            match request.prefix.addr() {
                IpAddr::V4(_) => answer.extend([id, 4, 10, 0, 100, 70, 32]),
                // RFC 9484 §4.7.2: declined by an address of zeros.
                IpAddr::V6(_) => {
                    answer.extend([id, 6]);
                    answer.extend([0; 16]);
                    answer.push(128);
                }
            }
        }
        opened.capsule(ROUTE_ADVERTISEMENT, &ROUTES).await;
        opened.capsule(ADDRESS_ASSIGN, &answer).await;
        let TunnelEvent::Up(assignment) =
            event(&client, |event| matches!(event, TunnelEvent::Up(_))).await
        else {
            unreachable!()
        };
        assert_eq!(assignment.addresses, ["10.0.100.70/32".parse().unwrap()]);
    });
}

#[test]
fn n50_requests_that_are_none_end_the_tunnel() {
    malformed_capsule("no request", ADDRESS_REQUEST, &[]);
    malformed_capsule("id 0", ADDRESS_REQUEST, &[0, 4, 0, 0, 0, 0, 32]);
}

#[test]
fn n51_every_request_of_the_gateway_is_answered() {
    with_client(|server, client| async move {
        // Once before the tunnel is up, once after.
        let mut opened = server.opened().await;
        let ask = |id| [id, 4, 0, 0, 0, 0, 32];
        let both = [ask(7), ask(8)].concat();
        opened.capsule(ADDRESS_REQUEST, &both).await;
        assert_eq!(declined(&mut opened).await, [7, 8]);
        opened.capsule(ADDRESS_ASSIGN, &ASSIGNED).await;
        opened.capsule(ROUTE_ADVERTISEMENT, &ROUTES).await;
        event(&client, |event| matches!(event, TunnelEvent::Up(_))).await;
        opened.capsule(ADDRESS_REQUEST, &ask(9)).await;
        assert_eq!(declined(&mut opened).await, [9]);
    });
}

/// The ids of the requests that the client's next ADDRESS_ASSIGN declines.
async fn declined(opened: &mut Opened) -> Vec<u64> {
    loop {
        let Capsule::AddressAssign(list) = capsule(opened).await else {
            // It asks as well.
            continue;
        };
        assert!(
            list.iter()
                .all(masque_protocol::AssignedAddress::is_refusal)
        );
        return list.iter().map(|entry| entry.request_id).collect();
    }
}

#[test]
fn n52_n53_routes_that_are_none_end_the_tunnel() {
    let range = |from: u8, to: u8, protocol: u8| [4, 10, from, 0, 0, 10, to, 255, 255, protocol];
    let v6 = [&[6_u8][..], &[0xfd; 16], &[0xfe; 16], &[0]].concat();
    for (what, value) in [
        ("IP version 7", vec![7, 10, 0, 0, 0, 10, 0, 255, 255, 0]),
        ("backwards", range(9, 3, 0).to_vec()),
        ("overlapping", [range(0, 4, 0), range(4, 8, 0)].concat()),
        ("out of order", [range(4, 8, 0), range(0, 2, 0)].concat()),
        ("twice", [range(0, 4, 0), range(0, 4, 0)].concat()),
        (
            "families out of order",
            [v6, range(0, 4, 0).to_vec()].concat(),
        ),
        (
            "protocols out of order",
            [range(0, 2, 17), range(4, 8, 6)].concat(),
        ),
    ] {
        malformed_capsule(what, ROUTE_ADVERTISEMENT, &value);
    }
}

#[test]
fn n52_an_advertisement_replaces_all_earlier_ones() {
    with_client(|server, client| async move {
        let mut opened = server.tunnel(&client).await;
        let value = [4, 10, 7, 0, 0, 10, 7, 255, 255, 0];
        opened.capsule(ROUTE_ADVERTISEMENT, &value).await;
        let assignment = changed(&client).await;
        assert_eq!(assignment.routes, ["10.7.0.0/16".parse().unwrap()]);
    });
}

#[test]
fn n56_context_0_carries_packets_both_ways_and_no_other_does() {
    with_client(|server, client| async move {
        let opened = server.tunnel(&client).await;
        let connection = &opened.wire.connection;
        for context in [1, 2, 63] {
            let datagram = [&[0, context][..], &packet(context)].concat();
            connection.send_datagram(datagram.into()).unwrap();
        }
        // No context at all, and a packet of no bytes.
        connection.send_datagram(vec![0].into()).unwrap();
        connection.send_datagram(vec![0, 0].into()).unwrap();
        assert_open(&opened, &client, 77).await;

        let out = build_udp(
            [10, 0, 100, 50].into(),
            [10, 0, 2, 100].into(),
            9,
            7,
            b"out",
        );
        client.sender.send(out.clone()).unwrap();
        let datagram = connection.read_datagram().await.unwrap();
        assert_eq!(&datagram[..2], [0, 0], "quarter stream id and context");
        assert_eq!(&datagram[2..], out);
    });
}
