//! What the packet loop of a shard costs the allocator, sockets, devices and poller included.

use masque_packet::{
    build::{TcpFields, build_tcp, build_udp},
    segment::{GsoInfo, GsoKind},
};
use masque_testkit::allocations::{Allocations, CountingAllocator, allocations, first_of_ours};

use super::{
    served::{CLIENT, HOST, PORT, Served},
    *,
};

/// Of the whole test program; it counts on a thread that asks, while that thread asks.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// Allocations of quinn-proto a packet, at most: it keeps books in trees and queues whose nodes come
/// and go.
const QUINN_MAX: f64 = 0.6;
/// Little enough for packets of the VPC to wait for their client.
const ROOM_BYTES: usize = 8 * 1024;
/// Packets of each source in a round.
const BATCH: usize = 32;
const ROUNDS: usize = 200;
const SEGMENTS: usize = 8;
const SEGMENT_BYTES: u16 = 1000;

struct Loop {
    served: Served,
    /// Of the client.
    packet: Vec<u8>,
    /// Of another shard: a super-packet.
    handed: (Vec<u8>, GsoInfo),
    counted: Allocations,
    /// Packets that waited after one turn, at most.
    waited: usize,
    /// Packets that came to the VPC's host.
    inside: usize,
}

impl Loop {
    fn new(served: Served) -> Self {
        let payload = [7; SEGMENTS * SEGMENT_BYTES as usize];
        let (host, client) = (HOST.into(), CLIENT.into());
        let fields = TcpFields::default();
        let gso = GsoInfo {
            kind: GsoKind::TcpV4,
            segment_bytes: SEGMENT_BYTES,
            ..GsoInfo::default()
        };
        Self {
            served,
            packet: build_udp(client, host, PORT, PORT, &[7; 1200]),
            handed: (build_tcp(host, client, 443, 5, &fields, &payload), gso),
            counted: Allocations::default(),
            waited: 0,
            inside: 0,
        }
    }

    /// Packets come from everywhere, and the shard has turns until they are gone.
    fn round(&mut self, handed: bool) {
        let Served {
            bench, key, inside, ..
        } = &mut self.served;
        for _ in 0..BATCH {
            let length = datapath::CONTEXT.len() + self.packet.len();
            let sent = bench
                .client
                .send_datagram(key.conn, key.stream, length, |out| {
                    out[..1].copy_from_slice(&datapath::CONTEXT);
                    out[1..].copy_from_slice(&self.packet);
                });
            sent.unwrap();
            let to = (Ipv4Addr::from(CLIENT), PORT);
            inside.send_to(&[7; 1200], to).unwrap();
        }
        bench.client_turns();
        if handed {
            let (packet, gso) = &self.handed;
            let mailbox = &bench.mailbox;
            let (taken, counted) = allocations(|| mailbox.hand_over(VpcIndex(0), gso, packet));
            assert!(taken);
            self.counted += counted;
        }
        let start = Instant::now();
        let mut more = true;
        while more {
            assert!(start.elapsed() < PATIENCE);
            let shard = &mut bench.shard;
            let turned = allocations(|| {
                shard.wait(Some(Duration::ZERO));
                shard.turn()
            });
            self.counted += turned.1;
            let waiting = shard.waiting.len();
            self.waited = self.waited.max(waiting);
            more = turned.0 || waiting > 0;
            bench.client_turns();
            while inside.recv(&mut [0; 2000]).is_ok() {
                self.inside += 1;
            }
        }
    }

    /// Takes what QUIC still sends at its pace.
    fn rest(&mut self, to_client: usize, to_vpc: usize) {
        let Served { bench, inside, .. } = &mut self.served;
        bench.until(|bench| {
            while inside.recv(&mut [0; 2000]).is_ok() {
                self.inside += 1;
            }
            (bench.datagrams, self.inside) == (to_client, to_vpc)
        });
    }

    /// With a super-packet of another shard in every second round: all that comes behind it waits,
    /// while without one the first packets leave at once.
    fn rounds(&mut self) {
        for number in 0..ROUNDS {
            self.round(number % 2 == 0);
        }
    }
}

#[test]
fn a_packet_allocates_nothing_of_ours() {
    let Some(served) = Served::new(ROOM_BYTES) else {
        return;
    };
    let mut all = Loop::new(served);
    all.rounds();
    all.rest(ROUNDS * (BATCH + SEGMENTS / 2), ROUNDS * BATCH);
    let _warm_up = first_of_ours();
    (all.counted, all.waited, all.inside) = (Allocations::default(), 0, 0);
    let shard = &all.served.bench.shard;
    let (before, written) = (
        all.served.bench.datagrams,
        shard.vpcs[&VpcIndex(0)].flushed.written,
    );
    all.rounds();
    let to_client = ROUNDS * (BATCH + SEGMENTS / 2);
    all.rest(before + to_client, ROUNDS * BATCH);
    let written = all.served.bench.shard.vpcs[&VpcIndex(0)].flushed.written - written;
    let each = all.counted.quinn as f64 / (to_client + all.inside) as f64;
    println!(
        "{each:.3} allocations of quinn-proto a packet; {to_client} to the client, {} to the VPC \
         in {written} writes, {} waited",
        all.inside, all.waited
    );
    assert_eq!(all.counted.ours, 0, "{}", first_of_ours());
    assert!(each <= QUINN_MAX, "{each:.3} allocations a packet");
    assert!(all.waited > 0, "none had to wait");
}
