//! Clients, one gateway and the network between them, driven event by event.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_client::{AttachConfig, ConnectorIdentity, Phase, Tunnel, TunnelEvent};
use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, FabricRoute, Mode, ObjectName, Rule, SessionLimits, Snapshot,
    StaticFabric,
};
use masque_packet::{build::build_udp, ip, segment::GsoInfo};
use masque_transport::tls::ServerTrust;

use crate::{
    gateway::{Gateway, Site},
    network::{Flying, Network, Random},
};

/// The gateway's name and address.
const NAME: &str = "gw.example";

/// One client and what it did.
pub struct Client {
    /// Its state machine.
    pub tunnel: Tunnel,
    /// Its UDP address; change it to roam.
    pub address: SocketAddr,
    /// Its VPC.
    pub vpc: &'static str,
    /// Every address it was ever assigned.
    pub assigned: BTreeSet<IpAddr>,
    /// Marks of packets that came back.
    pub answered: BTreeSet<u64>,
    /// Times that the tunnel came up.
    pub ups: u32,
    /// Why it was down, by [`AttachError::code`](masque_client::AttachError::code).
    pub downs: BTreeSet<&'static str>,
    key: ConnectorKey,
}

/// Everything.
pub struct World {
    /// The time.
    pub now: Instant,
    /// The network.
    pub network: Network,
    /// Decides everything random.
    pub random: Random,
    /// The clients.
    pub clients: Vec<Client>,
    /// The gateway; `None` while it is down.
    pub gateway: Option<Gateway>,
    site: Site,
    snapshots: Vec<Snapshot>,
    gateway_address: SocketAddr,
    next_mark: u64,
    starts: u8,
}

/// VPCs with the same IPv4 prefixes and pools, and different IPv6 prefixes.
pub const VPCS: [&str; 2] = ["red", "blue"];

impl World {
    /// Two clients in the first VPC and one in the second, not started yet.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now() + Duration::from_secs(60);
        let site = Site::new(NAME);
        let clients: Vec<Client> = [VPCS[0], VPCS[0], VPCS[1]]
            .iter()
            .enumerate()
            .map(|(i, vpc)| client(&site, i, vpc, now))
            .collect();
        let snapshots: Vec<Snapshot> = VPCS
            .iter()
            .enumerate()
            .map(|(i, vpc)| snapshot(i, vpc, &clients))
            .collect();
        Self {
            now,
            network: Network::new(),
            random: Random::new(seed),
            gateway: Some(Gateway::new(&site, &snapshots, 1, now)),
            clients,
            site,
            snapshots,
            gateway_address: SocketAddr::from(([192, 0, 2, 1], 4433)),
            next_mark: 0,
            starts: 1,
        }
    }

    /// Starts every client.
    pub fn start(&mut self) {
        for client in &mut self.clients {
            client.tunnel.start(self.now);
        }
    }

    /// Kills the gateway without a word.
    pub fn kill_gateway(&mut self) {
        self.gateway = None;
    }

    /// A new gateway process on the same address.
    pub fn start_gateway(&mut self) {
        self.starts += 1;
        self.gateway = Some(Gateway::new(
            &self.site,
            &self.snapshots,
            self.starts,
            self.now,
        ));
    }

    /// Whether every client is attached.
    pub fn all_up(&self) -> bool {
        self.clients
            .iter()
            .all(|client| client.tunnel.phase() == Phase::Connected)
    }

    /// Goes on until `done`.
    ///
    /// # Panics
    /// When `limit` passes first.
    pub fn run_until(&mut self, what: &str, limit: Duration, mut done: impl FnMut(&Self) -> bool) {
        let end = self.now + limit;
        while !done(self) {
            assert!(self.now < end, "not {what} within {limit:?}");
            self.step(end);
        }
    }

    /// Goes on for a time.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step(end);
        }
    }

    /// A client sends a marked UDP packet to the workload of its VPC; gives the mark.
    pub fn send(&mut self, index: usize, length: usize, ipv6: bool) -> Option<u64> {
        self.next_mark += 1;
        let mark = self.next_mark;
        let client = &mut self.clients[index];
        let source = *client.assigned.iter().rev().find(|a| a.is_ipv6() == ipv6)?;
        let vpc = VPCS.iter().position(|vpc| *vpc == client.vpc)?;
        let workload: IpAddr = if ipv6 {
            format!("fd20:{}:0:1::10", vpc + 1).parse().unwrap()
        } else {
            "10.0.1.10".parse().unwrap()
        };
        let mut payload = vec![0u8; length.max(16)];
        payload[..8].copy_from_slice(&mark.to_be_bytes());
        payload[8..16].copy_from_slice(&(index as u64).to_be_bytes());
        let mut packet = build_udp(source, workload, 7, 7, &payload);
        let mut reply = vec![0; 2048];
        client
            .tunnel
            .send(&mut packet, &GsoInfo::default(), &mut reply);
        Some(mark)
    }

    fn step(&mut self, end: Instant) {
        (0..self.clients.len()).for_each(|index| self.take(index));
        self.transmit();
        let mut next = self.network.next_arrival().into_iter().collect::<Vec<_>>();
        next.extend(
            self.clients
                .iter()
                .filter_map(|client| client.tunnel.next_deadline()),
        );
        next.extend(self.gateway.as_ref().and_then(Gateway::next_deadline));
        let next = next.into_iter().min().unwrap_or(end);
        // Time moves at least a little: a deadline in the past must not stop it.
        self.now = next.clamp(
            self.now + Duration::from_micros(1),
            end.max(self.now + Duration::from_micros(1)),
        );
        self.deliver();
        if let Some(gateway) = &mut self.gateway {
            gateway.turn(self.now);
        }
        for index in 0..self.clients.len() {
            self.clients[index].tunnel.handle_timeouts(self.now);
            self.take(index);
        }
    }

    fn deliver(&mut self) {
        while let Some(datagram) = self.network.arrived(self.now) {
            if datagram.to == self.gateway_address {
                if let Some(gateway) = &mut self.gateway {
                    gateway.receive(self.now, datagram.from, &datagram.data);
                }
            } else if let Some(client) = self
                .clients
                .iter_mut()
                .find(|client| client.address == datagram.to)
            {
                let data = BytesMut::from(&datagram.data[..]);
                client
                    .tunnel
                    .handle_udp(self.now, datagram.from, None, data);
            }
        }
    }

    fn transmit(&mut self) {
        let (now, mut buf) = (self.now, Vec::new());
        for client in &mut self.clients {
            while let Some(transmit) = client.tunnel.poll_transmit(now, &mut buf) {
                for data in pieces(&buf, transmit.size, transmit.segment_size) {
                    let (from, to) = (client.address, transmit.destination);
                    self.network
                        .send(now, &mut self.random, Flying { from, to, data });
                }
                buf.clear();
            }
        }
        if let Some(gateway) = &mut self.gateway {
            while let Some(transmit) = gateway.transmit(now, &mut buf) {
                for data in pieces(&buf, transmit.size, transmit.segment_size) {
                    let (from, to) = (self.gateway_address, transmit.destination);
                    self.network
                        .send(now, &mut self.random, Flying { from, to, data });
                }
                buf.clear();
            }
        }
    }

    /// What a client's machine has for its driver, checked.
    fn take(&mut self, index: usize) {
        let (now, gateway) = (self.now, self.gateway_address);
        let client = &mut self.clients[index];
        while let Some(event) = client.tunnel.poll_event() {
            match event {
                TunnelEvent::Resolve { .. } => {
                    client.tunnel.resolved(now, Ok(vec![gateway.ip()]));
                }
                TunnelEvent::Up(assignment) => {
                    client.ups += 1;
                    client
                        .assigned
                        .extend(assignment.addresses.iter().map(|net| net.addr()));
                    assert!(
                        assignment.mtu_bytes >= 1280,
                        "an IPv6 link of {}",
                        assignment.mtu_bytes
                    );
                }
                TunnelEvent::Down { error, .. } => {
                    client.downs.insert(error.code());
                }
                TunnelEvent::Closed(error) => panic!("client {index} gave up: {error:?}"),
                _ => {}
            }
        }
        while let Some(received) = client.tunnel.poll_packet() {
            let header = ip::parse(&received.packet).expect("clients hand on valid packets");
            assert!(
                client.assigned.contains(&header.destination),
                "not for client {index}"
            );
            let payload = &received.packet[header.upper_offset + 8..];
            let mark = u64::from_be_bytes(payload[..8].try_into().unwrap());
            let owner = u64::from_be_bytes(payload[8..16].try_into().unwrap());
            assert_eq!(
                owner, index as u64,
                "client {index} got a packet of client {owner}"
            );
            assert!(client.answered.insert(mark), "packet {mark} came twice");
        }
    }
}

/// The UDP datagrams of one GSO batch.
fn pieces(buf: &[u8], size: usize, segment: Option<usize>) -> Vec<Vec<u8>> {
    let segment = segment.unwrap_or(size).max(1);
    buf[..size].chunks(segment).map(<[u8]>::to_vec).collect()
}

fn client(site: &Site, index: usize, vpc: &'static str, now: Instant) -> Client {
    let identity = Arc::new(ConnectorIdentity::generate().unwrap());
    let key = ConnectorKey::from_bytes(*identity.public_id().as_bytes());
    let gateway = format!("https://{NAME}:4433").parse().unwrap();
    let mut config = AttachConfig::new(gateway, vpc.parse().unwrap(), identity);
    config.trust = ServerTrust::RootsPem(site.ca.pem().as_bytes().to_vec());
    config.keep_trying = true;
    let number = u8::try_from(index).unwrap();
    Client {
        tunnel: Tunnel::new(&config, [number + 100; 32], now).unwrap(),
        address: SocketAddr::from(([198, 51, 100, number + 1], 40_000)),
        vpc,
        assigned: BTreeSet::new(),
        answered: BTreeSet::new(),
        ups: 0,
        downs: BTreeSet::new(),
        key,
    }
}

fn snapshot(index: usize, vpc: &str, clients: &[Client]) -> Snapshot {
    let name = |name: &str| ObjectName::new("default", name);
    let routes = vec![
        "10.0.0.0/16".parse().unwrap(),
        format!("fd20:{}::/32", index + 1).parse().unwrap(),
    ];
    let pool = |prefix: String| AddressPool {
        prefix: prefix.parse().unwrap(),
        reserved: Vec::new(),
    };
    let attachment = |(number, client): (usize, &Client)| Attachment {
        name: name(&format!("client-{number}")),
        connector: format!("client-{number}"),
        key: client.key,
        ipv4: true,
        ipv6: true,
        addresses: Vec::new(),
        routes: routes.clone(),
        suspended: false,
        limits: AttachmentLimits {
            sessions: 4,
            bits_per_second: None,
        },
    };
    Snapshot {
        version: 1,
        ingress_point: name(vpc),
        vpc: name(vpc),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![
            pool("10.0.100.0/24".to_owned()),
            pool(format!("fd20:{}:0:100::/64", index + 1)),
        ],
        routes: routes.clone(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: format!("fd00:0:1:3:e00{}::", index + 1).parse().unwrap(),
            local_sid_ipv4: None,
            source_address: "fd00:0:1:3::1".parse().unwrap(),
            routes: vec![FabricRoute {
                prefix: "10.0.1.0/24".parse().unwrap(),
                sid: "fd00:0:1:1:e001::".parse().unwrap(),
            }],
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 600_000,
            resume_window_ms: 3_600_000,
            address_quarantine_ms: 600_000,
            max_total: 100,
        },
        attachments: clients
            .iter()
            .enumerate()
            .filter(|(_, c)| c.vpc == vpc)
            .map(attachment)
            .collect(),
        rules: vec![allow_all()],
        drain_deadline_ms: 1000,
    }
}

/// Clients may open anything.
fn allow_all() -> Rule {
    Rule {
        policy: ObjectName::new("default", "all"),
        name: "all".to_owned(),
        mode: Mode::Enforce,
        action: Action::Allow,
        direction: Direction::ToVpc,
        attachments: AttachmentSet::All,
        prefixes: Vec::new(),
        ports: Vec::new(),
        not_after_unix_s: None,
    }
}
