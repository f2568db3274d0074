//! A gateway without sockets, threads or kernel: the same machines that the binary's shards drive,
//! and VPCs whose one workload answers every packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use masque_gateway_core::{
    AdmitRequest, ClientVerdict, Dataplane, DataplaneConfig, EndReason, Ended, Grant, HopLimit,
    Now, Registry, RegistryConfig, Scope, SessionId, SlotId, VpcIndex, VpcVerdict,
};
use masque_http3::{self as http3, Code, RequestHead, StreamId};
use masque_model::{ConnectorKey, Snapshot};
use masque_packet::{ip, segment::GsoInfo};
use masque_protocol::{Event as Capsule, Role, Session, from_prefixes, request};
use masque_testkit::DevelopmentCa;
use masque_transport::{
    ConnId, Event, Machine, MachineConfig, ShardId, Transmit, server_config,
    tls::{CertificateStore, ServerCertificate, ServerTls},
};

use crate::network::Random;

/// What the gateway keeps over a restart: certificate and addresses.
pub struct Site {
    /// Its certificate authority.
    pub ca: DevelopmentCa,
    certificate: String,
    key: String,
}

impl Site {
    /// A gateway called `name`; keys and certificates are those of the seed.
    pub fn new(name: &str, random: &mut Random) -> Self {
        let ca = DevelopmentCa::from_seed(&random.bytes());
        let server = ca.server_from_seed(&[name], &random.bytes());
        Self {
            certificate: server.cert_pem,
            key: server.key_pem,
            ca,
        }
    }
}

struct Tunnel {
    protocol: Session,
    grant: Grant,
    slot: SlotId,
}

/// One gateway process.
pub struct Gateway {
    machine: Machine,
    /// Who is attached and has which address.
    pub registry: Registry,
    plane: Dataplane,
    tunnels: BTreeMap<(ConnId, StreamId), Tunnel>,
    /// Packets that left into each VPC.
    pub into_vpc: Vec<(VpcIndex, Vec<u8>)>,
    /// Answer what arrives in a VPC by the same packet with its addresses swapped.
    pub echo: bool,
    connections: BTreeSet<ConnId>,
    drain: Drain,
    epoch: Instant,
}

/// How far a graceful shutdown is (RFC 9114 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    Announced { last_at: Instant },
    Final,
}

/// From the announcement of a shutdown to the last request that is served: as in the binary more
/// than a round trip.
const LAST_AFTER: Duration = Duration::from_millis(250);

impl Gateway {
    /// A process that has just started. `secret` keys its connection ids and stateless resets.
    pub fn new(site: &Site, snapshots: &[Snapshot], secret: [u8; 32], now: Instant) -> Self {
        let at = rustls_pki_types::UnixTime::now();
        let (chain, key) = (site.certificate.as_bytes(), site.key.as_bytes());
        let certificate = ServerCertificate::from_pem(chain, key, at, "simulation").unwrap();
        let tls = ServerTls {
            certificates: CertificateStore::new(vec![certificate]).unwrap(),
            ask_client_certificate: true,
        };
        let server = server_config(tls.build().unwrap(), &[3; 32]).unwrap();
        let config = MachineConfig::new(secret, secret);
        let http = http3::Config::default();
        let mut registry = Registry::new(RegistryConfig::default());
        let shared = snapshots.iter().cloned().map(Arc::new).collect();
        let changes = registry.apply(Now::default(), shared);
        assert!(changes.refused.is_empty(), "{:?}", changes.refused);
        let config_plane = DataplaneConfig {
            hop_limit: HopLimit::DecrementHere,
            flow_entries: 1024,
            ..DataplaneConfig::default()
        };
        Self {
            machine: Machine::server(config, server, http, ShardId::SINGLE, now),
            plane: Dataplane::new(config_plane, Now::default(), changes.tables),
            registry,
            tunnels: BTreeMap::new(),
            into_vpc: Vec::new(),
            echo: true,
            connections: BTreeSet::new(),
            drain: Drain::No,
            epoch: now,
        }
    }

    /// A UDP datagram arrived.
    pub fn receive(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        self.machine
            .handle_udp(now, from, None, None, BytesMut::from(data));
    }

    /// Begins to leave: GOAWAY on every connection, and again on those that still come.
    pub fn leave(&mut self, now: Instant) {
        self.drain = Drain::Announced {
            last_at: now + LAST_AFTER,
        };
        self.go_away();
    }

    fn go_away(&mut self) {
        for conn in &self.connections {
            if let Some(http) = self.machine.http(*conn) {
                http.shutdown();
            }
        }
    }

    /// Ends every connection; the process ends when all is said.
    pub fn close(&mut self) {
        for conn in std::mem::take(&mut self.connections) {
            self.machine
                .close(conn, Code::H3_NO_ERROR, "the gateway ends");
        }
    }

    /// Runs on other manifests from now on.
    pub fn apply(&mut self, snapshots: &[Snapshot], at: Instant) {
        let now = self.now(at);
        let shared = snapshots.iter().cloned().map(Arc::new).collect();
        let changes = self.registry.apply(now, shared);
        assert!(changes.refused.is_empty(), "{:?}", changes.refused);
        self.plane.set_tables(now, changes.tables);
        self.end_sessions(&changes.ended);
        for grant in changes.updated {
            self.update(grant, at);
        }
    }

    /// The registry ended them already.
    fn end_sessions(&mut self, ended: &[Ended]) {
        for ended in ended {
            let Some(key) = self.key_of(ended.session.session) else {
                continue;
            };
            if let Some(tunnel) = self.tunnels.remove(&key) {
                self.plane.detach(tunnel.slot);
            }
            if let Some(http) = self.machine.http(key.0) {
                http.abort(key.1, Code::H3_NO_ERROR);
            }
        }
    }

    /// A session is judged by another grant, and its client is told.
    fn update(&mut self, grant: Grant, at: Instant) {
        let now = self.now(at);
        let Some(key) = self.key_of(grant.session) else {
            return;
        };
        self.plane.update(now, &grant);
        let tunnel = self.tunnels.get_mut(&key).unwrap();
        tunnel.protocol.assign(&grant.addresses).unwrap();
        let routes = from_prefixes(&grant.routes, None);
        tunnel.protocol.advertise(routes).unwrap();
        tunnel.grant = grant;
        self.pump(key, at);
    }

    fn key_of(&self, session: SessionId) -> Option<(ConnId, StreamId)> {
        let mut all = self.tunnels.iter();
        let found = all.find(|(_, tunnel)| tunnel.grant.session == session)?;
        Some(*found.0)
    }

    /// What a shard's turn does.
    pub fn turn(&mut self, now: Instant) {
        self.machine.handle_timeouts(now);
        if let Drain::Announced { last_at } = self.drain
            && now >= last_at
        {
            self.drain = Drain::Final;
            self.go_away();
        }
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Connected { conn } => {
                    self.connections.insert(conn);
                    if let Some(http) = self.machine.http(conn)
                        && self.drain != Drain::No
                    {
                        http.shutdown();
                        http.shutdown();
                    }
                }
                Event::Http { conn, event } => self.handle_http(conn, event, now),
                Event::Closed { conn, .. } => {
                    self.connections.remove(&conn);
                    let gone: Vec<_> = self
                        .tunnels
                        .keys()
                        .filter(|(owner, _)| *owner == conn)
                        .copied()
                        .collect();
                    for key in gone {
                        self.end(key, now);
                    }
                }
                Event::DatagramSize { conn, .. } => self.update_mtu(conn),
                _ => {}
            }
        }
        while let Some((conn, stream, payload)) = self.machine.poll_datagram() {
            let Some(tunnel) = self.tunnels.get(&(conn, stream)) else {
                continue;
            };
            if let Ok(packet) = tunnel.protocol.handle_datagram(payload) {
                self.take_from_client((conn, stream), &packet, now);
            }
        }
    }

    /// The next UDP datagrams to send.
    pub fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.machine.poll_transmit(now, buf)
    }

    /// When it must be called again.
    pub fn next_deadline(&self) -> Option<Instant> {
        let last_at = match self.drain {
            Drain::Announced { last_at } => Some(last_at),
            Drain::No | Drain::Final => None,
        };
        self.machine
            .next_deadline()
            .into_iter()
            .chain(last_at)
            .min()
    }

    /// How many tunnels are open.
    pub fn tunnels(&self) -> usize {
        self.tunnels.len()
    }

    fn now(&self, at: Instant) -> Now {
        Now {
            mono_ms: at.duration_since(self.epoch).as_millis() as u64,
            unix_s: 1_700_000_000,
        }
    }

    fn handle_http(&mut self, conn: ConnId, event: http3::Event, at: Instant) {
        match event {
            http3::Event::Request { stream, head } => self.handle_request(conn, stream, &head, at),
            http3::Event::Data { stream, data } => {
                let now = self.now(at);
                let Some(tunnel) = self.tunnels.get_mut(&(conn, stream)) else {
                    return;
                };
                tunnel.protocol.handle_data(data, now.mono_ms);
                self.pump((conn, stream), at);
            }
            http3::Event::Finished { stream } | http3::Event::Reset { stream, .. } => {
                self.end((conn, stream), at);
            }
            _ => {}
        }
    }

    fn handle_request(&mut self, conn: ConnId, stream: StreamId, head: &RequestHead, at: Instant) {
        let now = self.now(at);
        let vpc = head
            .path
            .as_deref()
            .and_then(|path| path.split('/').nth(2))
            .map(str::to_owned);
        let granted = self.machine.peer_certificate_key(conn).and_then(|key| {
            let key = ConnectorKey::from_bytes(key);
            let scope = Scope::default();
            let request = AdmitRequest {
                key,
                vpc: vpc.as_deref(),
                listener: None,
                scope: &scope,
                shard: 0,
                ipv4: true,
                ipv6: true,
            };
            self.registry.admit(now, &request).ok()
        });
        let Some(http) = self.machine.http(conn) else {
            // It closed in the same turn.
            if let Some(admitted) = granted {
                let session = admitted.grant.session;
                self.registry
                    .release(now, session, EndReason::ConnectionLost);
            }
            return;
        };
        let Some(admitted) = granted else {
            http.send_response(stream, &request::refusal(404, None), true)
                .unwrap();
            return;
        };
        http.send_response(stream, &request::ok_response(), false)
            .unwrap();
        http.accept_datagrams(stream);
        self.end_sessions(&admitted.ended);
        let grant = admitted.grant;
        let mtu = self.mtu(conn, stream);
        let slot = self.plane.attach(now, &grant, mtu).unwrap();
        let mut protocol = Session::new(Role::Proxy);
        protocol.assign(&grant.addresses).unwrap();
        protocol
            .advertise(from_prefixes(&grant.routes, None))
            .unwrap();
        self.tunnels.insert(
            (conn, stream),
            Tunnel {
                protocol,
                grant,
                slot,
            },
        );
        self.pump((conn, stream), at);
    }

    fn pump(&mut self, key: (ConnId, StreamId), at: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(&key) else {
            return;
        };
        let mut capsules: Vec<Bytes> = Vec::new();
        while let Some(event) = tunnel.protocol.poll_event().unwrap() {
            if let Capsule::DatagramCapsule(packet) = event {
                capsules.push(packet);
            }
        }
        while let Some(capsule) = tunnel.protocol.poll_transmit() {
            let http = self.machine.http(key.0).unwrap();
            http.send_data(key.1, capsule, false).unwrap();
        }
        for packet in capsules {
            self.take_from_client(key, &packet, at);
        }
    }

    fn mtu(&self, conn: ConnId, stream: StreamId) -> u16 {
        let payload = self.machine.max_datagram_payload(conn, stream).unwrap_or(0);
        u16::try_from(payload.saturating_sub(1))
            .unwrap_or(u16::MAX)
            .max(1280)
    }

    fn update_mtu(&mut self, conn: ConnId) {
        let keys: Vec<_> = self
            .tunnels
            .keys()
            .filter(|(owner, _)| *owner == conn)
            .copied()
            .collect();
        for (conn, stream) in keys {
            let mtu = self.mtu(conn, stream);
            self.plane.set_mtu(self.tunnels[&(conn, stream)].slot, mtu);
        }
    }

    fn end(&mut self, key: (ConnId, StreamId), at: Instant) {
        let now = self.now(at);
        if let Some(tunnel) = self.tunnels.remove(&key) {
            self.plane.detach(tunnel.slot);
            let session = tunnel.grant.session;
            let released = self
                .registry
                .release(now, session, EndReason::ConnectionLost);
            if let Some(grant) = released.and_then(|released| released.activated) {
                self.update(grant, at);
            }
        }
    }

    fn take_from_client(&mut self, key: (ConnId, StreamId), packet: &[u8], at: Instant) {
        let now = self.now(at);
        let tunnel = &self.tunnels[&key];
        let (slot, vpc) = (tunnel.slot, tunnel.grant.index);
        let (mut packet, mut reply) = (packet.to_vec(), vec![0; 2048]);
        match self.plane.from_client(now, slot, &mut packet, &mut reply) {
            ClientVerdict::Forward { .. } => {
                self.into_vpc.push((vpc, packet.clone()));
                if self.echo {
                    let mut answer = swapped(&packet);
                    self.take_from_vpc(vpc, &mut answer, now);
                }
            }
            ClientVerdict::Reply { len_bytes, .. } => self.send_to(key, &reply[..len_bytes]),
            ClientVerdict::Drop(_) => {}
        }
    }

    /// A packet came out of a VPC.
    fn take_from_vpc(&mut self, vpc: VpcIndex, packet: &mut [u8], now: Now) {
        let mut reply = vec![0; 2048];
        let verdict = self
            .plane
            .from_vpc(now, vpc, packet, &GsoInfo::default(), &mut reply);
        if let VpcVerdict::ToSession { slot, .. } = verdict {
            let found = self.tunnels.iter().find(|(_, tunnel)| tunnel.slot == slot);
            let key = *found.expect("a verdict names an open session").0;
            self.send_to(key, packet);
        }
    }

    fn send_to(&mut self, (conn, stream): (ConnId, StreamId), packet: &[u8]) {
        // A full queue or a closed connection drops the packet, as in the binary.
        let _dropped = self
            .machine
            .send_datagram(conn, stream, packet.len() + 1, |out| {
                out[0] = 0;
                out[1..].copy_from_slice(packet);
            });
    }
}

/// The packet as its receiver would send it back: addresses and ports swapped, which leaves every
/// checksum right; echo requests become replies.
fn swapped(packet: &[u8]) -> Vec<u8> {
    let header = ip::parse(packet).expect("the dataplane forwards valid packets only");
    let mut out = packet.to_vec();
    let (source, destination, size) = match header.version {
        ip::IpVersion::V4 => (12, 16, 4),
        ip::IpVersion::V6 => (8, 24, 16),
    };
    out[source..source + size].copy_from_slice(&packet[destination..destination + size]);
    out[destination..destination + size].copy_from_slice(&packet[source..source + size]);
    let upper = header.upper_offset;
    out[upper..upper + 2].copy_from_slice(&packet[upper + 2..upper + 4]);
    out[upper + 2..upper + 4].copy_from_slice(&packet[upper..upper + 2]);
    out
}
