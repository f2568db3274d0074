//! Real sockets on loopback: shards, migration, batches.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr, UdpSocket as StdSocket},
    time::{Duration, Instant},
};

use masque_transport::{
    ConnId, Event, Machine, ShardId,
    http3::{self, StreamId},
    sockets::{SocketError, SocketOptions, UdpSocket},
};

use crate::{
    certificates::{SERVER_NAME, TestTls},
    driver::{Driver, accept_all},
    pair::{config, connect_ip},
};

const SHARDS: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(10);

fn loopback() -> SocketOptions {
    SocketOptions::new(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))
}

/// A listener of two shards and one client machine, all on this thread.
struct Listener {
    shards: Vec<Driver>,
    address: SocketAddr,
    /// Requests by shard and connection.
    requests: HashMap<(usize, ConnId), StreamId>,
    /// Datagrams received, by shard.
    datagrams: Vec<Vec<Vec<u8>>>,
    migrated: Vec<(usize, SocketAddr)>,
}

impl Listener {
    fn new(tls: &TestTls) -> Self {
        let sockets = UdpSocket::bind_shards(&loopback(), SHARDS).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let shards = sockets.into_iter().enumerate().map(|(index, socket)| {
            let mut config = config();
            config.seed = [index as u8 + 1; 32];
            let shard = ShardId::new(index as u8, SHARDS).unwrap();
            let http = http3::Config::default();
            let server = tls.server();
            Driver::new(
                Machine::server(config, server, http, shard, Instant::now()),
                socket,
            )
        });
        Self {
            shards: shards.collect(),
            address,
            requests: HashMap::new(),
            datagrams: vec![Vec::new(); SHARDS.into()],
            migrated: Vec::new(),
        }
    }

    fn turn(&mut self) {
        for (index, shard) in self.shards.iter_mut().enumerate() {
            let (requests, migrated) = (&mut self.requests, &mut self.migrated);
            let datagrams = &mut self.datagrams[index];
            shard.turn(
                |machine, event| {
                    if let Some((conn, stream)) = accept_all(machine, &event) {
                        requests.insert((index, conn), stream);
                    }
                    if let Event::Migrated { remote, .. } = event {
                        migrated.push((index, remote));
                    }
                },
                |_, _, payload| datagrams.push(payload.to_vec()),
                |_| {},
            );
        }
    }
}

fn client() -> Driver {
    let mut config = config();
    config.seed = [77; 32];
    let machine = Machine::client(config, http3::Config::default(), Instant::now());
    Driver::new(machine, UdpSocket::bind(&loopback()).unwrap())
}

/// Turns everything until `done`.
fn run(listener: &mut Listener, client: &mut Driver, mut done: impl FnMut(&Listener) -> bool) {
    let start = Instant::now();
    loop {
        let requests = |machine: &mut Machine, event: Event| {
            if let Event::Http {
                conn,
                event: http3::Event::Settings(_),
            } = event
            {
                machine.request(conn, &connect_ip(), false).unwrap();
            }
        };
        client.turn(requests, |_, _, _| {}, |_| {});
        listener.turn();
        if done(listener) {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "took too long");
        client.wait(Duration::from_millis(1));
    }
}

#[test]
fn a_client_stays_on_its_shard_when_its_address_changes() {
    let tls = TestTls::new();
    let mut listener = Listener::new(&tls);
    let mut client = client();
    let conns: Vec<_> = (0..16)
        .map(|_| {
            let config = tls.client(None);
            let machine = &mut client.machine;
            machine
                .connect(Instant::now(), listener.address, SERVER_NAME, config)
                .unwrap()
        })
        .collect();
    run(&mut listener, &mut client, |listener| {
        listener.requests.len() == conns.len()
    });
    let of_shard = |shard| {
        listener
            .requests
            .keys()
            .filter(|(at, _)| *at == shard)
            .count()
    };
    assert!(
        of_shard(0) > 0 && of_shard(1) > 0,
        "both shards have clients"
    );
    let begun: u64 = listener
        .shards
        .iter()
        .map(|shard| shard.machine.stats().handshakes_begun)
        .sum();
    assert_eq!(begun, 16, "every handshake ran on one shard alone");

    let handshakes: Vec<_> = (0..2).map(of_shard).collect();
    client.socket = UdpSocket::bind(&loopback()).unwrap();
    let new = client.socket.local_addr().unwrap();
    let send = |machine: &mut Machine, conn: ConnId| {
        machine.path_changed(conn, Instant::now());
        machine
            .send_datagram(conn, StreamId(0), 2, |p| p.copy_from_slice(b"hi"))
            .unwrap();
    };
    conns
        .iter()
        .for_each(|conn| send(&mut client.machine, *conn));
    run(&mut listener, &mut client, |listener| {
        listener.datagrams.iter().map(Vec::len).sum::<usize>() == 16
    });
    for (shard, had) in handshakes.into_iter().enumerate() {
        assert_eq!(
            listener.datagrams[shard].len(),
            had,
            "shard {shard} has its clients' packets"
        );
        let moved = listener
            .migrated
            .iter()
            .filter(|(at, to)| *at == shard && *to == new);
        assert_eq!(moved.count(), had);
    }
}

#[test]
fn batches_arrive_whole_and_in_order() {
    let tls = TestTls::new();
    let mut listener = Listener::new(&tls);
    let mut client = client();
    let config = tls.client(None);
    let now = Instant::now();
    let conn = client
        .machine
        .connect(now, listener.address, SERVER_NAME, config)
        .unwrap();
    run(&mut listener, &mut client, |listener| {
        listener.requests.len() == 1
    });
    for round in 0..20u8 {
        // Equal sizes make GSO batches, the odd one ends a batch.
        for index in 0..40u8 {
            let size = if index == 39 { 33 } else { 1200 };
            let write = |payload: &mut [u8]| {
                payload.fill(index);
                payload[0] = round;
            };
            client
                .machine
                .send_datagram(conn, StreamId(0), size, write)
                .unwrap();
        }
        let expected = 40 * (usize::from(round) + 1);
        run(&mut listener, &mut client, |listener| {
            listener.datagrams.iter().map(Vec::len).sum::<usize>() == expected
        });
    }
    let received = listener.datagrams.concat_all();
    for (position, payload) in received.iter().enumerate() {
        let (round, index) = (position / 40, position % 40);
        assert_eq!(payload.len(), if index == 39 { 33 } else { 1200 });
        assert_eq!(usize::from(payload[0]), round);
        assert!(payload[1..].iter().all(|byte| usize::from(*byte) == index));
    }
    let pools = listener
        .shards
        .iter()
        .map(|shard| shard.socket.pool_stats().fresh);
    assert!(
        pools.sum::<u64>() <= 8 * u64::from(SHARDS) + 8,
        "receive buffers come back"
    );
}

#[test]
fn packets_that_come_alone_share_buffers() {
    let tls = TestTls::new();
    let mut listener = Listener::new(&tls);
    let mut client = client();
    let config = tls.client(None);
    let now = Instant::now();
    let conn = client
        .machine
        .connect(now, listener.address, SERVER_NAME, config)
        .unwrap();
    run(&mut listener, &mut client, |listener| {
        listener.requests.len() == 1
    });
    for round in 1..=20 {
        // Each is longer than the one before, so none can join a GSO batch.
        for index in 0..40u8 {
            let size = 100 + 20 * usize::from(index);
            let write = |payload: &mut [u8]| payload.fill(index);
            client
                .machine
                .send_datagram(conn, StreamId(0), size, write)
                .unwrap();
        }
        run(&mut listener, &mut client, |listener| {
            listener.datagrams.iter().map(Vec::len).sum::<usize>() == 40 * round
        });
    }
    for (position, payload) in listener.datagrams.concat_all().iter().enumerate() {
        let index = position % 40;
        assert_eq!(payload.len(), 100 + 20 * index);
        assert!(payload.iter().all(|byte| usize::from(*byte) == index));
    }
    for shard in &listener.shards {
        let stats = shard.socket.pool_stats();
        assert_eq!(
            (stats.fresh, stats.reused),
            (8, 0),
            "no message took a whole buffer"
        );
    }
}

trait ConcatAll {
    fn concat_all(&self) -> Vec<Vec<u8>>;
}

impl ConcatAll for Vec<Vec<Vec<u8>>> {
    fn concat_all(&self) -> Vec<Vec<u8>> {
        self.iter().flatten().cloned().collect()
    }
}

#[test]
fn the_wildcard_takes_ipv4_and_ipv6() {
    let tls = TestTls::new();
    let any = SocketOptions::new(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)));
    for address in ["127.0.0.1", "::1"] {
        let mut listener = Listener::new(&tls);
        let socket = UdpSocket::bind(&any).unwrap();
        let port = socket.local_addr().unwrap().port();
        listener.shards[0].socket = socket;
        let ip = address.parse().unwrap();
        listener.address = SocketAddr::new(ip, port);
        let mut client = client();
        let local = SocketOptions::new(SocketAddr::new(ip, 0));
        client.socket = UdpSocket::bind(&local).unwrap();
        let config = tls.client(None);
        let now = Instant::now();
        client
            .machine
            .connect(now, listener.address, SERVER_NAME, config)
            .unwrap();
        run(&mut listener, &mut client, |listener| {
            listener.requests.len() == 1
        });
        let (shard, conn) = *listener.requests.keys().next().unwrap();
        let remote = listener.shards[shard].machine.remote_address(conn);
        assert_eq!(
            remote,
            Some(client.socket.local_addr().unwrap()),
            "not a mapped address"
        );
    }
}

#[test]
fn a_taken_port_says_so() {
    let taken = StdSocket::bind("[::1]:0").unwrap();
    let options = SocketOptions::new(taken.local_addr().unwrap());
    let error = UdpSocket::bind(&options).err().unwrap();
    assert!(matches!(error, SocketError::Bind { .. }), "{error}");
    assert!(error.to_string().contains("is the port in use"), "{error}");
}

/// Runs a command of the test's own network namespace; false when the machine lacks it.
fn ip(command: &[&str]) -> bool {
    let status = std::process::Command::new(command[0])
        .args(&command[1..])
        .status();
    status.is_ok_and(|status| status.success())
}

/// On a thread of its own in a fresh network namespace, whose loopback lets 8 Mbit/s through.
fn in_slow_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: a flag; the namespace is this thread's alone and ends with it.
        let alone = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0
            && ip(&["ip", "link", "set", "lo", "up"])
            && ip(&[
                "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "8mbit", "burst", "4kb",
                "latency", "10s",
            ]);
        if alone {
            test();
        } else {
            eprintln!("SKIPPED: no network namespace with a token bucket here (needs root, tc)");
        }
    });
    thread.join().unwrap();
}

#[test]
fn a_full_socket_keeps_the_batch_and_loses_nothing() {
    in_slow_namespace(|| {
        let tls = TestTls::new();
        let mut listener = Listener::new(&tls);
        let mut client = client();
        let small = SocketOptions {
            buffer_bytes: 1,
            ..loopback()
        };
        client.socket = UdpSocket::bind(&small).unwrap();
        let config = tls.client(None);
        let now = Instant::now();
        let conn = client
            .machine
            .connect(now, listener.address, SERVER_NAME, config)
            .unwrap();
        run(&mut listener, &mut client, |listener| {
            listener.requests.len() == 1
        });
        let (mut blocked, mut sent) = (0, 0usize);
        let start = Instant::now();
        while sent < 400 {
            client.turn(
                |_, _| {},
                |_, _, _| {},
                |machine| {
                    while sent < 400 {
                        let number = (sent as u16).to_be_bytes();
                        let write = |payload: &mut [u8]| payload[..2].copy_from_slice(&number);
                        if machine
                            .send_datagram(conn, StreamId(0), 1200, write)
                            .is_err()
                        {
                            break;
                        }
                        sent += 1;
                    }
                },
            );
            blocked += usize::from(client.socket.is_blocked());
            listener.turn();
            client.wait(Duration::from_millis(1));
            assert!(start.elapsed() < PATIENCE, "took too long");
        }
        run(&mut listener, &mut client, |listener| {
            listener.datagrams.iter().map(Vec::len).sum::<usize>() == 400
        });
        assert!(blocked > 0, "the socket never was full");
        let numbers = listener
            .datagrams
            .concat_all()
            .into_iter()
            .map(|payload| usize::from(u16::from_be_bytes([payload[0], payload[1]])));
        assert!(numbers.eq(0..400), "in order, each once");
    });
}
