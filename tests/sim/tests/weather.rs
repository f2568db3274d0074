//! Whatever the network does, nothing goes to the wrong place, nothing arrives twice, and all is
//! well again after the weather.
#![expect(clippy::print_stderr, reason = "a failing seed must be seen")]

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use masque_sim::{network::Weather, world::World};

/// Seeds of one run; `SIM_SEEDS` asks for more.
const SEEDS: u64 = 400;
/// What a client needs at most to attach again in calm weather: a dead peer is noticed, and the
/// pause between attempts has grown in the storm.
const RECOVERY: Duration = Duration::from_secs(90);

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("SIM_FIRST")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    let count = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEEDS);
    first..first + count
}

/// Runs `scenario` for every seed and names the one that fails.
fn for_each_seed(name: &str, scenario: impl Fn(u64)) {
    for seed in seeds() {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
            eprintln!("{name} fails with seed {seed}: SIM_FIRST={seed} SIM_SEEDS=1 repeats it");
            std::panic::resume_unwind(panic);
        }
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
        world.run_until("answered", Duration::from_secs(5), |world| {
            marks
                .iter()
                .all(|mark| world.clients[index].answered.contains(mark))
        });
    }
}

#[test]
fn n35_storms_lose_reorder_and_repeat_datagrams() {
    for_each_seed("n35_storms_lose_reorder_and_repeat_datagrams", |seed| {
        let mut world = World::new(seed);
        world.start();
        world.run_until("attached", Duration::from_secs(30), World::all_up);
        let before: Vec<BTreeSet<_>> = world.clients.iter().map(|c| c.assigned.clone()).collect();
        for _ in 0..3 {
            world.network.weather = Weather::storm(&mut world.random);
            for _ in 0..20 {
                let index = world.random.below(3) as usize;
                let (length, ipv6) = (world.random.below(1250) as usize, world.random.chance(500));
                world.send(index, length, ipv6);
                let pause = Duration::from_micros(world.random.below(30_000));
                world.run_for(pause);
            }
        }
        world.network.weather = Weather::calm();
        world.run_until("attached again", RECOVERY, World::all_up);
        world.run_for(Duration::from_secs(2));
        everything_works(&mut world);
        let after: Vec<BTreeSet<_>> = world.clients.iter().map(|c| c.assigned.clone()).collect();
        assert_eq!(before, after, "addresses stay");
    });
}

#[test]
fn a_restarted_gateway_is_found_again() {
    for_each_seed("a_restarted_gateway_is_found_again", |seed| {
        let mut world = World::new(seed);
        world.start();
        world.run_until("attached", Duration::from_secs(30), World::all_up);
        world.kill_gateway();
        let pause = Duration::from_millis(world.random.below(5_000));
        world.run_for(pause);
        world.start_gateway();
        // The clients talk, so they notice.
        for _ in 0..100 {
            for index in 0..3 {
                world.send(index, 100, true);
            }
            world.run_for(Duration::from_millis(100));
        }
        world.run_until("attached again", RECOVERY, World::all_up);
        everything_works(&mut world);
        assert!(world.clients.iter().all(|client| client.ups >= 2));
    });
}

#[test]
fn roaming_keeps_the_session() {
    for_each_seed("roaming_keeps_the_session", |seed| {
        let mut world = World::new(seed);
        world.start();
        world.run_until("attached", Duration::from_secs(30), World::all_up);
        for round in 0..3u16 {
            let index = world.random.below(3) as usize;
            world.clients[index].address.set_port(50_000 + round);
            world.send(index, 100, false);
            world.run_for(Duration::from_millis(500));
        }
        everything_works(&mut world);
        assert!(
            world.clients.iter().all(|client| client.ups == 1),
            "no new session was needed"
        );
        assert_eq!(
            world
                .gateway
                .as_ref()
                .map(masque_sim::gateway::Gateway::tunnels),
            Some(3)
        );
    });
}

#[test]
fn n62_a_path_that_narrows_under_tunnels_is_noticed_and_left() {
    for_each_seed(
        "n62_a_path_that_narrows_under_tunnels_is_noticed_and_left",
        |seed| {
            let mut world = World::new(seed);
            world.start();
            world.run_until("attached", Duration::from_secs(30), World::all_up);
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
            let tunnels = gateway.map(masque_sim::gateway::Gateway::tunnels);
            assert_eq!(tunnels, Some(0));
            world.network.weather = Weather::calm();
            world.run_until("attached again", RECOVERY, World::all_up);
            everything_works(&mut world);
        },
    );
}
