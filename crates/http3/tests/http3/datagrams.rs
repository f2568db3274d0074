//! HTTP Datagrams (RFC 9297 §2).

use bytes::Bytes;
use masque_http3::*;

use crate::{
    harness::{Pair, datagram},
    heads::*,
    raw::*,
};

const REQUEST: StreamId = StreamId(0);
const CLOSED: DatagramIn = DatagramIn::Dropped(DatagramDrop::StreamClosed);
const FULL: DatagramIn = DatagramIn::Dropped(DatagramDrop::EarlyBufferFull);

/// A server with an extended CONNECT on stream 0 whose datagrams are accepted.
fn accepted() -> Raw {
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.http.accept_datagrams(REQUEST);
    raw.http
        .send_response(REQUEST, &status(200), false)
        .unwrap();
    raw.drain();
    raw.outputs.clear();
    raw
}

fn early(raw: &mut Raw) -> Vec<(StreamId, Bytes)> {
    std::iter::from_fn(|| raw.http.poll_early_datagram()).collect()
}

#[test]
fn n22_quarter_stream_id() {
    let mut too_large = integers(&[1 << 60]);
    too_large.push(0);
    for bad in [&[][..], &[0x40], &[0xc0, 0, 0, 0, 0, 0, 0], &too_large] {
        for role in [Role::Client, Role::Server] {
            let mut raw = Raw::ready(role);
            assert_eq!(raw.datagram(bad), DatagramIn::Error);
            assert_eq!(raw.closed(), Some(Code::H3_DATAGRAM_ERROR), "{bad:?}");
        }
    }
    let mut raw = Raw::server();
    assert_eq!(raw.datagram(&integers(&[(1 << 60) - 1])), DatagramIn::Kept);
    assert_eq!(datagram_prefix(StreamId(4 * 64)), varint::encode(64));
}

#[test]
fn n22_payload_is_delivered_without_copying() {
    let mut raw = accepted();
    let packet = datagram(REQUEST, b"payload");
    let DatagramIn::Deliver {
        stream: REQUEST,
        payload,
    } = raw.http.handle_datagram(packet.clone(), 0)
    else {
        panic!("not delivered")
    };
    assert_eq!(payload, "payload");
    assert_eq!(payload.as_ptr(), packet[1..].as_ptr());
    // a longer encoding of the same id
    let DatagramIn::Deliver { payload, .. } = raw.datagram(&[0x80, 0, 0, 0, b'x']) else {
        panic!("not delivered")
    };
    assert_eq!(payload, "x");
}

#[test]
fn n23_early_datagrams_wait_for_their_request() {
    let mut raw = Raw::server();
    let second = StreamId(4);
    for (stream, payload) in [(REQUEST, "a"), (second, "b"), (REQUEST, "c")] {
        assert_eq!(
            raw.datagram(&datagram(stream, payload.as_bytes())),
            DatagramIn::Kept
        );
    }
    raw.feed(REQUEST, &headers(&EXTENDED));
    assert_eq!(early(&mut raw), []);
    raw.http.accept_datagrams(REQUEST);
    assert_eq!(
        early(&mut raw),
        [(REQUEST, "a".into()), (REQUEST, "c".into())]
    );
    raw.feed(second, &headers(&EXTENDED));
    raw.http.accept_datagrams(second);
    assert_eq!(early(&mut raw), [(second, "b".into())]);
    assert_eq!(raw.closed(), None);
}

#[test]
fn n23_early_datagrams_are_bounded_per_stream_and_in_bytes() {
    let mut raw = Raw::server();
    for _ in 0..16 {
        assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), DatagramIn::Kept);
    }
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), FULL);
    assert_eq!(raw.datagram(&datagram(StreamId(4), b"x")), DatagramIn::Kept);
    let mut raw = Raw::server();
    let kept = (0..100).take_while(|index| {
        let packet = datagram(StreamId(4 * index), &[0; 1200]);
        raw.datagram(&packet) == DatagramIn::Kept
    });
    assert_eq!(kept.count(), 64 * 1024 / (1200 + 64));
    let mut raw = Raw::server();
    let empty = (0..)
        .take_while(|index| raw.datagram(&datagram(StreamId(4 * index), b"")) == DatagramIn::Kept);
    assert_eq!(empty.count(), 1024, "empty ones cost something too");
    assert_eq!(raw.closed(), None);
}

#[test]
fn n23_early_datagrams_grow_old() {
    let mut raw = Raw::server();
    let at = |raw: &mut Raw, now_ms, payload: &str| {
        raw.http
            .handle_datagram(datagram(REQUEST, payload.as_bytes()), now_ms)
    };
    for index in 0..16 {
        assert_eq!(at(&mut raw, 1000 + 10 * index, "old"), DatagramIn::Kept);
    }
    assert_eq!(at(&mut raw, 1249, "new"), FULL);
    assert_eq!(
        at(&mut raw, 1250, "new"),
        DatagramIn::Kept,
        "the first made room"
    );
    raw.http.handle_timeout(1401);
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.http.accept_datagrams(REQUEST);
    assert_eq!(early(&mut raw), [(REQUEST, "new".into())]);
    assert_eq!(
        raw.http.handle_datagram(datagram(StreamId(4), b""), 1401),
        DatagramIn::Kept
    );
    let before = raw.http.retained_bytes();
    raw.http.handle_timeout(1650);
    assert_eq!(raw.http.retained_bytes(), before, "249 ms");
    raw.http.handle_timeout(1651);
    assert_eq!(raw.http.retained_bytes(), before - 64, "250 ms");
}

#[test]
fn n23_receive_side_closed() {
    let mut raw = accepted();
    raw.fin(REQUEST);
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), CLOSED);
    raw.http.send_data(REQUEST, Bytes::new(), true).unwrap();
    assert_eq!(raw.http.open_requests(), 0);
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), CLOSED);
    let mut raw = accepted();
    raw.http.abort(REQUEST, Code::H3_NO_ERROR);
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), CLOSED);
    // what was kept for a request that ends, or receives no more, is dropped with it
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), DatagramIn::Kept);
    let before = raw.http.retained_bytes();
    raw.fin(REQUEST);
    assert_eq!(raw.http.retained_bytes(), before - 65);
    let mut raw = Raw::server();
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), DatagramIn::Kept);
    raw.http.handle_reset(REQUEST, Code::H3_NO_ERROR);
    raw.http.accept_datagrams(REQUEST);
    assert_eq!(early(&mut raw), []);
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    assert_eq!(raw.datagram(&datagram(REQUEST, b"x")), DatagramIn::Kept);
    raw.http.accept_datagrams(REQUEST);
    raw.http.abort(REQUEST, Code::H3_NO_ERROR);
    assert_eq!(early(&mut raw), []);
}

#[test]
fn n23_streams_that_cannot_be() {
    let mut raw = Raw::server();
    raw.http.limit_request_streams(100);
    assert_eq!(
        raw.datagram(&datagram(StreamId(4 * 99), b"")),
        DatagramIn::Kept
    );
    assert_eq!(
        raw.datagram(&datagram(StreamId(4 * 100), b"")),
        DatagramIn::Error
    );
    assert_eq!(raw.closed(), Some(Code::H3_ID_ERROR));
    let unknown = DatagramIn::Dropped(DatagramDrop::UnknownStream);
    let mut raw = Raw::client();
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), unknown);
    let mut raw = Raw::server();
    raw.http.shutdown();
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Kept);
    raw.http.shutdown();
    assert_eq!(
        raw.datagram(&datagram(REQUEST, b"")),
        unknown,
        "beyond our GOAWAY"
    );
}

#[test]
fn n24_no_datagram_after_our_side_is_closed() {
    let mut raw = accepted();
    assert!(raw.http.may_send_datagram(REQUEST));
    for other in [1, 2, 3, 4] {
        assert!(!raw.http.may_send_datagram(StreamId(other)), "{other}");
    }
    raw.http.send_data(REQUEST, Bytes::new(), true).unwrap();
    assert!(!raw.http.may_send_datagram(REQUEST));
    let mut raw = accepted();
    raw.http.handle_stop_sending(REQUEST, Code::H3_NO_ERROR);
    assert!(!raw.http.may_send_datagram(REQUEST));
}

#[test]
fn n25_requests_without_datagrams_are_aborted() {
    for head in [&GET[..], &CONNECT] {
        let mut raw = Raw::server();
        raw.feed(REQUEST, &headers(head));
        assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Error);
        raw.assert_aborted(REQUEST, Code::H3_DATAGRAM_ERROR);
        assert_eq!(raw.resets(), [(REQUEST, Code::H3_DATAGRAM_ERROR)]);
        // the datagram overtook the request
        let mut raw = Raw::server();
        assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Kept);
        raw.feed(REQUEST, &headers(head));
        raw.assert_aborted(REQUEST, Code::H3_DATAGRAM_ERROR);
        assert!(raw.events.is_empty());
        // the application knows better
        let mut raw = Raw::server();
        raw.feed(REQUEST, &headers(head));
        raw.http.accept_datagrams(REQUEST);
        assert!(matches!(
            raw.datagram(&datagram(REQUEST, b"")),
            DatagramIn::Deliver { .. }
        ));
    }
    let mut raw = Raw::requesting(&get());
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Error);
    assert_eq!(raw.resets(), [(REQUEST, Code::H3_DATAGRAM_ERROR)]);
}

#[test]
fn n25_an_extended_connect_without_datagrams() {
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.http.refuse_datagrams(REQUEST);
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Error);
    raw.assert_aborted(REQUEST, Code::H3_DATAGRAM_ERROR);
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), DatagramIn::Kept);
    raw.http.refuse_datagrams(REQUEST);
    raw.drain();
    raw.assert_aborted(REQUEST, Code::H3_DATAGRAM_ERROR);
}

#[test]
fn datagrams_of_a_refused_tunnel_are_dropped() {
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.http
        .send_response(REQUEST, &status(403), false)
        .unwrap();
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), CLOSED);
    assert_eq!(raw.closed(), None);
    let mut raw = Raw::requesting(&connect_ip());
    raw.http.accept_datagrams(REQUEST);
    assert!(matches!(
        raw.datagram(&datagram(REQUEST, b"")),
        DatagramIn::Deliver { .. }
    ));
    raw.feed(REQUEST, &headers(&[(":status", "403")]));
    assert_eq!(raw.datagram(&datagram(REQUEST, b"")), CLOSED);
}

#[test]
fn n26_settings_decide() {
    let ready = |ours: bool, theirs: Option<u64>| {
        let config = Config {
            datagrams: ours,
            ..Config::default()
        };
        let mut raw = Raw::new(Role::Server, config);
        if let Some(value) = theirs {
            raw.control(&[&[0][..], &settings(&[(0x33, value)])].concat());
        }
        raw.feed(REQUEST, &headers(&EXTENDED));
        raw.http.accept_datagrams(REQUEST);
        let delivered = raw.datagram(&datagram(REQUEST, b""));
        assert_eq!(raw.closed(), None);
        assert_eq!(
            raw.http.may_send_datagram(REQUEST),
            raw.http.datagrams_ready()
        );
        (
            raw.http.datagrams_ready(),
            matches!(delivered, DatagramIn::Deliver { .. }),
        )
    };
    assert_eq!(ready(true, Some(1)), (true, true));
    assert_eq!(
        ready(true, None),
        (false, true),
        "a datagram may overtake SETTINGS"
    );
    assert_eq!(ready(true, Some(0)), (false, false));
    assert_eq!(ready(false, Some(1)), (false, false));
    assert_eq!(ready(false, None), (false, false));
}

#[test]
fn both_ways_between_client_and_server() {
    let mut pair = Pair::connected(vec![]);
    let stream = pair.request(&connect_ip(), false);
    pair.run();
    pair.server.http.accept_datagrams(stream);
    // a server may be faster than its answer
    let packet = datagram(stream, b"down");
    assert_eq!(
        pair.client.http.handle_datagram(packet, 0),
        DatagramIn::Kept
    );
    pair.client.http.accept_datagrams(stream);
    assert_eq!(
        pair.client.http.poll_early_datagram(),
        Some((stream, "down".into()))
    );
    let up = pair.datagram(stream, b"up");
    assert_eq!(
        up,
        DatagramIn::Deliver {
            stream,
            payload: "up".into()
        }
    );
}
