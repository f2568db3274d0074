//! Paths that narrow, or lose what is large, under an open tunnel.

use std::{net::SocketAddr, time::Duration};

use super::{
    OURS, THEIRS,
    gateway::{Behaviour, net},
    packet, send,
    world::World,
};
use crate::{AttachError, Phase, TunnelEvent};

const SECOND: Duration = Duration::from_secs(1);
/// A link of 1280 bytes, and IPv4 and UDP headers.
const LINK_OF_1280: usize = 1280 - 28;
/// Both sizes six times; before a round trip was measured, half a second and more apart.
const NOTICED_MAX: Duration = Duration::from_secs(8);

fn narrow(world: &World) -> Option<&AttachError> {
    world.events.iter().find_map(|(_, event)| match event {
        TunnelEvent::Down { error, .. } => Some(error),
        _ => None,
    })
}

fn is_down(world: &World) -> bool {
    narrow(world).is_some()
}

/// Sends packets of `bytes` each tenth of a second.
fn talk(world: &mut World, bytes: usize, times: usize) {
    for _ in 0..times {
        let _ = send(world, packet(OURS, THEIRS, bytes - 28));
        world.run_for(SECOND / 10);
    }
}

/// Attached, settled, and with so few events that what follows stands out.
fn attached(behaviour: Behaviour) -> World {
    let mut world = World::attach(behaviour);
    world.run_for(3 * SECOND);
    world.events.clear();
    world
}

#[test]
fn n61_n62_a_laptop_that_roams_to_a_link_of_1280_is_told() {
    let mut world = attached(Behaviour::default());
    // By the same address: behind a NAT, say.
    world.link.udp_payload_max = LINK_OF_1280;
    world.client.network_changed(world.now);
    let took = world.run_until("down", is_down);
    assert!(took < NOTICED_MAX, "{took:?}");
    let error = narrow(&world).unwrap();
    let AttachError::PathTooNarrow {
        mtu_bytes: None,
        needed_bytes: 1359,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("large ones are lost"), "{error}");
    assert_eq!(world.client.phase(), Phase::Reconnecting);
    world.run_for(SECOND);
    assert!(world.gateway().sessions.is_empty(), "the gateway is told");

    // What cannot succeed is tried seldom, and another network at once.
    let dials = world.client.dials();
    world.run_for(30 * SECOND);
    let more = world.client.dials() - dials;
    assert!((2..=6).contains(&more), "{more} dials in 30 s");
    let measured = |(_, event): &(_, TunnelEvent)| matches!(event, TunnelEvent::Down { error: AttachError::PathTooNarrow { mtu_bytes: Some(mtu), .. }, .. } if (1250..=1280).contains(mtu));
    assert!(world.events.iter().any(measured), "{:?}", world.events);
    world.link.udp_payload_max = 1472;
    world.client.network_changed(world.now);
    let took = world.run_until("back", |w| w.client.phase() == Phase::Connected);
    assert!(took < 5 * SECOND, "{took:?}");
}

#[test]
fn n62_a_new_address_on_a_link_of_1280_is_told_too() {
    let mut world = attached(Behaviour::default());
    world.link.udp_payload_max = LINK_OF_1280;
    world.client_address = SocketAddr::from(([203, 0, 113, 77], 50000));
    world.client.network_changed(world.now);
    // QUIC pads the answer to a path's validation to what a tunnel needs, too: the gateway may fall
    // silent, and it shows at the next connection why.
    let took = world.run_until("told", |world| {
        world.has(|event| match event {
            TunnelEvent::Down { error, .. } => error.code() == "path-too-narrow",
            _ => false,
        })
    });
    assert!(took < 20 * SECOND, "{took:?}");
}

#[test]
fn n62_an_ipv4_tunnel_is_checked_as_well() {
    let mut world = attached(Behaviour {
        assign: vec![net("10.0.100.50/32")],
        ..Behaviour::default()
    });
    world.client.network_changed(world.now);
    world.run_for(5 * SECOND);
    assert!(!is_down(&world) && world.gateway().checks.contains(&1280));
    world.link.udp_payload_max = LINK_OF_1280;
    world.client.network_changed(world.now);
    world.run_until("down", is_down);
}

#[test]
fn n62_large_packets_that_are_lost_while_small_ones_pass_end_the_tunnel() {
    let mut world = attached(Behaviour::default());
    // Nobody says a word: a router further on changed.
    world.link.udp_payload_max = LINK_OF_1280;
    talk(&mut world, 1280, 100);
    let error = narrow(&world).expect("noticed");
    assert_eq!(error.code(), "path-too-narrow", "{error}");
}

#[test]
fn n62_a_path_that_narrows_towards_the_client_is_noticed_while_packets_come() {
    let mut world = attached(Behaviour::default());
    world.link.udp_payload_max_down = Some(LINK_OF_1280);
    for _ in 0..45 {
        world.gateway().send(&packet(THEIRS, OURS, 100));
        world.run_for(SECOND);
        if is_down(&world) {
            break;
        }
    }
    assert_eq!(
        narrow(&world).map(AttachError::code),
        Some("path-too-narrow")
    );
}

#[test]
fn n62_too_big_for_an_open_tunnel_is_tried_and_not_believed() {
    let mut world = attached(Behaviour::default());
    let remote = world.addresses[0];
    let told = |world: &mut World, mtu_bytes| {
        world.client.handle_too_big(world.now, remote, mtu_bytes);
    };
    told(&mut world, 1400);
    world.run_for(SECOND);
    assert_eq!(world.gateway().checks, [0; 0], "a tunnel fits");
    // Forged, again and again: one check in ten seconds.
    for _ in 0..100 {
        told(&mut world, 1280);
        world.run_for(SECOND / 5);
    }
    let checks = world.gateway().checks.len();
    assert!((2..=6).contains(&checks), "{checks} echoes");
    assert!(!is_down(&world));

    world.run_for(10 * SECOND);
    world.link.udp_payload_max = LINK_OF_1280;
    told(&mut world, 1280);
    let took = world.run_until("down", is_down);
    assert!(took < NOTICED_MAX, "{took:?}");
    let error = narrow(&world).unwrap().to_string();
    assert!(error.contains("its MTU is 1280 bytes"), "{error}");
}

#[test]
fn a_path_that_narrows_to_1380_carries_smaller_packets() {
    let mut world = attached(Behaviour::default());
    let before = world.client.assignment().unwrap().mtu_bytes;
    world.link.udp_payload_max = 1380 - 28;
    world.client.network_changed(world.now);
    // As a sender does that hears of each smaller size.
    for _ in 0..100 {
        let mtu = world.client.assignment().unwrap().mtu_bytes;
        talk(&mut world, mtu.into(), 1);
    }
    let after = world.client.assignment().unwrap().mtu_bytes;
    assert!((1280..1352).contains(&after), "{before} became {after}");
    let too_long = packet(OURS, THEIRS, usize::from(before) - 28);
    let reply = send(&mut world, too_long).expect("fragmentation needed");
    assert_eq!(u16::from_be_bytes([reply[26], reply[27]]), after);
    world.gateway().packets.clear();
    talk(&mut world, after.into(), 10);
    world.run_for(SECOND);
    assert_eq!(world.gateway().packets.len(), 10);
    assert!(!is_down(&world), "{:?}", world.events);
}

#[test]
fn a_gateway_that_answers_no_echo_is_kept_and_asked_ever_less() {
    let mut world = attached(Behaviour {
        answers_checks: false,
        ..Behaviour::default()
    });
    world.client.network_changed(world.now);
    for _ in 0..600 {
        let _ = send(&mut world, packet(OURS, THEIRS, 100));
        world.run_for(SECOND);
    }
    assert!(!is_down(&world), "{:?}", world.events);
    let echoes = world.gateway().checks.len();
    assert!((24..=72).contains(&echoes), "{echoes} in ten minutes");
}

#[test]
fn heavy_loss_is_no_narrow_path() {
    let mut world = attached(Behaviour::default());
    world.link.loss_percent = 20;
    for _ in 0..30 {
        world.client.network_changed(world.now);
        talk(&mut world, 1280, 100);
    }
    let narrow = world.has(|event| matches!(event, TunnelEvent::Down { error, .. } if error.code() == "path-too-narrow"));
    assert!(!narrow, "{:?}", world.events);
}
