//! What a packet costs the allocator in a client's turn.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "shared with tests that use more of it")]
#[path = "../src/tunnel/tests/gateway.rs"]
mod gateway;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_client::{AttachConfig, ConnectorIdentity, Phase, ServerTrust, Tunnel};
use masque_packet::{
    build::{TcpFields, build_tcp, build_udp},
    icmp::MAX_ERROR_BYTES,
    segment::{GsoInfo, GsoKind},
};
use masque_testkit::{
    DevelopmentCa,
    allocations::{Allocations, CountingAllocator, allocations, first_of_ours},
};

use gateway::{Behaviour, Gateway, Site};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LATENCY: Duration = Duration::from_millis(1);
const BATCH: usize = 32;
/// Of a super-packet of TCP; one is sent behind every batch, and behind it a packet of IPv6.
const SEGMENTS: usize = 8;
const SEGMENT_BYTES: u16 = 1000;

struct Pair {
    now: Instant,
    client: Tunnel,
    gateway: Gateway,
    client_address: SocketAddr,
    gateway_address: SocketAddr,
    buf: Vec<u8>,
    /// Allocations in the client's calls.
    counted: Allocations,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let ca = DevelopmentCa::new();
        let server = ca.server(&["192.0.2.1"]);
        let site = Site {
            chain: server.cert_pem,
            key: server.key_pem,
        };
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let gateway = "https://192.0.2.1:4433".parse().unwrap();
        let mut config = AttachConfig::new(gateway, "v".parse().unwrap(), identity);
        config.trust = ServerTrust::RootsPem(ca.pem().as_bytes().to_vec());
        let mut pair = Self {
            now,
            client: Tunnel::new(&config, [5; 32], now).unwrap(),
            gateway: Gateway::new(&site, Behaviour::default(), 1, now),
            client_address: SocketAddr::from(([198, 51, 100, 7], 40000)),
            gateway_address: SocketAddr::from(([192, 0, 2, 1], 4433)),
            buf: Vec::with_capacity(65_536),
            counted: Allocations::default(),
        };
        pair.client.machine().set_max_gso_segments(16);
        pair.client.start(now);
        for _ in 0..2_000 {
            pair.turn();
        }
        assert_eq!(pair.client.phase(), Phase::Connected);
        pair
    }

    fn counting<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let (done, counted) = allocations(|| run(self));
        self.counted += counted;
        done
    }

    /// Everything that flies arrives, then both ends have a turn.
    fn turn(&mut self) {
        self.now += LATENCY;
        let now = self.now;
        while let Some(transmit) =
            self.counting(|pair| pair.client.poll_transmit(now, &mut pair.buf))
        {
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for packet in self.buf[..transmit.size].chunks(segment) {
                self.gateway.receive(now, self.client_address, packet);
            }
        }
        self.gateway.turn(now);
        let mut buf = Vec::new();
        while let Some(transmit) = self.gateway.transmit(now, &mut buf) {
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for packet in buf[..transmit.size].chunks(segment) {
                // The socket's pool of buffers is the transport's, and tested there.
                let data = BytesMut::from(packet);
                let from = self.gateway_address;
                self.counting(|pair| pair.client.handle_udp(now, from, None, data));
            }
        }
        self.counting(|pair| {
            pair.client.handle_timeouts(now);
            while pair.client.poll_event().is_some() {}
            while let Some(received) = pair.client.poll_packet() {
                drop(received);
            }
        });
    }
}

/// Allocations of quinn-proto a packet, at most: it keeps books in trees and queues whose nodes come
/// and go.
const QUINN_MAX: f64 = 0.6;

/// What is above QUIC adds nothing.
#[test]
fn a_packet_allocates_nothing_of_ours() {
    let mut pair = Pair::new();
    let (ours, theirs) = ([10, 0, 100, 50].into(), [10, 0, 2, 100].into());
    let out = build_udp(ours, theirs, 1, 2, &[7; 1200]);
    let back = build_udp(theirs, ours, 2, 1, &[7; 1200]);
    let mut packet = out.clone();
    let payload = [7; SEGMENTS * SEGMENT_BYTES as usize];
    let mut whole = build_tcp(ours, theirs, 5, 443, &TcpFields::default(), &payload);
    let [ours, theirs] = ["fd20:0:1::32", "fd20:0:2::1"].map(|ip| ip.parse().unwrap());
    let mut six = build_udp(ours, theirs, 1, 2, &[7; 1200]);
    let gso = GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes: SEGMENT_BYTES,
        ..GsoInfo::default()
    };
    let mut reply = [0; MAX_ERROR_BYTES];
    let mut run = |pair: &mut Pair, turns: usize| {
        for _ in 0..turns {
            for _ in 0..BATCH {
                packet.copy_from_slice(&out);
                let told = pair.counting(|pair| {
                    pair.client
                        .send(&mut packet, &GsoInfo::default(), &mut reply)
                });
                assert_eq!(told, None);
                pair.gateway.send(&back);
            }
            let told = pair.counting(|pair| pair.client.send(&mut whole, &gso, &mut reply));
            assert_eq!(told, None);
            let told =
                pair.counting(|pair| pair.client.send(&mut six, &GsoInfo::default(), &mut reply));
            assert_eq!(told, None);
            pair.turn();
        }
    };
    run(&mut pair, 200);
    let before = pair.client.counters();
    pair.counted = Allocations::default();
    let _warm_up = first_of_ours();
    run(&mut pair, 200);
    let after = pair.client.counters();
    let sent = after.sent_packets - before.sent_packets;
    let received = after.received_packets - before.received_packets;
    assert_eq!(sent, 200 * (BATCH + SEGMENTS + 1) as u64, "{after:?}");
    assert!(received >= 6_000, "{after:?}");
    let each = pair.counted.quinn as f64 / (sent + received) as f64;
    println!("{each:.3} allocations of quinn-proto a packet");
    assert_eq!(pair.counted.ours, 0, "{}", first_of_ours());
    assert!(each <= QUINN_MAX, "{each:.3} allocations a packet");
}
