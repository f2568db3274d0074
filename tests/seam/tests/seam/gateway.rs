//! A small gateway: answers CONNECT-IP, assigns, advertises, echoes.

use std::{collections::BTreeMap, net::IpAddr};

use bytes::Bytes;
use ipnet::IpNet;
use masque_http3::{Code, Event as HttpEvent, ResponseHead, Role as HttpRole, StreamId};
use masque_packet::icmp::build_echo_reply;
use masque_protocol::{
    Event, PathTemplate, Role, Session, WELL_KNOWN_PATH,
    context::IP_PACKET_PREFIX,
    request::{check_connect_ip, ok_response, refusal},
};
use tokio::sync::oneshot;

use crate::driver::{Driver, Got};

/// What the gateway routes.
pub(crate) const ROUTED: [&str; 2] = ["10.0.0.0/16", "fd20:10::/48"];

/// What it saw, for the test to look at.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: Vec<String>,
    pub(crate) unknown_capsules: usize,
    pub(crate) address_requests: usize,
    pub(crate) packets: BTreeMap<StreamId, usize>,
    pub(crate) finished: Vec<StreamId>,
    pub(crate) resets: Vec<(StreamId, Code)>,
    pub(crate) closed_with: Option<Code>,
}

pub(crate) struct Gateway {
    driver: Driver,
    template: PathTemplate,
    tunnels: BTreeMap<StreamId, Session>,
    record: Record,
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// The address of the tunnel on `stream`.
pub(crate) fn address(stream: StreamId) -> IpNet {
    net(&format!("10.0.100.{}/32", 50 + stream.quarter()))
}

impl Gateway {
    pub(crate) fn new(quic: iroh::endpoint::Connection) -> Self {
        Self {
            driver: Driver::new(quic, HttpRole::Server),
            template: PathTemplate::parse(WELL_KNOWN_PATH).unwrap(),
            tunnels: BTreeMap::new(),
            record: Record::default(),
        }
    }

    /// Serves until the peer closes the connection; says GOAWAY at `drain`.
    pub(crate) async fn run(mut self, mut drain: oneshot::Receiver<()>) -> Record {
        let mut is_draining = false;
        loop {
            let got = tokio::select! {
                got = self.driver.next() => got,
                _ = &mut drain, if !is_draining => {
                    is_draining = true;
                    self.driver.http.shutdown();
                    self.driver.http.shutdown();
                    continue;
                }
            };
            match got {
                Got::Event(event) => self.on_event(event),
                Got::Datagram(stream, payload) => self.on_datagram(stream, payload),
                Got::Closed { by_peer, code } => {
                    assert!(by_peer);
                    self.record.closed_with = Some(code);
                    return self.record;
                }
            }
        }
    }

    fn on_event(&mut self, event: HttpEvent) {
        match event {
            HttpEvent::Request { stream, head } => {
                self.record
                    .requests
                    .push(head.path.clone().unwrap_or_default());
                let path = head.path.as_deref().unwrap_or_default();
                let status = match (check_connect_ip(&head), self.template.match_path(path)) {
                    (Err(error), _) => error.status(),
                    (Ok(()), Some(Ok(scope))) => return self.open(stream, &scope),
                    (Ok(()), Some(Err(error))) => error.status(),
                    (Ok(()), None) => 404,
                };
                self.respond(stream, &refusal(status, None), true);
            }
            HttpEvent::Data { stream, data } => {
                let now_ms = self.driver.now_ms();
                if let Some(tunnel) = self.tunnels.get_mut(&stream) {
                    tunnel.handle_data(data, now_ms);
                }
                self.serve(stream);
            }
            HttpEvent::Finished { stream } => {
                if let Some(tunnel) = self.tunnels.get_mut(&stream) {
                    tunnel.handle_finished();
                }
                self.serve(stream);
            }
            HttpEvent::Reset { stream, code } => {
                self.tunnels.remove(&stream);
                self.record.resets.push((stream, code));
            }
            HttpEvent::Settings(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn respond(&mut self, stream: StreamId, head: &ResponseHead, fin: bool) {
        self.driver.http.send_response(stream, head, fin).unwrap();
    }

    fn open(&mut self, stream: StreamId, scope: &masque_protocol::Scope) {
        self.respond(stream, &ok_response(), false);
        self.driver.http.accept_datagrams(stream);
        let mut tunnel = Session::new(Role::Proxy);
        tunnel.assign(&[address(stream)]).unwrap();
        tunnel
            .advertise(scope.narrow(&ROUTED.map(net), &[]))
            .unwrap();
        self.tunnels.insert(stream, tunnel);
        self.serve(stream);
    }

    /// Acts on what a tunnel says, and sends what it wants sent.
    fn serve(&mut self, stream: StreamId) {
        let Some(tunnel) = self.tunnels.get_mut(&stream) else {
            return;
        };
        let (mut packets, mut is_finished) = (Vec::new(), false);
        while let Some(event) = tunnel.poll_event().unwrap() {
            match event {
                Event::AddressRequested(list) => {
                    self.record.address_requests += 1;
                    let v6 = net("fd20:10:0:100::50/128");
                    let answers: Vec<_> = list
                        .iter()
                        .map(|request| {
                            let is_v6 = request.prefix.addr().is_ipv6();
                            (request.request_id, is_v6.then_some(v6))
                        })
                        .collect();
                    tunnel.answer_requests(&answers).unwrap();
                }
                Event::UnknownCapsule { .. } => self.record.unknown_capsules += 1,
                Event::DatagramCapsule(packet) => packets.push(packet),
                Event::Finished => is_finished = true,
                other => panic!("{other:?}"),
            }
        }
        while let Some(capsule) = tunnel.poll_transmit() {
            self.driver.http.send_data(stream, capsule, false).unwrap();
        }
        for packet in packets {
            self.echo(stream, &packet);
        }
        if is_finished {
            self.tunnels.remove(&stream);
            self.record.finished.push(stream);
            self.driver
                .http
                .send_data(stream, Bytes::new(), true)
                .unwrap();
        }
    }

    fn on_datagram(&mut self, stream: StreamId, payload: Bytes) {
        let tunnel = self.tunnels.get(&stream).expect("only of open tunnels");
        let packet = tunnel.handle_datagram(payload).unwrap();
        self.echo(stream, &packet);
    }

    fn echo(&mut self, stream: StreamId, packet: &[u8]) {
        *self.record.packets.entry(stream).or_default() += 1;
        let header = masque_packet::ip::parse(packet).unwrap();
        let IpNet::V4(own) = address(stream) else {
            unreachable!()
        };
        assert_eq!(header.source, IpAddr::V4(own.addr()), "of this tunnel only");
        let mut payload = IP_PACKET_PREFIX.to_vec();
        let mut reply = vec![0; packet.len()];
        let length = build_echo_reply(&mut reply, packet).unwrap();
        payload.extend_from_slice(&reply[..length]);
        assert!(self.driver.send_datagram(stream, &payload));
    }
}
