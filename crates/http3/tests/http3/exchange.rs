//! Client and server against each other.

use bytes::Bytes;
use masque_http3::*;
use proptest::prelude::*;

use crate::{harness::*, heads::*};

/// A CONNECT-IP exchange with early datagrams, capsules both ways, and an orderly end.
fn tunnel(cuts: Vec<usize>) {
    let mut pair = Pair::connected(cuts);
    assert!(pair.client.http.datagrams_ready() && pair.server.http.datagrams_ready());
    let setting = pair
        .client
        .http
        .peer_setting(settings::ENABLE_CONNECT_PROTOCOL);
    assert_eq!(setting, Some(1));
    let stream = pair.request(&connect_ip(), true);
    open(&mut pair, stream);
    use_and_end(&mut pair, stream);
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
    assert_eq!((pair.client.closed, pair.server.closed), (None, None));
}

fn open(pair: &mut Pair, stream: StreamId) {
    assert_eq!(pair.datagram(stream, b"early"), DatagramIn::Kept);
    pair.run();
    let [Event::Request { head, .. }] = &pair.server.events[..] else {
        panic!("{:?}", pair.server.events)
    };
    assert_eq!(*head, connect_ip());
    assert_eq!(pair.datagram(stream, b"more"), DatagramIn::Kept);
    pair.server.http.accept_datagrams(stream);
    pair.client.http.accept_datagrams(stream);
    let early: Vec<_> = std::iter::from_fn(|| pair.server.http.poll_early_datagram()).collect();
    assert_eq!(early, [(stream, "early".into()), (stream, "more".into())]);
    let expected = DatagramIn::Deliver {
        stream,
        payload: "now".into(),
    };
    assert_eq!(pair.datagram(stream, b"now"), expected);
    pair.server
        .http
        .send_response(stream, &status(200), false)
        .unwrap();
}

fn use_and_end(pair: &mut Pair, stream: StreamId) {
    let long = Bytes::from(vec![7; 2000]);
    pair.server
        .http
        .send_data(stream, "capsule".into(), false)
        .unwrap();
    pair.server
        .http
        .send_data(stream, long.clone(), false)
        .unwrap();
    pair.client
        .http
        .send_data(stream, "up".into(), false)
        .unwrap();
    pair.run();
    let [Event::Response { head, .. }, Event::Data { data, .. }] = &pair.client.events[..] else {
        panic!("{:?}", pair.client.events)
    };
    assert_eq!(*head, status(200));
    assert_eq!(data[..], [b"capsule", &long[..]].concat());
    assert!(matches!(&pair.server.events[1], Event::Data { data, .. } if data == "up"));

    pair.client
        .http
        .send_data(stream, Bytes::new(), true)
        .unwrap();
    pair.run();
    assert!(matches!(pair.server.events[2], Event::Finished { .. }));
    assert!(!pair.client.http.may_send_datagram(stream));
    assert!(pair.server.http.may_send_datagram(stream));
    assert_eq!(
        pair.server.http.open_requests(),
        1,
        "a tunnel may be closed one way"
    );
    pair.server
        .http
        .send_data(stream, "last".into(), true)
        .unwrap();
    pair.run();
    assert!(matches!(
        &pair.client.events[1..],
        [Event::Data { data, .. }, Event::Finished { .. }] if data.ends_with(b"last")
    ));
}

#[test]
fn a_tunnel_from_request_to_end() {
    tunnel(vec![]);
    tunnel(vec![1]);
}

proptest! {
    #[test]
    fn a_tunnel_over_any_cuts(cuts in prop::collection::vec(0usize..40, 1..12)) {
        tunnel(cuts);
    }
}

#[test]
fn a_get_and_its_answer() {
    let mut pair = Pair::connected(vec![3]);
    let stream = pair.request(&get(), true);
    pair.run();
    assert!(matches!(
        pair.server.events[..],
        [Event::Request { .. }, Event::Finished { .. }]
    ));
    pair.server
        .http
        .send_response(stream, &status(103), false)
        .unwrap();
    let mut head = status(200);
    head.fields.push(Field::new("content-length", "5"));
    pair.server
        .http
        .send_response(stream, &head, false)
        .unwrap();
    pair.server
        .http
        .send_data(stream, "hello".into(), true)
        .unwrap();
    pair.run();
    assert!(matches!(
        &pair.client.events[..],
        [Event::Response { head: early, .. }, Event::Response { head: last, .. },
         Event::Data { data, .. }, Event::Finished { .. }]
            if early.status == 103 && *last == head && data == "hello"
    ));
    assert_eq!(
        (
            pair.client.http.open_requests(),
            pair.server.http.open_requests()
        ),
        (0, 0)
    );
}
