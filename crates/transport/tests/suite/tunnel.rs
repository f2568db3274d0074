//! Two machines over a simulated link.

use std::time::Duration;

use crate::pair::{Link, Pair, closed};
use masque_transport::{CloseReason, DatagramSendError, Event, http3};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_tunnel_carries_datagrams_both_ways() {
    let mut pair = Pair::new(Link::default());
    let (at_client, at_server, stream) = pair.tunnel();
    for round in 0..100u8 {
        let size = 100 + usize::from(round);
        pair.client
            .send_datagram(at_client, stream, size, |p| p.fill(round))
            .unwrap();
        pair.server
            .send_datagram(at_server, stream, size, |p| p.fill(!round))
            .unwrap();
    }
    pair.run_for(SECOND);
    for (seen, flip) in [(&pair.server_seen, 0), (&pair.client_seen, 0xff)] {
        assert_eq!(seen.datagrams.len(), 100);
        for (round, (_, on, payload)) in seen.datagrams.iter().enumerate() {
            assert_eq!((*on, payload.len()), (stream, 100 + round));
            assert!(payload.iter().all(|byte| *byte == round as u8 ^ flip));
        }
    }
}

#[test]
fn what_cannot_be_sent_says_why() {
    let mut pair = Pair::new(Link::default());
    let (at_client, at_server, stream) = pair.tunnel();
    let other = http3::StreamId(4);
    let sent = pair
        .client
        .send_datagram(at_client, other, 10, |_| unreachable!());
    assert_eq!(sent, Err(DatagramSendError::Blocked));
    let most = pair.client.max_datagram_payload(at_client, stream).unwrap();
    assert!(
        most >= 1281,
        "an inner IPv6 packet of 1280 bytes with its context id fits: {most}"
    );
    assert_eq!(
        pair.client.send_datagram(at_client, stream, most, |_| {}),
        Ok(())
    );
    let sent = pair
        .client
        .send_datagram(at_client, stream, most + 1, |_| unreachable!());
    assert_eq!(
        sent,
        Err(DatagramSendError::TooLarge {
            max_payload_bytes: most
        })
    );
    pair.client
        .close(at_client, http3::Code::H3_NO_ERROR, "done");
    let sent = pair
        .client
        .send_datagram(at_client, stream, 10, |_| unreachable!());
    assert_eq!(sent, Err(DatagramSendError::Closed));
    pair.run_for(SECOND);
    let reason = "done".to_owned();
    let code = http3::Code::H3_NO_ERROR;
    assert_eq!(
        closed(&pair.client_seen),
        Some(&CloseReason::Local {
            code,
            reason: reason.clone()
        })
    );
    assert_eq!(
        closed(&pair.server_seen),
        Some(&CloseReason::Peer { code, reason })
    );
    assert!(pair.server.http_ref(at_server).is_none());
    pair.run_for(10 * SECOND);
    assert_eq!(
        (pair.client.connections(), pair.server.connections()),
        (0, 0)
    );
    assert_eq!(
        (pair.client.next_deadline(), pair.server.next_deadline()),
        (None, None)
    );
}

#[test]
fn mtu_discovery_widens_the_datagrams() {
    let mut pair = Pair::new(Link {
        udp_payload_bytes: 1452,
        ..Link::default()
    });
    let (at_client, _, stream) = pair.tunnel();
    let first = pair.client.max_datagram_payload(at_client, stream).unwrap();
    pair.run_for(5 * SECOND);
    let later = pair.client.max_datagram_payload(at_client, stream).unwrap();
    assert_eq!(pair.client.path_mtu(at_client), Some(1452));
    assert!(later >= 1413 && later > first, "{first} then {later}");
    let told = pair
        .client_seen
        .events
        .iter()
        .rev()
        .find_map(|event| match event {
            Event::DatagramSize { max_bytes, .. } => Some(*max_bytes),
            _ => None,
        });
    assert_eq!(
        told,
        Some(later + 1),
        "the last event tells the size with the Quarter Stream ID"
    );
}
