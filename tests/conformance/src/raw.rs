//! Connections to the gateway under test.

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use masque_client::ConnectorIdentity;
use masque_netns_tests::{Fabric, Gateway, Links};
use masque_transport::tls::{ClientIdentity, ClientTls, ServerTrust};
use quinn::{
    ClientConfig, Connection, Endpoint, RecvStream, SendStream, TransportConfig,
    crypto::rustls::QuicClientConfig,
};

use crate::frames::{self, HEADERS, USUAL, control, split};

/// Anything that should happen at all happens in this time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What kind of client it is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Announces QUIC DATAGRAM support.
    pub datagrams: bool,
    /// Shows the connector's certificate.
    pub certificate: bool,
    /// Pads its Initials to so many bytes of UDP payload.
    pub initial_bytes: u16,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            datagrams: true,
            certificate: true,
            initial_bytes: 1331,
        }
    }
}

/// One connection, and the stream that a test talks on.
pub struct RawClient {
    /// The connection.
    pub connection: Connection,
    endpoint: Endpoint,
    config: ClientConfig,
    /// Kept: a control stream must stay open.
    control: Option<SendStream>,
    /// Kept: to stop reading it would end the connection.
    peer_control: Option<RecvStream>,
}

/// Runs `test` in a client's namespace with a gateway that knows its key. Nothing happens where no
/// fabric can be built.
#[track_caller]
pub fn with_gateway<F>(test: impl FnOnce(Dialer) -> F + Send)
where
    F: Future<Output = ()>,
{
    with_gateway_over(Links::default(), test);
}

/// The same over links of other sizes.
#[track_caller]
pub fn with_gateway_over<F>(links: Links, test: impl FnOnce(Dialer) -> F + Send)
where
    F: Future<Output = ()>,
{
    let Some(mut fabric) = Fabric::with(links) else {
        return;
    };
    fabric.connector("laptop");
    fabric.manifests.attach("laptop", "production-vpc");
    let gateway = fabric.start_gateway();
    let dialer = Dialer::new(&fabric);
    fabric.laptop.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(6 * PATIENCE, test(dialer))
                .await
                .expect("the test hangs");
        });
    });
    assert_alive(&gateway);
}

/// Whatever a client did, the gateway serves on.
fn assert_alive(gateway: &Gateway) {
    assert!(
        gateway.is_ready(),
        "the gateway is not ready any more:\n{}",
        gateway.log()
    );
}

/// Makes connections.
pub struct Dialer {
    identity: ClientIdentity,
    trust: ServerTrust,
}

impl Dialer {
    fn new(fabric: &Fabric) -> Self {
        let key = fabric.folder().join("laptop").join("key.pem");
        Self {
            identity: identity(&key),
            trust: ServerTrust::RootsFile(fabric.manifests.development_ca()),
        }
    }

    /// A connection on which nothing was sent yet.
    pub async fn connect(&self, shape: Shape) -> RawClient {
        let tls = ClientTls {
            trust: self.trust.clone(),
            identity: shape.certificate.then(|| self.identity.clone()),
        };
        let crypto = QuicClientConfig::try_from(tls.build().unwrap()).unwrap();
        let mut transport = TransportConfig::default();
        let initial = shape.initial_bytes;
        transport.initial_mtu(initial).min_mtu(initial);
        if !shape.datagrams {
            transport.datagram_receive_buffer_size(None);
        }
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
        let gateway = "192.0.2.1:4433".parse().unwrap();
        let connecting = endpoint
            .connect_with(config.clone(), gateway, "192.0.2.1")
            .unwrap();
        let connection = connecting.await.expect("a handshake");
        RawClient {
            connection,
            endpoint,
            config,
            control: None,
            peer_control: None,
        }
    }

    /// A second connection of the same client, whose handshake has not begun.
    pub fn reconnect(&self, client: &RawClient) -> quinn::Connecting {
        let gateway = "192.0.2.1:4433".parse().unwrap();
        client
            .endpoint
            .connect_with(client.config.clone(), gateway, "192.0.2.1")
            .unwrap()
    }

    /// A connection whose control stream is open.
    pub async fn ready(&self) -> RawClient {
        self.ready_as(Shape::default()).await
    }

    /// The same by a client of this shape.
    pub async fn ready_as(&self, shape: Shape) -> RawClient {
        let mut client = self.connect(shape).await;
        client.open_control(&control(&USUAL)).await;
        client
    }
}

fn identity(key: &Path) -> ClientIdentity {
    let identity = ConnectorIdentity::load(key).unwrap();
    // RFC 8410 §7: the 32 bytes behind the fixed beginning of an Ed25519 PKCS #8 key.
    let seed = identity.pkcs8_der()[16..48].try_into().unwrap();
    ClientIdentity::from_ed25519_seed(&seed).unwrap()
}

impl RawClient {
    /// Opens a unidirectional stream with these bytes; it stays open.
    pub async fn open_uni(&self, bytes: &[u8]) -> SendStream {
        let mut stream = self.connection.open_uni().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream
    }

    /// Opens the control stream with these bytes.
    pub async fn open_control(&mut self, bytes: &[u8]) {
        self.control = Some(self.open_uni(bytes).await);
    }

    /// Appends to the control stream.
    pub async fn on_control(&mut self, bytes: &[u8]) {
        // The gateway may have closed the connection already.
        let _closed = self
            .control
            .as_mut()
            .expect("open_control came first")
            .write_all(bytes)
            .await;
    }

    /// Opens a request stream with these bytes.
    pub async fn request(&self, bytes: &[u8]) -> (SendStream, Reader) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (
            send,
            Reader {
                stream: receive,
                buffer: Vec::new(),
            },
        )
    }

    /// The application code that the gateway closes the connection with.
    pub async fn close_code(&self) -> u64 {
        match tokio::time::timeout(PATIENCE, self.connection.closed()).await {
            Ok(quinn::ConnectionError::ApplicationClosed(close)) => close.error_code.into_inner(),
            Ok(other) => panic!("closed otherwise: {other}"),
            Err(_) => panic!("the gateway does not close the connection"),
        }
    }

    /// The gateway's SETTINGS.
    pub async fn peer_settings(&mut self) -> Vec<(u64, u64)> {
        let mut stream = self.connection.accept_uni().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            let chunk = stream
                .read_chunk(4096, true)
                .await
                .unwrap()
                .expect("an open control stream");
            bytes.extend_from_slice(&chunk.bytes);
            let Some((kind, payload, _)) = bytes.get(1..).and_then(split) else {
                continue;
            };
            assert_eq!(
                (bytes[0], kind),
                (0, frames::SETTINGS),
                "the control stream comes first"
            );
            let mut settings = Vec::new();
            let mut rest = &payload[..];
            while let Some((id, used)) = masque_http3::varint::decode(rest) {
                let (value, more) = masque_http3::varint::decode(&rest[used..]).unwrap();
                settings.push((id, value));
                rest = &rest[used + more..];
            }
            self.peer_control = Some(stream);
            return settings;
        }
    }

    /// A tunnel to everything: accepted, and its first two capsules read.
    pub async fn tunnel(&self) -> (SendStream, Reader, Vec<(u64, Vec<u8>)>) {
        let (send, mut reader) = self.request(&frames::connect_ip(frames::PATH)).await;
        assert_eq!(reader.status().await, 200);
        let capsules = reader.capsules(2).await;
        (send, reader, capsules)
    }

    /// Ends it all.
    pub async fn close(self) {
        self.connection.close(0x100u32.into(), b"");
        self.endpoint.wait_idle().await;
    }
}

/// What comes back on a request stream.
pub struct Reader {
    stream: RecvStream,
    buffer: Vec<u8>,
}

impl Reader {
    /// The next frame's type and payload; `Err` is the code of a reset, 0 the end of the stream.
    pub async fn frame(&mut self) -> Result<(u64, Vec<u8>), u64> {
        loop {
            if let Some((kind, payload, used)) = split(&self.buffer) {
                self.buffer.drain(..used);
                return Ok((kind, payload));
            }
            let chunk = tokio::time::timeout(PATIENCE, self.stream.read_chunk(65_536, true));
            match chunk.await.expect("an answer in time") {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Err(0),
                Err(quinn::ReadError::Reset(code)) => return Err(code.into_inner()),
                Err(other) => panic!("{other}"),
            }
        }
    }

    /// The field section of the answer.
    pub async fn head(&mut self) -> Vec<u8> {
        loop {
            let (kind, payload) = self.frame().await.expect("an answer");
            if kind == HEADERS {
                return payload;
            }
        }
    }

    /// The answer's status.
    pub async fn status(&mut self) -> u16 {
        frames::status(&self.head().await)
    }

    /// The code that the gateway resets the stream with.
    pub async fn reset_code(&mut self) -> u64 {
        loop {
            if let Err(code) = self.frame().await {
                return code;
            }
        }
    }

    /// The next capsules, from DATA frames that hold whole ones.
    pub async fn capsules(&mut self, count: usize) -> Vec<(u64, Vec<u8>)> {
        let mut capsules = Vec::new();
        let mut bytes = Vec::new();
        while capsules.len() < count {
            let (kind, payload) = self.frame().await.expect("capsules");
            if kind == frames::DATA {
                bytes.extend(payload);
            }
            while let Some((kind, value, used)) = split(&bytes) {
                bytes.drain(..used);
                capsules.push((kind, value));
            }
        }
        capsules
    }
}
