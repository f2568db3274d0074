//! Datagrams between two machines over loopback, as fast as they go. A measurement:
//! `cargo test --release -p masque-transport --test suite -- --ignored --nocapture speed`.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use masque_transport::{
    Admission, ConnId, Event, Machine, MachineConfig, ShardId, TransportTuning,
    http3::{self, StreamId},
    sockets::{SocketOptions, UdpSocket},
};

use crate::{
    certificates::{SERVER_NAME, TestTls},
    driver::{Driver, accept_all, thread_time},
    pair::{End, Link, Pair, Seen, connect_ip},
};

const WAIT: Duration = Duration::from_millis(100);

fn env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

fn tuning() -> TransportTuning {
    TransportTuning {
        max_udp_payload_bytes: env("MTU", 1452) as u16,
        ack_every_packets: env("ACK", 8) as u32,
        ..TransportTuning::default()
    }
}

fn config(seed: u8) -> MachineConfig {
    MachineConfig {
        tuning: tuning(),
        ..MachineConfig::new([seed; 32], [2; 32])
    }
}

/// Takes everything until told to stop: payload bytes, datagrams, processor time.
fn receive(mut driver: Driver, stop: &AtomicBool) -> (u64, u64, Duration) {
    let (mut bytes, mut datagrams) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        driver.turn(
            |machine, event| {
                accept_all(machine, &event);
            },
            |_, _, payload| {
                bytes += payload.len() as u64;
                datagrams += 1;
            },
            |_| {},
        );
        driver.wait(WAIT);
    }
    println!(
        "server: {} turns, {} datagrams a turn, {:?}",
        driver.turns,
        driver.received / driver.turns.max(1),
        driver.socket.pool_stats()
    );
    (bytes, datagrams, thread_time())
}

/// A client with one request that carries datagrams.
fn open(tls: &TestTls, address: SocketAddr) -> (Driver, ConnId, StreamId) {
    let now = Instant::now();
    let socket = UdpSocket::bind(&SocketOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let machine = Machine::client(config(2), http3::Config::default(), now);
    let mut client = Driver::new(machine, socket);
    let config = tls.client(None);
    let conn = client
        .machine
        .connect(now, address, SERVER_NAME, config)
        .unwrap();
    let (mut stream, mut answered) = (None, false);
    while !answered {
        client.turn(
            |machine, event| match event {
                Event::Http {
                    event: http3::Event::Settings(_),
                    ..
                } => {
                    stream = machine.request(conn, &connect_ip(), false).ok();
                }
                Event::Http {
                    event: http3::Event::Response { .. },
                    ..
                } => answered = true,
                _ => {}
            },
            |_, _, _| {},
            |_| {},
        );
        if !answered {
            client.wait(WAIT);
        }
    }
    (client, conn, stream.unwrap())
}

/// Sends for a while; the time it took and the processor time.
fn send(client: &mut Driver, conn: ConnId, stream: StreamId) -> (Duration, Duration) {
    let (size, batch) = (env("SIZE", 0) as usize, env("BATCH", 256));
    let length = Duration::from_secs(env("SECONDS", 3));
    let (start, before) = (Instant::now(), thread_time());
    while start.elapsed() < length {
        let fill = |machine: &mut Machine| {
            let max = machine.max_datagram_payload(conn, stream).unwrap_or(0);
            let size = if size == 0 { max } else { size };
            for _ in 0..batch {
                let sent = machine.send_datagram(conn, stream, size, |p| p[..8].fill(7));
                if sent.is_err() {
                    break;
                }
            }
        };
        client.turn(|_, _| {}, |_, _, _| {}, fill);
        client.wait(WAIT);
    }
    (start.elapsed(), thread_time() - before)
}

#[test]
#[ignore = "a measurement, for a release build"]
fn speed() {
    let tls = TestTls::new();
    let socket = UdpSocket::bind(&SocketOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let address = socket.local_addr().unwrap();
    let http = http3::Config::default();
    let shard = ShardId::SINGLE;
    let server = Machine::server(config(1), tls.server(), http, shard, Instant::now());
    let server = Driver::new(server, socket);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::spawn(move || receive(server, &stopped));

    let (mut client, conn, stream) = open(&tls, address);
    let (elapsed, cpu) = send(&mut client, conn, stream);
    stop.store(true, Ordering::Relaxed);
    let (bytes, datagrams, server_cpu) = thread.join().unwrap();
    let stats = client.machine.connection_stats(conn).unwrap();
    let sent = client.machine.stats();
    println!(
        "client: {} turns, {stats:?}\n{sent:?}\nmtu {}; {:.2} Gbit/s, {:.0} k datagrams/s, \
         client {:.2} and server {:.2} µs a datagram, {:.2} CPU-s/GB in all",
        client.turns,
        stats.udp_payload_bytes,
        bytes as f64 * 8.0 / elapsed.as_secs_f64() / 1e9,
        datagrams as f64 / elapsed.as_secs_f64() / 1e3,
        cpu.as_secs_f64() * 1e6 / datagrams as f64,
        server_cpu.as_secs_f64() * 1e6 / datagrams as f64,
        (cpu + server_cpu).as_secs_f64() / (bytes as f64 / 1e9),
    );
    assert!(
        datagrams * 100 > sent.datagrams_sent * 80,
        "more than a fifth was lost"
    );
}

thread_local! {
    /// When the server's work began, and how much there was.
    static SERVER_TIME: Cell<(Duration, Duration)> = const { Cell::new((Duration::ZERO, Duration::ZERO)) };
}

#[test]
#[ignore = "a measurement, for a release build"]
fn speed_of_handshakes() {
    const SESSIONS: u32 = 1000;
    let admission = Admission {
        retry_above: usize::MAX,
        ..Admission::default()
    };
    let server = MachineConfig {
        admission,
        ..config(1)
    };
    let mut pair = Pair::with(Link::default(), config(2), server);
    pair.enter = |end| {
        let (begun, total) = SERVER_TIME.get();
        let now = thread_time();
        SERVER_TIME.set(match end {
            Some(End::Server) => (now, total),
            Some(End::Client) => (Duration::ZERO, total),
            None if begun.is_zero() => (begun, total),
            None => (Duration::ZERO, total + (now - begun)),
        });
    };
    for _ in 0..SESSIONS {
        pair.tunnel();
        pair.server_seen = Seen::default();
        pair.client_seen = Seen::default();
    }
    let (_, total) = SERVER_TIME.get();
    println!(
        "{:?} of server time a session with a request",
        total / SESSIONS
    );
    assert_eq!(pair.server.stats().handshakes_completed, SESSIONS.into());
}
