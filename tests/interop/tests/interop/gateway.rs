//! A server on our stack: CONNECT-IP at `/vpn`, an echo at `/echo`, nothing elsewhere.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::mpsc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use ipnet::IpNet;
use masque_packet::icmp::build_echo_reply;
use masque_protocol::{
    Event as TunnelEvent, PathTemplate, Role, Session,
    context::IP_PACKET_PREFIX,
    from_prefixes,
    request::{check_connect_ip, ok_response, refusal},
};
use masque_transport::{
    CloseReason, ConnId, Event, Machine, MachineConfig, ShardId,
    http3::{self, Field, RequestHead, ResponseHead, StreamId},
};

use crate::{
    certificates::TestTls,
    shard::{Got, Shard},
};

pub(crate) const ROUTED: [&str; 2] = ["10.0.0.0/16", "fd20:10::/48"];
pub(crate) const ASSIGNED: [&str; 2] = ["10.0.100.50/32", "fd20:10:0:100::50/128"];

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) requests: Vec<RequestHead>,
    pub(crate) resets: Vec<http3::Code>,
    pub(crate) tunnels_finished: usize,
    pub(crate) address_requests: usize,
    pub(crate) packets: usize,
    pub(crate) closed: Vec<CloseReason>,
}

enum Command {
    GoAway,
    Stop,
}

/// The server, on a thread of its own.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<Record>,
}

impl Gateway {
    pub(crate) fn start(tls: &TestTls) -> Self {
        let machine = Machine::server(
            MachineConfig::new([1; 32], [2; 32]),
            tls.our_server(),
            http3::Config::default(),
            ShardId::SINGLE,
            Instant::now(),
        );
        let shard = Shard::new(machine);
        let address = shard.address();
        let (commands, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || serve(shard, &receiver));
        Self {
            address,
            commands,
            thread,
        }
    }

    /// Says GOAWAY, twice, on every connection.
    pub(crate) fn go_away(&self) {
        self.commands.send(Command::GoAway).unwrap();
    }

    /// Stops once every connection is closed; what it saw.
    pub(crate) fn stop(self) -> Record {
        self.commands.send(Command::Stop).unwrap();
        self.thread.join().unwrap()
    }
}

fn serve(mut shard: Shard, commands: &mpsc::Receiver<Command>) -> Record {
    let mut server = Server::default();
    let mut stop_by = None;
    while stop_by.is_none_or(|by| Instant::now() < by && !server.connections.is_empty()) {
        let turn = Duration::from_millis(10);
        shard.turn(turn, |machine, got| server.on(machine, got));
        match commands.try_recv() {
            Ok(Command::GoAway) => {
                for conn in &server.connections {
                    let http = shard.machine.http(*conn).unwrap();
                    http.shutdown();
                    http.shutdown();
                }
            }
            Ok(Command::Stop) => stop_by = Some(Instant::now() + CLOSES_BY),
            // A test that failed takes its connections with it.
            Err(mpsc::TryRecvError::Disconnected) if stop_by.is_none() => break,
            Err(_) => {}
        }
    }
    server.record
}

/// A close that was sent arrives by then.
const CLOSES_BY: Duration = Duration::from_secs(5);

enum Serving {
    Echo(BytesMut),
    Tunnel(Box<Session>),
}

#[derive(Default)]
struct Server {
    record: Record,
    connections: Vec<ConnId>,
    requests: BTreeMap<(ConnId, StreamId), Serving>,
}

impl Server {
    fn on(&mut self, machine: &mut Machine, got: Got) {
        match got {
            Got::Event(Event::Connected { conn }) => self.connections.push(conn),
            Got::Event(Event::Closed { conn, reason }) => {
                self.connections.retain(|open| *open != conn);
                self.requests.retain(|(of, _), _| *of != conn);
                self.record.closed.push(reason);
            }
            Got::Event(Event::Http { conn, event }) => self.on_http(machine, conn, event),
            Got::Event(_) => {}
            Got::Datagram(conn, stream, payload) => {
                let Some(Serving::Tunnel(tunnel)) = self.requests.get(&(conn, stream)) else {
                    return;
                };
                let packet = tunnel.handle_datagram(payload).unwrap();
                self.echo(machine, conn, stream, &packet);
            }
        }
    }

    fn on_http(&mut self, machine: &mut Machine, conn: ConnId, event: http3::Event) {
        match event {
            http3::Event::Request { stream, head } => {
                self.request(machine, conn, stream, &head);
                self.record.requests.push(head);
            }
            http3::Event::Data { stream, data } => match self.requests.get_mut(&(conn, stream)) {
                Some(Serving::Echo(body)) => body.extend_from_slice(&data),
                Some(Serving::Tunnel(tunnel)) => {
                    tunnel.handle_data(data, 0);
                    self.tunnel(machine, conn, stream);
                }
                None => {}
            },
            http3::Event::Finished { stream } => match self.requests.get_mut(&(conn, stream)) {
                Some(Serving::Echo(body)) => {
                    let body = std::mem::take(body).freeze();
                    self.requests.remove(&(conn, stream));
                    let http = machine.http(conn).unwrap();
                    http.send_data(stream, body, true).unwrap();
                }
                Some(Serving::Tunnel(tunnel)) => {
                    tunnel.handle_finished();
                    self.tunnel(machine, conn, stream);
                }
                None => {}
            },
            http3::Event::Reset { stream, code } => {
                self.requests.remove(&(conn, stream));
                self.record.resets.push(code);
            }
            http3::Event::Settings(_) => {}
            other => panic!("{other:?}"),
        }
    }

    fn request(
        &mut self,
        machine: &mut Machine,
        conn: ConnId,
        stream: StreamId,
        head: &RequestHead,
    ) {
        let http = machine.http(conn).unwrap();
        if head.protocol.is_none() {
            // What was asked comes back, so that the client can compare.
            let mut fields: Vec<Field> = head.fields.clone();
            let asked = [&head.method, head.path.as_deref().unwrap_or_default()];
            fields.push(Field::new("x-asked", asked.join(" ")));
            fields.retain(|field| field.name.starts_with("x-"));
            let is_echo = head.path.as_deref() == Some("/echo");
            let status = if is_echo { 200 } else { 404 };
            let head = ResponseHead { status, fields };
            http.send_response(stream, &head, !is_echo).unwrap();
            if is_echo {
                let serving = Serving::Echo(BytesMut::new());
                self.requests.insert((conn, stream), serving);
            }
            return;
        }
        let template = PathTemplate::parse("/vpn").unwrap();
        let path = head.path.as_deref().unwrap_or_default();
        let refused = match (check_connect_ip(head), template.match_path(path)) {
            (Err(error), _) => error.status(),
            (Ok(()), Some(Ok(_))) => return self.open(machine, conn, stream),
            (Ok(()), _) => 404,
        };
        http.send_response(stream, &refusal(refused, None), true)
            .unwrap();
    }

    fn open(&mut self, machine: &mut Machine, conn: ConnId, stream: StreamId) {
        let http = machine.http(conn).unwrap();
        http.send_response(stream, &ok_response(), false).unwrap();
        http.accept_datagrams(stream);
        let mut tunnel = Session::new(Role::Proxy);
        tunnel.assign(&ASSIGNED.map(net)).unwrap();
        tunnel
            .advertise(from_prefixes(&ROUTED.map(net), None))
            .unwrap();
        let serving = Serving::Tunnel(Box::new(tunnel));
        self.requests.insert((conn, stream), serving);
        self.tunnel(machine, conn, stream);
    }

    /// Acts on what a tunnel says, and sends what it wants sent.
    fn tunnel(&mut self, machine: &mut Machine, conn: ConnId, stream: StreamId) {
        let Some(Serving::Tunnel(tunnel)) = self.requests.get_mut(&(conn, stream)) else {
            return;
        };
        let mut is_finished = false;
        while let Some(event) = tunnel.poll_event().unwrap() {
            match event {
                TunnelEvent::AddressRequested(list) => {
                    self.record.address_requests += list.len();
                    // Nothing besides what is assigned already.
                    let answers: Vec<_> = list
                        .iter()
                        .map(|request| (request.request_id, None))
                        .collect();
                    tunnel.answer_requests(&answers).unwrap();
                }
                TunnelEvent::Finished => is_finished = true,
                other => panic!("{other:?}"),
            }
        }
        let http = machine.http(conn).unwrap();
        while let Some(capsule) = tunnel.poll_transmit() {
            http.send_data(stream, capsule, false).unwrap();
        }
        if is_finished {
            self.requests.remove(&(conn, stream));
            self.record.tunnels_finished += 1;
            http.send_data(stream, Bytes::new(), true).unwrap();
        }
    }

    fn echo(&mut self, machine: &mut Machine, conn: ConnId, stream: StreamId, packet: &[u8]) {
        let header = masque_packet::ip::parse(packet).unwrap();
        assert!(
            ASSIGNED
                .map(net)
                .iter()
                .any(|own| own.contains(&header.source))
        );
        assert_eq!(
            header.hop_limit, 63,
            "RFC 9484 §7.2: the client is a router"
        );
        self.record.packets += 1;
        let mut reply = vec![0; packet.len()];
        let length = build_echo_reply(&mut reply, packet).unwrap();
        let payload = [&IP_PACKET_PREFIX[..], &reply[..length]].concat();
        machine
            .send_datagram(conn, stream, payload.len(), |out| {
                out.copy_from_slice(&payload)
            })
            .unwrap();
    }
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
