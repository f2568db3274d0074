//! An HTTP/3 connection with a peer that sends anything, in both roles.

use bytes::Bytes;
use masque_http3::{
    Code, Config, Connection, Event, Field, Output, RequestHead, ResponseHead, Role, StreamId,
};

use crate::input::Input;

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.u8();
    let role = if flags & 1 == 0 {
        Role::Server
    } else {
        Role::Client
    };
    if flags & 2 == 0 {
        any_steps(role, input)
    } else {
        any_cuts(role, input)
    }
}

fn config() -> Config {
    Config {
        max_field_section_bytes: 512,
        max_requests: 4,
        early_datagram_bytes: 2048,
        max_useless_frames: 1000,
        ..Config::default()
    }
}

/// A field section per request, twice for a buffer that doubles; early datagrams; tables.
fn bound_bytes(config: &Config) -> usize {
    let section = 2 * config.max_field_section_bytes as usize + 1024;
    config.max_requests * section + config.early_datagram_bytes + 64 * 1024
}

/// A connection and what came out of it.
struct Watched {
    http: Connection,
    events: Vec<Event>,
    outputs: Vec<Output>,
}

impl Watched {
    fn new(role: Role) -> Self {
        Self {
            http: Connection::new(role, config()),
            events: Vec::new(),
            outputs: Vec::new(),
        }
    }

    fn drain(&mut self) {
        while let Some(event) = self.http.poll_event() {
            match (self.events.last_mut(), event) {
                // Where DATA is cut has no meaning.
                (
                    Some(Event::Data {
                        stream: last,
                        data: joined,
                    }),
                    Event::Data { stream, data },
                ) if *last == stream => *joined = [&joined[..], &data].concat().into(),
                (_, event) => self.events.push(event),
            }
        }
        self.outputs
            .extend(std::iter::from_fn(|| self.http.poll_output()));
    }
}

fn any_steps(role: Role, mut input: Input<'_>) -> bool {
    let mut watched = Watched::new(role);
    let bound = bound_bytes(&config());
    let mut now_ms = 0;
    while !input.is_empty() {
        step(&mut watched.http, &mut input, &mut now_ms);
        watched.drain();
        assert!(watched.http.retained_bytes() <= bound);
        assert!(role == Role::Client || watched.http.open_requests() <= config().max_requests);
        while let Some((stream, _)) = watched.http.poll_early_datagram() {
            assert!(stream.is_request());
        }
    }
    let is_close = |output: &Output| matches!(output, Output::Close { .. });
    let close = watched.outputs.iter().position(is_close);
    assert_eq!(close.is_some(), watched.http.is_closed());
    assert!(close.is_none_or(|index| index == watched.outputs.len() - 1));
    assert_ends(&watched);
    !watched.events.is_empty()
}

/// Each direction of a stream ends once, and nothing follows.
fn assert_ends(watched: &Watched) {
    let mut reset = Vec::new();
    for event in &watched.events {
        let stream = match event {
            Event::Reset { stream, .. } => {
                assert!(!reset.contains(stream), "reset twice");
                reset.push(*stream);
                continue;
            }
            Event::Request { stream, .. }
            | Event::Response { stream, .. }
            | Event::Data { stream, .. }
            | Event::Finished { stream } => stream,
            Event::Settings(_) | Event::GoAway { .. } => continue,
        };
        assert!(!reset.contains(stream), "something came after the reset");
    }
    let mut ended = Vec::new();
    for output in &watched.outputs {
        match output {
            Output::Stream { stream, fin, .. } => {
                assert!(!ended.contains(stream), "written after its end");
                if *fin {
                    ended.push(*stream);
                }
            }
            Output::Reset { stream, .. } => {
                assert!(!ended.contains(stream), "reset after its end");
                ended.push(*stream);
            }
            Output::Control(_) | Output::StopSending { .. } | Output::Close { .. } => {}
        }
    }
}

fn step(http: &mut Connection, input: &mut Input<'_>, now_ms: &mut u64) {
    let op = input.u8();
    let stream = StreamId(u64::from(op >> 4) + if op & 8 == 0 { 0 } else { 16 });
    match op & 7 {
        0..=2 => {
            let fin = input.u8();
            let data = Bytes::copy_from_slice(input.chunk());
            http.handle_stream(stream, data, fin == 0xff);
        }
        3 => drop(http.handle_datagram(Bytes::copy_from_slice(input.chunk()), *now_ms)),
        4 => {
            let head = ResponseHead {
                status: 90 + u16::from(input.u8()),
                fields: vec![Field::new("x", input.chunk())],
            };
            let _ = http.send_response(stream, &head, input.bool());
        }
        5 => {
            let length = usize::from(input.u16() & 0x7ff);
            let _ = http.send_data(stream, vec![0; length].into(), input.bool());
        }
        6 => {
            let _ = http.send_request(stream, &request(input.u8()), input.bool());
        }
        _ => match input.u8() & 7 {
            0 => http.handle_reset(stream, Code(7)),
            1 => http.handle_stop_sending(stream, Code(7)),
            2 => http.accept_datagrams(stream),
            3 => http.refuse_datagrams(stream),
            4 => http.abort(stream, Code(7)),
            5 => http.shutdown(),
            6 => http.limit_request_streams(input.u8().into()),
            _ => {
                *now_ms += u64::from(input.u16());
                http.handle_timeout(*now_ms);
            }
        },
    }
}

/// Bytes on a control stream and on a request stream give the same however they are cut.
fn any_cuts(role: Role, mut input: Input<'_>) -> bool {
    let cuts = [input.u8(), input.u8(), input.u8()];
    let flags = input.u8();
    let length = usize::from(input.u8());
    let control = input.bytes(length);
    let bytes = input.rest();
    let run = |cuts: &[u8]| {
        let mut watched = Watched::new(role);
        if role == Role::Client && flags & 1 == 0 {
            let _ = watched.http.send_request(StreamId(0), &request(1), false);
        }
        if flags & 2 == 0 {
            watched.http.shutdown();
        }
        let peer_control = StreamId(if role == Role::Client { 3 } else { 2 });
        let mut lengths = cuts.iter().cycle();
        for (stream, mut rest) in [(peer_control, control), (StreamId(0), bytes)] {
            while !rest.is_empty() {
                let length = lengths.next().map_or(rest.len(), |length| (*length).into());
                let (now, later) = rest.split_at(length.clamp(1, rest.len()));
                let data = Bytes::copy_from_slice(now);
                watched.http.handle_stream(stream, data, false);
                watched.drain();
                rest = later;
            }
            if flags & 4 == 0 && stream == StreamId(0) {
                watched.http.handle_stream(stream, Bytes::new(), true);
                watched.drain();
            }
        }
        let events = format!("{:?}", watched.events);
        let is_empty = watched.events.is_empty();
        let outputs = watched.outputs;
        ((events, outputs, watched.http.open_requests()), is_empty)
    };
    let (whole, is_empty) = run(&[]);
    assert_eq!(run(&cuts).0, whole);
    !is_empty
}

fn request(kind: u8) -> RequestHead {
    let text = |text: &str| Some(text.to_owned());
    let plain = RequestHead {
        method: "GET".into(),
        protocol: None,
        scheme: text("https"),
        authority: text("a.example"),
        path: text("/"),
        fields: Vec::new(),
    };
    match kind & 3 {
        0 => RequestHead {
            method: "CONNECT".into(),
            protocol: text("connect-ip"),
            ..plain
        },
        1 => RequestHead {
            method: "CONNECT".into(),
            authority: text("a.example:443"),
            scheme: None,
            path: None,
            ..plain
        },
        2 => RequestHead {
            method: "HEAD".into(),
            ..plain
        },
        _ => plain,
    }
}
