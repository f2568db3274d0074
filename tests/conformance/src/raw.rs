//! Connections to the gateway under test.

use std::{
    future::Future,
    ops::{Deref, DerefMut},
    sync::{Arc, atomic::AtomicUsize},
};

use masque_client::ConnectorIdentity;
use masque_netns_tests::{Fabric, Gateway, Links};
use masque_transport::tls::{ClientIdentity, ClientTls, ServerTrust};
use quinn::{
    ClientConfig, Endpoint, SendStream, TransportConfig, crypto::rustls::QuicClientConfig,
};

use crate::{
    datagram_frames::{DatagramForm, FormedDatagrams},
    frames::{self, USUAL, control},
    wire::{PATIENCE, Reader, Wire},
};

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
            initial_bytes: 1400,
        }
    }
}

/// One connection of the client's making.
pub struct RawClient {
    wire: Wire,
    endpoint: Endpoint,
    config: ClientConfig,
}

impl Deref for RawClient {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for RawClient {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
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
    with_links(links, |dialer, gateway| async move {
        test(dialer).await;
        assert_alive(&gateway);
    });
}

/// As [`with_gateway`], for a test that ends the gateway itself.
#[track_caller]
pub fn with_gateway_process<F>(test: impl FnOnce(Dialer, Arc<Gateway>) -> F + Send)
where
    F: Future<Output = ()>,
{
    with_links(Links::default(), test);
}

#[track_caller]
fn with_links<F>(links: Links, test: impl FnOnce(Dialer, Arc<Gateway>) -> F + Send)
where
    F: Future<Output = ()>,
{
    if let Some(fabric) = Fabric::with_laptop(links) {
        with_fabric(&fabric, test);
    }
}

/// As [`with_gateway_process`], in a fabric where the connector `laptop` is attached to production.
#[track_caller]
pub fn with_fabric<F>(fabric: &Fabric, test: impl FnOnce(Dialer, Arc<Gateway>) -> F + Send)
where
    F: Future<Output = ()>,
{
    let gateway = Arc::new(fabric.start_gateway());
    let dialer = Dialer::new(fabric, "laptop");
    run(fabric, || test(dialer, gateway));
}

/// Runs a test in the client's namespace.
#[track_caller]
pub(crate) fn run<F: Future<Output = ()>>(fabric: &Fabric, test: impl FnOnce() -> F + Send) {
    fabric.laptop.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tokio::time::timeout(6 * PATIENCE, test())
                .await
                .expect("the test hangs");
        });
    });
}

/// Whatever a client did, the gateway serves on.
pub(crate) fn assert_alive(gateway: &Gateway) {
    assert!(
        gateway.is_ready(),
        "the gateway is not ready any more:\n{}",
        gateway.log()
    );
}

/// Makes connections.
pub struct Dialer {
    /// The key that the gateway knows.
    pub connector: ConnectorIdentity,
    identity: ClientIdentity,
    trust: ServerTrust,
}

impl Dialer {
    /// With the key of a connector that the fabric made.
    pub fn new(fabric: &Fabric, connector: &str) -> Self {
        let key = fabric.folder().join(connector).join("key.pem");
        let connector = ConnectorIdentity::load(&key).unwrap();
        Self {
            identity: identity(&connector),
            connector,
            trust: ServerTrust::RootsFile(fabric.manifests.development_ca()),
        }
    }

    /// A connection on which nothing was sent yet.
    pub async fn connect(&self, shape: Shape) -> RawClient {
        self.connect_by(shape, Arc::new).await
    }

    /// The same, with DATAGRAM frames in this form where nothing but an ACK is behind them; and how many
    /// such frames were sent.
    pub async fn connect_with_frames(&self, form: DatagramForm) -> (RawClient, Arc<AtomicUsize>) {
        let sent = Arc::new(AtomicUsize::new(0));
        let crypto = |inner| FormedDatagrams::over(inner, form, Arc::clone(&sent));
        let client = self.connect_by(Shape::default(), crypto).await;
        (client, sent)
    }

    async fn connect_by<C: quinn::crypto::ClientConfig + 'static>(
        &self,
        shape: Shape,
        crypto: impl FnOnce(QuicClientConfig) -> Arc<C>,
    ) -> RawClient {
        let tls = ClientTls {
            trust: self.trust.clone(),
            identity: shape.certificate.then(|| self.identity.clone()),
        };
        let mut tls = Arc::unwrap_or_clone(tls.build().unwrap());
        // Our client never asks for early data. This one does, wherever a ticket allows it.
        tls.enable_early_data = true;
        let crypto = crypto(QuicClientConfig::try_from(tls).unwrap());
        let mut transport = TransportConfig::default();
        let initial = shape.initial_bytes;
        transport.initial_mtu(initial).min_mtu(initial);
        if !shape.datagrams {
            transport.datagram_receive_buffer_size(None);
        }
        let mut config = ClientConfig::new(crypto);
        config.transport_config(Arc::new(transport));
        let endpoint = Endpoint::client("0.0.0.0:0".parse().unwrap()).unwrap();
        let gateway = "192.0.2.1:4433".parse().unwrap();
        let connecting = endpoint
            .connect_with(config.clone(), gateway, "192.0.2.1")
            .unwrap();
        let connection = connecting.await.expect("a handshake");
        RawClient {
            wire: Wire::new(connection),
            endpoint,
            config,
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

fn identity(connector: &ConnectorIdentity) -> ClientIdentity {
    // RFC 8410 §7: the 32 bytes behind the fixed beginning of an Ed25519 PKCS #8 key.
    let seed = connector.pkcs8_der()[16..48].try_into().unwrap();
    ClientIdentity::from_ed25519_seed(&seed).unwrap()
}

impl RawClient {
    /// Opens a request stream with these bytes.
    pub async fn request(&self, bytes: &[u8]) -> (SendStream, Reader) {
        let (mut send, receive) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        (send, Reader::new(receive))
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
        self.wire.connection.close(0x100u32.into(), b"");
        self.endpoint.wait_idle().await;
    }
}
