//! Floods of handshakes.

use std::time::Duration;

use masque_transport::{Admission, CloseReason, Event, MachineConfig};

use crate::pair::{End, Link, Pair, config};

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
