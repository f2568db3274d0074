use super::*;
use crate::{auth::Method, shard::tests::Bench};
use masque_http3::StreamId;
use masque_model::ConnectorKey;

fn request() -> RequestHead {
    RequestHead {
        method: "CONNECT".to_owned(),
        protocol: Some("connect-ip".to_owned()),
        scheme: Some("https".to_owned()),
        authority: Some("gateway.test".to_owned()),
        path: Some("/".to_owned()),
        fields: Vec::new(),
    }
}

fn held(since: Instant) -> Held {
    let identity = Identity {
        key: ConnectorKey::from_bytes([1; 32]),
        method: Method::ConcealedKey,
    };
    Held::new(identity, request(), None, since)
}

/// A shard with a connection, and keys of its first request streams.
fn bench() -> (Bench, impl Fn(u64) -> TunnelKey) {
    let mut bench = Bench::new();
    let conn = bench.connect();
    bench.until(|bench| bench.shard.ports.len() == 1);
    let port = bench.shard.ports[0].number();
    let key = move |number| TunnelKey {
        port,
        conn,
        stream: StreamId(4 * number),
    };
    (bench, key)
}

#[test]
fn held_requests_are_bounded_and_the_next_is_refused() {
    let (mut bench, key) = bench();
    let at = Instant::now();
    for number in 0..=HELD_MAX as u64 {
        bench.shard.hold(0, key(number), held(at), at);
    }
    assert_eq!(bench.shard.held.0.len(), HELD_MAX);
    assert_eq!(bench.shard.figures.requests["held"], 1);
    bench.shard.held.remove_connection(0, key(0).conn);
    assert_eq!(bench.shard.held.0.len(), HELD_MAX, "another listener's");
    bench.shard.held.remove_connection(key(0).port, key(0).conn);
    assert!(bench.shard.held.0.is_empty());
}

#[test]
fn a_request_is_held_for_two_seconds() {
    let (mut bench, key) = bench();
    let at = Instant::now();
    bench.shard.hold(0, key(0), held(at), at);
    bench
        .shard
        .refuse_held(at + HOLD_MAX - Duration::from_millis(1));
    assert_eq!(bench.shard.held.0.len(), 1);
    bench.shard.refuse_held(at + HOLD_MAX);
    assert!(bench.shard.held.0.is_empty());
    assert_eq!(bench.shard.figures.requests["mtu_too_low"], 1);
}

#[test]
fn what_follows_a_held_request_is_bounded() {
    let mut held = held(Instant::now());
    let most = vec![0; EARLY_CAPSULES_MAX_BYTES - 1];
    assert!(held.keep(&most) && held.keep(b"1"));
    assert!(!held.keep(b"1"));
}
