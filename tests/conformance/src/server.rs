//! Connections from the client under test.

use std::{future::Future, net::Ipv4Addr, rc::Rc, sync::Arc, time::Duration};

use masque_client::{
    AttachConfig, ConnectorIdentity, PacketAttachment, ServerTrust, TunnelEvent, attach,
};
use masque_testkit::DevelopmentCa;
use masque_transport::tls::{CertificateStore, ServerCertificate, ServerTls};
use quinn::{
    Endpoint, SendStream, ServerConfig, TransportConfig, crypto::rustls::QuicServerConfig,
};

use crate::{
    frames::{self, control, frame},
    wire::{PATIENCE, Reader, Wire},
};

/// The settings of an ordinary gateway: extended CONNECT, HTTP Datagrams.
pub const SETTINGS: [(u64, u64); 2] = [(0x8, 1), (0x33, 1)];
/// Between two looks for an event of the client.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A gateway that says what it is told to.
pub struct RawServer {
    endpoint: Endpoint,
}

/// A request that the server accepted.
pub struct Opened {
    /// Its connection.
    pub wire: Wire,
    /// To the client.
    pub send: SendStream,
    /// From the client.
    pub reader: Reader,
    /// The client's field section.
    pub head: Vec<u8>,
}

/// Runs `test` with a client that attaches to a raw server: its SDK, with sockets and threads, which
/// is what `datum-connect` runs on. A client that is told nonsense again and again comes back ever less
/// often, so each kind of it needs a client of its own.
#[track_caller]
pub fn with_client<F>(test: impl FnOnce(RawServer, Rc<PacketAttachment>) -> F)
where
    F: Future<Output = ()>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ca = DevelopmentCa::new();
        let server = RawServer::new(&ca);
        let port = server.endpoint.local_addr().unwrap().port();
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let url = format!("https://127.0.0.1:{port}").parse().unwrap();
        let mut config = AttachConfig::new(url, "production-vpc".parse().unwrap(), identity);
        config.trust = ServerTrust::RootsPem(ca.pem().as_bytes().to_vec());
        config.keep_trying = true;
        // Kept here as well: a test that never looks at it would end it.
        let client = Rc::new(attach(&config).unwrap());
        tokio::time::timeout(6 * PATIENCE, test(server, Rc::clone(&client)))
            .await
            .expect("the test hangs");
    });
}

impl RawServer {
    fn new(ca: &DevelopmentCa) -> Self {
        let pem = ca.server(&["127.0.0.1"]);
        let now = rustls_pki_types::UnixTime::now();
        let (chain, key) = (pem.cert_pem.as_bytes(), pem.key_pem.as_bytes());
        let certificate = ServerCertificate::from_pem(chain, key, now, "conformance").unwrap();
        let tls = ServerTls {
            certificates: CertificateStore::new(vec![certificate]).unwrap(),
            ask_client_certificate: false,
        };
        let crypto = QuicServerConfig::try_from(tls.build().unwrap()).unwrap();
        let mut transport = TransportConfig::default();
        transport.initial_mtu(1400).min_mtu(1331);
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        Self { endpoint }
    }

    /// The client's next connection, on which nothing was sent yet.
    pub async fn accept(&self) -> Wire {
        let incoming = tokio::time::timeout(PATIENCE, self.endpoint.accept());
        let incoming = incoming.await.expect("the client dials").unwrap();
        Wire::new(incoming.await.expect("a handshake"))
    }

    /// A connection whose control stream is open.
    pub async fn ready(&self) -> Wire {
        let mut wire = self.accept().await;
        wire.open_control(&control(&SETTINGS)).await;
        wire
    }

    /// A connection with a request that was answered by 200 and nothing else.
    pub async fn opened(&self) -> Opened {
        let mut opened = Opened::unanswered(self.ready().await).await;
        opened.head = opened.reader.head().await;
        opened.send.write_all(&ok()).await.unwrap();
        opened
    }

    /// A tunnel: addresses and routes were told, and the client is up.
    pub async fn tunnel(&self, client: &PacketAttachment) -> Opened {
        let mut opened = self.opened().await;
        opened.capsule(frames::ADDRESS_ASSIGN, &ASSIGNED).await;
        opened.capsule(frames::ROUTE_ADVERTISEMENT, &ROUTES).await;
        event(client, |event| matches!(event, TunnelEvent::Up(_))).await;
        opened
    }
}

/// Request id 0, 10.0.100.50/32.
pub const ASSIGNED: [u8; 7] = [0, 4, 10, 0, 100, 50, 32];
/// 10.0.0.0 to 10.0.255.255, all protocols.
pub const ROUTES: [u8; 10] = [4, 10, 0, 0, 0, 10, 0, 255, 255, 0];

/// The answer that opens a tunnel (RFC 9484 §4.5).
pub fn ok() -> Vec<u8> {
    frames::headers(&[(":status", "200"), ("capsule-protocol", "?1")])
}

impl Opened {
    /// The client's next request on a connection, of which nothing was read and to which nothing was
    /// said yet.
    pub async fn unanswered(wire: Wire) -> Self {
        let (send, reader) = wire.request_of_peer().await;
        Self {
            wire,
            send,
            reader,
            head: Vec::new(),
        }
    }

    /// Sends a capsule in a DATA frame of its own.
    pub async fn capsule(&mut self, kind: u64, value: &[u8]) {
        self.write(&frames::capsule(kind, value)).await;
    }

    /// Sends these bytes on the request stream.
    pub async fn write(&mut self, bytes: &[u8]) {
        // The client may have ended the tunnel already.
        let _ended = self.send.write_all(bytes).await;
    }

    /// Sends these bytes in a DATA frame.
    pub async fn data(&mut self, bytes: &[u8]) {
        self.write(&frame(frames::DATA, bytes)).await;
    }
}

impl Wire {
    /// The client's next request stream.
    pub async fn request_of_peer(&self) -> (SendStream, Reader) {
        let stream = tokio::time::timeout(PATIENCE, self.connection.accept_bi());
        let (send, receive) = stream.await.expect("a request").unwrap();
        (send, Reader::new(receive))
    }
}

/// The next event of the client that is `wanted`.
pub async fn event(
    client: &PacketAttachment,
    wanted: impl Fn(&TunnelEvent) -> bool,
) -> TunnelEvent {
    let look = async {
        loop {
            match client.events.next_timeout(Duration::ZERO) {
                Some(event) if wanted(&event) => return event,
                Some(_) => {}
                // The connections are driven by this thread.
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    };
    let event = tokio::time::timeout(PATIENCE, look).await;
    event.expect("the client tells it in time")
}
