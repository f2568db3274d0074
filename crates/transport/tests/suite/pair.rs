//! Two machines and a link between them, in virtual time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use masque_transport::{
    ConnId, EcnCodepoint, Event, Machine, MachineConfig, ShardId,
    http3::{self, Field, RequestHead, ResponseHead, StreamId},
};

use crate::certificates::{SERVER_NAME, TestTls};

/// A path of the network, the same both ways.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) latency: Duration,
    /// Of a thousand datagrams so many are lost.
    pub(crate) loss_permille: u64,
    /// In so many of a thousand datagrams one bit is turned.
    pub(crate) damage_permille: u64,
    /// Larger UDP payloads are lost.
    pub(crate) udp_payload_bytes: usize,
    /// Datagrams on the way at one time; more are lost.
    pub(crate) capacity: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(10),
            loss_permille: 0,
            damage_permille: 0,
            udp_payload_bytes: 1472,
            capacity: usize::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

struct Flying {
    to: End,
    from: SocketAddr,
    ecn: Option<EcnCodepoint>,
    data: Vec<u8>,
}

/// What one end saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) events: Vec<Event>,
    pub(crate) datagrams: Vec<(ConnId, StreamId, Bytes)>,
}

impl Seen {
    /// The connection that was opened last.
    pub(crate) fn connected(&self) -> Option<ConnId> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Connected { conn } => Some(*conn),
            _ => None,
        })
    }
}

pub(crate) struct Pair {
    pub(crate) now: Instant,
    pub(crate) link: Link,
    pub(crate) client: Machine,
    pub(crate) server: Machine,
    pub(crate) client_addr: SocketAddr,
    pub(crate) server_addr: SocketAddr,
    pub(crate) client_seen: Seen,
    pub(crate) server_seen: Seen,
    pub(crate) tls: TestTls,
    /// Called before and after an end works, for tests that count what it allocates.
    pub(crate) enter: fn(Option<End>),
    /// Nothing reaches this end.
    pub(crate) deaf: Option<End>,
    /// Datagrams the link lost.
    pub(crate) lost: u64,
    /// Datagrams put on the link that were marked ECN-capable.
    pub(crate) marked: u64,
    /// Largest datagram carried, by direction.
    pub(crate) largest: [usize; 2],
    flying: BTreeMap<(Instant, u64), Flying>,
    sequence: u64,
    random: u64,
}

pub(crate) fn config() -> MachineConfig {
    MachineConfig {
        max_gso_segments: 16,
        ..MachineConfig::new([1; 32], [2; 32])
    }
}

impl Pair {
    pub(crate) fn new(link: Link) -> Self {
        Self::with(link, config(), config())
    }

    pub(crate) fn with(link: Link, client: MachineConfig, server: MachineConfig) -> Self {
        let now = Instant::now();
        let tls = TestTls::new();
        let http = http3::Config::default();
        let client = MachineConfig {
            seed: [9; 32],
            ..client
        };
        Self {
            now,
            link,
            client: Machine::client(client, http.clone(), now),
            server: Machine::server(server, tls.server(), http, ShardId::SINGLE, now),
            client_addr: "[2001:db8::c]:1024".parse().unwrap(),
            server_addr: "[2001:db8::5]:443".parse().unwrap(),
            client_seen: Seen::default(),
            server_seen: Seen::default(),
            tls,
            enter: |_| {},
            deaf: None,
            lost: 0,
            marked: 0,
            largest: [0; 2],
            flying: BTreeMap::new(),
            sequence: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(crate) fn connect(&mut self) -> ConnId {
        let config = self.tls.client(None);
        self.client
            .connect(self.now, self.server_addr, SERVER_NAME, config)
            .unwrap()
    }

    fn end(&mut self, end: End) -> (&mut Machine, &mut Seen, SocketAddr) {
        match end {
            End::Client => (&mut self.client, &mut self.client_seen, self.client_addr),
            End::Server => (&mut self.server, &mut self.server_seen, self.server_addr),
        }
    }

    /// One turn of one end, all its packets put on the link.
    fn turn(&mut self, end: End) {
        let (now, enter) = (self.now, self.enter);
        let (machine, seen, from) = self.end(end);
        enter(Some(end));
        machine.handle_timeouts(now);
        while let Some(event) = machine.poll_event() {
            seen.events.push(event);
        }
        while let Some(datagram) = machine.poll_datagram() {
            seen.datagrams.push(datagram);
        }
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while let Some(transmit) = machine.poll_transmit(now, &mut buffer) {
            enter(None);
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for data in buffer[..transmit.size].chunks(segment) {
                sent.push((transmit.destination, transmit.ecn, data.to_vec()));
            }
            enter(Some(end));
        }
        drop(buffer);
        enter(None);
        for (destination, ecn, data) in sent {
            self.put(from, destination, ecn, data);
        }
    }

    fn put(
        &mut self,
        from: SocketAddr,
        destination: SocketAddr,
        ecn: Option<EcnCodepoint>,
        mut data: Vec<u8>,
    ) {
        let to = if destination == self.server_addr {
            End::Server
        } else {
            End::Client
        };
        let known = to == End::Server || destination == self.client_addr;
        let known = known && self.deaf != Some(to);
        let unlucky = self.draw() % 1000 < self.link.loss_permille;
        let full = self.flying.len() >= self.link.capacity;
        if !known || unlucky || full || data.len() > self.link.udp_payload_bytes {
            self.lost += 1;
            return;
        }
        self.marked += u64::from(ecn.is_some());
        if self.draw() % 1000 < self.link.damage_permille {
            let bit = self.draw() as usize % (data.len() * 8);
            data[bit / 8] ^= 1 << (bit % 8);
        }
        let largest = &mut self.largest[to as usize];
        *largest = data.len().max(*largest);
        self.sequence += 1;
        let at = (self.now + self.link.latency, self.sequence);
        self.flying.insert(
            at,
            Flying {
                to,
                from,
                ecn,
                data,
            },
        );
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Runs both ends until `done`, or for `limit` of virtual time; whether `done` came.
    pub(crate) fn run_until(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        loop {
            while let Some(entry) = self.flying.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let Flying {
                    to,
                    from,
                    ecn,
                    data,
                } = entry.remove();
                let (now, enter) = (self.now, self.enter);
                let (machine, ..) = self.end(to);
                enter(Some(to));
                machine.handle_udp(now, from, None, ecn, BytesMut::from(&data[..]));
                enter(None);
            }
            self.turn(End::Client);
            self.turn(End::Server);
            if done(self) {
                return true;
            }
            let arrival = self.flying.first_key_value().map(|(key, _)| key.0);
            let deadlines = [
                self.client.next_deadline(),
                self.server.next_deadline(),
                arrival,
            ];
            match deadlines.into_iter().flatten().min() {
                Some(next) if next <= end => self.now = self.now.max(next),
                _ => {
                    self.now = end;
                    return false;
                }
            }
        }
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Connects, and brings up a CONNECT-IP request with datagrams both ways: the connection at
    /// the client, at the server, and the request's stream.
    pub(crate) fn tunnel(&mut self) -> (ConnId, ConnId, StreamId) {
        let at_client = self.connect();
        let limit = Duration::from_secs(10);
        assert!(
            self.run_until(limit, |pair| {
                let http = pair.client.http_ref(at_client);
                http.is_some_and(http3::Connection::datagrams_ready)
            }),
            "no SETTINGS: {:?} {:?}",
            self.client_seen.events,
            self.server_seen.events
        );
        let stream = self
            .client
            .request(at_client, &connect_ip(), false)
            .unwrap();
        self.client
            .http(at_client)
            .unwrap()
            .accept_datagrams(stream);
        let mut at_server = None;
        let before = self.server_seen.events.len();
        assert!(self.run_until(limit, |pair| {
            at_server = pair.server_seen.events[before..]
                .iter()
                .find_map(|event| match event {
                    Event::Http {
                        conn,
                        event: http3::Event::Request { .. },
                    } => Some(*conn),
                    _ => None,
                });
            at_server.is_some()
        }));
        let at_server = at_server.unwrap();
        let http = self.server.http(at_server).unwrap();
        let head = ResponseHead {
            status: 200,
            fields: vec![Field::new("capsule-protocol", "?1")],
        };
        http.send_response(stream, &head, false).unwrap();
        http.accept_datagrams(stream);
        let before = self.client_seen.events.len();
        assert!(self.run_until(limit, |pair| {
            pair.client_seen.events[before..].iter().any(|event| {
                matches!(
                    event,
                    Event::Http { event: http3::Event::Response { head, .. }, .. }
                        if head.status == 200
                )
            })
        }));
        (at_client, at_server, stream)
    }
}

pub(crate) fn connect_ip() -> RequestHead {
    RequestHead {
        method: "CONNECT".to_owned(),
        protocol: Some("connect-ip".to_owned()),
        scheme: Some("https".to_owned()),
        authority: Some(SERVER_NAME.to_owned()),
        path: Some("/.well-known/masque/ip/*/*/".to_owned()),
        fields: vec![Field::new("capsule-protocol", "?1")],
    }
}

/// Why a connection ended, if the end saw it.
pub(crate) fn closed(seen: &Seen) -> Option<&masque_transport::CloseReason> {
    seen.events.iter().find_map(|event| match event {
        Event::Closed { reason, .. } => Some(reason),
        _ => None,
    })
}
