//! The client of the h3 crate against our server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use h3::{client::SendRequest, ext::Protocol};
use h3_quinn::OpenStreams;
use http::{HeaderValue, Request, Response, StatusCode};
use masque_transport::{CloseReason, http3::Code};
use tokio::time::timeout;

use crate::{
    certificates::{SERVER_NAME, TestTls},
    gateway::{Gateway, Record},
};

const LIMIT: Duration = Duration::from_secs(20);

type Sender = SendRequest<OpenStreams, Bytes>;

/// A client connected to our server.
struct Lab {
    gateway: Gateway,
    quic: quinn::Connection,
    endpoint: quinn::Endpoint,
    sender: Sender,
    /// How the connection ended, as h3 sees it.
    driver: tokio::task::JoinHandle<h3::error::ConnectionError>,
}

impl Lab {
    async fn new() -> Self {
        let tls = TestTls::new();
        let gateway = Gateway::start(&tls);
        let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        endpoint.set_default_client_config(tls.quinn_client());
        let connecting = endpoint.connect(gateway.address, SERVER_NAME).unwrap();
        let quic = connecting.await.unwrap();
        let (mut driver, sender) = h3::client::builder()
            .enable_extended_connect(true)
            .enable_datagram(true)
            .send_grease(true)
            .build::<_, _, Bytes>(h3_quinn::Connection::new(quic.clone()))
            .await
            .unwrap();
        let driver = tokio::spawn(async move {
            std::future::poll_fn(|context| driver.poll_close(context)).await
        });
        Self {
            gateway,
            quic,
            endpoint,
            sender,
            driver,
        }
    }

    async fn end(self) -> Record {
        drop(self.sender);
        let closed = timeout(LIMIT, self.driver).await.unwrap().unwrap();
        assert!(closed.is_h3_no_error(), "{closed}");
        self.quic.close(0x100u32.into(), b"");
        self.endpoint.wait_idle().await;
        self.gateway.stop()
    }
}

async fn get(sender: &mut Sender, request: Request<()>) -> Response<Bytes> {
    send(sender, request, None).await
}

/// Sends a request with its body and trailers, and reads the whole answer.
async fn send(
    sender: &mut Sender,
    request: Request<()>,
    body: Option<Vec<Bytes>>,
) -> Response<Bytes> {
    let mut stream = sender.send_request(request).await.unwrap();
    if let Some(body) = body {
        for part in body {
            stream.send_data(part).await.unwrap();
        }
        let mut trailers = http::HeaderMap::new();
        trailers.insert("x-trailer", HeaderValue::from_static("end"));
        stream.send_trailers(trailers).await.unwrap();
    }
    stream.finish().await.unwrap();
    let head = timeout(LIMIT, stream.recv_response())
        .await
        .unwrap()
        .unwrap();
    let mut body = Vec::new();
    while let Some(mut data) = timeout(LIMIT, stream.recv_data()).await.unwrap().unwrap() {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    head.map(|()| body.into())
}

fn request(method: &str, path: &str) -> http::request::Builder {
    let uri = format!("https://{SERVER_NAME}{path}");
    Request::builder().method(method).uri(uri)
}

/// A field value that exercises the Huffman code: text, or every byte that a value may hold.
fn value(number: usize) -> HeaderValue {
    let length = number * 7 % 300;
    let bytes: Vec<u8> = if number.is_multiple_of(2) {
        (0..length)
            .map(|at| b"abcdefghij-0123456789/"[(at * number) % 22])
            .collect()
    } else {
        // 0x21..=0x7e and 0x80..=0xff, so that no space stands at an end.
        (0..length)
            .map(|at| ((at * 31 + number) % 222) as u8)
            .map(|n| n + if n < 94 { 0x21 } else { 0x22 })
            .collect()
    };
    HeaderValue::from_bytes(&bytes).unwrap()
}

#[tokio::test]
async fn many_requests_in_parallel() {
    const REQUESTS: usize = 300;
    let mut lab = Lab::new().await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..REQUESTS {
        let mut sender = lab.sender.clone();
        running.spawn(async move {
            let mut ask = request("GET", &format!("/nothing/{number}"));
            for (name, value) in [("x-one", value(number)), ("x-two", value(number + 1))] {
                ask = ask.header(name, value);
            }
            (number, get(&mut sender, ask.body(()).unwrap()).await)
        });
    }
    let mut seen = vec![false; REQUESTS];
    while let Some(done) = running.join_next().await {
        let (number, answer) = done.unwrap();
        seen[number] = true;
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
        assert_eq!(
            answer.headers()["x-asked"],
            format!("GET /nothing/{number}")
        );
        assert_eq!(answer.headers()["x-one"], value(number), "{number}");
        assert_eq!(answer.headers()["x-two"], value(number + 1), "{number}");
    }
    assert!(seen.iter().all(|seen| *seen));
    let head = get(&mut lab.sender, request("HEAD", "/").body(()).unwrap()).await;
    assert_eq!(
        (head.status(), head.body().len()),
        (StatusCode::NOT_FOUND, 0)
    );
    let record = lab.end().await;
    assert_eq!(record.requests.len(), REQUESTS + 1);
    let [CloseReason::Peer { code, .. }] = &record.closed[..] else {
        panic!("{:?}", record.closed);
    };
    assert_eq!(*code, Code::H3_NO_ERROR);
}

#[tokio::test]
async fn bodies_with_trailers_come_back() {
    let mut lab = Lab::new().await;
    for lengths in [&[0][..], &[1], &[63, 64, 65], &[16_383, 16_384, 300_000, 7]] {
        let parts: Vec<Bytes> = lengths
            .iter()
            .map(|length| (0..*length).map(|at| (at % 251) as u8).collect())
            .collect();
        let sent = parts.concat();
        let ask = request("POST", "/echo").body(()).unwrap();
        let answer = send(&mut lab.sender, ask, Some(parts)).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.body()[..] == sent[..], "{lengths:?}");
    }
    assert_eq!(lab.end().await.resets, []);
}

#[tokio::test]
async fn protocols_that_we_do_not_speak_are_501() {
    let mut lab = Lab::new().await;
    for protocol in [Protocol::CONNECT_UDP, Protocol::WEB_TRANSPORT] {
        let ask = request("CONNECT", "/.well-known/masque/udp/192.0.2.6/443/");
        let ask = ask.extension(protocol).body(()).unwrap();
        let answer = get(&mut lab.sender, ask).await;
        assert_eq!(answer.status(), StatusCode::NOT_IMPLEMENTED);
    }
    // The connection goes on.
    let answer = get(&mut lab.sender, request("GET", "/").body(()).unwrap()).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    let record = lab.end().await;
    let protocols: Vec<_> = record
        .requests
        .iter()
        .map(|head| head.protocol.as_deref())
        .collect();
    assert_eq!(protocols, [Some("connect-udp"), Some("webtransport"), None]);
}

#[tokio::test]
async fn our_limit_on_field_sections_is_known() {
    let mut lab = Lab::new().await;
    // An answer shows that our SETTINGS are there.
    get(&mut lab.sender, request("GET", "/").body(()).unwrap()).await;
    let long = "x".repeat(17_000);
    let ask = request("GET", "/")
        .header("x-long", &long)
        .body(())
        .unwrap();
    let refused = lab.sender.send_request(ask).await;
    assert!(refused.is_err(), "h3 knows that 16 KiB is the limit");
    let fits = "x".repeat(15_000);
    let ask = request("GET", "/")
        .header("x-long", &fits)
        .body(())
        .unwrap();
    let answer = get(&mut lab.sender, ask).await;
    assert_eq!(answer.headers()["x-long"], fits);
    lab.end().await;
}

#[tokio::test]
async fn goaway_lets_requests_end_and_none_begin() {
    let mut lab = Lab::new().await;
    let ask = request("POST", "/echo").body(()).unwrap();
    let mut stream = lab.sender.send_request(ask).await.unwrap();
    stream
        .send_data(Bytes::from_static(b"before "))
        .await
        .unwrap();
    let head = timeout(LIMIT, stream.recv_response())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    lab.gateway.go_away();
    // Until GOAWAY is here, requests are answered or rejected, never lost.
    let refused = timeout(LIMIT, async {
        loop {
            let ask = request("GET", "/late").body(()).unwrap();
            match lab.sender.send_request(ask).await {
                Ok(mut late) => {
                    let _ = late.finish().await;
                    if let Err(error) = late.recv_response().await {
                        return Arc::new(error.to_string());
                    }
                }
                Err(error) => return Arc::new(error.to_string()),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(!refused.is_empty());
    stream
        .send_data(Bytes::from_static(b"and after"))
        .await
        .unwrap();
    stream.finish().await.unwrap();
    let mut body = Vec::new();
    while let Some(mut data) = timeout(LIMIT, stream.recv_data()).await.unwrap().unwrap() {
        body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
    }
    assert_eq!(body, b"before and after", "{refused}");
    drop(stream);
    lab.end().await;
}
