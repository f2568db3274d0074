//! HTTP/3 and HTTP Datagrams (numbers 1 to 33), against the real gateway.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use std::{
    net::IpAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use masque_conformance::{
    DatagramForm, Dialer, RawClient, Shape,
    frames::{self, PATH, USUAL, capsule, connect_ip, control, frame, headers},
    with_gateway,
};
use masque_packet::build::build_icmp_echo;

const H3_NO_ERROR: u64 = 0x100;
const H3_REQUEST_CANCELLED: u64 = 0x10c;
const H3_STREAM_CREATION_ERROR: u64 = 0x103;
const H3_CLOSED_CRITICAL_STREAM: u64 = 0x104;
const H3_FRAME_UNEXPECTED: u64 = 0x105;
const H3_SETTINGS_ERROR: u64 = 0x109;
const H3_MISSING_SETTINGS: u64 = 0x10a;
const H3_MESSAGE_ERROR: u64 = 0x10e;
const H3_DATAGRAM_ERROR: u64 = 0x33;

#[test]
fn n01_datagrams_of_any_size_are_announced() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        // The peer's max_datagram_frame_size bounds this together with the path's MTU.
        assert!(
            client
                .connection
                .max_datagram_size()
                .is_some_and(|size| size > 1300)
        );
    });
}

#[test]
fn n02_a_client_without_datagrams_gets_no_tunnel() {
    with_gateway(|dial| async move {
        let mut client = dial
            .connect(Shape {
                datagrams: false,
                ..Shape::default()
            })
            .await;
        client.open_control(&control(&USUAL)).await;
        let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
        let head = reader.head().await;
        assert_eq!(frames::status(&head), 400);
        let why = frames::field(&head, "proxy-status").expect("it says why");
        assert!(why.contains("datagram"), "{why}");
        // The connection is fine: the gateway sent no DATAGRAM frame, which would have ended it.
        let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
        assert_eq!(reader.status().await, 400);
    });
}

#[test]
fn n04_datagram_frames_with_and_without_length_are_taken() {
    with_gateway(|dial| async move {
        for form in [DatagramForm::WithLength, DatagramForm::WithoutLength] {
            let (mut client, sent) = dial.connect_with_frames(form).await;
            client.open_control(&control(&USUAL)).await;
            let (_send, _reader, capsules) = client.tunnel().await;
            // An ADDRESS_ASSIGN: request id 0, IPv4, the address.
            let [0, 4, a, b, c, d, ..] = capsules[0].1[..] else {
                panic!("{capsules:?}")
            };
            let own = IpAddr::from([a, b, c, d]);
            // A packet that repeats a lost one's stream frames behind the datagram keeps the driver's form
            // of it: the next one is looked at instead.
            for sequence in 1..=10 {
                let target = IpAddr::from([10, 0, 1, 10]);
                let echo = build_icmp_echo(own, target, 7, sequence, b"hello");
                let datagram = [&[0, 0][..], &echo].concat();
                client.connection.send_datagram(datagram.into()).unwrap();
                let answer =
                    tokio::time::timeout(Duration::from_secs(5), client.connection.read_datagram());
                let answer = answer.await.expect("an answer in time").unwrap();
                assert_eq!((answer[11], answer[22]), (1, 0), "an echo reply");
                assert_eq!(answer[28..30], sequence.to_be_bytes(), "to this echo");
                if sent.load(Ordering::Relaxed) > 0 {
                    break;
                }
            }
            assert_eq!(sent.load(Ordering::Relaxed), 1, "{form:?}");
        }
    });
}

#[test]
fn n06_control_streams() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let _second = client.open_uni(&control(&USUAL)).await;
        assert_eq!(client.close_code().await, H3_STREAM_CREATION_ERROR);

        let mut client = dial.connect(Shape::default()).await;
        client
            .open_control(&[&[0][..], &frame(0x21, b"x")].concat())
            .await;
        assert_eq!(client.close_code().await, H3_MISSING_SETTINGS);

        let client = dial.connect(Shape::default()).await;
        let mut stream = client.open_uni(&control(&USUAL)).await;
        stream.finish().unwrap();
        assert_eq!(client.close_code().await, H3_CLOSED_CRITICAL_STREAM);
    });
}

#[test]
fn n07_settings() {
    with_gateway(|dial| async move {
        let mut client = dial.ready().await;
        client.on_control(&frame(frames::SETTINGS, &[])).await;
        assert_eq!(client.close_code().await, H3_FRAME_UNEXPECTED);
        for wrong in [
            &[(0x2, 1)][..],
            &[(0x33, 1), (0x33, 1)],
            &[(0x33, 2)],
            &[(0x8, 2)],
        ] {
            let mut client = dial.connect(Shape::default()).await;
            client.open_control(&control(wrong)).await;
            assert_eq!(client.close_code().await, H3_SETTINGS_ERROR, "{wrong:x?}");
        }
        let mut client = dial.connect(Shape::default()).await;
        client
            .open_control(&control(&[(0x33, 1), (0x1f * 7 + 0x21, 99)]))
            .await;
        client.tunnel().await;
    });
}

#[test]
fn n08_n21_a_request_before_the_settings_is_served() {
    with_gateway(|dial| async move {
        let mut client = dial.connect(Shape::default()).await;
        let (_send, mut reader, _) = client.tunnel().await;
        client.open_control(&control(&USUAL)).await;
        // The tunnel lives on.
        let (send, mut other, _) = client.tunnel().await;
        drop(send);
        // Dropping a send stream resets it; the other tunnel does not mind.
        let _ended = other.reset_code().await;
        let quiet = tokio::time::timeout(Duration::from_millis(300), reader.frame());
        assert!(quiet.await.is_err(), "the first tunnel is still open");
    });
}

#[test]
fn n09_unknown_is_ignored_and_reserved_is_not() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let _stream = client.open_uni(&[0x1f * 3 + 0x21, 1, 2, 3]).await;
        let request = [frame(0x1f * 5 + 0x21, b"grease"), connect_ip(PATH)].concat();
        let (_send, mut reader) = client.request(&request).await;
        assert_eq!(reader.status().await, 200);
        for reserved in [0x2, 0x6, 0x8, 0x9] {
            let mut client = dial.ready().await;
            client.on_control(&frame(reserved, &[])).await;
            assert_eq!(
                client.close_code().await,
                H3_FRAME_UNEXPECTED,
                "{reserved:x}"
            );
        }
    });
}

#[test]
fn n11_malformed_requests_end_their_stream_alone() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (_send, mut tunnel, _) = client.tunnel().await;
        let usual = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "192.0.2.1:4433"),
            (":path", "/"),
        ];
        let with = |extra: &[(&'static str, &'static str)]| headers(&[&usual[..], extra].concat());
        for wrong in [
            with(&[("Upper", "x")]),
            with(&[("connection", "close")]),
            with(&[("transfer-encoding", "chunked")]),
            with(&[(":path", "/again")]),
            with(&[("host", "other.example")]),
            headers(&[("x", "y"), (":method", "GET")]),
            headers(&usual[1..]),
        ] {
            let (_send, mut reader) = client.request(&wrong).await;
            assert_eq!(reader.reset_code().await, H3_MESSAGE_ERROR, "{wrong:?}");
        }
        let quiet = tokio::time::timeout(Duration::from_millis(200), tunnel.frame());
        assert!(quiet.await.is_err(), "the tunnel beside them is untouched");
    });
}

#[test]
fn n17_early_data_is_not_offered() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        client.tunnel().await;
        // Tickets came with the handshake's end; the raw client would use early data that one allows.
        let connecting = dial.reconnect(&client);
        assert!(
            connecting.into_0rtt().is_err(),
            "CONNECT must not travel in early data"
        );
    });
}

#[test]
fn n18_n20_extended_connect() {
    with_gateway(|dial| async move {
        let mut client = dial.ready().await;
        let settings = client.peer_settings().await;
        assert!(settings.contains(&(0x8, 1)), "{settings:x?}");
        assert!(settings.contains(&(0x33, 1)), "{settings:x?}");
        let base = [
            (":method", "CONNECT"),
            (":scheme", "https"),
            (":authority", "192.0.2.1:4433"),
            (":path", PATH),
        ];
        let unknown = [&[(":protocol", "connect-nothing")][..], &base].concat();
        let (_send, mut reader) = client.request(&headers(&unknown)).await;
        assert_eq!(reader.status().await, 501);
        for missing in 1..base.len() {
            let mut fields = vec![(":protocol", "connect-ip")];
            fields.extend(
                base.iter()
                    .enumerate()
                    .filter(|(i, _)| *i != missing)
                    .map(|(_, f)| *f),
            );
            let (_send, mut reader) = client.request(&headers(&fields)).await;
            assert_eq!(
                reader.reset_code().await,
                H3_MESSAGE_ERROR,
                "without {:?}",
                base[missing]
            );
        }
    });
}

#[test]
fn n22_a_datagram_too_short_closes_the_connection() {
    with_gateway(|dial| async move {
        for wrong in [&[][..], &[0x40], &[0xff; 8]] {
            let client = dial.ready().await;
            client.tunnel().await;
            client
                .connection
                .send_datagram(bytes::Bytes::copy_from_slice(wrong))
                .unwrap();
            assert_eq!(client.close_code().await, H3_DATAGRAM_ERROR, "{wrong:x?}");
        }
    });
}

#[test]
fn n25_a_datagram_on_a_plain_request_ends_it() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (send, mut reader) = client.request(&frame(0x21, b"not yet a request")).await;
        client
            .connection
            .send_datagram(bytes::Bytes::from_static(&[0, 0, 1]))
            .unwrap();
        let mut send = send;
        let get = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "192.0.2.1:4433"),
            (":path", "/"),
        ];
        tokio::time::sleep(Duration::from_millis(50)).await;
        send.write_all(&headers(&get)).await.unwrap();
        assert_eq!(reader.reset_code().await, H3_DATAGRAM_ERROR);
    });
}

/// The settings of a client that takes no HTTP Datagrams, though its QUIC does.
const WITHOUT_DATAGRAMS: [&[(u64, u64)]; 2] = [&[(0x6, 16_384)], &[(0x33, 0)]];

#[test]
fn n26_settings_without_datagrams_get_no_tunnel() {
    with_gateway(|dial| async move {
        for settings in WITHOUT_DATAGRAMS {
            let mut client = dial.connect(Shape::default()).await;
            client.open_control(&control(settings)).await;
            // An answer to what was sent after them says that the gateway has read them.
            let (_send, mut reader) = client.request(&get("/")).await;
            assert_eq!(reader.status().await, 404);
            for _ in 0..2 {
                let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
                let head = reader.head().await;
                assert_eq!(frames::status(&head), 400, "{settings:x?}");
                let why = frames::field(&head, "proxy-status").expect("it says why");
                assert!(why.contains("datagram"), "{why}");
            }
        }
    });
}

#[test]
fn n26_settings_that_come_late_without_datagrams_end_the_tunnel() {
    with_gateway(|dial| async move {
        for settings in WITHOUT_DATAGRAMS {
            let mut client = dial.connect(Shape::default()).await;
            let (_send, mut reader, _) = client.tunnel().await;
            client.open_control(&control(settings)).await;
            assert_eq!(reader.reset_code().await, H3_REQUEST_CANCELLED);
            let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
            assert_eq!(reader.status().await, 400);
        }
    });
}

#[test]
fn n13_who_asks_for_nothing_is_closed_without_an_error() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (_send, mut reader, _) = client.tunnel().await;
        let stranger = stranger(&dial).await;
        let (_send, mut answer) = stranger.request(&get("/")).await;
        assert_eq!(answer.status().await, 404, "as any web server would");
        // Ten seconds after its handshake, whatever it asks meanwhile.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let (_send, mut answer) = stranger.request(&get("/")).await;
        assert_eq!(answer.status().await, 404);
        assert_eq!(stranger.close_code().await, H3_NO_ERROR);
        let quiet = tokio::time::timeout(Duration::from_secs(2), reader.frame());
        assert!(quiet.await.is_err(), "the tunnel is still open");
        assert_eq!(client.connection.close_reason(), None);
    });
}

/// The connections of one address (the gateway's default).
const PLACES_OF_AN_ADDRESS: usize = 2_000;

#[test]
fn n13_strangers_that_hold_every_place_keep_no_client_out() {
    with_gateway(|dial| async move {
        let first = stranger(&dial).await;
        let start = Instant::now();
        let mut strangers = Vec::new();
        while strangers.len() < PLACES_OF_AN_ADDRESS {
            let batch: Vec<_> = (0..50).map(|_| dial.reconnect(&first)).collect();
            for connecting in batch {
                strangers.push(connecting.await.expect("a handshake"));
            }
        }
        let filled = start.elapsed();
        dial.ready().await.tunnel().await;
        let closed = |connection: &&quinn::Connection| connection.close_reason().is_some();
        let gone = strangers.iter().filter(closed).count();
        println!("filled in {filled:?}; {gone} strangers are gone");
    });
}

/// A connection of somebody without a key.
async fn stranger(dial: &Dialer) -> RawClient {
    let mut client = dial
        .connect(Shape {
            certificate: false,
            ..Shape::default()
        })
        .await;
    client.open_control(&control(&USUAL)).await;
    client
}

/// A request for a page.
fn get(path: &str) -> Vec<u8> {
    headers(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "192.0.2.1:4433"),
        (":path", path),
    ])
}

#[test]
fn n28_n29_unknown_capsules_of_any_size_are_skipped() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (mut send, mut reader, _) = client.tunnel().await;
        send.write_all(&capsule(0x29 * 4 + 0x17, &[7; 3000]))
            .await
            .unwrap();
        // A capsule of 2^40 bytes, of which some megabytes come, does not fill the gateway.
        let mut endless = Vec::new();
        for part in [0x29u64 * 9 + 0x17, 1 << 40] {
            let (encoded, length) = masque_http3::varint::encode(part);
            endless.extend_from_slice(&encoded[..length]);
        }
        send.write_all(&frame(frames::DATA, &endless))
            .await
            .unwrap();
        for _ in 0..100 {
            send.write_all(&frame(frames::DATA, &[0; 60_000]))
                .await
                .unwrap();
        }
        let quiet = tokio::time::timeout(Duration::from_millis(200), reader.frame());
        assert!(quiet.await.is_err(), "the tunnel goes on");
    });
}

#[test]
fn n31_a_truncated_capsule_is_malformed() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (mut send, mut reader, _) = client.tunnel().await;
        send.write_all(&frame(frames::DATA, &[2, 9, 1]))
            .await
            .unwrap();
        send.finish().unwrap();
        assert_eq!(reader.reset_code().await, H3_MESSAGE_ERROR);
    });
}
