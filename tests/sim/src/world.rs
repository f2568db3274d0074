//! Clients, one gateway and the network between them, driven event by event.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_client::{
    Assignment, AttachConfig, Auth, ConnectorIdentity, Phase, Tunnel, TunnelEvent,
};
use masque_model::{ConnectorKey, Snapshot};
use masque_packet::{build::build_udp, ip, protocol::UDP, segment::GsoInfo};
use masque_testkit::ed25519_pkcs8;
use masque_transport::tls::ServerTrust;

use crate::{
    gateway::{Gateway, Site},
    manifest::snapshot,
    network::{Flying, Network, Random},
};

/// The gateway's name and address.
const NAME: &str = "gw.example";

/// What precedes the quoted packet in an ICMP error (RFC 792, RFC 4443 §3).
const ICMP_HEADER_BYTES: usize = 8;

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
    /// The addresses that it was assigned last.
    pub addresses: Vec<IpAddr>,
    /// Marks of packets that came back.
    pub answered: BTreeSet<u64>,
    /// Times that the tunnel came up.
    pub ups: u32,
    /// Why it was down, by [`AttachError::code`](masque_client::AttachError::code).
    pub downs: BTreeSet<&'static str>,
    key: ConnectorKey,
}

impl Client {
    fn take_addresses(&mut self, assignment: &Assignment) {
        self.addresses = assignment.addresses.iter().map(|net| net.addr()).collect();
        self.assigned.extend(&self.addresses);
    }
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
}

/// VPCs with the same IPv4 prefixes and pools, and different IPv6 prefixes.
pub const VPCS: [&str; 2] = ["red", "blue"];

impl World {
    /// Two clients in the first VPC and one in the second, not started yet.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now() + Duration::from_secs(60);
        let mut random = Random::new(seed);
        let site = Site::new(NAME, &mut random);
        let clients: Vec<Client> = [VPCS[0], VPCS[0], VPCS[1]]
            .iter()
            .enumerate()
            .map(|(i, vpc)| client(&site, i, vpc, &mut random, now))
            .collect();
        let keys_of = |vpc: &str| {
            let own = clients.iter().enumerate().filter(|(_, c)| c.vpc == vpc);
            own.map(|(number, c)| (number, c.key)).collect::<Vec<_>>()
        };
        let snapshots: Vec<Snapshot> = VPCS
            .iter()
            .enumerate()
            .map(|(i, vpc)| snapshot(i, vpc, &keys_of(vpc)))
            .collect();
        Self {
            now,
            network: Network::new(now),
            gateway: Some(Gateway::new(&site, &snapshots, random.bytes(), now)),
            random,
            clients,
            site,
            snapshots,
            gateway_address: SocketAddr::from(([192, 0, 2, 1], 4433)),
            next_mark: 0,
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

    /// The gateway begins to leave, as when its pod is ended.
    pub fn leave_gateway(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.leave(self.now);
        }
    }

    /// The gateway's deadline is over: it ends every connection and is gone, whether its last words
    /// arrive or not.
    pub fn close_gateway(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.close();
        }
        self.transmit();
        self.gateway = None;
    }

    /// A new gateway process on the same address.
    pub fn start_gateway(&mut self) {
        let secret = self.random.bytes();
        let gateway = Gateway::new(&self.site, &self.snapshots, secret, self.now);
        self.gateway = Some(gateway);
    }

    /// Edits every VPC's manifests; a gateway that runs applies them at once.
    pub fn edit(&mut self, mut change: impl FnMut(&mut Snapshot)) {
        for snapshot in &mut self.snapshots {
            change(snapshot);
            snapshot.version += 1;
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.apply(&self.snapshots, self.now);
        }
    }

    /// The manifests of a client's VPC.
    pub fn snapshot_of(&self, index: usize) -> &Snapshot {
        let vpc = VPCS.iter().position(|vpc| *vpc == self.clients[index].vpc);
        &self.snapshots[vpc.unwrap()]
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
        let source = *client.addresses.iter().find(|a| a.is_ipv6() == ipv6)?;
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
                    client.take_addresses(&assignment);
                    assert!(
                        assignment.mtu_bytes >= 1280,
                        "an IPv6 link of {}",
                        assignment.mtu_bytes
                    );
                }
                TunnelEvent::Changed(assignment) => client.take_addresses(&assignment),
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
            if header.protocol != UDP {
                // The gateway's word on a packet that policy denies; it quotes one of the client's own.
                let quoted = &received.packet[header.upper_offset + ICMP_HEADER_BYTES..];
                assert_eq!(quoted_source(quoted), Some(header.destination));
                continue;
            }
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

/// The source of the packet that an ICMP error quotes, whose end may be missing.
fn quoted_source(quoted: &[u8]) -> Option<IpAddr> {
    match quoted.first()? >> 4 {
        4 => Some(IpAddr::from(*quoted.get(12..)?.first_chunk::<4>()?)),
        _ => Some(IpAddr::from(*quoted.get(8..)?.first_chunk::<16>()?)),
    }
}

/// The UDP datagrams of one GSO batch.
fn pieces(buf: &[u8], size: usize, segment: Option<usize>) -> Vec<Vec<u8>> {
    let segment = segment.unwrap_or(size).max(1);
    buf[..size].chunks(segment).map(<[u8]>::to_vec).collect()
}

fn client(
    site: &Site,
    index: usize,
    vpc: &'static str,
    random: &mut Random,
    now: Instant,
) -> Client {
    let pkcs8 = ed25519_pkcs8(&random.bytes());
    let identity = Arc::new(ConnectorIdentity::from_pkcs8(&pkcs8).unwrap());
    let key = ConnectorKey::from_bytes(*identity.public_id().as_bytes());
    let gateway = format!("https://{NAME}:4433").parse().unwrap();
    let mut config = AttachConfig::new(gateway, vpc.parse().unwrap(), identity);
    config.trust = ServerTrust::RootsPem(site.ca.pem().as_bytes().to_vec());
    // Not a concealed key: what it signs is TLS's own randomness, and the length of that field, once
    // it is compressed, would be another one in each run.
    config.auth = Auth::ClientCertificate;
    config.keep_trying = true;
    let number = u8::try_from(index).unwrap();
    Client {
        tunnel: Tunnel::new(&config, random.bytes(), now).unwrap(),
        address: SocketAddr::from(([198, 51, 100, number + 1], 40_000)),
        vpc,
        assigned: BTreeSet::new(),
        addresses: Vec::new(),
        answered: BTreeSet::new(),
        ups: 0,
        downs: BTreeSet::new(),
        key,
    }
}
