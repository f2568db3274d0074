//! Bounds of queues, and whose turn it is.

use std::time::Duration;

use bytes::Bytes;
use masque_transport::{
    DatagramSendError, Event, MachineConfig, QueueBound, TransportTuning,
    http3::{self, StreamId},
};

use crate::pair::{Link, Pair, config, connect_ip};

const SECOND: Duration = Duration::from_secs(1);

fn with_queue(send_queue: QueueBound) -> Pair {
    let tuning = TransportTuning {
        send_queue,
        ..TransportTuning::default()
    };
    let client = MachineConfig { tuning, ..config() };
    Pair::with(
        Link {
            latency: Duration::from_millis(50),
            ..Link::default()
        },
        client,
        config(),
    )
}

#[test]
fn n05_the_send_queue_drops_at_its_tail_and_counts() {
    let mut pair = with_queue(QueueBound {
        target_ms: 5,
        floor_bytes: 20_000,
        ceiling_bytes: 30_000,
    });
    let (at_client, _, stream) = pair.tunnel();
    let mut refused = 0;
    for index in 0..100u8 {
        match pair
            .client
            .send_datagram(at_client, stream, 1000, |payload| payload.fill(index))
        {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, DatagramSendError::QueueFull);
                refused += 1;
            }
        }
        let counted = pair.client.stats().datagrams_sent;
        assert!(counted * 1000 <= 30_000, "{counted} datagrams wait");
    }
    let stats = pair.client.stats();
    assert!((70..85).contains(&refused), "{refused}");
    assert_eq!(stats.datagrams_queue_full, refused);
    assert_eq!(
        pair.client
            .connection_stats(at_client)
            .unwrap()
            .datagrams_queue_full,
        refused
    );
    pair.run_for(SECOND);
    let arrived = &pair.server_seen.datagrams;
    assert_eq!(arrived.len() as u64, 100 - refused);
    let first: Vec<u8> = arrived.iter().map(|(_, _, payload)| payload[0]).collect();
    assert!(
        first.iter().copied().eq(0..arrived.len() as u8),
        "the oldest stay: {first:?}"
    );
}

#[test]
fn room_is_what_the_path_takes_soon() {
    let mut pair = with_queue(QueueBound {
        target_ms: 5,
        floor_bytes: 96_000,
        ceiling_bytes: 4_000_000,
    });
    let (at_client, _, stream) = pair.tunnel();
    assert!(pair.client.has_room(at_client, 64_000, 50), "nothing waits");
    let mut sent = 0;
    while pair.client.has_room(at_client, 1000, 1) {
        pair.client
            .send_datagram(at_client, stream, 1000, |payload| payload.fill(0))
            .unwrap();
        sent += 1;
    }
    // A window of ten packets each 100 ms: 5 ms of that are less than the floor of 8 kB.
    assert!((5..=8).contains(&sent), "{sent}");
    assert!(!pair.client.has_room(at_client, 64_000, 50));
    assert!(!pair.client.may_wait_whole(at_client, 64_000, 50));
    assert!(pair.client.may_wait_whole(at_client, 5000, 5));
    pair.run_for(SECOND);
    assert!(pair.client.has_room(at_client, 64_000, 50), "all was sent");
}

/// Who keeps what had no room asks again then, and not of every connection in every turn.
#[test]
fn a_connection_that_had_no_room_is_told_of_when_it_sent() {
    let mut pair = with_queue(QueueBound::default());
    let (at_client, _, stream) = pair.tunnel();
    pair.run_for(SECOND);
    assert_eq!(pair.client.poll_room(), None, "nobody asked");
    let fill = |pair: &mut Pair| {
        while pair.client.has_room(at_client, 1000, 1) {
            pair.client
                .send_datagram(at_client, stream, 1000, |payload| payload.fill(0))
                .unwrap();
        }
        assert!(pair.client.has_room(at_client, 1, 1), "for another one");
        assert_eq!(pair.client.poll_room(), None, "nothing was sent since");
    };
    fill(&mut pair);
    pair.run_for(SECOND);
    assert_eq!(pair.client.poll_room(), Some(at_client));
    assert_eq!(pair.client.poll_room(), None, "told once");
    pair.run_for(SECOND);
    assert_eq!(pair.client.poll_room(), None, "nobody asked again");

    fill(&mut pair);
    pair.run_for(SECOND);
    pair.client.close(at_client, http3::Code::H3_NO_ERROR, "");
    pair.run_for(100 * SECOND);
    assert_eq!(pair.client.connections(), 0);
    assert_eq!(pair.client.poll_room(), None, "nor told of when it is gone");
}

#[test]
fn datagrams_that_wait_keep_no_connection_from_its_turn() {
    let mut pair = Pair::new(Link::default());
    let (loud, _, loud_stream) = pair.tunnel();
    let (quiet, _, quiet_stream) = pair.tunnel();
    pair.link.latency = Duration::ZERO;
    for _ in 0..40 {
        pair.client
            .send_datagram(loud, loud_stream, 100, |payload| payload.fill(1))
            .unwrap();
    }
    pair.client
        .send_datagram(quiet, quiet_stream, 100, |payload| payload.fill(2))
        .unwrap();
    pair.server_seen.datagrams.clear();
    pair.run_for(SECOND);
    let position = pair
        .server_seen
        .datagrams
        .iter()
        .position(|(_, _, payload)| payload[0] == 2);
    assert!(
        position.is_some_and(|position| position <= 64),
        "{position:?}"
    );
}

#[test]
fn the_receiver_takes_turns_by_quantum() {
    let server = MachineConfig {
        datagram_quantum: 8,
        ..config()
    };
    let mut pair = Pair::with(Link::default(), config(), server);
    let tunnels: Vec<_> = (0..3).map(|_| pair.tunnel()).collect();
    pair.server_seen.datagrams.clear();
    for (at_client, _, stream) in &tunnels {
        for _ in 0..20 {
            pair.client
                .send_datagram(*at_client, *stream, 30, |payload| payload.fill(0))
                .unwrap();
        }
    }
    pair.run_for(SECOND);
    assert_eq!(pair.server_seen.datagrams.len(), 60);
    let runs = pair
        .server_seen
        .datagrams
        .chunk_by(|one, other| one.0 == other.0);
    assert!(runs.map(<[_]>::len).all(|run| run <= 8));
}

#[test]
fn a_stream_backlog_is_bounded_and_its_end_is_told() {
    let client = MachineConfig {
        stream_backlog_bytes: 2_000_000,
        ..config()
    };
    let mut pair = Pair::with(Link::default(), client, config());
    let (at_client, at_server, stream) = pair.tunnel();
    pair.server.set_stream_reading(at_server, stream, false);
    let body = Bytes::from(vec![1u8; 1_500_000]);
    pair.client
        .http(at_client)
        .unwrap()
        .send_data(stream, body.clone(), false)
        .unwrap();
    pair.run_for(5 * SECOND);
    let backlog = pair.client.stream_backlog(at_client, stream);
    assert!(
        (1_000_000..1_300_000).contains(&backlog),
        "what the window of 256 KiB does not take waits: {backlog}"
    );
    pair.server.set_stream_reading(at_server, stream, true);
    pair.run_for(5 * SECOND);
    assert_eq!(pair.client.stream_backlog(at_client, stream), 0);
    let writable = |event: &Event| matches!(event, Event::StreamWritable { .. });
    assert!(pair.client_seen.events.iter().any(writable));

    pair.server.set_stream_reading(at_server, stream, false);
    let http = pair.client.http(at_client).unwrap();
    http.send_data(stream, body.clone(), false).unwrap();
    http.send_data(stream, body, false).unwrap();
    pair.run_for(5 * SECOND);
    assert_eq!(pair.client.stats().streams_overrun, 1);
    assert_eq!(
        pair.client.stream_backlog(at_client, stream),
        0,
        "nothing is kept"
    );
    assert!(
        pair.client.http_ref(at_client).is_some(),
        "the connection lives on"
    );
}

#[test]
fn datagrams_ahead_of_their_request_are_kept_and_delivered() {
    let mut pair = Pair::new(Link::default());
    let (at_client, at_server, _) = pair.tunnel();
    // The request's packet is lost, the datagrams' are not.
    let stream = pair
        .client
        .request(at_client, &connect_ip(), false)
        .unwrap();
    pair.link.loss_permille = 1000;
    pair.run_for(Duration::from_millis(1));
    pair.link.loss_permille = 0;
    for _ in 0..3 {
        pair.client
            .send_datagram(at_client, stream, 10, |payload| payload.fill(5))
            .unwrap();
    }
    pair.server_seen.datagrams.clear();
    let limit = Duration::from_millis(200);
    assert!(
        pair.run_until(limit, |pair| requested(pair, stream)),
        "retransmitted"
    );
    assert!(pair.server_seen.datagrams.is_empty());
    pair.server
        .http(at_server)
        .unwrap()
        .accept_datagrams(stream);
    pair.run_for(SECOND);
    assert_eq!(pair.server_seen.datagrams.len(), 3);
    assert!(
        pair.server_seen
            .datagrams
            .iter()
            .all(|(_, on, _)| *on == stream)
    );
}

fn requested(pair: &Pair, wanted: StreamId) -> bool {
    pair.server_seen.events.iter().any(|event| {
        matches!(
            event,
            Event::Http { event: http3::Event::Request { stream, .. }, .. } if *stream == wanted
        )
    })
}

#[test]
fn idle_connections_cost_their_timers_only() {
    let mut pair = Pair::new(Link::default());
    let conns: Vec<_> = (0..50).map(|_| pair.connect()).collect();
    pair.run_for(5 * SECOND);
    assert!(
        conns
            .iter()
            .all(|conn| pair.client.http_ref(*conn).is_some())
    );
    let sent = |pair: &Pair| {
        let packets = |conn| pair.client.connection_stats(conn).unwrap().packets_sent;
        conns.iter().map(|conn| packets(*conn)).sum::<u64>()
    };
    let (before, mut turns) = (sent(&pair), 0u64);
    pair.run_until(60 * SECOND, |_| {
        turns += 1;
        false
    });
    // In a minute: four keep-alives and their acknowledgements, one MTU search.
    assert!(
        sent(&pair) - before <= 50 * 20,
        "{} packets",
        sent(&pair) - before
    );
    assert!(
        turns < 50 * 40,
        "{turns} turns for 50 idle connections in a minute"
    );
}
