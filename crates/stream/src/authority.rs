//! The operator's certificate authority.
//!
//! Rotation has no gap, whatever reaches whom first. The new CA's key is certified twice: by itself,
//! and by the former CA (`cross`). Who trusts only the former CA follows a new certificate over the
//! cross certificate, which is part of its chain; who has the new bundle trusts both. When every
//! certificate of the former CA has run out, it leaves the bundle.

mod leaf;
#[cfg(test)]
mod tests;

use std::fmt;

use data_encoding::HEXLOWER;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

pub use leaf::{Issued, Subject};

const DAY_S: u64 = 86_400;
/// How long a CA holds; it is rotated when a third of that is left.
const CA_LIFETIME_S: u64 = 365 * DAY_S;
/// How long what it issues holds; it is renewed when a third of that is left.
const LEAF_LIFETIME_S: u64 = 30 * DAY_S;
/// Clocks may differ by this.
const SKEW_S: u64 = 3_600;

/// A certificate authority, perhaps with the one before it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: AuthorityPem,
    not_before_unix_s: u64,
    not_after_unix_s: u64,
}

/// An authority as it is stored: each field is a key of the Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityPem {
    /// `ca.crt`: the CA's own certificate.
    pub ca_crt: String,
    /// `ca.key`: its key.
    pub ca_key: String,
    /// `previous.crt`: the certificate of the CA before it, while that is still trusted.
    pub previous_crt: Option<String>,
    /// `cross.crt`: this CA, certified by the previous one.
    pub cross_crt: Option<String>,
}

/// What an authority needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationStep {
    /// Nothing.
    Keep,
    /// [`Authority::rotate`]: it expires in less than a third of its lifetime.
    Rotate,
    /// [`Authority::retire_previous`]: nothing that the previous CA signed holds any more.
    RetirePrevious,
}

/// A certificate cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not a PEM certificate.
    #[error("{what} is not a certificate in PEM: {reason}")]
    Unreadable {
        /// Which one.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate and key are no pair.
    #[error("ca.key is not the key of ca.crt; restore both from one backup, or delete the Secret")]
    OtherKey,
    /// A host name or address that no certificate can hold.
    #[error("{0:?} is neither a host name nor an address")]
    Name(String),
    /// A key or certificate cannot be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

impl Authority {
    /// A new CA.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn generate(now_unix_s: u64) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let params = ca_params(&key, now_unix_s);
        let pem = AuthorityPem {
            ca_crt: params.self_signed(&key)?.pem(),
            ca_key: key.serialize_pem(),
            previous_crt: None,
            cross_crt: None,
        };
        Self::from_pem(pem)
    }

    /// A CA that was stored.
    ///
    /// # Errors
    /// [`CertificateError`]; what is stored is of no use.
    pub fn from_pem(pem: AuthorityPem) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(&pem.ca_key)?;
        let public = key.public_key_raw().to_vec();
        let (matches, not_before_unix_s, not_after_unix_s) =
            leaf::read(&pem.ca_crt, "ca.crt", |certificate| {
                let (from, to) = leaf::validity(certificate);
                (leaf::public_key(certificate) == public, from, to)
            })?;
        if !matches {
            return Err(CertificateError::OtherKey);
        }
        for (text, what) in [
            (&pem.previous_crt, "previous.crt"),
            (&pem.cross_crt, "cross.crt"),
        ] {
            if let Some(text) = text {
                leaf::read(text, what, |_| ())?;
            }
        }
        Ok(Self {
            issuer: Issuer::from_ca_cert_pem(&pem.ca_crt, key)?,
            pem,
            not_before_unix_s,
            not_after_unix_s,
        })
    }

    /// What to store.
    pub fn pem(&self) -> &AuthorityPem {
        &self.pem
    }

    /// What others trust: this CA, and the previous one while it counts.
    pub fn bundle(&self) -> String {
        let previous = self.pem.previous_crt.as_deref().unwrap_or_default();
        format!("{}{previous}", self.pem.ca_crt)
    }

    /// When it expires, in seconds since 1970; for the metric.
    pub fn expires_unix_s(&self) -> u64 {
        self.not_after_unix_s
    }

    /// What is to be done with it now.
    pub fn due(&self, now_unix_s: u64) -> RotationStep {
        if now_unix_s + CA_LIFETIME_S / 3 >= self.not_after_unix_s {
            RotationStep::Rotate
        } else if self.pem.previous_crt.is_some()
            && now_unix_s >= self.not_before_unix_s + SKEW_S + LEAF_LIFETIME_S
        {
            RotationStep::RetirePrevious
        } else {
            RotationStep::Keep
        }
    }

    /// The CA after this one. Store it, then issue everything anew, in any order.
    ///
    /// # Errors
    /// [`CertificateError::Make`].
    pub fn rotate(&self, now_unix_s: u64) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let params = ca_params(&key, now_unix_s);
        let mut cross = params.clone();
        // What this CA certifies ends with it.
        cross.not_after = at(self.not_after_unix_s.min(now_unix_s + CA_LIFETIME_S));
        Self::from_pem(AuthorityPem {
            ca_crt: params.self_signed(&key)?.pem(),
            ca_key: key.serialize_pem(),
            previous_crt: Some(self.pem.ca_crt.clone()),
            cross_crt: Some(cross.signed_by(&key, &self.issuer)?.pem()),
        })
    }

    /// This CA without the one before it.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn retire_previous(&self) -> Result<Self, CertificateError> {
        Self::from_pem(AuthorityPem {
            previous_crt: None,
            cross_crt: None,
            ..self.pem.clone()
        })
    }

    /// A certificate and key for `subject`.
    ///
    /// # Errors
    /// [`CertificateError`].
    pub fn issue(&self, subject: &Subject, now_unix_s: u64) -> Result<Issued, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = leaf::params(subject)?;
        params.not_before = at(now_unix_s.saturating_sub(SKEW_S));
        params.not_after = at(self.not_after_unix_s.min(now_unix_s + LEAF_LIFETIME_S));
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let cross = self.pem.cross_crt.as_deref().unwrap_or_default();
        Ok(Issued {
            certificate_pem: format!("{certificate}{cross}"),
            key_pem: key.serialize_pem(),
        })
    }

    /// Whether what was issued still serves: signed by this CA (not by the previous one) for the
    /// same subject, with its own key, and with more than a third of its lifetime left.
    pub fn is_current(&self, issued: &Issued, subject: &Subject, now_unix_s: u64) -> bool {
        let Ok(wanted) = leaf::names(subject) else {
            return false;
        };
        let Ok(key) = KeyPair::from_pem(&issued.key_pem) else {
            return false;
        };
        let ours = leaf::read(&self.pem.ca_crt, "ca.crt", |ca| {
            leaf::read(&issued.certificate_pem, "tls.crt", |certificate| {
                let (from, to) = leaf::validity(certificate);
                certificate.issuer() == ca.subject()
                    && certificate.verify_signature(Some(ca.public_key())).is_ok()
                    && leaf::public_key(certificate) == key.public_key_raw()
                    && leaf::names_of(certificate) == wanted
                    && from <= now_unix_s
                    && now_unix_s + LEAF_LIFETIME_S / 3 < to
            })
        });
        matches!(ours, Ok(Ok(true)))
    }
}

impl fmt::Debug for Authority {
    /// Without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("not_after_unix_s", &self.not_after_unix_s)
            .field("previous", &self.pem.previous_crt.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for AuthorityPem {
    /// Without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityPem")
            .field("ca_crt", &self.ca_crt)
            .field("previous_crt", &self.previous_crt)
            .finish_non_exhaustive()
    }
}

fn ca_params(key: &KeyPair, now_unix_s: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    // Each CA has a name of its own, so that chains are never ambiguous.
    let public = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    let short = HEXLOWER.encode(&public.as_ref()[..6]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("masque-operator CA {short}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = at(now_unix_s.saturating_sub(SKEW_S));
    params.not_after = at(now_unix_s + CA_LIFETIME_S);
    params
}

/// Times that no calendar holds become the end of ours.
fn at(unix_s: u64) -> OffsetDateTime {
    let end = OffsetDateTime::UNIX_EPOCH + time::Duration::days(365 * 7_000);
    i64::try_from(unix_s)
        .ok()
        .and_then(|s| OffsetDateTime::from_unix_timestamp(s).ok())
        .map_or(end, |time| time.min(end))
}
