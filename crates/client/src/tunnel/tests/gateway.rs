//! A gateway small enough for a test: one machine, sessions, a few ways to say no.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use masque_http3::{self as http3, RequestHead, ResponseHead, StreamId};
use masque_packet::{
    icmp::{self, IcmpKind},
    ip,
};
use masque_protocol::{
    AssignedAddress, Event as Capsule, ProxyError, ProxyStatus, Role, Session, capsule_type,
    concealed, from_prefixes, request,
};
use masque_transport::{
    ConnId, Event, JUMBO_UDP_PAYLOAD_BYTES, Machine, MachineConfig, ShardId, Transmit,
    server_config,
    tls::{CertificateStore, ServerCertificate, ServerTls},
};

/// What it does with requests.
#[derive(Clone, Debug)]
pub(crate) struct Behaviour {
    pub(crate) status: u16,
    pub(crate) details: Option<String>,
    /// Assigned without being asked.
    pub(crate) assign: Vec<IpNet>,
    /// Given for a request, by family; without one of the family the request is declined.
    pub(crate) pool: Vec<IpNet>,
    pub(crate) routes: Vec<IpNet>,
    pub(crate) extended_connect: bool,
    pub(crate) datagrams: bool,
    /// What it asks the client for, before it assigns anything.
    pub(crate) asks: Vec<IpNet>,
    /// Announces the end of a tunnel right behind its beginning.
    pub(crate) wraps_up_at_once: bool,
    /// Answer requests for a tunnel at all.
    pub(crate) answer: bool,
    /// Answer requests for addresses at all.
    pub(crate) answer_requests: bool,
    /// Tell everybody to go who comes from the port that came first, as a pod does to which a load
    /// balancer leads that port.
    pub(crate) leaves_first_port: bool,
    /// Answer the echoes that check the path, as RFC 9484 §7.2 has it.
    pub(crate) answers_checks: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            status: 200,
            details: None,
            assign: vec![net("10.0.100.50/32"), net("fd20:0:1::32/128")],
            pool: Vec::new(),
            routes: vec![net("10.0.0.0/16"), net("fd20::/32")],
            asks: Vec::new(),
            wraps_up_at_once: false,
            extended_connect: true,
            datagrams: true,
            answer: true,
            answer_requests: true,
            leaves_first_port: false,
            answers_checks: true,
        }
    }
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Certificate and name of a gateway; outlives its restarts.
pub(crate) struct Site {
    pub(crate) chain: String,
    pub(crate) key: String,
}

pub(crate) struct Gateway {
    pub(crate) machine: Machine,
    pub(crate) behaviour: Behaviour,
    pub(crate) sessions: BTreeMap<(ConnId, StreamId), Session>,
    /// Keys that were proved, and the paths they asked for.
    pub(crate) requests: Vec<(Option<[u8; 32]>, String)>,
    pub(crate) packets: Vec<Bytes>,
    /// What clients assigned.
    pub(crate) assigned: Vec<AssignedAddress>,
    /// Lengths of the echoes that check the path; they are not among the packets.
    pub(crate) checks: Vec<usize>,
    pub(crate) closed: Vec<String>,
    first_port: Option<u16>,
    epoch: Instant,
}

impl Gateway {
    /// `reset_secret` decides whether clients learn at once that it was restarted.
    pub(crate) fn new(site: &Site, behaviour: Behaviour, secret: u8, now: Instant) -> Self {
        let at = rustls_pki_types::UnixTime::now();
        let (chain, key) = (site.chain.as_bytes(), site.key.as_bytes());
        let certificate = ServerCertificate::from_pem(chain, key, at, "test").unwrap();
        let tls = ServerTls {
            certificates: CertificateStore::new(vec![certificate]).unwrap(),
            ask_client_certificate: true,
        };
        let server = server_config(tls.build().unwrap(), &[3; 32]).unwrap();
        let mut config = MachineConfig::new([secret; 32], [secret; 32]);
        config.tuning.datagram_receive_bytes = 1024 * 1024;
        config.tuning.max_udp_payload_bytes = JUMBO_UDP_PAYLOAD_BYTES;
        let http = http3::Config {
            extended_connect: behaviour.extended_connect,
            datagrams: behaviour.datagrams,
            ..http3::Config::default()
        };
        Self {
            machine: Machine::server(config, Arc::clone(&server), http, ShardId::SINGLE, now),
            behaviour,
            sessions: BTreeMap::new(),
            requests: Vec::new(),
            packets: Vec::new(),
            assigned: Vec::new(),
            checks: Vec::new(),
            closed: Vec::new(),
            first_port: None,
            epoch: now,
        }
    }

    pub(crate) fn receive(&mut self, now: Instant, from: SocketAddr, data: &[u8]) {
        self.machine
            .handle_udp(now, from, None, None, BytesMut::from(data));
    }

    pub(crate) fn turn(&mut self, now: Instant) {
        self.machine.handle_timeouts(now);
        while let Some(event) = self.machine.poll_event() {
            match event {
                Event::Http { conn, event } => self.handle(conn, event, now),
                Event::Closed { conn, reason } => {
                    self.sessions.retain(|(owner, _), _| *owner != conn);
                    self.closed.push(reason.to_string());
                }
                _ => {}
            }
        }
        while let Some((conn, stream, payload)) = self.machine.poll_datagram() {
            let Some(session) = self.sessions.get(&(conn, stream)) else {
                continue;
            };
            let packet = session.handle_datagram(payload).unwrap();
            if is_check(&packet) {
                self.checks.push(packet.len());
                self.answer_check(conn, stream, &packet);
            } else {
                self.packets.push(packet);
            }
        }
        for ((conn, stream), session) in &mut self.sessions {
            while let Some(capsule) = session.poll_transmit() {
                let http = self.machine.http(*conn).unwrap();
                http.send_data(*stream, capsule, false).unwrap();
            }
        }
    }

    pub(crate) fn transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.machine.poll_transmit(now, buf)
    }

    /// Sends a packet into every session.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        for (conn, stream) in self.sessions.keys() {
            let length = packet.len() + 1;
            let sent = self
                .machine
                .send_datagram(*conn, *stream, length, |payload| {
                    payload[0] = 0;
                    payload[1..].copy_from_slice(packet);
                });
            sent.unwrap();
        }
    }

    fn answer_check(&mut self, conn: ConnId, stream: StreamId, packet: &[u8]) {
        let mut reply = [0; 2048];
        let from = IpAddr::V6("fe80::1".parse().unwrap());
        let length = icmp::build_echo_reply_from(&mut reply, packet, from).unwrap();
        if !self.behaviour.answers_checks {
            return;
        }
        // One that the path has no room for is lost.
        let _lost = self
            .machine
            .send_datagram(conn, stream, length + 1, |payload| {
                payload[0] = 0;
                payload[1..].copy_from_slice(&reply[..length]);
            });
    }

    pub(crate) fn go_away(&mut self) {
        let mut conns: Vec<ConnId> = self.sessions.keys().map(|(conn, _)| *conn).collect();
        conns.dedup();
        for conn in conns {
            let http = self.machine.http(conn).unwrap();
            http.shutdown();
            http.shutdown();
        }
    }

    /// Announces the end of every tunnel on its stream.
    pub(crate) fn wrap_up(&mut self) {
        for session in self.sessions.values_mut() {
            session.allow_extensions();
            session.wrap_up();
        }
    }

    /// Says in every tunnel what is no capsule: half an address.
    pub(crate) fn break_protocol(&mut self) {
        for (conn, stream) in std::mem::take(&mut self.sessions).into_keys() {
            // A client that has left hears nothing.
            if let Some(http) = self.machine.http(conn) {
                let _ = http.send_data(stream, Bytes::from_static(&[1, 2, 0, 4]), false);
            }
        }
    }

    /// Ends every tunnel as a suspension does.
    pub(crate) fn end_sessions(&mut self) {
        for (conn, stream) in std::mem::take(&mut self.sessions).into_keys() {
            let http = self.machine.http(conn).unwrap();
            http.send_data(stream, Bytes::new(), true).unwrap();
        }
    }

    fn handle(&mut self, conn: ConnId, event: http3::Event, now: Instant) {
        match event {
            http3::Event::Request { stream, head } => self.answer(conn, stream, &head),
            http3::Event::Data { stream, data } => {
                let now_ms = now.duration_since(self.epoch).as_millis() as u64;
                let Some(session) = self.sessions.get_mut(&(conn, stream)) else {
                    return;
                };
                session.handle_data(data, now_ms);
                while let Some(event) = session.poll_event().unwrap() {
                    if let Capsule::Assigned(list) = &event {
                        self.assigned.extend(list);
                    }
                    let Capsule::AddressRequested(requests) = event else {
                        continue;
                    };
                    if !self.behaviour.answer_requests {
                        continue;
                    }
                    let answers: Vec<_> = requests
                        .iter()
                        .map(|wanted| {
                            let v4 = matches!(wanted.prefix, IpNet::V4(_));
                            let same = |p: &&IpNet| matches!(p, IpNet::V4(_)) == v4;
                            (
                                wanted.request_id,
                                self.behaviour.pool.iter().find(same).copied(),
                            )
                        })
                        .collect();
                    session.answer_requests(&answers).unwrap();
                }
            }
            http3::Event::Finished { stream } | http3::Event::Reset { stream, .. } => {
                self.sessions.remove(&(conn, stream));
            }
            _ => {}
        }
    }

    fn answer(&mut self, conn: ConnId, stream: StreamId, head: &RequestHead) {
        request::check_connect_ip(head).unwrap();
        let key = self.identify(conn, head);
        self.requests.push((key, head.path.clone().unwrap()));
        if !self.behaviour.answer {
            return;
        }
        if self.behaviour.leaves_first_port {
            let port = self.machine.remote_address(conn).unwrap().port();
            if *self.first_port.get_or_insert(port) == port {
                let http = self.machine.http(conn).unwrap();
                http.shutdown();
                http.shutdown();
                return;
            }
        }
        let response = self.response();
        let http = self.machine.http(conn).unwrap();
        http.send_response(stream, &response, response.status != 200)
            .unwrap();
        if response.status != 200 {
            return;
        }
        http.accept_datagrams(stream);
        let mut session = Session::new(Role::Proxy).with_wrap_up_capsule(capsule_type::WRAP_UP);
        session.request_addresses(&self.behaviour.asks).unwrap();
        if self.behaviour.wraps_up_at_once {
            session.allow_extensions();
            session.wrap_up();
        }
        if !self.behaviour.assign.is_empty() {
            session.assign(&self.behaviour.assign).unwrap();
        }
        session
            .advertise(from_prefixes(&self.behaviour.routes, None))
            .unwrap();
        self.sessions.insert((conn, stream), session);
    }

    fn response(&self) -> ResponseHead {
        if self.behaviour.status == 200 {
            return request::ok_response();
        }
        let status = self.behaviour.details.as_ref().map(|details| {
            ProxyStatus::new("gateway", ProxyError::HttpRequestDenied).with_details(details)
        });
        request::refusal(self.behaviour.status, status.as_ref())
    }

    fn identify(&self, conn: ConnId, head: &RequestHead) -> Option<[u8; 32]> {
        let Some(value) = head.values("authorization").next() else {
            return self.machine.peer_certificate_key(conn);
        };
        let credentials = concealed::parse(value)?;
        let (host, port) = head.authority.as_deref()?.rsplit_once(':')?;
        let context = concealed::export_context(&concealed::ExportContext {
            key_id: &credentials.key_id,
            public_key: &credentials.public_key,
            scheme: head.scheme.as_deref()?,
            host,
            port: port.parse().ok()?,
            realm: &credentials.realm,
        });
        let mut output = [0; concealed::EXPORTER_OUTPUT_BYTES];
        let label = concealed::EXPORTER_LABEL;
        self.machine
            .export_keying_material(conn, label, &context, &mut output)
            .ok()?;
        concealed::verify(&credentials, &output).then_some(credentials.public_key)
    }
}

/// The echo identifier of the client's checks of its path. This file serves a test outside of the
/// crate, too, so it has a number of its own.
const CHECK_IDENTIFIER: u16 = 0xdc1e;

fn is_check(packet: &[u8]) -> bool {
    let all_nodes: IpAddr = "ff02::1".parse().unwrap();
    let header = ip::parse(packet).unwrap();
    let kind = icmp::classify(&header, packet);
    header.destination == all_nodes
        && matches!(kind, Some(IcmpKind::EchoRequest { identifier, .. }) if identifier == CHECK_IDENTIFIER)
}

/// Long enough for anything that should happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
