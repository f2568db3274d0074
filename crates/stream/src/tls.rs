//! TLS 1.3 at both ends, from PEM; replaced while connections are open.

use std::sync::Arc;

use arc_swap::ArcSwap;
use masque_model::ObjectName;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring::default_provider},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::{Issued, identity::point_of_certificate};

/// HTTP/2, the only protocol spoken.
const ALPN: &[u8] = b"h2";

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or nothing in it.
    #[error("{what}: {reason}")]
    Pem {
        /// Which text.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key do not go together, or an unusable algorithm.
    #[error("the certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    /// The trusted certificates cannot be used.
    #[error("the trusted certificates cannot be used: {0}")]
    Trust(#[from] rustls::client::VerifierBuilderError),
    /// The client's own certificate names no ingress point.
    #[error(transparent)]
    Identity(#[from] crate::IdentityError),
}

/// The operator's side. New handshakes take what was put in last; cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ArcSwap<ServerConfig>>,
}

impl ServerTls {
    /// Shows `certificate`, and lets in who has a certificate of `trust_pem`, the CA bundle.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(certificate: &Issued, trust_pem: &str) -> Result<Self, TlsError> {
        let config = server(certificate, trust_pem)?;
        Ok(Self {
            config: Arc::new(ArcSwap::from_pointee(config)),
        })
    }

    /// Handshakes to come use these; open streams stay.
    ///
    /// # Errors
    /// [`TlsError`]; the former ones stay.
    pub fn replace(&self, certificate: &Issued, trust_pem: &str) -> Result<(), TlsError> {
        self.config.store(Arc::new(server(certificate, trust_pem)?));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }
}

fn server(certificate: &Issued, trust_pem: &str) -> Result<ServerConfig, TlsError> {
    let (chain, key) = identity(
        certificate.certificate_pem.as_bytes(),
        certificate.key_pem.as_bytes(),
    )?;
    let roots = Arc::new(roots(trust_pem.as_bytes())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would not look at the client's certificate again.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The pod's side: its configuration, and the ingress point in its certificate.
pub(crate) fn client(
    certificate_pem: &[u8],
    key_pem: &[u8],
    trust_pem: &[u8],
) -> Result<(ClientConfig, ObjectName), TlsError> {
    let (chain, key) = identity(certificate_pem, key_pem)?;
    let point = point_of_certificate(chain.first().map_or(&[], |leaf| leaf.as_ref()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(trust_pem)?)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok((config, point))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(default_provider())
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate_pem: &[u8], key_pem: &[u8]) -> Result<Identity, TlsError> {
    let chain = certificates(certificate_pem, "tls.crt")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|e| TlsError::Pem {
        what: "tls.key",
        reason: e.to_string(),
    })?;
    Ok((chain, key))
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "ca.crt")? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |reason: String| TlsError::Pem { what, reason };
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| wrong(e.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}
