//! Our client against the server of the h3 crate.

use std::{net::SocketAddr, thread::JoinHandle};

use bytes::{Buf, Bytes};
use h3::{ext::Protocol, server::RequestResolver};
use http::{Request, Response};
use masque_transport::http3::{
    self, Code, Field, RequestHead, SendError, StreamId, datagram_prefix, settings, varint,
};
use tokio::sync::oneshot;

use crate::{
    certificates::{SERVER_NAME, TestTls},
    client::Client,
};

type Resolver = RequestResolver<h3_quinn::Connection, Bytes>;

/// A server for one connection: echoes bodies, takes connect-udp and echoes its datagrams.
struct Server {
    address: SocketAddr,
    drain: oneshot::Sender<()>,
    thread: JoinHandle<usize>,
}

impl Server {
    fn start(tls: &TestTls) -> Self {
        let config = tls.quinn_server();
        let (tell, told) = std::sync::mpsc::channel();
        let (drain, drained) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(async move {
                let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
                let endpoint = quinn::Endpoint::server(config, loopback).unwrap();
                tell.send(endpoint.local_addr().unwrap()).unwrap();
                let quic = endpoint.accept().await.unwrap().await.unwrap();
                let requests = serve(quic, drained).await;
                endpoint.wait_idle().await;
                requests
            })
        });
        Self {
            address: told.recv().unwrap(),
            drain,
            thread,
        }
    }
}

/// Serves one connection; how many requests it had.
async fn serve(quic: quinn::Connection, mut drained: oneshot::Receiver<()>) -> usize {
    let mut connection = h3::server::builder()
        .enable_extended_connect(true)
        .enable_datagram(true)
        .send_grease(true)
        .build(h3_quinn::Connection::new(quic.clone()))
        .await
        .unwrap();
    let (mut requests, mut is_draining) = (0, false);
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            _ = &mut drained, if !is_draining => {
                is_draining = true;
                // h3 counts from the last request it accepted, and with 0 disowns that one too.
                connection.shutdown(1).await.unwrap();
                continue;
            }
        };
        match accepted {
            Ok(Some(resolver)) => {
                requests += 1;
                tokio::spawn(answer(resolver, quic.clone()));
            }
            Ok(None) | Err(_) => return requests,
        }
    }
}

async fn answer(resolver: Resolver, quic: quinn::Connection) {
    let Ok((request, mut stream)) = resolver.resolve_request().await else {
        return;
    };
    let mut head = Response::builder().status(200);
    for (name, value) in request.headers() {
        head = head.header(name, value);
    }
    if is_connect_udp(&request) {
        let head = head.header("capsule-protocol", "?1").body(()).unwrap();
        stream.send_response(head).await.unwrap();
        tokio::spawn(echo_datagrams(quic, stream.id().into_inner()));
        while let Some(mut data) = stream.recv_data().await.unwrap() {
            let data = data.copy_to_bytes(data.remaining());
            stream.send_data(data).await.unwrap();
        }
        return stream.finish().await.unwrap();
    }
    let head = head
        .header("x-path", request.uri().path())
        .body(())
        .unwrap();
    stream.send_response(head).await.unwrap();
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        let data = data.copy_to_bytes(data.remaining());
        stream.send_data(data).await.unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-end", "yes".parse().unwrap());
    stream.send_trailers(trailers).await.unwrap();
    stream.finish().await.unwrap();
}

fn is_connect_udp(request: &Request<()>) -> bool {
    request.extensions().get::<Protocol>() == Some(&Protocol::CONNECT_UDP)
}

/// h3-datagram sends quarter stream id 0 whatever the stream, so quinn's datagrams do.
async fn echo_datagrams(quic: quinn::Connection, stream: u64) {
    while let Ok(datagram) = quic.read_datagram().await {
        let (quarter, _) = varint::decode(&datagram).unwrap();
        assert_eq!(quarter, stream / 4);
        quic.send_datagram(datagram).unwrap();
    }
}

fn get(path: &str, fields: Vec<Field>) -> RequestHead {
    RequestHead {
        method: "GET".into(),
        scheme: Some("https".into()),
        authority: Some(SERVER_NAME.into()),
        path: Some(path.into()),
        protocol: None,
        fields,
    }
}

fn connect(protocol: &str) -> RequestHead {
    RequestHead {
        method: "CONNECT".into(),
        protocol: Some(protocol.into()),
        ..get(
            "/.well-known/masque/udp/192.0.2.6/443/",
            vec![Field::new("capsule-protocol", "?1")],
        )
    }
}

#[test]
fn many_requests_with_bodies() {
    let tls = TestTls::new();
    let server = Server::start(&tls);
    let mut client = Client::connect(&tls, server.address);
    let value = |number: usize| -> Vec<u8> {
        (0..number * 5 % 400)
            .map(|at| 0x21 + ((at * 7 + number) % 94) as u8)
            .collect()
    };
    let body = |number: usize| vec![number as u8; number * 331 % 9000];
    let streams: Vec<StreamId> = (0..80)
        .map(|number| {
            let mut head = get(
                &format!("/{number}"),
                vec![Field::new("x-value", value(number))],
            );
            head.method = "POST".into();
            let stream = client.request(&head, false);
            client
                .http()
                .send_data(stream, body(number).into(), true)
                .unwrap();
            stream
        })
        .collect();
    for (number, stream) in streams.into_iter().enumerate() {
        let head = client.response(stream);
        assert_eq!(head.status, 200);
        assert_eq!(
            head.values("x-value").collect::<Vec<_>>(),
            [&value(number)[..]]
        );
        assert_eq!(
            head.values("x-path").collect::<Vec<_>>(),
            [format!("/{number}").as_bytes()]
        );
        client.until(|client| client.is_finished(stream));
        assert!(client.body(stream) == body(number), "{number}");
    }
    client.end();
    assert_eq!(server.thread.join().unwrap(), 80);
}

#[test]
fn connect_udp_with_datagrams_and_capsules() {
    let tls = TestTls::new();
    let server = Server::start(&tls);
    let mut client = Client::connect(&tls, server.address);
    for id in [settings::ENABLE_CONNECT_PROTOCOL, settings::H3_DATAGRAM] {
        assert_eq!(client.http().peer_setting(id), Some(1));
    }
    // Not on stream 0, so that the quarter stream id says something.
    let first = client.request(&get("/", Vec::new()), true);
    assert_eq!(client.response(first).status, 200);
    let stream = client.request(&connect("connect-udp"), false);
    assert_eq!(datagram_prefix(stream).0[0], 1);
    assert_eq!(client.response(stream).status, 200);
    client.http().accept_datagrams(stream);
    for round in 0..20_u8 {
        let conn = client.conn;
        let length = 1 + usize::from(round) * 50;
        client
            .machine()
            .send_datagram(conn, stream, length, |out| out.fill(round))
            .unwrap();
        client.until(|client| client.datagrams.len() > round.into());
        let payload = vec![round; length];
        assert_eq!(client.datagrams.last(), Some(&(stream, payload.into())));
    }
    client
        .http()
        .send_data(stream, Bytes::from_static(b"a capsule"), false)
        .unwrap();
    client.until(|client| client.body(stream) == b"a capsule");
    client.http().send_data(stream, Bytes::new(), true).unwrap();
    client.until(|client| client.is_finished(stream));
    client.end();
    assert_eq!(server.thread.join().unwrap(), 2);
}

#[test]
fn a_server_that_knows_no_connect_ip_resets_the_stream_alone() {
    let tls = TestTls::new();
    let server = Server::start(&tls);
    let mut client = Client::connect(&tls, server.address);
    let stream = client.request(&connect("connect-ip"), false);
    let is_reset = |client: &Client| {
        client.events.iter().any(|event| {
            matches!(event, http3::Event::Reset { stream: on, code }
                if *on == stream && *code == Code::H3_MESSAGE_ERROR)
        })
    };
    client.until(is_reset);
    let other = client.request(&get("/", Vec::new()), true);
    assert_eq!(client.response(other).status, 200);
    client.end();
    server.thread.join().unwrap();
}

#[test]
fn goaway_of_the_server_is_obeyed() {
    let tls = TestTls::new();
    let server = Server::start(&tls);
    let mut client = Client::connect(&tls, server.address);
    let mut head = get("/", Vec::new());
    head.method = "POST".into();
    let stream = client.request(&head, false);
    assert_eq!(client.response(stream).status, 200);
    server.drain.send(()).unwrap();
    let goaway = |client: &Client| {
        client
            .events
            .iter()
            .any(|event| matches!(event, http3::Event::GoAway { id: 4 }))
    };
    client.until(goaway);
    let late = client
        .http()
        .send_request(StreamId(4), &get("/", Vec::new()), true);
    assert_eq!(late, Err(SendError::GoingAway));
    client
        .http()
        .send_data(stream, Bytes::from_static(b"still here"), true)
        .unwrap();
    client.until(|client| client.is_finished(stream));
    assert_eq!(client.body(stream), b"still here");
    client.end();
    assert_eq!(server.thread.join().unwrap(), 1);
}
