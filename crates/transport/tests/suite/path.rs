//! Paths that are narrow, become narrow, or lose packets.

use std::time::Duration;

use masque_transport::{
    CloseReason, Congestion, Event, MIN_TUNNEL_UDP_PAYLOAD_BYTES, MachineConfig, PathFloor,
    TransportTuning, http3,
};

use crate::{
    certificates::SERVER_NAME,
    pair::{End, Link, Pair, closed, config},
};

const SECOND: Duration = Duration::from_secs(1);

fn link(udp_payload_bytes: usize) -> Link {
    Link {
        udp_payload_bytes,
        ..Link::default()
    }
}

fn too_small(events: &[Event]) -> Option<u16> {
    events.iter().find_map(|event| match event {
        Event::PathTooSmall {
            udp_payload_bytes, ..
        } => Some(*udp_payload_bytes),
        _ => None,
    })
}

#[test]
fn initials_are_padded_to_carry_inner_ipv6() {
    let mut pair = Pair::new(link(usize::from(MIN_TUNNEL_UDP_PAYLOAD_BYTES)));
    let (at_client, at_server, stream) = pair.tunnel();
    for end in [End::Client, End::Server] {
        assert_eq!(pair.largest[end as usize], 1331, "to the {end:?}");
    }
    for (machine, conn) in [(&pair.client, at_client), (&pair.server, at_server)] {
        assert!(machine.max_datagram_payload(conn, stream).unwrap() >= 1281);
    }
    pair.run_for(10 * SECOND);
    assert_eq!(too_small(&pair.client_seen.events), None);
    assert_eq!(too_small(&pair.server_seen.events), None);
}

#[test]
fn a_path_too_narrow_for_a_tunnel_gives_no_connection_until_asked_for() {
    let mut pair = Pair::new(link(1330));
    pair.connect();
    pair.run_for(15 * SECOND);
    assert_eq!(
        closed(&pair.client_seen),
        Some(&CloseReason::HandshakeTimeout { heard: false })
    );
    assert_eq!(
        pair.server.stats().handshakes_begun,
        0,
        "no Initial fits the path"
    );
    pair.client_seen.events.clear();
    let config = pair.tls.client(None);
    let conn = pair
        .client
        .connect_over(
            pair.now,
            pair.server_addr,
            SERVER_NAME,
            config,
            PathFloor::Quic,
        )
        .unwrap();
    pair.run_for(5 * SECOND);
    assert!(
        pair.client
            .http_ref(conn)
            .is_some_and(http3::Connection::datagrams_ready)
    );
    for seen in [&pair.client_seen, &pair.server_seen] {
        let size = too_small(&seen.events).expect("both ends say that it is too narrow");
        assert!((1300..1331).contains(&size), "{size}");
    }
}

#[test]
fn a_path_that_turns_narrow_shrinks_the_datagrams() {
    let mut pair = Pair::new(Link::default());
    let (at_client, at_server, stream) = pair.tunnel();
    pair.run_for(5 * SECOND);
    assert_eq!(pair.client.path_mtu(at_client), Some(1452));
    pair.link.udp_payload_bytes = 1340;
    for _ in 0..40 {
        // Fails while the path shrinks; a tunnel then answers Packet Too Big.
        let most = pair.client.max_datagram_payload(at_client, stream).unwrap();
        let _ = pair
            .client
            .send_datagram(at_client, stream, most, |payload| payload.fill(1));
        pair.run_for(SECOND / 5);
    }
    let mtu = pair.client.path_mtu(at_client).unwrap();
    assert!((1331..=1340).contains(&mtu), "{mtu}");
    let before = pair.server_seen.datagrams.len();
    let most = pair.client.max_datagram_payload(at_client, stream).unwrap();
    assert!(most >= 1281);
    pair.client
        .send_datagram(at_client, stream, most, |payload| payload.fill(2))
        .unwrap();
    pair.run_for(SECOND);
    assert_eq!(pair.server_seen.datagrams.len(), before + 1);
    assert_eq!(too_small(&pair.client_seen.events), None);
    assert!(pair.server.http_ref(at_server).is_some());
}

#[test]
fn losses_cost_datagrams_but_no_stream_bytes() {
    let mut pair = Pair::new(Link {
        loss_permille: 50,
        ..Link::default()
    });
    let (at_client, _, stream) = pair.tunnel();
    let body = vec![7u8; 300_000];
    let http = pair.client.http(at_client).unwrap();
    http.send_data(stream, body.clone().into(), false).unwrap();
    for _ in 0..1000 {
        pair.client
            .send_datagram(at_client, stream, 100, |payload| payload.fill(1))
            .unwrap();
        pair.run_for(Duration::from_millis(2));
    }
    pair.run_for(5 * SECOND);
    let data = pair
        .server_seen
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Http {
                event: http3::Event::Data { data, .. },
                ..
            } => Some(data.len()),
            _ => None,
        });
    assert_eq!(data.sum::<usize>(), body.len());
    let arrived = pair.server_seen.datagrams.len();
    assert!(
        (900..1000).contains(&arrived),
        "{arrived} of 1000 with 5 % loss"
    );
}

#[test]
fn every_congestion_controller_carries_a_tunnel() {
    let fixed = Congestion::Fixed {
        window_bytes: 200_000,
    };
    for congestion in [
        Congestion::Cubic,
        Congestion::NewReno,
        Congestion::Bbr,
        fixed,
    ] {
        let tuning = TransportTuning {
            congestion,
            ..TransportTuning::default()
        };
        let config = MachineConfig { tuning, ..config() };
        let link = Link {
            loss_permille: 10,
            ..Link::default()
        };
        let mut pair = Pair::with(link, config.clone(), config);
        let (at_client, _, stream) = pair.tunnel();
        for _ in 0..300 {
            pair.client
                .send_datagram(at_client, stream, 1000, |payload| payload.fill(1))
                .unwrap();
            pair.run_for(Duration::from_millis(3));
        }
        pair.run_for(SECOND);
        let arrived = pair.server_seen.datagrams.len();
        assert!(
            arrived > 280,
            "{congestion:?}: {arrived} of 300 with 1 % loss"
        );
        // RFC 9484 §10.2: without congestion control, outer packets are Not-ECT.
        assert_eq!(
            pair.marked == 0,
            congestion == fixed,
            "{congestion:?}: {}",
            pair.marked
        );
    }
}

#[test]
fn a_restarted_peer_is_noticed_by_its_reset() {
    let mut pair = Pair::new(Link::default());
    let (at_client, _, stream) = pair.tunnel();
    let mut restarted = Pair::new(Link::default());
    std::mem::swap(&mut pair.server, &mut restarted.server);
    pair.client
        .send_datagram(at_client, stream, 500, |payload| payload.fill(1))
        .unwrap();
    pair.run_for(SECOND);
    assert_eq!(closed(&pair.client_seen), Some(&CloseReason::Reset));
}

#[test]
fn a_silent_peer_is_given_up_and_a_living_one_kept() {
    let mut pair = Pair::new(Link::default());
    pair.tunnel();
    pair.run_for(600 * SECOND);
    assert_eq!(closed(&pair.client_seen), None, "kept alive");
    pair.link.loss_permille = 1000;
    pair.run_for(100 * SECOND);
    assert_eq!(closed(&pair.client_seen), Some(&CloseReason::IdleTimeout));
    assert_eq!(closed(&pair.server_seen), Some(&CloseReason::IdleTimeout));
}

/// Who waits for the path to be found wider waits for nothing if the peer takes no longer datagrams.
#[test]
fn short_datagrams_of_a_peer_are_told_from_a_narrow_path() {
    let limited = |path_bytes, frame_bytes| {
        let tuning = TransportTuning {
            datagram_receive_bytes: frame_bytes,
            ..TransportTuning::default()
        };
        let client = MachineConfig { tuning, ..config() };
        let mut pair = Pair::with(link(path_bytes), client, config());
        let (_, at_server, _) = pair.tunnel();
        pair.run_for(SECOND);
        pair.server.peer_limits_datagrams(at_server)
    };
    assert!(limited(1452, 1200));
    assert!(!limited(1452, 65_535));
    assert!(!limited(1331, 1400), "the path has room for fewer");
}
