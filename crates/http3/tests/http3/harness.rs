//! A client and a server joined by a link in memory that cuts streams anywhere.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use masque_http3::{
    Code, Config, Connection, DatagramIn, Event, Output, RequestHead, Role, StreamId,
};

/// One end of the link.
pub(crate) struct End {
    pub(crate) http: Connection,
    /// What it did since the last look, DATA of one stream run together.
    pub(crate) events: Vec<Event>,
    pub(crate) closed: Option<Code>,
    /// Bytes in flight to the peer, by stream.
    in_flight: BTreeMap<u64, (BytesMut, bool)>,
    signals: VecDeque<Signal>,
    control: StreamId,
}

enum Signal {
    Reset(StreamId, Code),
    Stop(StreamId, Code),
}

/// Two ends.
pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
    /// How many bytes are delivered at a time, in turn; 0 delivers all.
    cuts: Vec<usize>,
    next_cut: usize,
    next_stream: u64,
}

impl Pair {
    pub(crate) fn new(client: Config, server: Config, cuts: Vec<usize>) -> Self {
        Self {
            client: End::new(Role::Client, client),
            server: End::new(Role::Server, server),
            cuts,
            next_cut: 0,
            next_stream: 0,
        }
    }

    /// Both ends have the other's settings.
    pub(crate) fn connected(cuts: Vec<usize>) -> Self {
        let mut pair = Self::new(Config::default(), Config::default(), cuts);
        pair.run();
        pair.client.events.clear();
        pair.server.events.clear();
        pair
    }

    /// Opens a stream and sends a request on it.
    pub(crate) fn request(&mut self, head: &RequestHead, fin: bool) -> StreamId {
        let stream = StreamId(self.next_stream);
        self.next_stream += 4;
        self.client.http.send_request(stream, head, fin).unwrap();
        stream
    }

    /// Delivers until nothing is in flight.
    pub(crate) fn run(&mut self) {
        loop {
            let moved = Self::deliver(
                &mut self.client,
                &mut self.server,
                &self.cuts,
                &mut self.next_cut,
            ) | Self::deliver(
                &mut self.server,
                &mut self.client,
                &self.cuts,
                &mut self.next_cut,
            );
            if !moved {
                return;
            }
        }
    }

    fn deliver(from: &mut End, to: &mut End, cuts: &[usize], next_cut: &mut usize) -> bool {
        from.drain();
        let mut moved = false;
        let streams: Vec<u64> = from.in_flight.keys().copied().collect();
        for stream in streams {
            let Some((bytes, fin)) = from.in_flight.get_mut(&stream) else {
                continue;
            };
            let cut = cuts
                .get(*next_cut % cuts.len().max(1))
                .copied()
                .unwrap_or(0);
            *next_cut += 1;
            let length = if cut == 0 {
                bytes.len()
            } else {
                cut.min(bytes.len())
            };
            let data = bytes.split_to(length).freeze();
            let fin = *fin && bytes.is_empty();
            if bytes.is_empty() {
                from.in_flight.remove(&stream);
            }
            to.http.handle_stream(StreamId(stream), data, fin);
            to.drain();
            moved = true;
        }
        while let Some(signal) = from.signals.pop_front() {
            match signal {
                Signal::Reset(stream, code) => to.http.handle_reset(stream, code),
                Signal::Stop(stream, code) => to.http.handle_stop_sending(stream, code),
            }
            to.drain();
            moved = true;
        }
        moved
    }

    /// A datagram from the client to the server.
    pub(crate) fn datagram(&mut self, stream: StreamId, payload: &[u8]) -> DatagramIn {
        assert!(self.client.http.may_send_datagram(stream));
        self.server
            .http
            .handle_datagram(datagram(stream, payload), 0)
    }
}

/// An HTTP Datagram as QUIC carries it.
pub(crate) fn datagram(stream: StreamId, payload: &[u8]) -> Bytes {
    let (prefix, length) = masque_http3::datagram_prefix(stream);
    [&prefix[..length], payload].concat().into()
}

impl End {
    fn new(role: Role, config: Config) -> Self {
        Self {
            http: Connection::new(role, config),
            events: Vec::new(),
            closed: None,
            in_flight: BTreeMap::new(),
            signals: VecDeque::new(),
            control: StreamId(if role == Role::Client { 2 } else { 3 }),
        }
    }

    /// Takes events and outputs out.
    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.http.poll_event() {
            push_event(&mut self.events, event);
        }
        while let Some(output) = self.http.poll_output() {
            assert_eq!(self.closed, None, "{output:?} after Close");
            match output {
                Output::Control(data) => self.queue(self.control, &data, false),
                Output::Stream { stream, data, fin } => self.queue(stream, &data, fin),
                Output::Reset { stream, code } => {
                    self.in_flight.remove(&stream.0);
                    self.signals.push_back(Signal::Reset(stream, code));
                }
                Output::StopSending { stream, code } => {
                    self.signals.push_back(Signal::Stop(stream, code));
                }
                Output::Close { code, .. } => self.closed = Some(code),
            }
        }
    }

    fn queue(&mut self, stream: StreamId, data: &[u8], fin: bool) {
        let (bytes, finished) = self.in_flight.entry(stream.0).or_default();
        assert!(!*finished, "{stream:?} was finished before");
        bytes.extend_from_slice(data);
        *finished |= fin;
    }
}

/// Appends an event; bytes of one stream run together, so that cuts do not show.
pub(crate) fn push_event(events: &mut Vec<Event>, event: Event) {
    if let Event::Data { stream, data } = &event
        && let Some(Event::Data {
            stream: last,
            data: bytes,
        }) = events.last_mut()
        && last == stream
    {
        *bytes = [&bytes[..], &data[..]].concat().into();
        return;
    }
    events.push(event);
}
