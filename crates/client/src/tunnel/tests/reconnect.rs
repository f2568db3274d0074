//! Restarts, drains, lost paths: the tunnel comes back, with the same addresses, soon.

use std::{net::SocketAddr, time::Duration};

use super::{
    OURS, THEIRS,
    gateway::{Behaviour, Gateway},
    packet, send,
    world::World,
};
use crate::{AttachError, Phase, TunnelEvent};

const SECOND: Duration = Duration::from_secs(1);

fn connected(world: &World) -> bool {
    world.client.phase() == Phase::Connected
}

fn downs(world: &World) -> Vec<&AttachError> {
    let mut errors = Vec::new();
    for (_, event) in &world.events {
        if let TunnelEvent::Down { error, .. } = event {
            errors.push(error);
        }
    }
    errors
}

fn talk(world: &mut World, times: usize, pause: Duration) {
    for _ in 0..times {
        let _ = send(world, packet(OURS, THEIRS, 100));
        world.run_for(pause);
    }
}

/// The gateway is gone while an application goes on sending `times`, every 100 ms, and returns: so is
/// the tunnel, within a second.
fn back_within_a_second(mut world: World, refuses: bool, times: usize) -> World {
    world.stop_gateway();
    world.link.refuses = refuses;
    talk(&mut world, times, SECOND / 10);
    assert_eq!(world.client.phase(), Phase::Reconnecting);
    world.start_gateway(Behaviour::default(), 2);
    let took = world.run_until("back", connected);
    assert!(took <= SECOND, "{took:?} with refusals {refuses}");
    world
}

#[test]
fn a_restart_that_is_refused_meanwhile_is_over_within_a_second() {
    let world = World::attach(Behaviour::default());
    let before = world.client.assignment().unwrap().addresses;
    let world = back_within_a_second(world, true, 30);
    assert_eq!(world.client.assignment().unwrap().addresses, before);
    assert_eq!(world.client.reconnects(), 1);
}

#[test]
fn a_restart_behind_a_silent_network_is_over_within_a_second() {
    let world = back_within_a_second(World::attach(Behaviour::default()), false, 100);
    assert!(
        matches!(downs(&world)[0], AttachError::PeerLost { .. }),
        "{:?}",
        downs(&world)
    );
}

#[test]
fn an_old_tunnel_comes_back_as_fast_as_a_young_one() {
    for refuses in [false, true] {
        let mut world = World::attach(Behaviour::default());
        world.run_for(600 * SECOND);
        back_within_a_second(world, refuses, 200);
    }
}

#[test]
fn a_quick_restart_with_the_same_secret_is_noticed_by_its_reset() {
    let mut world = World::attach(Behaviour::default());
    world.start_gateway(Behaviour::default(), 1);
    let _ = send(&mut world, packet(OURS, THEIRS, 100));
    let took = world.run_until("back", |w| w.client.reconnects() == 1);
    assert!(took < SECOND / 2, "{took:?}");
    assert_eq!(
        downs(&world)[0].to_string(),
        "the gateway closed the tunnel: it was restarted"
    );
}

#[test]
fn a_quick_restart_with_another_secret_is_noticed_by_silence() {
    let mut world = World::attach(Behaviour::default());
    world.start_gateway(Behaviour::default(), 9);
    let start = world.now;
    while world.client.reconnects() == 0 {
        talk(&mut world, 1, SECOND / 10);
        assert!(world.now < start + 3 * SECOND, "not noticed");
    }
}

/// What the gateway says makes the client open another tunnel first; no packet is lost.
fn moves_without_losing_a_packet(say: impl FnOnce(&mut Gateway)) {
    let mut world = World::attach(Behaviour::default());
    say(world.gateway());
    for number in 0..50 {
        assert_eq!(send(&mut world, packet(OURS, THEIRS, 100 + number)), None);
        world.run_for(Duration::from_millis(10));
        assert!(connected(&world));
    }
    world.run_until("moved", |w| w.client.reconnects() == 1);
    world.run_for(SECOND);
    assert!(world.has(|event| *event == TunnelEvent::Draining));
    assert!(downs(&world).is_empty(), "{:?}", downs(&world));
    assert_eq!(world.gateway().packets.len(), 50);
    assert_eq!(
        world.gateway().sessions.len(),
        1,
        "the former session is closed"
    );
}

#[test]
fn a_drain_moves_without_losing_a_packet() {
    moves_without_losing_a_packet(Gateway::go_away);
}

#[test]
fn n77_a_wrap_up_moves_without_losing_a_packet() {
    moves_without_losing_a_packet(Gateway::wrap_up);
}

#[test]
fn n77_a_tunnel_that_is_wrapped_up_before_it_is_open_is_not_used() {
    let mut world = World::new(Behaviour {
        asks: vec!["0.0.0.0/32".parse().unwrap()],
        assign: Vec::new(),
        answer_requests: false,
        wraps_up_at_once: true,
        ..Behaviour::default()
    });
    world.client.start(world.now);
    world.run_until("told", |w| !downs(w).is_empty());
    assert!(
        matches!(downs(&world)[0], AttachError::GoingAway),
        "{:?}",
        downs(&world)
    );
    world.gateway().behaviour = Behaviour::default();
    world.run_until("open", connected);
}

/// The gateway sends nonsense in each tunnel, until another program takes its place.
#[test]
fn a_gateway_that_breaks_the_protocol_is_left_alone_and_its_successor_found() {
    let mut world = World::attach(Behaviour::default());
    let broken = |world: &World| downs(world).iter().any(|error| error.code() == "protocol");
    world.gateway().break_protocol();
    world.run_until("told", broken);
    let took = world.run_until("tried again", connected);
    assert!(took <= SECOND / 2, "{took:?}");
    // Each of its tunnels ends as soon as it is open.
    let start = world.now;
    let mut tunnels = 0;
    while world.now < start + 60 * SECOND {
        if connected(&world) {
            tunnels += 1;
            world.gateway().break_protocol();
        }
        world.run_for(SECOND / 20);
    }
    assert!((5..=14).contains(&tunnels), "{tunnels} in a minute");
    let took = world.run_until("open", connected);
    assert!(took <= 31 * SECOND, "{took:?}");
}

#[test]
fn a_suspension_ends_the_tunnel_and_its_end_is_noticed() {
    let mut world = World::attach(Behaviour::default());
    let details = Some("suspended".to_owned());
    world.gateway().behaviour = Behaviour {
        status: 403,
        details,
        ..Behaviour::default()
    };
    world.gateway().end_sessions();
    world.run_until("denied", |world| {
        downs(world).iter().any(|error| error.code() == "denied")
    });
    world.run_for(10 * SECOND);
    let asked = world.gateway().requests.len();
    assert!(asked <= 7, "{asked} requests in 10 s of suspension");
    world.gateway().behaviour = Behaviour::default();
    let took = world.run_until("back", connected);
    assert!(took <= 6 * SECOND, "{took:?}");
}

#[test]
fn a_short_outage_of_the_path_costs_no_reconnect() {
    let mut world = World::attach(Behaviour::default());
    world.link.up = false;
    talk(&mut world, 20, SECOND / 10);
    world.link.up = true;
    talk(&mut world, 30, SECOND / 10);
    assert!(connected(&world));
    assert!(world.client.reconnects() <= 1);
    assert_eq!(world.gateway().sessions.len(), 1);
    assert!(downs(&world).is_empty(), "{:?}", downs(&world));
}

#[test]
fn attaches_and_stays_through_heavy_loss() {
    let mut world = World::new(Behaviour::default());
    world.link.loss_percent = 20;
    world.client.start(world.now);
    world.run_until("open", connected);
    talk(&mut world, 300, SECOND / 10);
    assert!(connected(&world));
    assert_eq!(world.client.reconnects(), 0, "{:?}", downs(&world));
    let arrived = world.gateway().packets.len();
    assert!((200..300).contains(&arrived), "{arrived} of 300");
}

#[test]
fn a_new_address_of_this_machine_keeps_the_tunnel() {
    let mut world = World::attach(Behaviour::default());
    world.client_address = SocketAddr::from(([203, 0, 113, 77], 50000));
    world.client.network_changed(world.now);
    talk(&mut world, 10, SECOND / 20);
    assert!(connected(&world));
    assert_eq!(world.client.reconnects(), 0);
    assert!(
        world.gateway().packets.len() >= 9,
        "{}",
        world.gateway().packets.len()
    );
    world.gateway().send(&packet(THEIRS, OURS, 10));
    world.run_until("delivered", |world| !world.received.is_empty());
}

#[test]
fn an_idle_tunnel_whose_gateway_vanished_is_noticed() {
    let mut world = World::attach(Behaviour::default());
    world.run_for(40 * SECOND);
    assert!(connected(&world), "keep-alives are answered");
    world.stop_gateway();
    let took = world.run_until("doubted", |world| !connected(world));
    assert!(took <= 20 * SECOND, "{took:?}");
}
