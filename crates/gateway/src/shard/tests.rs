//! A shard turned by hand, with a client on the loopback.

mod allocations;
mod budgets;
pub(super) mod served;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use masque_gateway_core::{
    AttachmentId, Grant, Registry, RegistryConfig, Scope, SessionId, SlotId,
};
use masque_http3 as http3;
use masque_model::ObjectName;
use masque_protocol::{Role, Session};
use masque_testkit::{Lab, Netns, until_free};
use masque_transport::{
    ConnId, Event, Machine, MachineConfig, ShardId, client_config, server_config,
    sockets::{SocketOptions, UdpSocket},
    tls::{CertificateStore, ClientTls, ServerCertificate, ServerTls, ServerTrust},
};
use masque_tun::{TunConfig, TunDevice, TunQueue};
use rustls_pki_types::UnixTime;
use tokio::sync::oneshot;

use super::*;
use crate::{auth::Method, command::PortSetup, development};

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Bench {
    pub(super) shard: Shard,
    mailbox: Arc<Mailbox>,
    server: MachineConfig,
    client: Machine,
    socket: UdpSocket,
    seen: Vec<http3::Event>,
    /// Datagrams that the client got.
    datagrams: usize,
}

fn grant() -> Grant {
    let name = |name| ObjectName::new("default", name);
    Grant {
        session: SessionId(1),
        shard: 0,
        index: VpcIndex(0),
        attachment: AttachmentId(0),
        ingress_point: name("point"),
        vpc: name("vpc"),
        name: name("laptop"),
        connector: String::new(),
        addresses: Vec::new(),
        routes: Vec::new(),
        scope: Scope::default(),
        active: true,
        bits_per_second: None,
        mtu_bytes: None,
        generation: 0,
    }
}

fn connect_ip() -> http3::RequestHead {
    http3::RequestHead {
        method: "CONNECT".to_owned(),
        protocol: Some("connect-ip".to_owned()),
        scheme: Some("https".to_owned()),
        authority: Some("gateway.test".to_owned()),
        path: Some("/.well-known/masque/ip/*/*/".to_owned()),
        fields: vec![http3::Field::new("capsule-protocol", "?1")],
    }
}

fn loopback() -> SocketOptions {
    SocketOptions::new(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)))
}

impl Bench {
    /// A shard that listens to nothing, and a client that is not connected.
    pub(super) fn new() -> Self {
        Self::with(MachineConfig::new([7; 32], [8; 32]))
    }

    /// The same with a client that takes DATAGRAM frames of so many bytes.
    pub(super) fn taking(frame_bytes: usize) -> Self {
        let mut config = MachineConfig::new([7; 32], [8; 32]);
        config.tuning.datagram_receive_bytes = frame_bytes;
        Self::with(config)
    }

    /// The same with a shard in whose connections so many bytes may wait.
    pub(super) fn with_room(bytes: usize) -> Self {
        let mut config = MachineConfig::new([7; 32], [8; 32]);
        // More than that in any round trip time.
        config.tuning.initial_window_packets = 60_000;
        let mut bench = Self::with(config);
        let tuning = &mut bench.server.tuning;
        tuning.send_queue.ceiling_bytes = bytes;
        tuning.initial_window_packets = 60_000;
        bench
    }

    fn with(client: MachineConfig) -> Self {
        let mailbox = Mailbox::new().unwrap();
        let mailboxes = vec![Arc::clone(&mailbox)];
        let registry = Registry::new(RegistryConfig::default());
        let epoch = Instant::now();
        let control = Control::new(registry, mailboxes.clone(), epoch).unwrap();
        let busy = BusyPoll::new(Duration::ZERO);
        let config = DataplaneConfig {
            flow_entries: 1024,
            ..DataplaneConfig::default()
        };
        let shard = Shard::new(0, Arc::new(control), &mailboxes, config, busy, epoch).unwrap();
        Self {
            shard,
            mailbox,
            server: MachineConfig::new([1; 32], [2; 32]),
            client: Machine::client(client, http3::Config::default(), epoch),
            socket: UdpSocket::bind(&loopback()).unwrap(),
            seen: Vec::new(),
            datagrams: 0,
        }
    }

    /// Has the shard listen, and gives what the client dials.
    fn listen(&mut self) -> (SocketAddr, masque_transport::quinn_proto::ClientConfig) {
        let pem = development::certificates(&["gateway.test".to_owned()]).unwrap();
        let (chain, key) = (pem.chain.as_bytes(), pem.key.as_bytes());
        let now = UnixTime::now();
        let certificate = ServerCertificate::from_pem(chain, key, now, "test").unwrap();
        let tls = ServerTls {
            certificates: CertificateStore::new(vec![certificate]).unwrap(),
            ask_client_certificate: true,
        };
        let socket = UdpSocket::bind(&loopback()).unwrap();
        let address = socket.local_addr().unwrap();
        let setup = PortSetup {
            port: address.port(),
            shard: ShardId::new(0, 1).unwrap(),
            socket,
            server: server_config(tls.build().unwrap(), &[3; 32]).unwrap(),
            machine: self.server.clone(),
        };
        self.mailbox
            .send(Command::OpenPort(Box::new(setup)))
            .unwrap();
        let trust = ServerTrust::RootsPem(pem.ca.into_bytes());
        let tls = ClientTls {
            trust,
            identity: None,
        };
        (address, client_config(tls.build().unwrap()).unwrap())
    }

    pub(super) fn connect(&mut self) -> ConnId {
        let (address, config) = self.listen();
        self.client
            .connect(Instant::now(), address, "gateway.test", config)
            .unwrap()
    }

    /// A connection that is open at both ends, and the key of its first request.
    pub(super) fn connected(&mut self) -> TunnelKey {
        let conn = self.connect();
        let open = |bench: &Self| {
            let port = bench.shard.ports.first();
            port.is_some_and(|port| port.machine.http_ref(conn).is_some())
        };
        self.until(open);
        let port = self.shard.ports[0].number();
        let stream = http3::StreamId(0);
        TunnelKey { port, conn, stream }
    }

    /// A tunnel on it, of which the client knows nothing.
    pub(super) fn tunnel(&mut self) -> (TunnelKey, SlotId) {
        let key = self.connected();
        let grant = grant();
        let (plane, mtu_bytes) = (&mut self.shard.plane, 1400);
        let slot = plane.attach(Now::default(), &grant, mtu_bytes).unwrap();
        self.shard.tunnels.insert(tunnels::Tunnel {
            key,
            protocol: Session::new(Role::Proxy),
            grant: Arc::new(grant),
            origin: tunnels::Origin {
                method: Method::ConcealedKey,
                authority: String::new(),
            },
            slot,
            since: Instant::now(),
            mtu_bytes,
        });
        (key, slot)
    }

    /// A tunnel that the client knows, too.
    pub(super) fn open(&mut self, grant: Grant) -> (TunnelKey, SlotId) {
        let key = self.connected();
        let has_settings = |bench: &Self| {
            let http = bench.client.http_ref(key.conn);
            http.is_some_and(http3::Connection::datagrams_ready)
        };
        self.until(has_settings);
        let stream = self.client.request(key.conn, &connect_ip(), false).unwrap();
        assert_eq!(stream, key.stream);
        let http = self.client.http(key.conn).unwrap();
        http.accept_datagrams(stream);
        self.take_request();
        let origin = tunnels::Origin {
            method: Method::ConcealedKey,
            authority: String::new(),
        };
        let at = Instant::now();
        self.shard.open_tunnel(0, key, (grant, origin), at);
        let answered = |event: &http3::Event| matches!(event, http3::Event::Response { .. });
        self.until(|bench| bench.seen.iter().any(answered));
        (key, self.shard.tunnels.at(key).unwrap().slot)
    }

    /// Takes the client's request before the shard sees it, which would ask who it is.
    fn take_request(&mut self) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "no request came");
            let now = Instant::now();
            self.socket.flush(&mut self.client, now, 64).unwrap();
            let port = &mut self.shard.ports[0];
            port.ready = true;
            port.receive(now, &mut self.shard.figures);
            port.machine.handle_timeouts(now);
            while let Some(event) = port.machine.poll_event() {
                if let Event::Http {
                    event: http3::Event::Request { .. },
                    ..
                } = event
                {
                    return;
                }
            }
        }
    }

    /// Turns both until the fact is true.
    pub(super) fn until(&mut self, mut fact: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !fact(self) {
            assert!(start.elapsed() < PATIENCE, "saw {:?}", self.seen);
            self.shard.wait(Some(Duration::from_millis(1)));
            self.shard.turn();
            self.client_turns();
        }
    }

    /// A turn of the client.
    fn client_turns(&mut self) {
        let now = Instant::now();
        self.socket.recv_batch(&mut self.client, now, 64).unwrap();
        self.client.handle_timeouts(now);
        while let Some(event) = self.client.poll_event() {
            if let Event::Http { event, .. } = event {
                self.seen.push(event);
            }
        }
        while self.client.poll_datagram().is_some() {
            self.datagrams += 1;
        }
        self.socket.flush(&mut self.client, now, 64).unwrap();
    }

    fn goaways(&self) -> Vec<u64> {
        let id = |event: &http3::Event| match event {
            http3::Event::GoAway { id } => Some(*id),
            _ => None,
        };
        self.seen.iter().filter_map(id).collect()
    }
}

#[test]
fn a_connection_that_comes_while_draining_is_told_to_go_away() {
    let mut bench = Bench::new();
    bench.mailbox.send(Command::Drain).unwrap();
    bench.until(|bench| bench.shard.drain == Drain::Final);
    bench.connect();
    bench.until(|bench| bench.goaways().last() == Some(&0));
}

/// `tun0` in a namespace that is a VPC, where 10.0.0.1 is its host.
fn tun(host: &Netns) -> (TunDevice, TunQueue) {
    let config = TunConfig {
        name: "tun0".to_owned(),
        queues: 1,
        offload: true,
    };
    let (device, mut queues) = host.enter(|| TunDevice::open(&config)).unwrap();
    host.ip(&["link", "set", "tun0", "up", "mtu", "1400"]);
    host.address("tun0", "10.0.0.1/24");
    (device, queues.remove(0))
}

/// A TUN queue with one packet to read.
pub(super) fn queue_with_a_packet(lab: &mut Lab) -> TunQueue {
    let host = lab.host("vpc");
    let (_, queue) = tun(&host);
    host.enter(|| {
        let socket = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.send_to(b"a reply", "10.0.0.2:9").unwrap();
    });
    queue
}

/// The last queue takes its device with it, which takes the kernel a while.
#[test]
fn a_queue_is_closed_by_another_thread() {
    if let Err(skip) = Lab::available() {
        return println!("{skip}");
    }
    let mut lab = Lab::new();
    let host = lab.host("vpc");
    let (_, queue) = tun(&host);
    let Bench { mut shard, .. } = Bench::new();
    shard.open_vpc(VpcIndex(0), queue, false);
    let closing = Arc::new(());
    let close = Command::CloseVpc {
        vpc: VpcIndex(0),
        closing: Arc::clone(&closing),
    };
    let at = Instant::now();
    let now = shard.now(at);
    shard.obey(close, at, now);
    assert!(shard.vpcs.is_empty());
    let links = || host.ip(&["-o", "link", "show"]);
    assert!(links().contains("tun0"), "not on this thread");
    assert_eq!(Arc::strong_count(&closing), 2, "its name is not free");
    shard.control.drop_closed();
    until_free(|| links().contains("tun0"));
    assert_eq!(Arc::strong_count(&closing), 1);
}

/// The client of a session on another shard may have sent a packet, and its answer may be here, in
/// the same turn in which this shard is told of the session.
#[test]
fn what_was_told_before_a_packet_came_is_heard_before_the_packet_is_judged() {
    if let Err(skip) = Lab::available() {
        return println!("{skip}");
    }
    let queue = queue_with_a_packet(&mut Lab::new());
    let Bench {
        mut shard, mailbox, ..
    } = Bench::new();
    shard.open_vpc(VpcIndex(0), queue, false);
    let (reply, mut told) = oneshot::channel();
    // As late as it can be: the turn's look into the mailbox is over.
    let sessions = false;
    mailbox.send(Command::Report { sessions, reply }).unwrap();
    let at = Instant::now();
    let now = shard.now(at);
    shard.vpcs_to_datagrams(at, now);
    assert!(told.try_recv().is_ok(), "the command still waits");
    let dropped = &shard.plane.stray_counters().dropped_to_client;
    assert!(dropped.iter().sum::<u64>() > 0, "no packet came");
}
