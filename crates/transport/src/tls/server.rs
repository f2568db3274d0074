//! TLS of a listener.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{ALPN_H3, ServerCertificate, TlsError, verifier::ConnectorCertificates};

/// The certificates of a listener, chosen by server name, replaceable while it runs.
#[derive(Debug)]
pub struct CertificateStore {
    certificates: ArcSwap<Vec<ServerCertificate>>,
}

impl CertificateStore {
    /// A store with these certificates. The first is shown to clients that ask for no name or for
    /// one that none has.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`] without any.
    pub fn new(certificates: Vec<ServerCertificate>) -> Result<Arc<Self>, TlsError> {
        let certificates = ArcSwap::from_pointee(not_empty(certificates)?);
        Ok(Arc::new(Self { certificates }))
    }

    /// Replaces the certificates for handshakes to come.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`] without any; the present ones stay.
    pub fn replace(&self, certificates: Vec<ServerCertificate>) -> Result<(), TlsError> {
        self.certificates.store(Arc::new(not_empty(certificates)?));
        Ok(())
    }

    fn choose(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let certificates = self.certificates.load();
        let by_name = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            // RFC 6125 §6.4.3: a wildcard stands for exactly the leftmost label.
            let wildcard = name
                .split_once('.')
                .map(|(_, parent)| format!("*.{parent}"));
            let has = |wanted: &String| {
                certificates
                    .iter()
                    .find(|certificate| certificate.names.contains(wanted))
            };
            has(&name).or_else(|| wildcard.as_ref().and_then(has))
        });
        by_name
            .or_else(|| certificates.first())
            .map(|certificate| certificate.certified.clone())
    }
}

impl ResolvesServerCert for CertificateStore {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(client_hello.server_name())
    }
}

fn not_empty(certificates: Vec<ServerCertificate>) -> Result<Vec<ServerCertificate>, TlsError> {
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            source_name: "the listener".to_owned(),
        });
    }
    Ok(certificates)
}

/// TLS of a listener: TLS 1.3, ALPN h3, no early data.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificates.
    pub certificates: Arc<CertificateStore>,
    /// Ask clients for a certificate. None is required; one with an Ed25519 key is a connector's
    /// identity, any other ends the handshake.
    pub ask_client_certificate: bool,
}

impl ServerTls {
    /// The configuration for rustls.
    ///
    /// # Errors
    /// [`TlsError::Configuration`]: the library does not take it.
    pub fn build(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::Configuration(error.to_string()))?;
        let builder = if self.ask_client_certificate {
            builder.with_client_cert_verifier(Arc::new(ConnectorCertificates))
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_cert_resolver(self.certificates.clone());
        config.alpn_protocols = vec![ALPN_H3.to_vec()];
        // A replayed CONNECT would open sockets and take addresses (RFC 8470 §3): no early data.
        config.max_early_data_size = 0;
        Ok(Arc::new(config))
    }
}

/// ring, with AES-128-GCM first: QUIC's Initial packets need it, and it is the fastest here. A
/// server follows the client's order, so that a device without AES instructions gets ChaCha20.
pub(super) fn provider() -> Arc<CryptoProvider> {
    use rustls::crypto::ring::cipher_suite as suite;
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![
        suite::TLS13_AES_128_GCM_SHA256,
        suite::TLS13_AES_256_GCM_SHA384,
        suite::TLS13_CHACHA20_POLY1305_SHA256,
    ];
    Arc::new(provider)
}
