//! The control stream, SETTINGS, unidirectional streams, QPACK streams.

use masque_http3::*;

use crate::raw::*;

const ROLES: [Role; 2] = [Role::Client, Role::Server];
const GREASE_FRAME: u64 = 0x21;
const REQUEST: StreamId = StreamId(0);

#[test]
fn n06_our_control_stream_begins_with_settings_then_grease() {
    let mut http = Connection::new(Role::Server, Config::default());
    let Some(Output::Control(preface)) = http.poll_output() else {
        panic!("no control stream")
    };
    assert_eq!(preface[..2], [0x00, 0x04], "stream type, SETTINGS");
    let length = usize::from(preface[2]);
    let (kind, _) = varint::decode(&preface[3 + length..]).unwrap();
    assert_eq!((kind - 0x21) % 0x1f, 0, "a reserved frame type");
    assert_eq!(http.poll_output(), None);
    let quiet = Config {
        grease_seed: None,
        ..Config::default()
    };
    let Some(Output::Control(bytes)) = Connection::new(Role::Client, quiet).poll_output() else {
        panic!("no control stream")
    };
    assert_eq!(
        bytes[..],
        [&[0][..], &settings(&[(0x06, 16384), (0x33, 1)])].concat()
    );
}

#[test]
fn n06_missing_settings() {
    for role in ROLES {
        for first in [0x00, 0x01, 0x07, 0x0d, 0x02, GREASE_FRAME] {
            let mut raw = Raw::new(role, Config::default());
            raw.control(&[&[0][..], &frame(first, &[0])].concat());
            assert_eq!(raw.closed(), Some(Code::H3_MISSING_SETTINGS), "{first:#x}");
        }
    }
}

#[test]
fn n06_second_control_stream() {
    for role in ROLES {
        for kind in [0, 2, 3] {
            let mut raw = Raw::ready(role);
            raw.feed(peer_uni(role, 1), &[kind]);
            if kind != 0 {
                raw.assert_quiet();
                raw.feed(peer_uni(role, 2), &[kind]);
            }
            assert_eq!(
                raw.closed(),
                Some(Code::H3_STREAM_CREATION_ERROR),
                "type {kind}"
            );
        }
    }
}

#[test]
fn n06_closed_critical_stream() {
    for role in ROLES {
        for kind in [0, 2, 3] {
            let ended = |end: &dyn Fn(&mut Raw, StreamId)| {
                let mut raw = Raw::ready(role);
                let stream = peer_uni(role, if kind == 0 { 0 } else { 1 });
                if kind != 0 {
                    raw.feed(stream, &[kind]);
                }
                end(&mut raw, stream);
                raw.drain();
                raw.closed()
            };
            let expected = Some(Code::H3_CLOSED_CRITICAL_STREAM);
            assert_eq!(ended(&|raw, stream| raw.fin(stream)), expected);
            let reset = |raw: &mut Raw, stream| raw.http.handle_reset(stream, Code::H3_NO_ERROR);
            assert_eq!(ended(&reset), expected);
        }
        let mut raw = Raw::ready(role);
        let ours = StreamId(if role == Role::Client { 2 } else { 3 });
        raw.http.handle_stop_sending(ours, Code::H3_NO_ERROR);
        raw.drain();
        assert_eq!(raw.closed(), Some(Code::H3_CLOSED_CRITICAL_STREAM));
    }
}

#[test]
fn n07_settings() {
    for (payload, code) in [
        (&settings(&[(0x06, 100), (0x21, 9)]), None),
        (&settings(&[(0x02, 0)]), Some(Code::H3_SETTINGS_ERROR)),
        (
            &settings(&[(0x06, 1), (0x06, 1)]),
            Some(Code::H3_SETTINGS_ERROR),
        ),
        (&settings(&[(0x33, 2)]), Some(Code::H3_SETTINGS_ERROR)),
        (&frame(0x04, &[0x06]), Some(Code::H3_FRAME_ERROR)),
        (&header(0x04, 1025), Some(Code::H3_EXCESSIVE_LOAD)),
    ] {
        for role in ROLES {
            let mut raw = Raw::new(role, Config::default());
            raw.control(&[&[0][..], payload].concat());
            assert_eq!(raw.closed(), code, "{payload:?}");
        }
    }
    let mut raw = Raw::new(Role::Server, Config::default());
    raw.control(&[&[0][..], &settings(&[(0x06, 100), (0x21, 9)])].concat());
    assert!(matches!(&raw.events[..], [Event::Settings(all)] if *all == [(6, 100), (0x21, 9)]));
    assert_eq!(
        (raw.http.peer_setting(0x21), raw.http.peer_setting(0x22)),
        (Some(9), None)
    );
    raw.control(&settings(&[]));
    assert_eq!(
        raw.closed(),
        Some(Code::H3_FRAME_UNEXPECTED),
        "second SETTINGS"
    );
}

#[test]
fn n09_frames_on_the_control_stream() {
    for role in ROLES {
        for kind in [0x00, 0x01, 0x05, 0x02, 0x06, 0x08, 0x09] {
            let mut raw = Raw::ready(role);
            raw.control(&header(kind, 0));
            assert_eq!(raw.closed(), Some(Code::H3_FRAME_UNEXPECTED), "{kind:#x}");
        }
        let mut raw = Raw::ready(role);
        raw.control(&frame(GREASE_FRAME, &[0xff; 100]));
        raw.control(&frame(0xf0700, b"u=1")); // PRIORITY_UPDATE, which we do not know
        raw.assert_quiet();
        for (kind, payload) in [
            (0x07, &[][..]),
            (0x07, &[0, 0]),
            (0x03, &[0x40]),
            (0x07, &[0; 9]),
        ] {
            let mut raw = Raw::ready(role);
            raw.control(&frame(kind, payload));
            assert_eq!(
                raw.closed(),
                Some(Code::H3_FRAME_ERROR),
                "{kind:#x} {payload:?}"
            );
        }
        let mut raw = Raw::ready(role);
        raw.control(&frame(0x03, &[0]));
        assert_eq!(raw.closed(), Some(Code::H3_ID_ERROR), "CANCEL_PUSH");
    }
    let mut raw = Raw::client();
    raw.control(&frame(0x0d, &[0]));
    assert_eq!(
        raw.closed(),
        Some(Code::H3_FRAME_UNEXPECTED),
        "MAX_PUSH_ID from a server"
    );
    let mut raw = Raw::server();
    raw.control(&[frame(0x0d, &[1]), frame(0x0d, &[1])].concat());
    raw.assert_quiet();
    raw.control(&frame(0x0d, &[0]));
    assert_eq!(
        raw.closed(),
        Some(Code::H3_ID_ERROR),
        "MAX_PUSH_ID became smaller"
    );
}

#[test]
fn n09_unknown_streams_are_stopped_and_then_ignored() {
    for role in ROLES {
        let mut raw = Raw::ready(role);
        let stream = peer_uni(role, 1);
        raw.feed(stream, &[0x40]);
        raw.assert_quiet();
        raw.feed(stream, &[0x54, 1, 2]);
        let code = Code::H3_STREAM_CREATION_ERROR;
        assert_eq!(raw.outputs, [Output::StopSending { stream, code }]);
        raw.feed(stream, &[0; 100]);
        raw.http.handle_reset(stream, code);
        raw.fin(stream);
        assert_eq!(raw.outputs.len(), 1);
        // closed before its type is known: "MUST tolerate" (RFC 9114 §6.2)
        raw.feed(peer_uni(role, 2), &[0x40]);
        raw.fin(peer_uni(role, 2));
        raw.fin(peer_uni(role, 3));
        assert_eq!(raw.outputs.len(), 1);
    }
}

#[test]
fn push_streams() {
    let mut raw = Raw::server();
    raw.feed(peer_uni(Role::Server, 1), &[1]);
    assert_eq!(raw.closed(), Some(Code::H3_STREAM_CREATION_ERROR));
    let mut raw = Raw::client();
    raw.feed(peer_uni(Role::Client, 1), &[1]);
    assert_eq!(raw.closed(), Some(Code::H3_ID_ERROR));
}

#[test]
fn n10_bidirectional_stream_from_a_server() {
    let mut raw = Raw::client();
    raw.feed(StreamId(1), &[]);
    assert_eq!(raw.closed(), Some(Code::H3_STREAM_CREATION_ERROR));
}

#[test]
fn n16_qpack_streams() {
    for role in ROLES {
        let mut raw = Raw::ready(role);
        raw.feed(peer_uni(role, 1), &[2, 0x20]);
        raw.feed(peer_uni(role, 2), &[3, 0x44, 0x7f]);
        raw.feed(peer_uni(role, 2), &[0x05]);
        raw.assert_quiet();
        raw.feed(peer_uni(role, 1), &[0x3f, 0x01]);
        assert_eq!(raw.closed(), Some(Code::QPACK_ENCODER_STREAM_ERROR));
        let mut raw = Raw::ready(role);
        raw.feed(peer_uni(role, 1), &[3, 0x01]);
        assert_eq!(raw.closed(), Some(Code::QPACK_DECODER_STREAM_ERROR));
    }
}

#[test]
fn n16_field_sections_that_cannot_be_decoded() {
    for section in [
        &[][..],
        &[0],
        &[1, 0, 0xd1],       // a Required Insert Count
        &[0, 0x80, 0xd1],    // a negative Base
        &[0, 0, 0x80],       // dynamic table
        &[0, 0, 0x10],       // post-base
        &[0, 0, 0xff, 0x24], // static index 99
        &[0, 0, 0x51, 0x05, b'a'],
        &[
            0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ],
    ] {
        let mut raw = Raw::server();
        raw.feed(REQUEST, &frame(0x01, section));
        assert_eq!(
            raw.closed(),
            Some(Code::QPACK_DECOMPRESSION_FAILED),
            "{section:x?}"
        );
    }
}

#[test]
fn useless_frames_end_the_connection_unless_time_passes() {
    let config = Config {
        max_useless_frames: 3,
        ..Config::default()
    };
    for (stream, useless) in [
        (peer_uni(Role::Server, 0), header(GREASE_FRAME, 0)),
        (peer_uni(Role::Server, 0), frame(0x0d, &[0])),
        (REQUEST, header(GREASE_FRAME, 0)),
        (REQUEST, header(0x00, 0)),
        (REQUEST, frame(0x00, b"x")),
        (REQUEST, frame(0x00, &[b'x'; 15])),
    ] {
        let mut raw = Raw::ready_with(Role::Server, config.clone());
        raw.http.handle_timeout(1000);
        raw.feed(REQUEST, &headers(&EXTENDED));
        raw.feed(stream, &useless.repeat(3));
        raw.http.handle_timeout(60_999);
        assert_eq!(raw.closed(), None);
        raw.http.handle_timeout(61_000);
        raw.feed(stream, &useless.repeat(3));
        assert_eq!(raw.closed(), None);
        raw.feed(stream, &useless);
        assert_eq!(raw.closed(), Some(Code::H3_EXCESSIVE_LOAD));
    }
    let mut raw = Raw::ready_with(Role::Client, config);
    raw.http
        .send_request(REQUEST, &crate::heads::get(), true)
        .unwrap();
    raw.feed(REQUEST, &headers(&[(":status", "103")]).repeat(4));
    assert_eq!(
        raw.closed(),
        Some(Code::H3_EXCESSIVE_LOAD),
        "interim responses"
    );
}

/// A writer without a buffer puts a capsule's type and length in a DATA frame of their own, and its
/// value in the next.
#[test]
fn capsules_in_two_frames_are_no_load() {
    let config = Config {
        max_useless_frames: 3,
        ..Config::default()
    };
    let mut raw = Raw::ready_with(Role::Server, config);
    raw.feed(REQUEST, &headers(&EXTENDED));
    let capsule = [frame(0x00, &[0, 21]), frame(0x00, &[b'x'; 21])].concat();
    for _ in 0..100 {
        raw.feed(REQUEST, &capsule);
        raw.feed(REQUEST, &frame(0x00, &[b'x'; 16]));
    }
    assert_eq!(raw.closed(), None);
    // What was carried before is no credit for later.
    raw.feed(REQUEST, &frame(0x00, b"x").repeat(4));
    assert_eq!(raw.closed(), Some(Code::H3_EXCESSIVE_LOAD));
}

#[test]
fn streams_without_a_type_are_bounded() {
    let mut raw = Raw::server();
    for index in 1..=128 {
        raw.feed(peer_uni(Role::Server, index), &[0x40]);
    }
    raw.assert_quiet();
    raw.feed(peer_uni(Role::Server, 129), &[0x40]);
    assert_eq!(raw.closed(), Some(Code::H3_EXCESSIVE_LOAD));
}

#[test]
fn nothing_follows_a_close() {
    let mut raw = Raw::server();
    raw.feed(REQUEST, &headers(&EXTENDED));
    raw.http.close(Code::H3_NO_ERROR, "done");
    raw.drain();
    let (events, outputs) = (raw.events.len(), raw.outputs.len());
    raw.http.close(Code::H3_INTERNAL_ERROR, "again");
    raw.http.shutdown();
    raw.feed(REQUEST, &header(0x04, 0));
    raw.http.handle_reset(REQUEST, Code::H3_NO_ERROR);
    raw.http.handle_stop_sending(StreamId(3), Code::H3_NO_ERROR);
    raw.http.abort(REQUEST, Code::H3_NO_ERROR);
    assert_eq!(raw.datagram(&[]), DatagramIn::Error);
    let answer = raw
        .http
        .send_response(REQUEST, &crate::heads::status(200), true);
    assert_eq!(answer, Err(SendError::Closed));
    raw.drain();
    assert_eq!((raw.events.len(), raw.outputs.len()), (events, outputs));
    assert!(raw.http.is_closed() && !raw.http.datagrams_ready());
    assert_eq!(raw.http.open_requests(), 0);
}
