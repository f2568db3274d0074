//! A client and a gateway on two iroh endpoints of this process.

use bytes::Bytes;
use ipnet::IpNet;
use iroh::{
    Endpoint, EndpointAddr, RelayMode, SecretKey, TransportAddr,
    endpoint::{QuicTransportConfig, VarInt, presets},
};
use masque_http3::{Code, RequestHead, Role as HttpRole, SendError, StreamId, settings};
use masque_packet::{
    flow::flow_key,
    icmp::{IcmpKind, classify},
    ip::parse,
};
use masque_protocol::{
    Capsule, Event, Scope, Target, Template, context::IP_PACKET_PREFIX, from_prefixes,
    request::connect_ip_request,
};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use crate::{
    client::{Client, LIMIT, Seen, echo},
    driver::{Driver, Got},
    gateway::{Gateway, ROUTED, Record, address, net},
};

const ALPN: &[u8] = b"h3";

/// An endpoint on loopback that talks to nobody it was not told of.
async fn endpoint() -> Endpoint {
    // A tunnel must carry inner packets of 1280 bytes from the first on.
    let transport = QuicTransportConfig::builder()
        .initial_mtu(1400)
        .min_mtu(1331)
        .build();
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .transport_config(transport)
        .alpns(vec![ALPN.to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap()
}

fn location(endpoint: &Endpoint) -> EndpointAddr {
    let sockets = endpoint.bound_sockets().into_iter();
    EndpointAddr::from_parts(endpoint.id(), sockets.map(TransportAddr::Ip))
}

/// Both ends, connected.
struct Lab {
    client: Client,
    gateway: JoinHandle<Record>,
    drain: Option<oneshot::Sender<()>>,
    endpoints: [Endpoint; 2],
}

impl Lab {
    async fn new() -> Self {
        let [at_client, at_gateway] = [endpoint().await, endpoint().await];
        let (drain, drained) = oneshot::channel();
        let accepting = at_gateway.clone();
        let client_id = at_client.id();
        let gateway = tokio::spawn(async move {
            let quic = accepting.accept().await.unwrap().await.unwrap();
            assert_eq!(
                quic.remote_id(),
                client_id,
                "who the client is needs no certificate"
            );
            Gateway::new(quic).run(drained).await
        });
        let quic = at_client
            .connect(location(&at_gateway), ALPN)
            .await
            .unwrap();
        assert_eq!(quic.remote_id(), at_gateway.id());
        assert!(quic.max_datagram_size().unwrap() >= 1283);
        let mut client = Client::new(Driver::new(quic, HttpRole::Client));
        client
            .until(|client| client.driver.http.datagrams_ready())
            .await;
        Self {
            client,
            gateway,
            drain: Some(drain),
            endpoints: [at_client, at_gateway],
        }
    }

    /// Closes the connection and both endpoints; what the gateway saw.
    async fn end(mut self) -> Record {
        self.client.driver.http.close(Code::H3_NO_ERROR, "done");
        self.client.until(|client| client.closed).await;
        let record = timeout(LIMIT, self.gateway).await.unwrap().unwrap();
        for endpoint in self.endpoints {
            endpoint.close().await;
        }
        record
    }
}

/// Every ping of 1280 bytes came back on its tunnel, in order.
fn assert_replies(client: &Client, stream: StreamId, count: usize) {
    let packets = client.packets(stream);
    assert_eq!(packets.len(), count);
    let request = echo(stream, 0, 0);
    let key = flow_key(&parse(&request).unwrap(), &request);
    for (sequence, packet) in packets.into_iter().enumerate() {
        let header = parse(packet).unwrap();
        assert_eq!(header.total_bytes, 1280);
        assert_eq!(flow_key(&header, packet), key.reversed());
        let reply = IcmpKind::EchoReply {
            identifier: 7,
            sequence: sequence as u16,
        };
        assert_eq!(classify(&header, packet), Some(reply));
    }
}

#[tokio::test]
async fn two_tunnels_over_iroh() {
    let mut lab = Lab::new().await;
    let client = &mut lab.client;
    assert_eq!(
        client
            .driver
            .http
            .peer_setting(settings::ENABLE_CONNECT_PROTOCOL),
        Some(1)
    );
    assert_eq!(
        client.driver.http.peer_setting(settings::H3_DATAGRAM),
        Some(1)
    );

    // Two at a time: one for everything, one for UDP to a part.
    let part = Scope {
        target: Target::Prefix(net("10.0.1.0/24")),
        protocol: Some(17),
    };
    let tunnels = [client.open(&Scope::ANY).await, client.open(&part).await];
    assert_eq!(tunnels, [StreamId(0), StreamId(4)]);
    let routes = [
        from_prefixes(&ROUTED.map(net), None),
        from_prefixes(&[net("10.0.1.0/24")], Some(17)),
    ];
    for (stream, routes) in tunnels.into_iter().zip(routes) {
        assert_eq!(client.status(stream).await, 200);
        client
            .until(|client| client.saw(stream, &Seen::Tunnel(Event::Routes(routes.clone()))))
            .await;
        let assigned = client.tunnels[&stream].assigned().to_vec();
        assert_eq!(assigned.len(), 1);
        assert_eq!(
            (assigned[0].request_id, assigned[0].prefix),
            (0, address(stream))
        );
    }

    // Full-size packets of both at once come back on the tunnel they left by.
    for sequence in 0..40 {
        for stream in tunnels {
            assert!(client.ping(stream, sequence, 1252));
        }
        let both = |client: &Client| {
            tunnels
                .iter()
                .all(|stream| client.packets(*stream).len() > sequence.into())
        };
        client.until(both).await;
    }
    for stream in tunnels {
        assert_replies(client, stream, 40);
    }
    let record = lab.end().await;
    assert_eq!(record.packets, tunnels.map(|stream| (stream, 40)).into());
    assert_eq!(record.closed_with, Some(Code::H3_NO_ERROR));
    assert_eq!(
        record.requests,
        [
            "/.well-known/masque/ip/*/*/",
            "/.well-known/masque/ip/10.0.1.0%2F24/17/"
        ]
    );
}

#[tokio::test]
async fn capsules_both_ways() {
    let mut lab = Lab::new().await;
    let client = &mut lab.client;
    let stream = client.open(&Scope::ANY).await;
    assert_eq!(client.status(stream).await, 200);
    client
        .until(|client| !client.tunnels[&stream].routes().is_empty())
        .await;

    // An unknown capsule is skipped; requests behind it are answered, one of them with a refusal.
    let tunnel = client.tunnels.get_mut(&stream).unwrap();
    tunnel.send_grease(11).unwrap();
    let wanted = ["::/128", "0.0.0.0/32"].map(net);
    let requests = tunnel.request_addresses(&wanted).unwrap();
    client.transmit(stream);
    let answers = |client: &Client| {
        client.log.iter().rev().find_map(|(_, seen)| match seen {
            Seen::Tunnel(Event::Assigned(list)) if list.len() > 1 => Some(list.clone()),
            _ => None,
        })
    };
    client.until(|client| answers(client).is_some()).await;
    let answers = answers(client).unwrap();
    let answer = |id: u64| {
        answers
            .iter()
            .find(|answer| answer.request_id == id)
            .unwrap()
    };
    assert_eq!(
        answer(requests[0].request_id).prefix,
        net("fd20:10:0:100::50/128")
    );
    assert!(answer(requests[1].request_id).is_refusal());
    assert_eq!(
        answer(0).prefix,
        address(stream),
        "and what was assigned before stays"
    );
    let mut assigned: Vec<IpNet> = client.tunnels[&stream]
        .assigned()
        .iter()
        .map(|a| a.prefix)
        .collect();
    assigned.sort_unstable();
    assert_eq!(assigned, [address(stream), net("fd20:10:0:100::50/128")]);

    // A packet in a DATAGRAM capsule is a packet.
    let payload = [&IP_PACKET_PREFIX[..], &echo(stream, 3, 1000)].concat();
    let capsule = Capsule::Datagram(payload.into()).encode();
    client
        .driver
        .http
        .send_data(stream, capsule, false)
        .unwrap();
    client
        .until(|client| client.packets(stream).len() == 1)
        .await;
    let record = lab.end().await;
    assert_eq!((record.unknown_capsules, record.address_requests), (1, 1));
}

#[tokio::test]
async fn refusals_ends_and_goaway() {
    let mut lab = Lab::new().await;
    let client = &mut lab.client;
    let [kept, finished, aborted] = [
        client.open(&Scope::ANY).await,
        client.open(&Scope::ANY).await,
        client.open(&Scope::ANY).await,
    ];
    for stream in [kept, finished, aborted] {
        assert_eq!(client.status(stream).await, 200);
        client
            .until(|client| !client.tunnels[&stream].routes().is_empty())
            .await;
    }
    // Requests that are refused leave the others alone.
    let template = Template::well_known("gateway.example").unwrap();
    let good = connect_ip_request(&template.expand(&Scope::ANY), Vec::new());
    for (head, status) in [
        (
            RequestHead {
                path: Some("/vpn".into()),
                ..good.clone()
            },
            404,
        ),
        (
            RequestHead {
                path: Some("/.well-known/masque/ip/10.0.0.1%2F8/*/".into()),
                ..good.clone()
            },
            400,
        ),
        (
            RequestHead {
                protocol: Some("connect-tcp".into()),
                ..good.clone()
            },
            501,
        ),
    ] {
        let stream = client.driver.request(&head).await.unwrap();
        assert_eq!(client.status(stream).await, status);
    }

    // One tunnel is finished, both ways.
    client
        .driver
        .http
        .send_data(finished, Bytes::new(), true)
        .unwrap();
    client
        .until(|client| client.saw(finished, &Seen::Finished))
        .await;
    assert!(
        !client.ping(finished, 0, 10),
        "RFC 9297 §2.1: the send side is closed"
    );
    // Another is aborted.
    client
        .driver
        .http
        .abort(aborted, Code::H3_REQUEST_CANCELLED);

    lab.drain.take().unwrap().send(()).unwrap();
    let client = &mut lab.client;
    client.until(|client| client.goaways.len() == 2).await;
    assert_eq!(
        client.goaways,
        [(1 << 62) - 4, 24],
        "what was asked before is served"
    );
    let late = client.driver.request(&good).await;
    assert_eq!(late, Err(SendError::GoingAway));
    assert!(client.ping(kept, 1, 100));
    client.until(|client| client.packets(kept).len() == 1).await;

    let record = lab.end().await;
    assert_eq!(record.finished, [finished]);
    assert_eq!(record.resets, [(aborted, Code::H3_REQUEST_CANCELLED)]);
    assert_eq!(record.closed_with, Some(Code::H3_NO_ERROR));
}

#[tokio::test]
async fn another_identity_is_not_reached() {
    let [client, gateway] = [endpoint().await, endpoint().await];
    let sockets = gateway.bound_sockets().into_iter().map(TransportAddr::Ip);
    let somebody_else = EndpointAddr::from_parts(SecretKey::generate().public(), sockets);
    let accepting = gateway.clone();
    let accept = tokio::spawn(async move { accepting.accept().await.unwrap().await.is_ok() });
    let connected = timeout(LIMIT, client.connect(somebody_else, ALPN)).await;
    assert!(connected.expect("an answer, not silence").is_err());
    assert!(!timeout(LIMIT, accept).await.unwrap().unwrap());

    // And what breaks a rule of HTTP/3 closes the connection: SETTINGS twice.
    let accepting = gateway.clone();
    let serve = tokio::spawn(async move {
        let quic = accepting.accept().await.unwrap().await.unwrap();
        let mut driver = Driver::new(quic, HttpRole::Server);
        loop {
            if let Got::Closed { by_peer, .. } = driver.next().await {
                return by_peer;
            }
        }
    });
    let quic = client.connect(location(&gateway), ALPN).await.unwrap();
    let mut control = quic.open_uni().await.unwrap();
    control.write_all(&[0, 4, 0, 4, 0]).await.unwrap();
    let error = timeout(LIMIT, quic.closed()).await.unwrap();
    let iroh::endpoint::ConnectionError::ApplicationClosed(close) = error else {
        panic!("{error}");
    };
    assert_eq!(
        close.error_code,
        VarInt::from_u64(Code::H3_FRAME_UNEXPECTED.0).unwrap()
    );
    assert!(!timeout(LIMIT, serve).await.unwrap().unwrap());
    client.close().await;
    gateway.close().await;
}
