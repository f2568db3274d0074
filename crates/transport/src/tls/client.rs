//! TLS of a client.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{ResolvesClientCert, WebPkiServerVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};

use super::{ALPN_H3, TlsError, identity::read, server::provider, verifier::NotingServerVerifier};

/// PKCS #8 around an Ed25519 seed (RFC 8410 §7).
const ED25519_PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Which servers a client trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerTrust {
    /// Those signed by a root that the system trusts.
    #[default]
    System,
    /// Those signed by a root of this PEM file.
    RootsFile(PathBuf),
    /// Those signed by a root of this PEM text.
    RootsPem(Vec<u8>),
}

impl ServerTrust {
    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let (pem, source_name) = match self {
            Self::System => return system_roots(),
            Self::RootsFile(path) => (read(path)?, path.display().to_string()),
            Self::RootsPem(pem) => (pem.clone(), "the given roots".to_owned()),
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let malformed = |detail: String| TlsError::Malformed {
                source_name: source_name.clone(),
                detail,
            };
            let certificate = certificate.map_err(|error| malformed(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| malformed(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoRoots { source_name });
        }
        Ok(roots)
    }
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry roots that no library parses; the others are still good.
    let (added, _ignored) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(TlsError::NoRoots {
            source_name: "the system's trust store".to_owned(),
        });
    }
    Ok(roots)
}

/// A connector's Ed25519 key as a client certificate: self-signed, because the identity is the
/// key and nobody vouches for it but its holder.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    certified: Arc<CertifiedKey>,
}

impl ClientIdentity {
    /// The identity of an Ed25519 private key, given as its 32-byte seed (RFC 8032 §5.1.5).
    ///
    /// # Errors
    /// [`TlsError::Configuration`]: the TLS library refused the key.
    pub fn from_ed25519_seed(seed: &[u8; 32]) -> Result<Self, TlsError> {
        let refused = |error: &dyn std::fmt::Display| TlsError::Configuration(error.to_string());
        let mut pkcs8 = ED25519_PKCS8_PREFIX.to_vec();
        pkcs8.extend_from_slice(seed);
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8);
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &rcgen::PKCS_ED25519)
            .map_err(|error| refused(&error))?;
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "connector");
        let certificate = params.self_signed(&pair).map_err(|error| refused(&error))?;
        let key =
            rustls::crypto::ring::sign::any_eddsa_type(&pkcs8).map_err(|error| refused(&error))?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], key);
        Ok(Self {
            certified: Arc::new(certified),
        })
    }
}

/// Shows one certificate to every server that asks, without the name of an issuer having a say.
#[derive(Debug)]
struct AlwaysShow(Arc<CertifiedKey>);

impl ResolvesClientCert for AlwaysShow {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// TLS of a client: TLS 1.3, ALPN h3, no early data.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// Which servers are trusted.
    pub trust: ServerTrust,
    /// Who we are, for servers that ask.
    pub identity: Option<ClientIdentity>,
}

impl ClientTls {
    /// The configuration for rustls.
    ///
    /// # Errors
    /// [`TlsError`] says which file is wrong and what to do.
    pub fn build(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let refused = |error: &dyn std::fmt::Display| TlsError::Configuration(error.to_string());
        let roots = Arc::new(self.trust.roots()?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|error| refused(&error))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| refused(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(NotingServerVerifier(verifier)));
        let mut config = match &self.identity {
            Some(identity) => {
                builder.with_client_cert_resolver(Arc::new(AlwaysShow(identity.certified.clone())))
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_H3.to_vec()];
        config.enable_early_data = false;
        Ok(Arc::new(config))
    }
}
