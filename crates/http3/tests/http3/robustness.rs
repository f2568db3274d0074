//! What must hold whatever the peer sends: no panic, bounded memory, the same outcome however the
//! bytes are cut.

use masque_http3::*;
use proptest::prelude::*;

use crate::{harness::datagram, heads::*, raw::*};

/// What one connection may keep between two calls, from its configuration: a field section per
/// request (twice, for a buffer that grows by doubling), the early datagrams, and the tables.
fn bound_bytes(config: &Config) -> usize {
    let section = 2 * usize::try_from(config.max_field_section_bytes).unwrap() + 1024;
    config.max_requests * section + config.early_datagram_bytes + 64 * 1024
}

fn small() -> Config {
    Config {
        max_field_section_bytes: 512,
        max_requests: 4,
        early_datagram_bytes: 2048,
        max_useless_frames: u32::MAX,
        ..Config::default()
    }
}

/// Something the peer, the application or the clock does.
#[derive(Clone, Debug)]
enum Step {
    Stream(u64, Vec<u8>, bool),
    Reset(u64),
    Stop(u64),
    Datagram(Vec<u8>),
    Respond(u64, u16, bool),
    SendData(u64, usize, bool),
    Request(u64),
    Accept(u64),
    Abort(u64),
    Shutdown,
    Timeout(u64),
}

/// Pieces that make sense at one place or another.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(headers(&GET)),
        Just(headers(&EXTENDED)),
        Just(headers(&CONNECT)),
        Just(headers(&with(&GET, &[("content-length", "3")]))),
        Just(headers(&with(&GET, &[("Bad", "x")]))),
        Just(headers(&with(&GET, &[("x", "y"); 20]))),
        Just(headers(&[(":status", "200")])),
        Just(headers(&[(":status", "103")])),
        Just(headers(&[("a", "trailer")])),
        Just(settings(&[(0x08, 1), (0x33, 1)])),
        Just(frame(0x00, b"abc")),
        Just(frame(0x00, b"")),
        Just(frame(0x21, &[0xff; 70])),
        Just(frame(0x07, &[8])),
        Just(header(0x01, 600)),
        Just(header(0x00, 1 << 40)),
        (0u8..4).prop_map(|kind| vec![kind]),
        prop::collection::vec(any::<u8>(), 0..40),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let stream = || 0u64..24;
    let bytes = prop::collection::vec(piece(), 0..4).prop_map(|pieces| pieces.concat());
    prop_oneof![
        12 => (stream(), bytes, prop::bool::weighted(0.2))
            .prop_map(|(stream, bytes, fin)| Step::Stream(stream, bytes, fin)),
        1 => stream().prop_map(Step::Reset),
        1 => stream().prop_map(Step::Stop),
        3 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Datagram),
        3 => (0u8..6).prop_map(|quarter| Step::Datagram(vec![quarter, 1, 2])),
        2 => (stream(), 99u16..601, any::<bool>())
            .prop_map(|(stream, status, fin)| Step::Respond(stream, status, fin)),
        2 => (stream(), 0usize..1000, any::<bool>())
            .prop_map(|(stream, length, fin)| Step::SendData(stream, length, fin)),
        3 => stream().prop_map(Step::Request),
        2 => stream().prop_map(Step::Accept),
        1 => stream().prop_map(Step::Abort),
        1 => Just(Step::Shutdown),
        1 => (0u64..1000).prop_map(Step::Timeout),
    ]
}

fn apply(raw: &mut Raw, step: Step) {
    let http = &mut raw.http;
    match step {
        Step::Stream(stream, bytes, fin) => http.handle_stream(StreamId(stream), bytes.into(), fin),
        Step::Reset(stream) => http.handle_reset(StreamId(stream), Code(7)),
        Step::Stop(stream) => http.handle_stop_sending(StreamId(stream), Code(7)),
        Step::Datagram(bytes) => drop(http.handle_datagram(bytes.into(), 0)),
        Step::Respond(stream, code, fin) => {
            let _ = http.send_response(StreamId(stream), &status(code), fin);
        }
        Step::SendData(stream, length, fin) => {
            let _ = http.send_data(StreamId(stream), vec![0; length].into(), fin);
        }
        Step::Request(stream) => drop(http.send_request(StreamId(stream), &connect_ip(), false)),
        Step::Accept(stream) => http.accept_datagrams(StreamId(stream)),
        Step::Abort(stream) => http.abort(StreamId(stream), Code(7)),
        Step::Shutdown => http.shutdown(),
        Step::Timeout(now_ms) => http.handle_timeout(now_ms),
    }
    raw.drain();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever happens in whatever order: no panic, bounded memory, silence after Close, and at
    /// most one end of each stream is announced.
    #[test]
    fn any_steps(is_client: bool, steps in prop::collection::vec(step(), 0..60)) {
        let role = if is_client { Role::Client } else { Role::Server };
        let mut raw = Raw::new(role, small());
        let bound = bound_bytes(&small());
        for step in steps {
            apply(&mut raw, step);
            prop_assert!(raw.http.retained_bytes() <= bound);
            prop_assert!(is_client || raw.http.open_requests() <= small().max_requests);
        }
        let close = raw.outputs.iter().position(|output| matches!(output, Output::Close { .. }));
        prop_assert!(close.is_none_or(|index| index == raw.outputs.len() - 1));
        let mut ended: Vec<StreamId> = raw.resets().into_iter().map(|(stream, _)| stream).collect();
        let count = ended.len();
        ended.sort_unstable();
        ended.dedup();
        prop_assert_eq!(ended.len(), count, "a stream was reset twice");
        for stream in ended {
            let after = raw.events.iter().skip_while(
                |event| !matches!(event, Event::Reset { stream: seen, .. } if *seen == stream));
            let late = after.skip(1).filter(|event| matches!(event,
                Event::Data { stream: seen, .. } | Event::Finished { stream: seen }
                    if *seen == stream));
            prop_assert_eq!(late.count(), 0, "something came after the reset");
        }
    }

    /// Events and outputs do not depend on where the bytes are cut.
    #[test]
    fn any_cuts(
        is_client: bool,
        control in prop::collection::vec(piece(), 0..4),
        pieces in prop::collection::vec(piece(), 0..8),
        cuts in prop::collection::vec(1usize..30, 1..20),
        fin: bool,
    ) {
        let role = if is_client { Role::Client } else { Role::Server };
        let run = |cuts: &[usize]| {
            let mut raw = Raw::ready_with(role, small());
            raw.http.shutdown();
            if is_client {
                raw.http.send_request(StreamId(0), &classic_connect(), false).unwrap();
            }
            let mut cuts = cuts.iter().cycle();
            for (stream, pieces) in [(StreamId(0), &pieces), (peer_uni(role, 0), &control)] {
                let bytes = pieces.concat();
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                    raw.feed(stream, now);
                    rest = later;
                }
                if fin {
                    raw.fin(stream);
                }
            }
            (format!("{:?}", raw.events), raw.outputs, raw.http.open_requests())
        };
        prop_assert_eq!(run(&cuts), run(&[usize::MAX]));
    }

    /// A request comes out as it went in.
    #[test]
    fn any_header_section(
        method in "[A-Z]{1,10}",
        protocol in prop::option::of("[a-z-]{1,12}(/[0-9.]{1,4})?"),
        authority in "[a-z0-9.]{1,30}(:[0-9]{1,5})?",
        path in "/[!-~]{0,60}",
        fields in prop::collection::vec(("x[a-z0-9!#$%&'*+.^_`|~-]{0,20}", "([!-~é][ -~é]{0,40}[!-~])?"), 0..12),
    ) {
        let extended = protocol.is_some();
        prop_assume!(method != "CONNECT");
        let head = RequestHead {
            method: if extended { "CONNECT".into() } else { method },
            protocol,
            scheme: Some("https".into()),
            authority: Some(authority),
            path: Some(path),
            fields: fields.into_iter().map(|(name, value)| Field::new(name, value)).collect(),
        };
        let mut client = Raw::client();
        client.http.send_request(StreamId(0), &head, true).unwrap();
        client.drain();
        let [Output::Stream { data, fin, .. }] = &client.outputs[..] else {
            return Err(TestCaseError::fail(format!("{:?}", client.outputs)));
        };
        prop_assert_eq!(*fin, !extended, "an extended CONNECT stays open");
        let mut server = Raw::server();
        server.feed(StreamId(0), data);
        let [Event::Request { head: arrived, .. }] = &server.events[..] else {
            return Err(TestCaseError::fail(format!("{:?}", server.events)));
        };
        prop_assert_eq!(arrived, &head);
    }
}

/// Everything a peer could try to make us keep, again and again.
#[test]
fn a_hostile_peer_costs_a_bounded_amount() {
    let config = Config {
        max_useless_frames: u32::MAX,
        ..Config::default()
    };
    let bound = bound_bytes(&config);
    let mut raw = Raw::ready_with(Role::Server, config.clone());
    // a field section that never ends, on every request there may be
    for number in 0..200 {
        let stream = StreamId(4 * number);
        raw.feed(stream, &header(0x01, config.max_field_section_bytes));
        for _ in 0..50 {
            raw.feed(stream, &[0; 300]);
        }
    }
    assert_eq!(raw.http.open_requests(), config.max_requests);
    let sections = raw.http.retained_bytes();
    assert!((128 * 15_000..bound).contains(&sections), "{sections}");
    for round in 0..2000u64 {
        // endless unknown frames on the control stream, byte by byte
        for byte in frame(0x21 + 0x1f * round, &[0xff; 30]) {
            raw.control(&[byte]);
        }
        // unknown streams, whose data goes on after we asked the peer to stop
        raw.feed(peer_uni(Role::Server, 1 + round), &[0x54]);
        raw.feed(peer_uni(Role::Server, 1 + round), &[0xff; 100]);
        // datagrams for streams that never come
        for ahead in 0..4 {
            raw.datagram(&datagram(
                StreamId(4 * (1000 + 4 * round + ahead)),
                &[1; 1200],
            ));
        }
        raw.outputs.clear();
    }
    assert_eq!(raw.closed(), None);
    assert!(
        raw.http.retained_bytes() < bound,
        "{}",
        raw.http.retained_bytes()
    );
}

/// What waits is counted with the room it takes, and the room goes back with what waited.
#[test]
fn a_burst_of_events_leaves_nothing_behind() {
    let config = Config {
        max_useless_frames: u32::MAX,
        ..Config::default()
    };
    let mut raw = Raw::ready_with(Role::Server, config);
    raw.feed(StreamId(0), &headers(&EXTENDED));
    let tiny = frame(0x00, b"x").repeat(5000);
    raw.http.handle_stream(StreamId(0), tiny.into(), false);
    assert_eq!(raw.http.waiting_events(), 5000);
    let waiting = raw.http.retained_bytes();
    assert!(waiting >= 5000 * size_of::<Event>(), "{waiting}");
    while raw.http.poll_event().is_some() {
        let waiting = raw.http.retained_bytes();
        assert!(raw.http.waiting_events() == 0 || waiting >= 5000 * size_of::<Event>());
    }
    assert_eq!(raw.http.waiting_events(), 0);
    let kept = raw.http.retained_bytes();
    assert!(kept < 8 * 1024, "{kept}");
}

/// Streams left out make gaps in what is over; QUIC bounds them, and so do we.
#[test]
fn streams_left_out_are_bounded() {
    let mut raw = Raw::server();
    let mut number = 0;
    while raw.closed().is_none() {
        raw.http
            .handle_reset(StreamId(8 * number), Code::H3_NO_ERROR);
        raw.drain();
        number += 1;
        assert!(number < 5000);
    }
    assert_eq!(raw.closed(), Some(Code::H3_EXCESSIVE_LOAD));
    assert_eq!(number, 1024 + 128 + 1);
    // in order, any number of requests leaves nothing behind
    let mut raw = Raw::server();
    for number in 0..20_000 {
        let stream = StreamId(4 * number);
        raw.http.handle_stream(stream, headers(&GET).into(), true);
        raw.http.send_response(stream, &status(200), true).unwrap();
        raw.drain();
        raw.events.clear();
        raw.outputs.clear();
    }
    assert_eq!((raw.closed(), raw.http.open_requests()), (None, 0));
    assert!(
        raw.http.retained_bytes() < 4096,
        "{}",
        raw.http.retained_bytes()
    );
}

/// A Huffman-coded or indexed section cannot grow beyond the limit either.
#[test]
fn n12_a_small_section_that_grows_is_refused() {
    let mut raw = Raw::server();
    let indexed = [&[0, 0][..], &[0xc0 | 29; 1000]].concat(); // accept: */*, 1 byte for 41
    raw.feed(StreamId(0), &frame(0x01, &indexed));
    let zeros = [
        &[0x00, 0x00, 0x23, b'x', b'x', b'x', 0xff, 0x9e, 0x7e][..],
        &[0; 16_285],
    ];
    raw.feed(StreamId(4), &frame(0x01, &zeros.concat())); // 5 bits a character
    let refused = raw
        .outputs
        .iter()
        .filter(|output| matches!(output, Output::Stream { .. }));
    assert_eq!(refused.count(), 2, "{:?}", raw.outputs);
    assert!(raw.events.is_empty() && raw.closed().is_none());
}
