//! Field sections: whatever is let through is a message that may be sent on.

use bytes::Bytes;
use masque_http3::{
    Config, Connection, Event, Field, Output, RequestHead, ResponseHead, Role, StreamId, varint,
};
use masque_protocol::request;

use crate::input::Input;

/// The type of a HEADERS frame (RFC 9114 §7.2.2).
const HEADERS: u64 = 0x01;

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.u8();
    let section = if flags & 1 == 0 {
        encode(&mut input)
    } else {
        input.rest().to_vec()
    };
    let got_request = requested(&section);
    let got_response = responded(&section);
    got_request || got_response
}

/// Field lines, whatever the rules say of them.
fn encode(input: &mut Input<'_>) -> Vec<u8> {
    const NAMES: [&[u8]; 16] = [
        b":method",
        b":scheme",
        b":authority",
        b":path",
        b":protocol",
        b":status",
        b"capsule-protocol",
        b"proxy-status",
        b"authorization",
        b"host",
        b"cookie",
        b"content-length",
        b"te",
        b"connection",
        b"x",
        b"",
    ];
    let mut lines = Vec::new();
    while !input.is_empty() {
        let choice = input.u8();
        let name = match NAMES[usize::from(choice & 15)] {
            b"" => input.chunk(),
            name => name,
        };
        let value: &[u8] = match choice >> 4 {
            1 => b"CONNECT",
            2 => b"connect-ip",
            3 => b"https",
            4 => b"gateway.example:443",
            5 => b"/.well-known/masque/ip/*/*/",
            6 => b"GET",
            7 => b"200",
            8 => b"?1",
            9 => b"trailers",
            10 => b"0",
            _ => input.chunk(),
        };
        lines.push(qpack::HeaderField::new(name, value));
    }
    let mut section = Vec::new();
    qpack::encode_stateless(&mut section, lines).expect("there is no limit");
    section
}

fn requested(section: &[u8]) -> bool {
    let Some(head) = request_in(&mut server(), &frame(section)) else {
        return false;
    };
    sane(&head.fields);
    assert_eq!(head.protocol.is_some(), {
        head.method == "CONNECT" && head.scheme.is_some()
    });
    if request::check_connect_ip(&head).is_ok() {
        assert_eq!(head.protocol.as_deref(), Some("connect-ip"));
    }
    let _ = request::capsule_protocol(head.values("capsule-protocol"));
    let mut client = client();
    client
        .send_request(StreamId(0), &head, false)
        .expect("a valid request may be sent");
    let again = request_in(&mut server(), &sent(&mut client)).expect("and is valid again");
    assert_eq!(again, head);
    true
}

fn responded(section: &[u8]) -> bool {
    let mut client = client();
    let get = RequestHead {
        method: "GET".into(),
        scheme: Some("https".into()),
        authority: Some("a.example".into()),
        path: Some("/".into()),
        ..RequestHead::default()
    };
    client
        .send_request(StreamId(0), &get, false)
        .expect("a valid request");
    let request = sent(&mut client);
    client.handle_stream(StreamId(0), frame(section), false);
    let Some(head) = response(&mut client) else {
        return false;
    };
    assert!((100..=599).contains(&head.status));
    sane(&head.fields);
    let _ = request::check_response(&head);
    let mut server = server();
    request_in(&mut server, &request).expect("a valid request");
    server
        .send_response(StreamId(0), &head, false)
        .expect("a valid response may be sent");
    client.handle_stream(StreamId(0), sent(&mut server), false);
    if head.status < 200 {
        assert_eq!(response(&mut client), Some(head));
    }
    true
}

/// RFC 9110 §5.5, RFC 9114 §4.2: nothing that ends a field elsewhere.
fn sane(fields: &[Field]) {
    for Field { name, value } in fields {
        assert!(!name.is_empty() && !name.starts_with(':'));
        assert!(
            name.bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
        );
        assert!(!value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
    }
}

fn frame(section: &[u8]) -> Bytes {
    let mut out = Vec::new();
    varint::put(&mut out, HEADERS);
    varint::put(&mut out, section.len() as u64);
    out.extend_from_slice(section);
    out.into()
}

fn server() -> Connection {
    ready(Role::Server, StreamId(2))
}

fn client() -> Connection {
    ready(Role::Client, StreamId(3))
}

/// A connection whose peer sent its SETTINGS.
fn ready(role: Role, control: StreamId) -> Connection {
    let mut http = Connection::new(role, Config::default());
    let settings = [0x00, 0x04, 0x04, 0x08, 0x01, 0x33, 0x01];
    http.handle_stream(control, Bytes::copy_from_slice(&settings), false);
    assert!(matches!(http.poll_event(), Some(Event::Settings(_))));
    while http.poll_output().is_some() {}
    http
}

fn request_in(server: &mut Connection, bytes: &Bytes) -> Option<RequestHead> {
    server.handle_stream(StreamId(0), bytes.clone(), false);
    match server.poll_event()? {
        Event::Request { head, .. } => Some(head),
        other => panic!("{other:?}"),
    }
}

fn response(client: &mut Connection) -> Option<ResponseHead> {
    match client.poll_event()? {
        Event::Response { head, .. } => Some(head),
        Event::Reset { .. } => None,
        other => panic!("{other:?}"),
    }
}

/// What goes out on stream 0.
fn sent(http: &mut Connection) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(output) = http.poll_output() {
        if let Output::Stream { data, .. } = output {
            bytes.extend_from_slice(&data);
        }
    }
    bytes.into()
}
