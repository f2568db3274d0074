//! A client, a gateway that may be down, and the path between them, in virtual time.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use masque_testkit::DevelopmentCa;
use masque_transport::tls::ServerTrust;

use super::gateway::{Behaviour, Gateway, PATIENCE, Site};
use crate::{AttachConfig, ConnectorIdentity, Phase, ReceivedPacket, Tunnel, TunnelEvent};

pub(crate) const NAME: &str = "gw.example";

/// What the path does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) latency: Duration,
    pub(crate) loss_percent: u64,
    pub(crate) udp_payload_max: usize,
    /// Towards the client, where it differs.
    pub(crate) udp_payload_max_down: Option<usize>,
    pub(crate) up: bool,
    /// A gateway that is down is told of by ICMP.
    pub(crate) refuses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum To {
    Client,
    Gateway,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) link: Link,
    pub(crate) client: Tunnel,
    pub(crate) client_address: SocketAddr,
    pub(crate) gateway: Option<Gateway>,
    pub(crate) site: Site,
    pub(crate) key: [u8; 32],
    pub(crate) events: Vec<(Instant, TunnelEvent)>,
    pub(crate) received: Vec<ReceivedPacket>,
    /// The addresses that the gateway's name has.
    pub(crate) addresses: Vec<SocketAddr>,
    flying: BTreeMap<(Instant, u64), (To, SocketAddr, Vec<u8>)>,
    sequence: u64,
    random: u64,
}

impl World {
    pub(crate) fn new(behaviour: Behaviour) -> Self {
        Self::with(behaviour, |_| {})
    }

    pub(crate) fn with(behaviour: Behaviour, change: impl FnOnce(&mut AttachConfig)) -> Self {
        let now = Instant::now() + Duration::from_secs(60);
        let ca = DevelopmentCa::new();
        let server = ca.server(&[NAME, "192.0.2.1"]);
        let site = Site {
            chain: server.cert_pem,
            key: server.key_pem,
        };
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let key = *identity.public_id().as_bytes();
        let gateway = format!("https://{NAME}:4433").parse().unwrap();
        let mut config = AttachConfig::new(gateway, "production-vpc".parse().unwrap(), identity);
        config.trust = ServerTrust::RootsPem(ca.pem().as_bytes().to_vec());
        change(&mut config);
        let address = SocketAddr::from(([192, 0, 2, 1], 4433));
        Self {
            now,
            link: Link {
                latency: Duration::from_millis(10),
                loss_percent: 0,
                udp_payload_max: 1472,
                udp_payload_max_down: None,
                up: true,
                refuses: false,
            },
            client: Tunnel::new(&config, [5; 32], now).unwrap(),
            client_address: SocketAddr::from(([198, 51, 100, 7], 40000)),
            gateway: Some(Gateway::new(&site, behaviour, 1, now)),
            site,
            key,
            events: Vec::new(),
            received: Vec::new(),
            addresses: vec![address],
            flying: BTreeMap::new(),
            sequence: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Starts, and goes on until the tunnel is open.
    pub(crate) fn attach(behaviour: Behaviour) -> Self {
        let mut world = Self::new(behaviour);
        world.client.start(world.now);
        world.run_until("open", |world| world.client.phase() == Phase::Connected);
        world
    }

    /// Starts, goes on until it is over and gives the reason.
    pub(crate) fn failure(mut self) -> crate::AttachError {
        self.client.start(self.now);
        self.run_until("closed", |world| world.client.phase() == Phase::Closed);
        let last = self.events.pop().unwrap().1;
        match last {
            TunnelEvent::Closed(Some(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stop_gateway(&mut self) {
        self.gateway = None;
    }

    pub(crate) fn start_gateway(&mut self, behaviour: Behaviour, secret: u8) {
        self.gateway = Some(Gateway::new(&self.site, behaviour, secret, self.now));
    }

    pub(crate) fn gateway(&mut self) -> &mut Gateway {
        self.gateway.as_mut().unwrap()
    }

    /// Goes on until `done`, and says how long that took.
    #[track_caller]
    pub(crate) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !done(self) {
            assert!(
                self.now < start + PATIENCE,
                "not {what} in {PATIENCE:?}; events: {:#?}",
                self.events
                    .iter()
                    .map(|(at, event)| (*at - start, event))
                    .collect::<Vec<_>>()
            );
            self.step(start + PATIENCE);
        }
        self.now - start
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.step(end);
        }
    }

    pub(crate) fn has(&self, wanted: impl Fn(&TunnelEvent) -> bool) -> bool {
        self.events.iter().any(|(_, event)| wanted(event))
    }

    /// One turn of both ends, then on to the next thing that happens, at most to `end`.
    fn step(&mut self, end: Instant) {
        self.deliver();
        self.client.handle_timeouts(self.now);
        while let Some(event) = self.client.poll_event() {
            if let TunnelEvent::Resolve { .. } = event {
                let ips = self.addresses.iter().map(SocketAddr::ip).collect();
                self.client.resolved(self.now, Ok(ips));
            }
            self.events.push((self.now, event));
        }
        while let Some(packet) = self.client.poll_packet() {
            self.received.push(packet);
        }
        let mut buf = Vec::new();
        while let Some(transmit) = self.client.poll_transmit(self.now, &mut buf) {
            let (from, to) = (self.client_address, transmit.destination);
            let known = self.addresses.contains(&to);
            self.fly(To::Gateway, from, &buf[..transmit.size], known);
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.turn(self.now);
        }
        let from = self.addresses[0];
        while let Some(transmit) = self
            .gateway
            .as_mut()
            .and_then(|g| g.transmit(self.now, &mut buf))
        {
            let known = transmit.destination == self.client_address;
            self.fly(To::Client, from, &buf[..transmit.size], known);
        }
        let client = self.client.next_deadline();
        let gateway = self
            .gateway
            .as_ref()
            .and_then(|g| g.machine.next_deadline());
        let flying = self.flying.keys().next().map(|(at, _)| *at);
        let next = client
            .into_iter()
            .chain(gateway)
            .chain(flying)
            .min()
            .unwrap_or(end);
        // A turn may leave work for the next turn of the same instant, but time goes on.
        let soon = self.now + Duration::from_micros(100);
        self.now = next.max(soon).min(end.max(soon));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (to, from, data) = entry.remove();
            match (to, &mut self.gateway) {
                (To::Client, _) => {
                    self.client
                        .handle_udp(self.now, from, None, BytesMut::from(&data[..]));
                }
                (To::Gateway, Some(gateway)) => gateway.receive(self.now, from, &data),
                (To::Gateway, None) if self.link.refuses => {
                    let remote = self.addresses[0];
                    self.client
                        .handle_unreachable(self.now, remote, "connection refused");
                }
                (To::Gateway, None) => {}
            }
        }
    }

    fn fly(&mut self, to: To, from: SocketAddr, data: &[u8], known: bool) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let lost = self.random % 100 < self.link.loss_percent;
        let max = match to {
            To::Client => self.link.udp_payload_max_down,
            To::Gateway => None,
        };
        let max = max.unwrap_or(self.link.udp_payload_max);
        if !known || lost || !self.link.up || data.len() > max {
            return;
        }
        self.sequence += 1;
        let key = (self.now + self.link.latency, self.sequence);
        self.flying.insert(key, (to, from, data.to_vec()));
    }
}
