//! Certificates of one test run.

use std::sync::Arc;

use masque_transport::{
    client_config, server_config,
    tls::{CertificateStore, ClientIdentity, ClientTls, ServerCertificate, ServerTls, ServerTrust},
};
use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::UnixTime;

/// The name the test server has.
pub(crate) const SERVER_NAME: &str = "gateway.test";

/// A self-signed server and who trusts it.
#[derive(Clone)]
pub(crate) struct TestTls {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl TestTls {
    pub(crate) fn new() -> Self {
        Self::with(CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap())
    }

    pub(crate) fn with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    pub(crate) fn server(&self) -> Arc<quinn_proto::ServerConfig> {
        self.server_at(UnixTime::now())
    }

    /// The server, if it believes it is `now`.
    pub(crate) fn server_at(&self, now: UnixTime) -> Arc<quinn_proto::ServerConfig> {
        let certificate = ServerCertificate::from_pem(
            self.chain_pem.as_bytes(),
            self.key_pem.as_bytes(),
            now,
            "test",
        );
        let certificates = CertificateStore::new(vec![certificate.unwrap()]).unwrap();
        let tls = ServerTls {
            certificates,
            ask_client_certificate: true,
        };
        server_config(tls.build().unwrap(), &[3; 32]).unwrap()
    }

    pub(crate) fn client(&self, identity: Option<[u8; 32]>) -> quinn_proto::ClientConfig {
        let identity = identity.map(|seed| ClientIdentity::from_ed25519_seed(&seed).unwrap());
        let trust = ServerTrust::RootsPem(self.chain_pem.clone().into_bytes());
        client_config(ClientTls { trust, identity }.build().unwrap()).unwrap()
    }

    /// A client that offers another protocol.
    pub(crate) fn client_speaking(&self, alpn: &[u8]) -> quinn_proto::ClientConfig {
        let trust = ServerTrust::RootsPem(self.chain_pem.clone().into_bytes());
        let tls = ClientTls {
            trust,
            identity: None,
        }
        .build()
        .unwrap();
        let mut tls = Arc::unwrap_or_clone(tls);
        tls.alpn_protocols = vec![alpn.to_vec()];
        client_config(Arc::new(tls)).unwrap()
    }
}
