//! One self-signed certificate, for every stack that asks.

use std::sync::Arc;

use masque_transport::{
    client_config,
    quinn_proto::{self, crypto::rustls::QuicClientConfig, crypto::rustls::QuicServerConfig},
    server_config,
    tls::{CertificateStore, ClientTls, ServerCertificate, ServerTls, ServerTrust},
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
};

pub(crate) const SERVER_NAME: &str = "gateway.test";

/// A server, and who trusts it.
#[derive(Clone)]
pub(crate) struct TestTls {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
}

impl TestTls {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![SERVER_NAME.to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Our server.
    pub(crate) fn our_server(&self) -> Arc<quinn_proto::ServerConfig> {
        let (chain, key) = (self.chain_pem.as_bytes(), self.key_pem.as_bytes());
        let certificate = ServerCertificate::from_pem(chain, key, UnixTime::now(), "test");
        let tls = ServerTls {
            certificates: CertificateStore::new(vec![certificate.unwrap()]).unwrap(),
            ask_client_certificate: true,
        };
        server_config(tls.build().unwrap(), &[3; 32]).unwrap()
    }

    /// Our client.
    pub(crate) fn our_client(&self) -> quinn_proto::ClientConfig {
        let trust = ServerTrust::RootsPem(self.chain_pem.clone().into_bytes());
        let tls = ClientTls {
            trust,
            identity: None,
        };
        client_config(tls.build().unwrap()).unwrap()
    }

    /// A client on quinn.
    pub(crate) fn quinn_client(&self) -> quinn::ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()).unwrap();
        let mut tls = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
    }

    /// A server on quinn.
    pub(crate) fn quinn_server(&self) -> quinn::ServerConfig {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap();
        let mut tls = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()))
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain_pem.as_bytes()).unwrap()
    }
}
