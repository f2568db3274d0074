//! Floods of handshakes.

use std::time::Duration;

use masque_transport::{Admission, CloseReason, ConnId, Event, MachineConfig, UnusedBounds, http3};

use crate::pair::{End, Link, Pair, Seen, config};

const SECOND: Duration = Duration::from_secs(1);

fn bounded(admission: Admission) -> Pair {
    let server = MachineConfig {
        admission,
        ..config()
    };
    Pair::with(Link::default(), config(), server)
}

fn connected(pair: &Pair) -> usize {
    let seen = &pair.client_seen.events;
    seen.iter()
        .filter(|event| matches!(event, Event::Connected { .. }))
        .count()
}

#[test]
fn a_flood_of_handshakes_is_sent_retries_and_still_gets_in() {
    let admission = Admission {
        retry_above: 16,
        ..Admission::default()
    };
    let mut pair = bounded(admission);
    for _ in 0..1000 {
        pair.connect();
    }
    let mut most = 0;
    pair.run_until(5 * SECOND, |pair| {
        most = most.max(pair.server.handshakes());
        connected(pair) == 1000
    });
    pair.run_for(SECOND);
    let stats = pair.server.stats();
    assert_eq!(connected(&pair), 1000, "{stats:?}");
    assert!(stats.handshakes_retried >= 1000 - 16 - 100, "{stats:?}");
    assert_eq!(stats.handshakes_completed, 1000);
    assert!(
        most <= admission.max_handshakes,
        "{most} handshakes at one time"
    );
    assert_eq!(pair.server.handshakes(), 0);
}

#[test]
fn unanswered_handshakes_are_bounded_and_forgotten() {
    let admission = Admission {
        retry_above: 8,
        max_handshakes: 32,
        ..Admission::default()
    };
    let mut pair = bounded(admission);
    for _ in 0..200 {
        pair.connect();
    }
    pair.deaf = Some(End::Client);
    pair.run_for(SECOND);
    assert!(
        pair.server.handshakes() <= 8,
        "{}",
        pair.server.handshakes()
    );
    assert!(pair.server.connections() <= 8);
    pair.run_for(30 * SECOND);
    assert_eq!(
        (pair.server.handshakes(), pair.server.connections()),
        (0, 0)
    );
}

#[test]
fn connections_are_bounded_and_the_surplus_is_told() {
    let admission = Admission {
        max_connections_per_address: 10,
        ..Admission::default()
    };
    let mut pair = bounded(admission);
    for _ in 0..15 {
        pair.connect();
    }
    pair.run_for(5 * SECOND);
    assert_eq!(connected(&pair), 10);
    let refused = pair.client_seen.events.iter().filter(|event| {
        // CONNECTION_REFUSED, RFC 9000 §20.1.
        matches!(
            event,
            Event::Closed {
                reason: CloseReason::PeerTransport { code: 0x02, .. },
                ..
            }
        )
    });
    assert_eq!(refused.count(), 5, "{:?}", pair.client_seen.events);
    assert_eq!(pair.server.stats().handshakes_refused, 5);
    assert_eq!(
        pair.server.stats().handshakes_retried,
        5,
        "only a shown address is refused"
    );
}

/// What the peer said when it closed a connection.
fn closed_by_peer(seen: &Seen, wanted: ConnId) -> Option<http3::Code> {
    seen.events.iter().find_map(|event| match event {
        Event::Closed {
            conn,
            reason: CloseReason::Peer { code, .. },
        } if *conn == wanted => Some(*code),
        _ => None,
    })
}

const UNUSED: UnusedBounds = UnusedBounds {
    after_handshake_ms: 10_000,
    after_use_ms: 30_000,
};

/// Says so in a turn of now.
fn use_it(pair: &mut Pair, at_server: ConnId, in_use: bool) {
    pair.server.handle_timeouts(pair.now);
    pair.server.set_in_use(at_server, in_use);
}

#[test]
fn who_asks_nothing_is_closed_and_a_tunnel_is_not() {
    let mut pair = bounded(Admission {
        unused: Some(UNUSED),
        ..Admission::default()
    });
    let (tunnel, at_server, _) = pair.tunnel();
    use_it(&mut pair, at_server, true);
    let stranger = pair.connect();
    pair.run_for(9 * SECOND);
    assert_eq!(closed_by_peer(&pair.client_seen, stranger), None);
    pair.run_for(2 * SECOND);
    let no_error = Some(http3::Code::H3_NO_ERROR);
    assert_eq!(closed_by_peer(&pair.client_seen, stranger), no_error);
    assert_eq!(pair.server.stats().connections_unused, 1);

    pair.run_for(120 * SECOND);
    assert!(pair.client.http_ref(tunnel).is_some(), "in use");
    use_it(&mut pair, at_server, false);
    pair.run_for(29 * SECOND);
    assert!(pair.client.http_ref(tunnel).is_some());
    // Said again, it is no reprieve.
    use_it(&mut pair, at_server, false);
    pair.run_for(2 * SECOND);
    assert_eq!(closed_by_peer(&pair.client_seen, tunnel), no_error);
    assert_eq!(pair.server.stats().connections_unused, 2);
    assert_eq!(pair.server.connections(), 0);
}

#[test]
fn a_use_that_begins_again_is_no_idle_one() {
    let mut pair = bounded(Admission {
        unused: Some(UNUSED),
        ..Admission::default()
    });
    let (tunnel, at_server, _) = pair.tunnel();
    for _ in 0..5 {
        use_it(&mut pair, at_server, true);
        use_it(&mut pair, at_server, false);
        pair.run_for(20 * SECOND);
    }
    assert!(pair.client.http_ref(tunnel).is_some());
    pair.run_for(11 * SECOND);
    assert!(pair.client.http_ref(tunnel).is_none());
}

#[test]
fn strangers_keep_nobody_out() {
    // What is in use counts against the whole alone.
    for (max_connections, max_connections_per_address) in [(10, 1000), (1000, 9)] {
        let mut pair = bounded(Admission {
            max_connections,
            max_connections_per_address,
            unused: Some(UNUSED),
            ..Admission::default()
        });
        let (tunnel, at_server, _) = pair.tunnel();
        use_it(&mut pair, at_server, true);
        let mut strangers = Vec::new();
        for _ in 0..9 {
            strangers.push(pair.connect());
            pair.run_for(SECOND / 10);
        }
        let (newcomer, newcomer_at_server, _) = pair.tunnel();
        use_it(&mut pair, newcomer_at_server, true);
        let stats = pair.server.stats();
        assert_eq!(
            (stats.connections_evicted, stats.handshakes_refused),
            (1, 0)
        );
        let gone = |pair: &Pair, conn| closed_by_peer(&pair.client_seen, conn);
        let no_error = Some(http3::Code::H3_NO_ERROR);
        assert_eq!(gone(&pair, strangers[0]), no_error, "the oldest");
        assert_eq!(gone(&pair, strangers[1]), None);
        // A flood of more of them has the places of the strangers, never the clients'.
        for _ in 0..30 {
            pair.connect();
        }
        pair.run_for(3 * SECOND);
        assert!(pair.client.http_ref(tunnel).is_some());
        assert!(pair.client.http_ref(newcomer).is_some());
        // Closing connections stay a little, so that their peers hear of it (RFC 9000 §10.2).
        pair.run_for(5 * SECOND);
        let bound = max_connections.min(max_connections_per_address + 2);
        assert!(pair.server.connections() <= bound);
    }
}

fn tunnels_in_use(pair: &mut Pair, count: usize) {
    for _ in 0..count {
        let (_, at_server, _) = pair.tunnel();
        use_it(pair, at_server, true);
    }
}

#[test]
fn any_number_of_clients_share_an_address() {
    let mut pair = bounded(Admission {
        max_connections_per_address: 2,
        unused: Some(UNUSED),
        ..Admission::default()
    });
    tunnels_in_use(&mut pair, 5);
    let stats = pair.server.stats();
    assert_eq!(
        (stats.connections_evicted, stats.handshakes_refused),
        (0, 0)
    );
    assert_eq!(connected(&pair), 5);
}

#[test]
fn connections_in_use_are_not_evicted() {
    let mut pair = bounded(Admission {
        max_connections: 3,
        unused: Some(UNUSED),
        ..Admission::default()
    });
    tunnels_in_use(&mut pair, 3);
    pair.connect();
    pair.run_for(SECOND);
    let stats = pair.server.stats();
    assert_eq!(
        (stats.connections_evicted, stats.handshakes_refused),
        (0, 1)
    );
    assert_eq!(connected(&pair), 3);
}

#[test]
fn a_client_keeps_what_it_does_not_use_yet() {
    let admission = Admission {
        unused: Some(UNUSED),
        ..Admission::default()
    };
    let client = MachineConfig {
        admission,
        ..config()
    };
    let mut pair = Pair::with(Link::default(), client, config());
    let conn = pair.connect();
    pair.run_for(SECOND);
    pair.client.set_in_use(conn, false);
    pair.run_for(120 * SECOND);
    assert!(pair.client.http_ref(conn).is_some());
    assert!(
        pair.server_seen.connected().is_some(),
        "nor does a server whose driver does not tell close it"
    );
    assert_eq!(pair.server.stats().connections_unused, 0);
}
