//! A million packets; see the crate's own page.

use masque_isolation::World;

/// Enough for a million packets: some steps are something else, or a packet that cannot exist.
const STEPS: u64 = 1_100_000;

#[test]
fn no_packet_reaches_another_vpc_or_session() {
    let mut world = World::new(1);
    let tally = world.run(STEPS);
    eprintln!("{tally:?}");
    assert!(tally.packets >= 1_000_000, "{tally:?}");
    // What is refused proves little if nothing passes.
    assert!(
        tally.forwarded > 20_000 && tally.delivered > 20_000,
        "{tally:?}"
    );
    assert!(
        tally.refused > 200_000 && tally.handed_over > 20_000,
        "{tally:?}"
    );
    assert!(tally.sessions > 1_000 && tally.edits > 1_000, "{tally:?}");
    assert!(tally.moves > 100, "{tally:?}");
}

#[test]
fn nor_from_other_beginnings() {
    for seed in 2..22 {
        World::new(seed).run(5_000);
    }
}
