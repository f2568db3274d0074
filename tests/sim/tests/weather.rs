//! Whatever the network does, nothing goes to the wrong place, nothing arrives twice, and all is
//! well again after the weather.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use masque_model::Action;
use masque_sim::{
    gateway::Gateway, manifest::allow_all, network::Weather, seeds::for_each_seed, world::World,
};

const SECOND: Duration = Duration::from_secs(1);
/// What a client needs at most to attach again in calm weather: a dead peer is noticed, and the
/// pause between attempts has grown in the storm.
const RECOVERY: Duration = Duration::from_secs(90);
/// Storms of one run.
const STORMS: usize = 3;

fn attached(seed: u64) -> World {
    let mut world = World::new(seed);
    world.start();
    world.run_until("attached", 30 * SECOND, World::all_up);
    world
}

fn addresses(world: &World) -> Vec<BTreeSet<IpAddr>> {
    let clients = world.clients.iter();
    clients.map(|client| client.assigned.clone()).collect()
}

/// Packets of any client, any family and any size, at any time.
fn chatter(world: &mut World, packets: usize) {
    for _ in 0..packets {
        let index = world.random.below(3) as usize;
        let (length, ipv6) = (world.random.below(1250) as usize, world.random.chance(500));
        world.send(index, length, ipv6);
        let pause = Duration::from_micros(world.random.below(30_000));
        world.run_for(pause);
    }
}

/// A storm after the other while clients talk, and `happens` in the middle of each; then it is calm.
fn storms(world: &mut World, happens: impl Fn(&mut World, usize)) {
    for number in 0..STORMS {
        world.network.weather = Weather::storm(&mut world.random);
        chatter(world, 10);
        happens(world, number);
        chatter(world, 10);
    }
    world.network.weather = Weather::calm();
}

/// All clients talk for this time, so that they notice what is to be noticed.
fn talk(world: &mut World, time: Duration) {
    let end = world.now + time;
    while world.now < end {
        for index in 0..world.clients.len() {
            world.send(index, 100, true);
        }
        world.run_for(SECOND / 5);
    }
}

/// Every client sends, both families, and every packet comes back.
fn everything_works(world: &mut World) {
    for index in 0..world.clients.len() {
        let marks: Vec<u64> = [(64, false), (1200, true), (1200, false)]
            .into_iter()
            .filter_map(|(length, ipv6)| world.send(index, length, ipv6))
            .collect();
        assert_eq!(marks.len(), 3);
        world.run_until("answered", 5 * SECOND, |world| {
            marks
                .iter()
                .all(|mark| world.clients[index].answered.contains(mark))
        });
    }
}

/// Every client is attached again, and everything works.
fn all_is_well(world: &mut World) {
    world.run_until("attached again", RECOVERY, World::all_up);
    world.run_for(2 * SECOND);
    everything_works(world);
}

#[test]
fn n35_storms_lose_reorder_and_repeat_datagrams() {
    for_each_seed("n35_storms_lose_reorder_and_repeat_datagrams", |seed| {
        let mut world = attached(seed);
        let before = addresses(&world);
        storms(&mut world, |_, _| {});
        all_is_well(&mut world);
        assert_eq!(before, addresses(&world), "addresses stay");
    });
}

#[test]
fn a_gateway_that_dies_in_a_storm_is_found_again() {
    for_each_seed("a_gateway_that_dies_in_a_storm_is_found_again", |seed| {
        let mut world = attached(seed);
        storms(&mut world, |world, number| match number {
            0 => world.kill_gateway(),
            1 => {
                let pause = Duration::from_millis(world.random.below(5_000));
                world.run_for(pause);
                world.start_gateway();
            }
            _ => {}
        });
        talk(&mut world, 10 * SECOND);
        all_is_well(&mut world);
        assert!(world.clients.iter().all(|client| client.ups >= 2));
    });
}

#[test]
fn a_gateway_that_leaves_in_a_storm_is_replaced() {
    for_each_seed("a_gateway_that_leaves_in_a_storm_is_replaced", |seed| {
        let mut world = attached(seed);
        storms(&mut world, |world, number| match number {
            0 => world.leave_gateway(),
            1 => {
                let pause = Duration::from_millis(world.random.below(1_000));
                world.run_for(pause);
                world.close_gateway();
            }
            _ => world.start_gateway(),
        });
        talk(&mut world, 10 * SECOND);
        all_is_well(&mut world);
        assert!(world.clients.iter().all(|client| client.ups >= 2));
    });
}

#[test]
fn edits_in_a_storm_are_told_and_obeyed() {
    for_each_seed("edits_in_a_storm_are_told_and_obeyed", |seed| {
        let mut world = attached(seed);
        let before = addresses(&world);
        storms(&mut world, |world, number| {
            // Not beside 10.0.0.0/16: both would be told as one.
            let (network, client) = (world.random.below(200) + 2, world.random.below(3));
            let one = format!("client-{client}");
            world.edit(|snapshot| {
                let route = format!("10.{network}.0.0/16").parse().unwrap();
                snapshot.routes.truncate(2);
                snapshot.routes.push(route);
                snapshot.rules[0].action = match number {
                    0 => Action::Deny,
                    _ => Action::Allow,
                };
                for attachment in &mut snapshot.attachments {
                    attachment.routes.clone_from(&snapshot.routes);
                    attachment.suspended = number == 1 && attachment.connector == one;
                }
            });
        });
        all_is_well(&mut world);
        assert_eq!(before, addresses(&world), "addresses stay");
        routes_are_those_of_the_manifests(&world);
        nothing_passes_a_denial(&mut world);
        everything_works(&mut world);
    });
}

fn routes_are_those_of_the_manifests(world: &World) {
    for (index, client) in world.clients.iter().enumerate() {
        let told = client.tunnel.assignment();
        let told = told.map(|told| told.routes).unwrap_or_default();
        let manifest = &world.snapshot_of(index).routes;
        let told: BTreeSet<String> = told.iter().map(ToString::to_string).collect();
        let wanted: BTreeSet<String> = manifest.iter().map(ToString::to_string).collect();
        assert_eq!(told, wanted, "client {index}");
    }
}

fn nothing_passes_a_denial(world: &mut World) {
    world.edit(|snapshot| snapshot.rules[0].action = Action::Deny);
    for index in 0..world.clients.len() {
        let mark = world.send(index, 64, false);
        world.run_for(SECOND / 5);
        let passed = mark.map(|mark| world.clients[index].answered.contains(&mark));
        assert_eq!(passed, Some(false), "client {index}");
    }
    world.edit(|snapshot| snapshot.rules = vec![allow_all()]);
}

#[test]
fn roaming_keeps_the_session_and_a_storm_the_addresses() {
    for_each_seed(
        "roaming_keeps_the_session_and_a_storm_the_addresses",
        |seed| {
            let mut world = attached(seed);
            let before = addresses(&world);
            for round in 0..3u16 {
                let index = world.random.below(3) as usize;
                world.clients[index].address.set_port(50_000 + round);
                world.send(index, 100, false);
                world.run_for(SECOND / 2);
            }
            everything_works(&mut world);
            assert!(
                world.clients.iter().all(|client| client.ups == 1),
                "no new session was needed"
            );
            assert_eq!(world.gateway.as_ref().map(Gateway::tunnels), Some(3));

            storms(&mut world, |world, number| {
                let index = world.random.below(3) as usize;
                let port = 60_000 + u16::try_from(number).unwrap();
                world.clients[index].address.set_port(port);
            });
            all_is_well(&mut world);
            assert_eq!(before, addresses(&world), "addresses stay");
        },
    );
}

#[test]
fn an_old_tunnel_is_back_within_a_second_of_its_gateway() {
    for_each_seed(
        "an_old_tunnel_is_back_within_a_second_of_its_gateway",
        |seed| {
            let mut world = attached(seed);
            world.run_for(600 * SECOND);
            world.kill_gateway();
            talk(&mut world, 20 * SECOND);
            assert!(!world.all_up());
            world.start_gateway();
            world.run_until("attached again", SECOND, World::all_up);
            everything_works(&mut world);
        },
    );
}

#[test]
fn n62_a_path_that_narrows_under_tunnels_is_noticed_and_left() {
    for_each_seed(
        "n62_a_path_that_narrows_under_tunnels_is_noticed_and_left",
        |seed| {
            let mut world = attached(seed);
            let pause = Duration::from_millis(world.random.below(3_000));
            world.run_for(pause);
            world.network.weather = Weather::narrow();
            // One knows that it is elsewhere, one loses packets, one only receives what is small.
            let now = world.now;
            world.clients[0].tunnel.network_changed(now);
            for _ in 0..500 {
                world.send(1, 1200, true);
                world.send(2, 100, false);
                world.run_for(Duration::from_millis(100));
            }
            for (index, client) in world.clients.iter().enumerate() {
                let noticed = client.downs.contains("path-too-narrow");
                assert!(noticed, "client {index}: {:?}", client.downs);
            }
            let gateway = world.gateway.as_ref();
            let tunnels = gateway.map(Gateway::tunnels);
            assert_eq!(tunnels, Some(0));
            world.network.weather = Weather::calm();
            world.run_until("attached again", RECOVERY, World::all_up);
            everything_works(&mut world);
        },
    );
}

#[test]
fn a_seed_repeats_itself_exactly() {
    let run = |seed| {
        let mut world = attached(seed);
        storms(&mut world, |world, number| match number {
            0 => world.kill_gateway(),
            1 => world.start_gateway(),
            _ => world.clients[0].address.set_port(61_000),
        });
        all_is_well(&mut world);
        (world.network.trace(), addresses(&world))
    };
    for seed in 1..=5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2), "a seed decides");
}
