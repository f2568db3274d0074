//! What readers of the metrics may rely on.

use std::sync::Arc;

use masque_controller::Snapshot;
use masque_gateway_core::{Now, Registry as Sessions, RegistryConfig};

use super::*;
use crate::{init, shard::ShardFigures, source};

#[test]
fn counters_never_go_back() {
    let metrics = Metrics::new().unwrap();
    raise(&metrics.handovers, &["0"], 5);
    raise(&metrics.handovers, &["0"], 3);
    raise(&metrics.handovers, &["0"], 7);
    assert_eq!(metrics.handovers.with_label_values(&["0"]).get(), 7);
}

#[test]
fn names_follow_the_conventions() {
    let metrics = Metrics::new().unwrap();
    let devices = Devices {
        decapsulation: "End.DT46".to_owned(),
        ..Devices::default()
    };
    let text = metrics
        .text(&[], &[], &Tables::default(), &devices, 3)
        .unwrap();
    for line in [
        "masque_gateway_build_info",
        "masque_gateway_decapsulation_info",
        "masque_gateway_tun_reopened_total 3",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

/// The starter folder's snapshots.
fn starter() -> Vec<Arc<Snapshot>> {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("starter");
    init::ready(&dir);
    let compiled = source::load(&dir, &[]).unwrap().compiled;
    assert_eq!(compiled.snapshots.len(), 1, "{:?}", compiled.problems);
    compiled.snapshots.into_iter().map(Arc::new).collect()
}

/// The tables after running these snapshots, and what a shard says that took so many packets there.
fn run(sessions: &mut Sessions, snapshots: &[Arc<Snapshot>]) -> Arc<Tables> {
    sessions.apply(Now::default(), snapshots.to_vec()).tables
}

fn report(tables: &Tables, shard: u16, packets: u64) -> ShardReport {
    let mut counters = Counters::default();
    counters.to_vpc.packets = packets;
    let index = tables.vpcs().next().unwrap().index();
    ShardReport {
        shard,
        sessions: Vec::new(),
        figures: ShardFigures {
            vpcs: vec![(index, counters)],
            ..ShardFigures::default()
        },
    }
}

#[test]
fn a_vpc_that_goes_and_comes_neither_stalls_nor_jumps() {
    let starter = starter();
    let mut sessions = Sessions::new(RegistryConfig::default());
    let metrics = Metrics::new().unwrap();
    let read = |tables: &Tables, reports: &[ShardReport]| {
        let text = metrics.text(reports, &[], tables, &Devices::default(), 0);
        let of_vpc = |line: &&str| {
            line.starts_with("masque_gateway_packets_total{") && line.contains("\"to_vpc\"")
        };
        let text = text.unwrap();
        let line = text.lines().find(of_vpc)?;
        line.rsplit(' ').next()?.parse::<u64>().ok()
    };
    let first = run(&mut sessions, &starter);
    let both = [report(&first, 0, 100), report(&first, 1, 10)];
    assert_eq!(read(&first, &both), Some(110));
    // A shard that does not answer in time takes nothing away, and brings nothing twice.
    assert_eq!(read(&first, &both[..1]), Some(110));
    assert_eq!(read(&first, &both), Some(110));

    // Gone and back between two readings: counted on.
    run(&mut sessions, &[]);
    let second = run(&mut sessions, &starter);
    assert_eq!(read(&second, &[report(&second, 0, 5)]), Some(115));
    assert_eq!(read(&second, &[report(&second, 0, 7)]), Some(117));

    // Seen gone: no series, and a beginning at zero.
    let none = run(&mut sessions, &[]);
    assert_eq!(read(&none, &[]), None);
    let third = run(&mut sessions, &starter);
    assert_eq!(read(&third, &[report(&third, 0, 2)]), Some(2));
    assert_eq!(metrics.reading.lock().unwrap().counters.len(), 1);
}
