//! How requests end, how many there may be, and what may be sent.

use bytes::Bytes;
use masque_http3::*;

use crate::{harness::Pair, heads::*, raw::*};

const REQUEST: StreamId = StreamId(0);

#[test]
fn n13_an_early_answer_asks_the_client_to_stop() {
    let mut pair = Pair::connected(vec![]);
    let stream = pair.request(&get(), false);
    pair.client
        .http
        .send_data(stream, "body".into(), false)
        .unwrap();
    pair.run();
    pair.server
        .http
        .send_response(stream, &status(413), true)
        .unwrap();
    pair.run();
    assert_eq!(pair.server.http.open_requests(), 0);
    assert!(matches!(
        &pair.client.events[..],
        [Event::Response { head, .. }, Event::Finished { .. }] if head.status == 413
    ));
    assert_eq!(
        pair.client.http.open_requests(),
        0,
        "STOP_SENDING closed the client's side"
    );
    let answer = pair.client.http.send_data(stream, "more".into(), false);
    assert_eq!(answer, Err(SendError::StreamClosed));
    assert_eq!((pair.client.closed, pair.server.closed), (None, None));
}

#[test]
fn n13_a_stopped_client_still_gets_the_answer() {
    for code in [Code::H3_NO_ERROR, Code::H3_INTERNAL_ERROR] {
        let mut raw = Raw::requesting(&get());
        raw.http.handle_stop_sending(REQUEST, code);
        raw.feed(REQUEST, &headers(&[(":status", "500")]));
        raw.fin(REQUEST);
        assert!(matches!(
            raw.events[..],
            [Event::Response { .. }, Event::Finished { .. }]
        ));
        assert_eq!(
            raw.outputs,
            [Output::Reset {
                stream: REQUEST,
                code
            }]
        );
        assert_eq!(raw.http.open_requests(), 0);
    }
}

#[test]
fn n15_a_tunnel_carries_only_data() {
    for head in [&CONNECT[..], &EXTENDED] {
        for kind in [0x01, 0x05, 0x04] {
            let mut raw = server_after(&headers(head));
            raw.http
                .send_response(REQUEST, &status(200), false)
                .unwrap();
            raw.feed(REQUEST, &[frame(0x00, b"x"), frame(0x21, b"y")].concat());
            assert_eq!(raw.closed(), None);
            raw.feed(REQUEST, &header(kind, 1));
            raw.drain();
            assert_eq!(raw.closed(), Some(Code::H3_FRAME_UNEXPECTED), "{kind}");
        }
    }
    for kind in [0x01, 0x05] {
        let mut raw = Raw::requesting(&classic_connect());
        raw.feed(REQUEST, &headers(&[(":status", "200")]));
        raw.feed(REQUEST, &header(kind, 1));
        assert_eq!(
            raw.closed(),
            Some(Code::H3_FRAME_UNEXPECTED),
            "{kind} at a client"
        );
    }
    let mut raw = Raw::requesting(&classic_connect());
    raw.feed(
        REQUEST,
        &[headers(&[(":status", "403")]), headers(&[("a", "b")])].concat(),
    );
    assert_eq!(raw.closed(), None, "a refusal may have trailers");
}

#[test]
fn n15_ends_of_a_tunnel() {
    let open = || {
        let mut pair = Pair::connected(vec![]);
        let stream = pair.request(&classic_connect(), false);
        pair.run();
        pair.server
            .http
            .send_response(stream, &status(200), false)
            .unwrap();
        pair.run();
        (pair, stream)
    };
    // TCP reset behind the server: both directions end, with the code
    let (mut pair, stream) = open();
    pair.server.http.abort(stream, Code::H3_CONNECT_ERROR);
    pair.run();
    let code = Code::H3_CONNECT_ERROR;
    assert!(matches!(pair.client.events[1], Event::Reset { code: seen, .. } if seen == code));
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
    // half-close, first the server's side
    let (mut pair, stream) = open();
    pair.server
        .http
        .send_data(stream, Bytes::new(), true)
        .unwrap();
    pair.run();
    assert!(matches!(pair.client.events[1], Event::Finished { .. }));
    pair.client
        .http
        .send_data(stream, "still".into(), true)
        .unwrap();
    pair.run();
    assert!(matches!(
        pair.server.events[1..],
        [Event::Data { .. }, Event::Finished { .. }]
    ));
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
    // the client gives up
    let (mut pair, stream) = open();
    pair.client.http.abort(stream, Code::H3_REQUEST_CANCELLED);
    pair.run();
    let code = Code::H3_REQUEST_CANCELLED;
    assert!(matches!(pair.server.events[1], Event::Reset { code: seen, .. } if seen == code));
    assert_eq!(
        pair.server.events.len(),
        2,
        "one event, though RESET and STOP_SENDING came"
    );
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
}

#[test]
fn resets() {
    let mut raw = server_after(&headers(&GET));
    raw.http.handle_reset(REQUEST, Code(0x77));
    raw.drain();
    assert_eq!(raw.resets(), [(REQUEST, Code(0x77))]);
    let code = Code::H3_REQUEST_CANCELLED;
    assert_eq!(
        raw.outputs,
        [Output::Reset {
            stream: REQUEST,
            code
        }]
    );
    let mut raw = server_after(&headers(&GET));
    raw.http.handle_stop_sending(REQUEST, Code(0x77));
    raw.drain();
    assert_eq!(raw.resets(), [(REQUEST, Code(0x77))]);
    assert_eq!(
        raw.outputs[0],
        Output::Reset {
            stream: REQUEST,
            code: Code(0x77)
        }
    );
    // reset before a single byte, then late bytes
    let mut raw = Raw::server();
    raw.http.handle_reset(REQUEST, Code(0x77));
    raw.feed(REQUEST, &headers(&GET));
    assert!(raw.events.is_empty());
    assert_eq!(
        raw.outputs[0],
        Output::Reset {
            stream: REQUEST,
            code
        }
    );
    assert_eq!(raw.http.open_requests(), 0);
}

#[test]
fn n10_requests_at_one_time_are_bounded() {
    let mut raw = Raw::server();
    for number in 0..128 {
        raw.feed(StreamId(4 * number), &headers(&GET));
    }
    assert_eq!((raw.events.len(), raw.http.open_requests()), (128, 128));
    raw.feed(StreamId(512), &headers(&GET));
    let (stream, code) = (StreamId(512), Code::H3_REQUEST_REJECTED);
    let expected = [
        Output::Reset { stream, code },
        Output::StopSending { stream, code },
    ];
    assert_eq!(raw.outputs, expected);
    raw.http
        .send_response(StreamId(4), &status(200), true)
        .unwrap();
    raw.feed(StreamId(516), &headers(&GET));
    assert_eq!((raw.events.len(), raw.http.open_requests()), (129, 128));
}

#[test]
fn n14_graceful_shutdown_of_a_server() {
    let mut pair = Pair::connected(vec![]);
    let first = pair.request(&get(), true);
    pair.server.http.shutdown();
    pair.run();
    let head = get();
    assert!(matches!(pair.client.events[..], [Event::GoAway { id }] if id == (1 << 62) - 4));
    let refused = pair.client.http.send_request(StreamId(4), &head, true);
    assert_eq!(refused, Err(SendError::GoingAway));
    pair.server.http.shutdown();
    pair.run();
    assert!(matches!(pair.client.events[1], Event::GoAway { id: 4 }));
    // one that was on its way
    pair.server
        .http
        .handle_stream(StreamId(4), headers(&GET).into(), true);
    let code = Code::H3_REQUEST_REJECTED;
    assert_eq!(
        pair.server.http.poll_output(),
        Some(Output::Reset {
            stream: StreamId(4),
            code
        })
    );
    pair.server
        .http
        .send_response(first, &status(200), true)
        .unwrap();
    pair.run();
    assert!(matches!(
        pair.client.events[2..],
        [Event::Response { .. }, Event::Finished { .. }]
    ));
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
}

#[test]
fn n14_goaway_at_a_client() {
    let mut raw = Raw::client();
    for number in 0..3 {
        raw.http
            .send_request(StreamId(4 * number), &get(), false)
            .unwrap();
    }
    raw.drain();
    raw.outputs.clear();
    raw.control(&frame(0x07, &[4]));
    let code = Code::H3_REQUEST_REJECTED;
    assert_eq!(raw.resets(), [(StreamId(4), code), (StreamId(8), code)]);
    assert_eq!((raw.outputs.len(), raw.http.open_requests()), (4, 1));
    raw.control(&frame(0x07, &[8]));
    assert_eq!(
        raw.closed(),
        Some(Code::H3_ID_ERROR),
        "the id became larger"
    );
    let mut raw = Raw::client();
    raw.control(&frame(0x07, &[5]));
    assert_eq!(raw.closed(), Some(Code::H3_ID_ERROR), "no request stream");
    let mut raw = Raw::server();
    raw.control(&frame(0x07, &[5]));
    assert!(
        matches!(raw.events[..], [Event::GoAway { id: 5 }]),
        "a push id"
    );
}

#[test]
fn n19_extended_connect_needs_the_setting() {
    let mut raw = Raw::new(Role::Client, Config::default());
    let send = |raw: &mut Raw| raw.http.send_request(REQUEST, &connect_ip(), false);
    assert_eq!(send(&mut raw), Err(SendError::NoExtendedConnect));
    raw.control(&[&[0][..], &settings(&[(0x08, 0)])].concat());
    assert_eq!(send(&mut raw), Err(SendError::NoExtendedConnect));
    assert_eq!(send(&mut Raw::client()), Ok(()));
    let config = Config {
        extended_connect: false,
        ..Config::default()
    };
    let mut raw = Raw::ready_with(Role::Server, config);
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.assert_aborted(REQUEST, Code::H3_MESSAGE_ERROR);
}

#[test]
fn what_may_not_be_sent() {
    let mut raw = Raw::client();
    let bad = RequestHead {
        path: Some("/a b".into()),
        ..get()
    };
    assert!(matches!(
        raw.http.send_request(REQUEST, &bad, true),
        Err(SendError::Malformed(_))
    ));
    let bad = RequestHead {
        fields: vec![Field::new("a", "b\r\nc: d")],
        ..get()
    };
    assert!(matches!(
        raw.http.send_request(REQUEST, &bad, true),
        Err(SendError::Malformed(_))
    ));
    raw.http.send_request(REQUEST, &get(), false).unwrap();
    let closed = Err(SendError::StreamClosed);
    assert_eq!(
        raw.http.send_request(REQUEST, &get(), true),
        closed,
        "used before"
    );
    assert_eq!(
        raw.http.send_request(StreamId(2), &get(), true),
        closed,
        "unidirectional"
    );
    assert_eq!(raw.http.send_data(StreamId(4), Bytes::new(), true), closed);
    assert_eq!(raw.http.send_data(StreamId(1), Bytes::new(), true), closed);
    raw.http.send_data(REQUEST, Bytes::new(), true).unwrap();
    assert_eq!(raw.http.send_data(REQUEST, Bytes::new(), true), closed);

    let mut raw = server_after(&headers(&GET)[..4]);
    assert_eq!(
        raw.http.send_response(REQUEST, &status(200), true),
        closed,
        "no request yet"
    );
    raw.feed(REQUEST, &headers(&GET)[4..]);
    let early = raw.http.send_data(REQUEST, "x".into(), false);
    assert!(matches!(early, Err(SendError::Malformed(_))), "DATA first");
    let interim = raw.http.send_response(REQUEST, &status(103), true);
    assert!(matches!(interim, Err(SendError::Malformed(_))));
    let bad = raw.http.send_response(REQUEST, &status(99), true);
    assert!(matches!(bad, Err(SendError::Malformed(_))));
    raw.http
        .send_response(REQUEST, &status(200), false)
        .unwrap();
    assert_eq!(
        raw.http.send_response(REQUEST, &status(200), true),
        closed,
        "answered before"
    );
}
