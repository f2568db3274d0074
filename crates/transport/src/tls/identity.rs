//! A certificate chain with its key, read and checked.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::TlsError;

/// Where a certificate chain and its key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, the server's certificate first, then its issuers.
    pub chain: PathBuf,
    /// PEM, PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// A certificate chain with its key, fit for use at the time it was read.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    pub(super) certified: Arc<CertifiedKey>,
    /// DNS names of subjectAltName, lowercase; may begin with `*.`.
    pub(super) names: Vec<String>,
    not_after: i64,
}

impl ServerCertificate {
    /// Reads a chain and its key from files; fit at `now`.
    ///
    /// # Errors
    /// [`TlsError`] names the file and what to do.
    pub fn load(files: &CertificateFiles, now: UnixTime) -> Result<Self, TlsError> {
        let source = format!("{} and {}", files.chain.display(), files.key.display());
        Self::from_pem(&read(&files.chain)?, &read(&files.key)?, now, &source)
    }

    /// Reads a chain and its key from PEM; fit at `now`. `source_name` says in errors where the
    /// PEM came from.
    ///
    /// # Errors
    /// [`TlsError`] says what is wrong and what to do.
    pub fn from_pem(
        chain: &[u8],
        key: &[u8],
        now: UnixTime,
        source_name: &str,
    ) -> Result<Self, TlsError> {
        let source = || source_name.to_owned();
        let malformed = |detail: String| TlsError::Malformed {
            source_name: source(),
            detail,
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| malformed(error.to_string()))?;
        let leaf = chain.first().ok_or_else(|| TlsError::NoCertificate {
            source_name: source(),
        })?;
        let (names, not_after) = inspect(leaf, now, source_name)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => TlsError::NoKey {
                source_name: source(),
            },
            error => malformed(error.to_string()),
        })?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|error| {
            TlsError::UnsupportedKey {
                source_name: source(),
                detail: error.to_string(),
            }
        })?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| TlsError::KeyMismatch {
            source_name: source(),
        })?;
        Ok(Self {
            certified: Arc::new(certified),
            names,
            not_after,
        })
    }

    /// The notAfter of the leaf, seconds since 1970; for warnings ahead of time.
    pub const fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The DNS names it is for.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

fn inspect(
    leaf: &CertificateDer<'_>,
    now: UnixTime,
    source_name: &str,
) -> Result<(Vec<String>, i64), TlsError> {
    let source_name = source_name.to_owned();
    let certificate = match X509Certificate::from_der(leaf) {
        Ok((_, certificate)) => certificate,
        Err(error) => {
            return Err(TlsError::Malformed {
                source_name,
                detail: error.to_string(),
            });
        }
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let not_before = certificate.validity().not_before.timestamp();
    let not_after = certificate.validity().not_after.timestamp();
    if now < not_before {
        return Err(TlsError::NotYetValid {
            source_name,
            not_before,
        });
    }
    if now > not_after {
        return Err(TlsError::Expired {
            source_name,
            not_after,
        });
    }
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names = alternatives
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    Ok((names, not_after))
}
