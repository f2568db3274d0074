//! Input that no honest peer sends.

use std::{
    cell::RefCell,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_transport::{CloseReason, Machine, ShardId, http3};
use proptest::prelude::*;

use crate::{
    certificates::{SERVER_NAME, TestTls},
    pair::{Link, Pair, closed, config},
};

const SECOND: Duration = Duration::from_secs(1);

/// A machine, its time, and who bothers it.
fn server() -> (Machine, Instant, SocketAddr) {
    let now = Instant::now();
    let http = http3::Config::default();
    let machine = Machine::server(
        config(),
        TestTls::new().server(),
        http,
        ShardId::SINGLE,
        now,
    );
    (machine, now, "[2001:db8::bad]:666".parse().unwrap())
}

#[test]
fn noise_is_dropped_or_answered_within_bounds() {
    let (machine, now, from) = server();
    let machine = RefCell::new(machine);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let datagram = prop::collection::vec(any::<u8>(), 0..1500);
    runner
        .run(&(datagram, any::<bool>()), |(mut data, long)| {
            if let Some(first) = data.first_mut() {
                *first = if long {
                    *first | 0xc0
                } else {
                    *first & 0x7f | 0x40
                };
            }
            let size = data.len();
            let mut machine = machine.borrow_mut();
            machine.handle_udp(now, from, None, None, BytesMut::from(&data[..]));
            let mut answers = 0;
            let mut buffer = Vec::new();
            while let Some(transmit) = machine.poll_transmit(now, &mut buffer) {
                answers += transmit.size;
            }
            prop_assert!(
                answers <= 3 * size,
                "{answers} bytes for {size} (RFC 9000 §8.1)"
            );
            prop_assert!(machine.poll_event().is_none() && machine.poll_datagram().is_none());
            Ok(())
        })
        .unwrap();
    assert_eq!(machine.borrow().connections(), 0);
}

#[test]
fn answers_without_a_connection_are_bounded() {
    let (mut machine, now, from) = server();
    for index in 0..3000u16 {
        // An unknown version asks for Version Negotiation (RFC 9000 §6).
        let mut data = vec![0; 1200];
        data[..7].copy_from_slice(&[0xc0, 0x0a, 0x0a, 0x0a, 0x0a, 8, 0]);
        data[7..9].copy_from_slice(&index.to_be_bytes());
        machine.handle_udp(now, from, None, None, BytesMut::from(&data[..]));
    }
    let mut buffer = Vec::new();
    let mut answers = 0;
    while machine.poll_transmit(now, &mut buffer).is_some() {
        answers += 1;
    }
    assert_eq!(answers, 1024);
    assert_eq!(machine.stats().responses_dropped, 3000 - 1024);
}

#[test]
fn damaged_packets_harm_nobody() {
    let mut pair = Pair::new(Link {
        damage_permille: 100,
        ..Link::default()
    });
    let (at_client, at_server, stream) = pair.tunnel();
    let mut sent = 0;
    for _ in 0..500 {
        let payload = |payload: &mut [u8]| payload.fill(0x5a);
        sent += usize::from(
            pair.client
                .send_datagram(at_client, stream, 900, payload)
                .is_ok(),
        );
        sent += usize::from(
            pair.server
                .send_datagram(at_server, stream, 900, payload)
                .is_ok(),
        );
        pair.run_for(Duration::from_millis(5));
    }
    pair.run_for(SECOND);
    let arrived = pair
        .client_seen
        .datagrams
        .iter()
        .chain(&pair.server_seen.datagrams);
    let intact = arrived.filter(|(_, _, payload)| payload.iter().all(|byte| *byte == 0x5a));
    let total = pair.client_seen.datagrams.len() + pair.server_seen.datagrams.len();
    assert_eq!(intact.count(), total, "what arrives is authentic");
    assert!(total * 10 >= sent * 8 && sent > 900, "{total} of {sent}");
    assert_eq!(
        (closed(&pair.client_seen), closed(&pair.server_seen)),
        (None, None)
    );
}

#[test]
fn a_peer_that_breaks_http3_is_closed_with_its_code() {
    let mut pair = Pair::new(Link::default());
    // The client greases its control stream, and this server has no patience for it.
    let http = http3::Config {
        max_useless_frames: 0,
        ..http3::Config::default()
    };
    let server = pair.tls.server();
    pair.server = Machine::server(config(), server, http, ShardId::SINGLE, pair.now);
    let tls = pair.tls.client(None);
    pair.client
        .connect(pair.now, pair.server_addr, SERVER_NAME, tls)
        .unwrap();
    pair.run_for(SECOND);
    let expected = http3::Code::H3_EXCESSIVE_LOAD;
    assert!(
        matches!(closed(&pair.server_seen), Some(CloseReason::Local { code, .. }) if *code == expected),
        "{:?}",
        closed(&pair.server_seen)
    );
    assert!(
        matches!(closed(&pair.client_seen), Some(CloseReason::Peer { code, .. }) if *code == expected),
        "{:?}",
        closed(&pair.client_seen)
    );
    pair.run_for(10 * SECOND);
    assert_eq!(pair.server.connections(), 0);
}

#[test]
fn a_client_that_does_not_speak_h3_is_refused() {
    let mut pair = Pair::new(Link::default());
    let client = pair.tls.client_speaking(b"h2");
    pair.client
        .connect(pair.now, pair.server_addr, SERVER_NAME, client)
        .unwrap();
    pair.run_for(SECOND);
    // no_application_protocol(120), RFC 7301 §3.2.
    assert!(
        matches!(
            closed(&pair.client_seen),
            Some(CloseReason::PeerTransport { code: 0x178, .. })
        ),
        "{:?}",
        closed(&pair.client_seen)
    );
}
