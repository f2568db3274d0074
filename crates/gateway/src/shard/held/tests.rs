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

fn points(names: &[&str]) -> BTreeSet<ObjectName> {
    names
        .iter()
        .map(|n| ObjectName::new("default", *n))
        .collect()
}

/// A request of a connector's key for these ingress points.
fn of(number: u8, names: &[&str], since: Instant) -> Held {
    let identity = Identity {
        key: ConnectorKey::from_bytes([number; 32]),
        method: Method::ConcealedKey,
    };
    Held::new((identity, request()), None, points(names), since)
}

fn held(since: Instant) -> Held {
    of(1, &["a"], since)
}

/// A shard with a connection, and keys of its first request streams.
fn connected(mut bench: Bench) -> (Bench, impl Fn(u64) -> TunnelKey) {
    let first = bench.connected();
    let key = move |number| TunnelKey {
        stream: StreamId(4 * number),
        ..first
    };
    (bench, key)
}

fn bench() -> (Bench, impl Fn(u64) -> TunnelKey) {
    connected(Bench::new())
}

/// The first request on the connection of another listener.
fn elsewhere(key: TunnelKey, number: usize) -> TunnelKey {
    let port = u16::try_from(number + 1).unwrap();
    TunnelKey { port, ..key }
}

#[test]
fn a_connection_has_two_requests_held_and_the_next_is_refused() {
    let (mut bench, key) = bench();
    let at = Instant::now();
    for number in 0..=HELD_PER_CONNECTION_MAX as u64 {
        let held = of(number as u8, &["a"], at);
        bench.shard.hold(0, key(number), held, at);
    }
    assert_eq!(bench.shard.held.0.len(), HELD_PER_CONNECTION_MAX);
    assert_eq!(bench.shard.figures.requests["held"], 1);
    bench.shard.held.remove_connection(0, key(0).conn);
    let left = bench.shard.held.0.len();
    assert_eq!(left, HELD_PER_CONNECTION_MAX, "another listener's");
    bench.shard.held.remove_connection(key(0).port, key(0).conn);
    assert!(bench.shard.held.0.is_empty());
}

#[test]
fn a_key_has_four_requests_held_however_many_connections_it_has() {
    let (_bench, key) = bench();
    let mut all = HeldRequests::default();
    let mut hold = |number, of_key, point| {
        let held = of(of_key, &[point], Instant::now());
        all.insert(elsewhere(key(0), number), held)
    };
    for number in 0..HELD_PER_KEY_MAX {
        assert!(hold(number, 1, "a"));
    }
    assert!(!hold(HELD_PER_KEY_MAX, 1, "a"));
    assert!(!hold(HELD_PER_KEY_MAX, 1, "b"), "nor in another VPC");
    assert!(hold(HELD_PER_KEY_MAX, 2, "a"), "another key");
}

#[test]
fn ingress_points_that_take_all_they_get_leave_room_for_others() {
    let (_bench, key) = bench();
    let mut all = HeldRequests::default();
    let mut number = 0;
    // As many as one gets, each for another key.
    let mut fill = |names: &[&str]| {
        let before = number;
        while all.insert(
            elsewhere(key(0), number),
            of(number as u8, names, Instant::now()),
        ) {
            number += 1;
        }
        number - before
    };
    assert_eq!(fill(&["a"]), 13, "alone");
    assert_eq!(fill(&["b"]), 11);
    assert_eq!(fill(&["a", "c"]), 0, "one of them has enough");
    let others: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    assert!(others.iter().all(|name| fill(&[name]) > 0));
}

#[test]
fn a_shard_holds_sixty_four_requests() {
    let (_bench, key) = bench();
    let mut all = HeldRequests::default();
    let hold = |number: usize| {
        let held = of(number as u8, &[&format!("a{number}")], Instant::now());
        all.insert(elsewhere(key(0), number), held)
    };
    assert_eq!((0..2 * HELD_MAX).map(hold).filter(|held| *held).count(), 64);
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

/// A connection out of use is closed before long, and one in use never.
#[test]
fn a_connection_is_in_use_while_a_request_of_it_is_held() {
    let (mut bench, key) = bench();
    let (at, now) = (Instant::now(), Now::default());
    let shard = &mut bench.shard;
    let in_use = |shard: &Shard| shard.ports[0].machine.is_in_use(key(0).conn);
    assert!(!in_use(shard), "nothing was asked yet");
    for number in 0..=HELD_PER_CONNECTION_MAX as u64 {
        shard.hold(0, key(number), held(at), at);
        assert!(in_use(shard));
    }
    shard.refuse_held(at + HOLD_MAX);
    assert!(!in_use(shard), "refused");

    shard.hold(0, key(3), held(at), at);
    let excess = vec![0; EARLY_CAPSULES_MAX_BYTES + 1];
    shard.keep_early(key(3), &excess);
    assert!(!in_use(shard), "sent too much behind it");

    shard.hold(0, key(4), held(at), at);
    shard.release_held(0, key(4).conn, at, now);
    assert_eq!(shard.figures.requests["unknown_path"], 1);
    assert!(!in_use(shard), "its path is wide, and it is refused");

    for number in 5..8 {
        shard.held.insert(elsewhere(key(0), number), held(at));
    }
    shard.hold(0, key(8), held(at), at);
    shard.hold(0, key(9), held(at), at);
    shard.held.remove(key(8));
    shard.tell_use(key(8));
    assert!(!in_use(shard), "the second had no place");
}

/// The path is not to blame, and nothing is to wait for.
#[test]
fn a_client_that_takes_short_datagrams_only_is_told_at_once() {
    let (mut bench, key) = connected(Bench::taking(1200));
    let (at, now) = (Instant::now(), Now::default());
    let machine = &bench.shard.ports[0].machine;
    let room = machine.max_datagram_payload(key(0).conn, key(0).stream);
    assert!(room.is_some_and(is_narrow), "{room:?}");
    let decision = bench.shard.narrow(0, key(0).conn, points(&["a"]));
    assert!(matches!(decision, Decision::Refuse(_, "small_datagrams")));
    // Held before that was known.
    bench.shard.hold(0, key(0), held(at), at);
    bench.shard.release_held(0, key(0).conn, at, now);
    assert!(bench.shard.held.0.is_empty());
    assert_eq!(bench.shard.figures.requests["small_datagrams"], 1);
}

#[test]
fn a_narrow_path_is_waited_for() {
    let (bench, key) = bench();
    let decision = bench.shard.narrow(0, key(0).conn, points(&["a"]));
    assert!(matches!(decision, Decision::Hold(p) if p == points(&["a"])));
}

#[test]
fn what_follows_a_held_request_is_bounded() {
    let mut held = held(Instant::now());
    let most = vec![0; EARLY_CAPSULES_MAX_BYTES - 1];
    assert!(held.keep(&most) && held.keep(b"1"));
    assert!(!held.keep(b"1"));
}
