//! A client that keeps all it sees.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use bytes::Bytes;
use masque_http3::{Event as HttpEvent, StreamId};
use masque_packet::build::build_icmp_echo;
use masque_protocol::{
    Event, Role, Scope, Session, Template,
    context::IP_PACKET_PREFIX,
    request::{Verdict, check_response, connect_ip_request},
};
use tokio::time::{error::Elapsed, timeout};

use crate::{
    driver::{Driver, Got},
    gateway::address,
};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A client, with one session for each of its tunnels.
pub(crate) struct Client {
    pub(crate) driver: Driver,
    pub(crate) tunnels: BTreeMap<StreamId, Session>,
    pub(crate) log: Vec<(StreamId, Seen)>,
    pub(crate) goaways: Vec<u64>,
    pub(crate) closed: bool,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Status(u16),
    Tunnel(Event),
    Packet(Bytes),
    Finished,
}

impl Client {
    pub(crate) fn new(driver: Driver) -> Self {
        Self {
            driver,
            tunnels: BTreeMap::new(),
            log: Vec::new(),
            goaways: Vec::new(),
            closed: false,
        }
    }

    /// Drives the connection until `done`.
    pub(crate) async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let in_time: Result<(), Elapsed> = timeout(LIMIT, async {
            self.driver.flush().await;
            while !done(self) {
                let got = self.driver.next().await;
                self.on(got);
            }
        })
        .await;
        assert!(in_time.is_ok(), "{:?}", self.log);
    }

    fn on(&mut self, got: Got) {
        match got {
            Got::Event(HttpEvent::Response { stream, head }) => {
                self.log.push((stream, Seen::Status(head.status)));
                if check_response(&head) == Ok(Verdict::Open) {
                    self.driver.http.accept_datagrams(stream);
                }
            }
            Got::Event(HttpEvent::Data { stream, data }) => {
                let now_ms = self.driver.now_ms();
                let tunnel = self.tunnels.get_mut(&stream).unwrap();
                tunnel.handle_data(data, now_ms);
                while let Some(event) = tunnel.poll_event().unwrap() {
                    self.log.push((stream, Seen::Tunnel(event)));
                }
            }
            Got::Event(HttpEvent::Finished { stream }) => self.log.push((stream, Seen::Finished)),
            Got::Event(HttpEvent::GoAway { id }) => self.goaways.push(id),
            Got::Event(HttpEvent::Settings(_)) => {}
            Got::Event(other) => panic!("{other:?}"),
            Got::Datagram(stream, payload) => {
                let packet = self.tunnels[&stream].handle_datagram(payload).unwrap();
                self.log.push((stream, Seen::Packet(packet)));
            }
            Got::Closed { by_peer, .. } => {
                assert!(!by_peer);
                self.closed = true;
            }
        }
    }

    pub(crate) async fn open(&mut self, scope: &Scope) -> StreamId {
        let template = Template::well_known("gateway.example").unwrap();
        let head = connect_ip_request(&template.expand(scope), Vec::new());
        let stream = self.driver.request(&head).await.unwrap();
        self.tunnels.insert(stream, Session::new(Role::Client));
        stream
    }

    /// The status that the request on `stream` was answered with.
    pub(crate) async fn status(&mut self, stream: StreamId) -> u16 {
        let status = |client: &Self| {
            client.log.iter().find_map(|(on, seen)| match seen {
                Seen::Status(status) if *on == stream => Some(*status),
                _ => None,
            })
        };
        self.until(|client| status(client).is_some()).await;
        status(self).unwrap()
    }

    pub(crate) fn transmit(&mut self, stream: StreamId) {
        let tunnel = self.tunnels.get_mut(&stream).unwrap();
        while let Some(capsule) = tunnel.poll_transmit() {
            self.driver.http.send_data(stream, capsule, false).unwrap();
        }
    }

    pub(crate) fn ping(&self, stream: StreamId, sequence: u16, data_bytes: usize) -> bool {
        let packet = echo(stream, sequence, data_bytes);
        let payload = [&IP_PACKET_PREFIX[..], &packet].concat();
        self.driver.send_datagram(stream, &payload)
    }

    pub(crate) fn packets(&self, stream: StreamId) -> Vec<&Bytes> {
        let log = self.log.iter().filter(|(on, _)| *on == stream);
        log.filter_map(|(_, seen)| match seen {
            Seen::Packet(packet) => Some(packet),
            _ => None,
        })
        .collect()
    }

    pub(crate) fn saw(&self, stream: StreamId, what: &Seen) -> bool {
        self.log
            .iter()
            .any(|(on, seen)| *on == stream && seen == what)
    }
}

const WORKLOAD: &str = "10.0.1.10";

pub(crate) fn echo(stream: StreamId, sequence: u16, data_bytes: usize) -> Vec<u8> {
    let source: IpAddr = address(stream).addr();
    let destination = WORKLOAD.parse().unwrap();
    build_icmp_echo(
        source,
        destination,
        7,
        sequence,
        &vec![sequence as u8; data_bytes],
    )
}
