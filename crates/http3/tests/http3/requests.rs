//! Request streams: order of frames, malformed messages, limits, early ends.

use masque_http3::*;

use crate::{heads::*, raw::*};

const REQUEST: StreamId = StreamId(0);

#[test]
fn n08_request_before_settings() {
    let mut raw = Raw::new(Role::Server, Config::default());
    raw.feed(REQUEST, &headers(&EXTENDED));
    assert!(matches!(raw.events[..], [Event::Request { .. }]));
    assert!(
        !raw.http.may_send_datagram(REQUEST),
        "item 21: settings first"
    );
    raw.http
        .send_response(REQUEST, &status(200), false)
        .unwrap();
    raw.control(&[&[0][..], &settings(&[(0x33, 1)])].concat());
    assert!(raw.http.may_send_datagram(REQUEST));
}

#[test]
fn n09_frames_on_a_request_stream() {
    for kind in [0x03, 0x04, 0x05, 0x07, 0x0d, 0x02, 0x06, 0x08, 0x09] {
        for before in [vec![], headers(&GET), headers(&EXTENDED)] {
            let raw = server_after(&[before, header(kind, 1)].concat());
            assert_eq!(raw.closed(), Some(Code::H3_FRAME_UNEXPECTED), "{kind:#x}");
        }
        let mut raw = Raw::requesting(&get());
        raw.feed(REQUEST, &header(kind, 1));
        let expected = if kind == 0x05 {
            Code::H3_ID_ERROR
        } else {
            Code::H3_FRAME_UNEXPECTED
        };
        assert_eq!(raw.closed(), Some(expected), "{kind:#x} at a client");
    }
    let unknown = frame(0x21 + 0x1f * 1000, &[0xff; 1000]);
    let raw = server_after(&[&unknown[..], &headers(&GET), &unknown, &unknown].concat());
    assert!(matches!(raw.events[..], [Event::Request { .. }]));
    assert_eq!(raw.outputs, []);
}

#[test]
fn order_of_frames() {
    let (get, data, trailers) = (headers(&GET), frame(0x00, b"x"), headers(&[("a", "b")]));
    for bad in [
        vec![data.clone()],
        vec![get.clone(), trailers.clone(), trailers.clone()],
        vec![get.clone(), trailers.clone(), data.clone()],
    ] {
        let raw = server_after(&bad.concat());
        assert_eq!(raw.closed(), Some(Code::H3_FRAME_UNEXPECTED));
    }
    let mut raw = server_after(&[get, data.clone(), data.clone(), trailers].concat());
    raw.fin(REQUEST);
    assert!(matches!(
        &raw.events[..],
        [Event::Request { .. }, Event::Data { data, .. }, Event::Finished { .. }] if data == "xx"
    ));
    let mut raw = Raw::requesting(&crate::heads::get());
    raw.feed(REQUEST, &[headers(&[(":status", "103")]), data].concat());
    assert_eq!(
        raw.closed(),
        Some(Code::H3_FRAME_UNEXPECTED),
        "DATA after an interim response"
    );
}

#[test]
fn incomplete_requests() {
    let mut raw = Raw::server();
    raw.feed(REQUEST, &frame(0x21, b"x"));
    raw.fin(REQUEST);
    let code = Code::H3_REQUEST_INCOMPLETE;
    raw.assert_aborted(REQUEST, code);
    assert!(raw.events.is_empty());
    let cut_data = [&headers(&GET)[..], &[0x00, 0x02, 0x01]].concat();
    for cut in [
        &headers(&GET)[..5],
        &cut_data,
        &[0x21],
        &[0x21, 0x01],
        &[0x40],
    ] {
        let mut raw = server_after(cut);
        assert_eq!(raw.closed(), None);
        raw.fin(REQUEST);
        assert_eq!(raw.closed(), Some(Code::H3_FRAME_ERROR), "{cut:?}");
    }
    let mut raw = Raw::requesting(&get());
    raw.feed(REQUEST, &headers(&[(":status", "100")]));
    raw.fin(REQUEST);
    assert_eq!(
        raw.resets(),
        [(REQUEST, Code::H3_MESSAGE_ERROR)],
        "no final response"
    );
}

#[test]
fn n11_malformed_requests_end_the_stream_alone() {
    for bad in [
        with(&GET, &[("Upper", "x")]),
        with(&GET, &[("te", "gzip")]),
        with(&GET, &[(":protocol", "connect-ip")]),
        with(&CONNECT, &[(":path", "/")]),
        with(&CONNECT, &[("content-length", "1")]),
        with(&EXTENDED, &[("content-length", "0")]),
        with(&GET, &[("content-length", "1"), ("content-length", "2")]),
        EXTENDED[..3].to_vec(),
    ] {
        let mut raw = server_after(&headers(&bad));
        raw.assert_aborted(REQUEST, Code::H3_MESSAGE_ERROR);
        assert!(
            raw.events.is_empty(),
            "{bad:?}: the application never sees it"
        );
        raw.feed(REQUEST, &header(0x04, 0));
        raw.fin(REQUEST);
        raw.http.handle_reset(REQUEST, Code::H3_NO_ERROR);
        raw.feed(StreamId(4), &headers(&GET));
        assert!(matches!(
            raw.events[..],
            [Event::Request {
                stream: StreamId(4),
                ..
            }]
        ));
        assert_eq!(
            raw.outputs.len(),
            2,
            "what still comes on the stream is ignored"
        );
    }
}

#[test]
fn n11_malformed_trailers_and_responses() {
    let raw = server_after(&[headers(&GET), headers(&[(":path", "/")])].concat());
    raw.assert_aborted(REQUEST, Code::H3_MESSAGE_ERROR);
    assert_eq!(raw.resets(), [(REQUEST, Code::H3_MESSAGE_ERROR)]);
    let mut raw = Raw::requesting(&get());
    raw.feed(REQUEST, &headers(&[(":status", "2000")]));
    raw.assert_aborted(REQUEST, Code::H3_MESSAGE_ERROR);
    assert_eq!(raw.resets(), [(REQUEST, Code::H3_MESSAGE_ERROR)]);
}

#[test]
fn n11_content_length_of_requests() {
    let head = headers(&with(&GET, &[("content-length", "3")]));
    let data = |length| frame(0x00, &vec![0; length]);
    let mut raw = server_after(&[head.clone(), data(1), data(2)].concat());
    raw.fin(REQUEST);
    assert!(matches!(raw.events.last(), Some(Event::Finished { .. })));
    let raw = server_after(&[head.clone(), data(1), header(0x00, 3)].concat());
    assert_eq!(
        raw.resets(),
        [(REQUEST, Code::H3_MESSAGE_ERROR)],
        "more than announced"
    );
    let mut raw = server_after(&[head, data(2)].concat());
    raw.fin(REQUEST);
    assert_eq!(
        raw.resets(),
        [(REQUEST, Code::H3_MESSAGE_ERROR)],
        "less than announced"
    );
    let raw = server_after(
        &[
            headers(&with(&CONNECT, &[("content-length", "0")])),
            data(9),
        ]
        .concat(),
    );
    assert!(matches!(
        raw.events[..],
        [Event::Request { .. }, Event::Data { .. }]
    ));
}

#[test]
fn n11_content_length_of_responses() {
    let head_request = RequestHead {
        method: "HEAD".into(),
        ..get()
    };
    let is_reset = |request: &RequestHead, status: &str, length: usize| {
        let mut raw = Raw::requesting(request);
        raw.feed(
            REQUEST,
            &headers(&[(":status", status), ("content-length", "3")]),
        );
        raw.feed(REQUEST, &frame(0x00, &vec![0; length]));
        raw.fin(REQUEST);
        assert_eq!(raw.closed(), None);
        !raw.resets().is_empty()
    };
    assert!(!is_reset(&get(), "200", 3));
    assert!(is_reset(&get(), "200", 2) && is_reset(&get(), "200", 4));
    assert!(!is_reset(&head_request, "200", 0) && is_reset(&head_request, "200", 3));
    assert!(!is_reset(&get(), "304", 0) && is_reset(&get(), "204", 3));
    assert!(
        !is_reset(&classic_connect(), "200", 7),
        "ignored (RFC 9110 §9.3.6)"
    );
    assert!(is_reset(&classic_connect(), "403", 7));
}

#[test]
fn n12_sections_above_our_limit_are_answered_with_431() {
    let value = "v".repeat(20_000);
    let (many, long) = (
        headers(&with(&GET, &[("x", "y"); 600])),
        with(&GET, &[("x", &value)]),
    );
    for bytes in [
        header(0x01, 16_385),
        header(0x01, u64::MAX >> 2),
        many,
        headers(&long),
    ] {
        let mut raw = server_after(&bytes);
        assert!(raw.http.retained_bytes() < 2000, "nothing of it is kept");
        let mut client = Raw::requesting(&get());
        let [
            Output::Stream {
                data, fin: true, ..
            },
            stop,
        ] = &raw.outputs[..]
        else {
            panic!("{:?}", raw.outputs)
        };
        assert_eq!(
            *stop,
            Output::StopSending {
                stream: REQUEST,
                code: Code::H3_NO_ERROR
            }
        );
        client.feed(REQUEST, data);
        assert!(matches!(&client.events[..], [Event::Response { head, .. }] if head.status == 431));
        raw.feed(REQUEST, &[0; 100]);
        assert!(raw.events.is_empty() && raw.closed().is_none());
        assert_eq!(raw.http.open_requests(), 0);
    }
}

#[test]
fn n12_sections_above_our_limit_elsewhere() {
    let raw = server_after(&[headers(&GET), header(0x01, 16_385)].concat());
    assert_eq!(
        raw.resets(),
        [(REQUEST, Code::H3_EXCESSIVE_LOAD)],
        "trailers"
    );
    let mut raw = Raw::requesting(&get());
    raw.feed(
        REQUEST,
        &headers(&with(&[(":status", "200")], &[("x", "y"); 600])),
    );
    raw.assert_aborted(REQUEST, Code::H3_EXCESSIVE_LOAD);
    assert_eq!(raw.resets(), [(REQUEST, Code::H3_EXCESSIVE_LOAD)]);
}

#[test]
fn n12_the_peers_limit_is_honoured() {
    let mut raw = Raw::new(Role::Client, Config::default());
    raw.control(&[&[0][..], &settings(&[(0x06, 200), (0x08, 1)])].concat());
    let result = raw.http.send_request(REQUEST, &connect_ip(), false);
    let Err(SendError::FieldSectionTooLarge {
        size_bytes,
        limit_bytes: 200,
    }) = result
    else {
        panic!("{result:?}")
    };
    assert!(size_bytes > 200);
    assert_eq!(raw.http.open_requests(), 0);
    raw.http
        .send_request(REQUEST, &classic_connect(), false)
        .unwrap();
}
