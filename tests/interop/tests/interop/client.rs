//! A client on our stack, for servers of others.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_transport::{
    ConnId, Event, Machine, MachineConfig,
    http3::{self, RequestHead, StreamId},
};

use crate::{
    certificates::{SERVER_NAME, TestTls},
    shard::{Got, Shard},
};

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    shard: Shard,
    pub(crate) conn: ConnId,
    pub(crate) events: Vec<http3::Event>,
    pub(crate) datagrams: Vec<(StreamId, Bytes)>,
    pub(crate) closed: Option<masque_transport::CloseReason>,
}

impl Client {
    /// Connected, with the server's SETTINGS.
    pub(crate) fn connect(tls: &TestTls, server: SocketAddr) -> Self {
        let now = Instant::now();
        let config = MachineConfig::new([7; 32], [8; 32]);
        let machine = Machine::client(config, http3::Config::default(), now);
        let mut shard = Shard::new(machine);
        let conn = shard
            .machine
            .connect(now, server, SERVER_NAME, tls.our_client())
            .unwrap();
        let mut client = Self {
            shard,
            conn,
            events: Vec::new(),
            datagrams: Vec::new(),
            closed: None,
        };
        client.until(|client| {
            client
                .events
                .iter()
                .any(|event| matches!(event, http3::Event::Settings(_)))
        });
        client
    }

    pub(crate) fn machine(&mut self) -> &mut Machine {
        &mut self.shard.machine
    }

    pub(crate) fn http(&mut self) -> &mut http3::Connection {
        self.shard.machine.http(self.conn).unwrap()
    }

    pub(crate) fn request(&mut self, head: &RequestHead, fin: bool) -> StreamId {
        self.shard.machine.request(self.conn, head, fin).unwrap()
    }

    /// Drives the connection until `done`.
    pub(crate) fn until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = Instant::now() + LIMIT;
        while !done(self) {
            assert!(Instant::now() < end, "{:?} {:?}", self.events, self.closed);
            let (events, datagrams) = (&mut self.events, &mut self.datagrams);
            let closed = &mut self.closed;
            self.shard
                .turn(Duration::from_millis(10), |_, got| match got {
                    Got::Event(Event::Http { event, .. }) => events.push(event),
                    Got::Event(Event::Closed { reason, .. }) => *closed = Some(reason),
                    Got::Event(_) => {}
                    Got::Datagram(_, stream, payload) => datagrams.push((stream, payload)),
                });
        }
    }

    /// The final answer on `stream`.
    pub(crate) fn response(&mut self, stream: StreamId) -> http3::ResponseHead {
        let find = |client: &Self| {
            client.events.iter().find_map(|event| match event {
                http3::Event::Response { stream: on, head } if *on == stream => Some(head.clone()),
                _ => None,
            })
        };
        self.until(|client| find(client).is_some());
        find(self).unwrap()
    }

    /// The body on `stream` so far.
    pub(crate) fn body(&self, stream: StreamId) -> Vec<u8> {
        let data = self.events.iter().filter_map(|event| match event {
            http3::Event::Data { stream: on, data } if *on == stream => Some(&data[..]),
            _ => None,
        });
        data.collect::<Vec<_>>().concat()
    }

    pub(crate) fn is_finished(&self, stream: StreamId) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, http3::Event::Finished { stream: on } if *on == stream))
    }

    /// Closes, and lets the close leave.
    pub(crate) fn end(mut self) {
        let conn = self.conn;
        self.machine().close(conn, http3::Code::H3_NO_ERROR, "done");
        self.until(|client| client.closed.is_some());
        self.shard.turn(Duration::ZERO, |_, _| ());
    }
}
