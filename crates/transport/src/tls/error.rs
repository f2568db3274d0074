//! What is wrong with a certificate, and what to do.

use std::{io, path::PathBuf};

use rustls::CertificateError;
use x509_parser::time::ASN1Time;

/// What is wrong with our own certificates, keys and roots.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path} cannot be read: {error}; check the path, the mount and the permissions")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No certificate where one must be.
    #[error("{source_name} holds no certificate: give PEM with a CERTIFICATE block, leaf first")]
    NoCertificate {
        /// Where it was looked for.
        source_name: String,
    },
    /// No private key where one must be.
    #[error("{source_name} holds no private key: give PEM with a PRIVATE KEY block")]
    NoKey {
        /// Where it was looked for.
        source_name: String,
    },
    /// Not PEM or not X.509.
    #[error("{source_name} is damaged: {detail}")]
    Malformed {
        /// Where it was read.
        source_name: String,
        /// What does not parse.
        detail: String,
    },
    /// The key cannot be used.
    #[error(
        "the key in {source_name} cannot be used ({detail}): give an ECDSA P-256 or P-384, Ed25519 or RSA key"
    )]
    UnsupportedKey {
        /// Where it was read.
        source_name: String,
        /// What the TLS library said.
        detail: String,
    },
    /// Certificate and key belong to different pairs.
    #[error(
        "the certificate and the key in {source_name} do not belong together: replace both by those of one pair"
    )]
    KeyMismatch {
        /// Where they were read.
        source_name: String,
    },
    /// The certificate is over.
    #[error("the certificate in {source_name} expired at {}: renew it", utc(*not_after))]
    Expired {
        /// Where it was read.
        source_name: String,
        /// Its notAfter, seconds since 1970.
        not_after: i64,
    },
    /// The certificate has not begun.
    #[error(
        "the certificate in {source_name} begins at {}: if that is past, set this machine's clock: `timedatectl set-ntp true`",
        utc(*not_before)
    )]
    NotYetValid {
        /// Where it was read.
        source_name: String,
        /// Its notBefore, seconds since 1970.
        not_before: i64,
    },
    /// Nobody is trusted.
    #[error("no root certificate was found in {source_name}: give a PEM file of roots")]
    NoRoots {
        /// Where they were looked for.
        source_name: String,
    },
    /// The TLS library refused the configuration.
    #[error("TLS cannot be configured: {0}")]
    Configuration(String),
}

/// A time as people read it, such as `2026-01-31 08:05:00 UTC`.
fn utc(unix_s: i64) -> String {
    let time = ASN1Time::from_timestamp(unix_s).map(|time| time.to_datetime());
    time.map_or_else(
        |_| format!("{unix_s} s since 1970"),
        |time| {
            let (year, month, day) = time.to_calendar_date();
            let (hour, minute, second) = time.to_hms();
            let month = u8::from(month);
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
        },
    )
}

/// What is wrong with the certificate the peer showed in a handshake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerCertificateError {
    /// Nobody we trust signed it.
    #[error(
        "the server's certificate is signed by nobody this client trusts: install its root, or check that the address is the right one"
    )]
    UntrustedIssuer,
    /// It is over.
    #[error(
        "the server's certificate has expired: its operator must renew it (or this machine's clock is ahead)"
    )]
    Expired,
    /// It has not begun.
    #[error("the server's certificate is not valid yet: check this machine's clock")]
    NotYetValid,
    /// It is another host's.
    #[error("the server's certificate is not for {expected}: check the name in the URL")]
    NameMismatch {
        /// The name that was asked for.
        expected: String,
    },
    /// It was revoked.
    #[error("the server's certificate was revoked")]
    Revoked,
    /// A client's certificate whose key is not Ed25519.
    #[error(
        "the client's certificate has no Ed25519 key: a connector's identity is an Ed25519 key"
    )]
    NotEd25519,
    /// Anything else.
    #[error("the peer's certificate is not acceptable: {0}")]
    Other(String),
}

impl PeerCertificateError {
    /// What a failed verification means, for a server asked for as `expected`.
    pub(super) fn from_rustls(error: &rustls::Error, expected: &str) -> Self {
        let rustls::Error::InvalidCertificate(certificate) = error else {
            return Self::Other(error.to_string());
        };
        match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                Self::UntrustedIssuer
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::NameMismatch {
                    expected: expected.to_owned(),
                }
            }
            CertificateError::Revoked => Self::Revoked,
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_a_calendar() {
        let source_name = "tls.crt".to_owned();
        let expired = TlsError::Expired {
            source_name: source_name.clone(),
            not_after: 1_769_846_700,
        };
        assert_eq!(
            expired.to_string(),
            "the certificate in tls.crt expired at 2026-01-31 08:05:00 UTC: renew it"
        );
        let early = TlsError::NotYetValid {
            source_name,
            not_before: 0,
        };
        let text = early.to_string();
        assert!(text.contains("begins at 1970-01-01 00:00:00 UTC"), "{text}");
        assert!(text.contains("`timedatectl set-ntp true`"), "{text}");
        assert_eq!(utc(i64::MAX), "9223372036854775807 s since 1970");
    }
}
