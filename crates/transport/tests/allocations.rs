//! What the packet path allocates, and what an idle connection keeps.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: what cannot be set up fails the test"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(dead_code, reason = "the support modules serve another test too")]

#[path = "suite/certificates.rs"]
mod certificates;
#[path = "suite/pair.rs"]
mod pair;

use std::{
    alloc::{GlobalAlloc, Layout},
    cell::Cell,
    collections::BTreeMap,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use masque_testkit::allocations::{Allocations, CountingAllocator, allocations, first_of_ours};
use masque_transport::{ConnId, Event, Machine, ShardId, http3};
use pair::{End, Link, Pair, config, connect_ip};

/// quinn-proto's own allocations on behalf of a packet that is sent, and of one that is received, at
/// most.
const QUINN_TRANSMIT_MAX: f64 = 0.13;
const QUINN_RECEIVE_MAX: f64 = 0.01;

/// Counts, and knows which end keeps how much.
struct Keeping;

thread_local! {
    static END: Cell<Option<End>> = const { Cell::new(None) };
    static KEPT_BYTES: [Cell<i64>; 2] = const { [Cell::new(0), Cell::new(0)] };
}

fn keep(bytes: i64) {
    if let Some(end) = END.get() {
        KEPT_BYTES.with(|kept| kept[end as usize].set(kept[end as usize].get() + bytes));
    }
}

// SAFETY: every call goes on unchanged.
unsafe impl GlobalAlloc for Keeping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        keep(layout.size() as i64);
        // SAFETY: as our caller promises.
        unsafe { CountingAllocator.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        keep(-(layout.size() as i64));
        // SAFETY: as our caller promises.
        unsafe { CountingAllocator.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        keep(size as i64 - layout.size() as i64);
        // SAFETY: as our caller promises.
        unsafe { CountingAllocator.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Keeping = Keeping;

/// Allocations of each step of the packet path.
#[derive(Debug, Default)]
struct Tally {
    send: Allocations,
    transmit: Allocations,
    receive: Allocations,
    deliver: Allocations,
}

/// Carries what `from` sends to `to`; buffers are the harness' own, as a socket's are.
fn carry(pair: &mut Pair, to_server: bool, tally: &mut Tally) -> u64 {
    let now = pair.now;
    let (from, to, address): (&mut Machine, &mut Machine, _) = if to_server {
        (&mut pair.client, &mut pair.server, pair.client_addr)
    } else {
        (&mut pair.server, &mut pair.client, pair.server_addr)
    };
    let mut buffer = Vec::with_capacity(70_000);
    let mut datagrams = 0;
    loop {
        let (transmit, count) = allocations(|| from.poll_transmit(now, &mut buffer));
        tally.transmit += count;
        let Some(transmit) = transmit else { break };
        let segment = transmit.segment_size.unwrap_or(transmit.size);
        let mut all = BytesMut::from(&buffer[..transmit.size]);
        while !all.is_empty() {
            let data = all.split_to(segment.min(all.len()));
            let arrived = allocations(|| to.handle_udp(now, address, None, None, data));
            tally.receive += arrived.1;
        }
    }
    loop {
        let (datagram, count) = allocations(|| to.poll_datagram());
        tally.deliver += count;
        let Some((_, _, payload)) = datagram else {
            break;
        };
        assert_eq!(payload.len(), 1200);
        datagrams += 1;
    }
    while to.poll_event().is_some() {}
    datagrams
}

#[test]
fn a_datagram_allocates_nothing_of_ours() {
    const ROUNDS: u64 = 600;
    const BATCH: u64 = 32;
    let mut pair = Pair::new(Link {
        latency: Duration::from_millis(1),
        ..Link::default()
    });
    let (at_client, _, stream) = pair.tunnel();
    pair.run_for(Duration::from_secs(5));
    let mut tally = Tally::default();
    let (mut delivered, mut fresh) = (0, 0);
    for round in 0..ROUNDS {
        if round == ROUNDS / 3 {
            (tally, delivered) = (Tally::default(), 0);
            fresh = pair.client.stats().send_chunks_fresh;
            let _warm_up = first_of_ours();
        }
        for _ in 0..BATCH {
            let sent = allocations(|| {
                pair.client
                    .send_datagram(at_client, stream, 1200, |payload| payload.fill(3))
            });
            sent.0.unwrap();
            tally.send += sent.1;
        }
        pair.now += Duration::from_micros(500);
        pair.client.handle_timeouts(pair.now);
        pair.server.handle_timeouts(pair.now);
        delivered += carry(&mut pair, true, &mut tally);
        pair.now += Duration::from_micros(500);
        carry(&mut pair, false, &mut tally);
    }
    let stats = pair.client.stats();
    let per_packet = |count: Allocations| count.quinn as f64 / delivered as f64;
    println!(
        "quinn-proto's allocations a datagram: send {:.3}, transmit {:.3}, receive {:.3}, deliver {:.3}; {stats:?}",
        per_packet(tally.send),
        per_packet(tally.transmit),
        per_packet(tally.receive),
        per_packet(tally.deliver),
    );
    assert!(
        delivered >= ROUNDS * BATCH * 2 / 3 - BATCH,
        "{delivered} arrived"
    );
    assert_eq!(stats.send_chunks_fresh, fresh, "chunks come back");
    assert!(stats.send_chunks_reused > 50, "{stats:?}");
    let steps = [tally.send, tally.transmit, tally.receive, tally.deliver];
    let ours: u64 = steps.iter().map(|step| step.ours).sum();
    assert_eq!(ours, 0, "{tally:?}: {}", first_of_ours());
    let none = Allocations::default();
    assert_eq!((tally.send, tally.deliver), (none, none));
    assert!(
        per_packet(tally.transmit) <= QUINN_TRANSMIT_MAX
            && per_packet(tally.receive) <= QUINN_RECEIVE_MAX,
        "{tally:?}"
    );
}

#[test]
fn an_idle_connection_is_small() {
    const CONNECTIONS: u32 = 1000;
    let mut pair = Pair::new(Link::default());
    pair.tunnel();
    pair.enter = |end| END.set(end);
    let kept = || KEPT_BYTES.with(|kept| [kept[0].get(), kept[1].get()]);
    let before = kept();
    for _ in 0..CONNECTIONS {
        pair.tunnel();
        pair.client_seen = pair::Seen::default();
        pair.server_seen = pair::Seen::default();
    }
    pair.run_for(Duration::from_secs(30));
    let after = kept();
    let each = |end: usize| (after[end] - before[end]) / i64::from(CONNECTIONS);
    println!(
        "bytes kept for an idle connection: client {}, server {}",
        each(0),
        each(1)
    );
    assert!(
        (5_000..30_000).contains(&each(1)),
        "{} bytes at the server",
        each(1)
    );
}

/// Two connections, each with two requests whose DATA frames carry a byte each, and all of it there
/// to be read at once. Gives the connections at the server.
fn tiny_frames(pair: &mut Pair, frames: usize) -> Vec<ConnId> {
    let http = http3::Config {
        max_useless_frames: u32::MAX,
        ..http3::Config::default()
    };
    pair.server = Machine::server(config(), pair.tls.server(), http, ShardId::SINGLE, pair.now);
    let mut loud = Vec::new();
    for _ in 0..2 {
        let (at_client, at_server, first) = pair.tunnel();
        let second = pair
            .client
            .request(at_client, &connect_ip(), false)
            .unwrap();
        pair.run_for(Duration::from_secs(1));
        for stream in [first, second] {
            pair.server.set_stream_reading(at_server, stream, false);
            let http = pair.client.http(at_client).unwrap();
            for _ in 0..frames {
                let byte = Bytes::from_static(b"x");
                http.send_data(stream, byte, false).unwrap();
            }
        }
        loud.push((at_server, [first, second]));
    }
    pair.run_for(Duration::from_secs(5));
    for (conn, streams) in &loud {
        for stream in streams {
            pair.server.set_stream_reading(*conn, *stream, true);
        }
    }
    loud.into_iter().map(|(conn, _)| conn).collect()
}

/// Runs `work` of the server; its result, and how many bytes more it keeps.
fn kept_by<T>(work: impl FnOnce() -> T) -> (T, i64) {
    let kept = || KEPT_BYTES.with(|kept| kept[End::Server as usize].get());
    let before = kept();
    END.set(Some(End::Server));
    let result = work();
    END.set(None);
    (result, kept() - before)
}

#[test]
fn tiny_frames_cost_a_turn_no_more_than_its_bound() {
    /// 256 events, and what a piece of 1536 bytes makes beyond.
    const EVENTS_A_TURN: usize = 256 + 512;
    const FRAMES: usize = 20_000;
    let mut pair = Pair::new(Link {
        latency: Duration::from_millis(1),
        ..Link::default()
    });
    let loud = tiny_frames(&mut pair, FRAMES);
    let (mut kept, mut most, mut turns) = (0, 0, 0);
    let mut arrived = BTreeMap::new();
    while arrived.values().sum::<usize>() < loud.len() * 2 * FRAMES {
        turns += 1;
        pair.now += Duration::from_millis(1);
        let now = pair.now;
        kept += kept_by(|| pair.server.handle_timeouts(now)).1;
        let mut of_turn = BTreeMap::new();
        loop {
            let (event, more) = kept_by(|| pair.server.poll_event());
            kept += more;
            most = most.max(kept);
            match event {
                Some(Event::Http {
                    conn,
                    event: http3::Event::Data { data, .. },
                }) => {
                    *arrived.entry(conn).or_insert(0) += data.len();
                    *of_turn.entry(conn).or_insert(0) += 1;
                }
                Some(_) => {}
                None => break,
            }
        }
        for conn in &loud {
            let events = of_turn.get(conn).copied().unwrap_or(0);
            let all = arrived.get(conn) == Some(&(2 * FRAMES));
            assert!(events <= EVENTS_A_TURN, "{events} events in one turn");
            assert!(all || events > 0, "a connection starves in turn {turns}");
            assert!(all || pair.server.next_deadline() == Some(now));
        }
    }
    assert!(most < 1024 * 1024, "{most} bytes");
    assert!(turns >= 2 * FRAMES / EVENTS_A_TURN, "{turns} turns");
    for conn in loud {
        let http = pair.server.http_ref(conn).unwrap();
        assert!(http.retained_bytes() < 16 * 1024, "{http:?}");
    }
}
