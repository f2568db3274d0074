use masque_gateway_core::EndReason;

use super::*;
use crate::shard::tests::Bench;

/// Nobody tells of room in a connection that is closed.
#[test]
fn what_had_no_room_is_dropped_when_its_client_leaves() {
    let mut bench = Bench::new();
    let (key, slot) = bench.tunnel();
    let (shard, at) = (&mut bench.shard, Instant::now());
    let flow = FlowKey::UNSPECIFIED;
    for _ in 0..3 {
        let (packet, gso) = ([0; 100], GsoInfo::default());
        let figures = &mut shard.figures;
        shard
            .waiting
            .push(at, (slot, &flow), &packet, &gso, figures);
    }
    assert!(shard.waiting.queue.pop(0, |_, _, _| false).is_none());
    assert!(!shard.send_waiting(at), "it has no room");
    let now = shard.now(at);
    shard.drop_tunnel(key, EndReason::ClientClosed, now);
    assert!(shard.send_waiting(at));
    assert!(shard.waiting.queue.is_empty());
    assert_eq!(shard.figures.unsendable, 3);
}
