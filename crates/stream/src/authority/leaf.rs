//! What the authority issues.

use std::{collections::BTreeSet, fmt, net::IpAddr};

use masque_model::ObjectName;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, SanType};
use x509_parser::{
    pem::parse_x509_pem,
    prelude::{GeneralName, X509Certificate},
};

use super::CertificateError;
use crate::identity::point_uri;

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A server, that is the operator's stream or a gateway's listener, with the host names and
    /// addresses that clients dial.
    Server(Vec<String>),
    /// The pods of an ingress point, towards the operator.
    Pods(ObjectName),
}

/// A certificate chain and its key, as `tls.crt` and `tls.key` of a kubernetes.io/tls Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, and while the CA is being rotated the cross certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl fmt::Debug for Issued {
    /// Without its key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// A certificate's names in a form to compare: kind and text.
pub(super) type Names = BTreeSet<(&'static str, String)>;

/// The names that a certificate of `subject` has.
pub(super) fn names(subject: &Subject) -> Result<Names, CertificateError> {
    match subject {
        Subject::Pods(point) => Ok([("uri", point_uri(point))].into()),
        Subject::Server(names) => names.iter().map(|name| server_name(name)).collect(),
    }
}

fn server_name(name: &str) -> Result<(&'static str, String), CertificateError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(("ip", address.to_string()));
    }
    let dns = name.to_ascii_lowercase();
    let label = |label: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_' || b == b'*';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fine)
    };
    if dns.len() <= 253 && dns.split('.').all(label) {
        Ok(("dns", dns))
    } else {
        Err(CertificateError::Name(name.to_owned()))
    }
}

pub(super) fn params(subject: &Subject) -> Result<CertificateParams, CertificateError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let (common_name, usage) = match subject {
        Subject::Server(_) => ("masque-server", ExtendedKeyUsagePurpose::ServerAuth),
        Subject::Pods(_) => ("masque-gateway", ExtendedKeyUsagePurpose::ClientAuth),
    };
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    for (kind, name) in names(subject)? {
        let wrong = |_| CertificateError::Name(name.clone());
        params.subject_alt_names.push(match kind {
            "uri" => SanType::URI(name.as_str().try_into()?),
            "ip" => SanType::IpAddress(name.parse().map_err(wrong)?),
            _ => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    Ok(params)
}

/// Looks at the first certificate of a PEM text.
pub(super) fn read<T>(
    pem: &str,
    what: &'static str,
    look: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T, CertificateError> {
    let unreadable = |reason: String| CertificateError::Unreadable { what, reason };
    let (_, pem) = parse_x509_pem(pem.as_bytes()).map_err(|e| unreadable(e.to_string()))?;
    let certificate = pem.parse_x509().map_err(|e| unreadable(e.to_string()))?;
    Ok(look(&certificate))
}

/// When it begins and ends, in seconds since 1970.
pub(super) fn validity(certificate: &X509Certificate<'_>) -> (u64, u64) {
    let validity = certificate.validity();
    let unix = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    (unix(validity.not_before), unix(validity.not_after))
}

pub(super) fn public_key<'a>(certificate: &'a X509Certificate<'_>) -> &'a [u8] {
    &certificate.public_key().subject_public_key.data
}

pub(super) fn names_of(certificate: &X509Certificate<'_>) -> Names {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Names::new();
    };
    let names = names.value.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::URI(uri) => ("uri", (*uri).to_owned()),
            GeneralName::DNSName(name) => ("dns", (*name).to_owned()),
            GeneralName::IPAddress(bytes) => ("ip", address(bytes)),
            other => ("other", other.to_string()),
        })
        .collect()
}

fn address(bytes: &[u8]) -> String {
    if let Ok(ipv4) = <[u8; 4]>::try_from(bytes) {
        IpAddr::from(ipv4).to_string()
    } else if let Ok(ipv6) = <[u8; 16]>::try_from(bytes) {
        IpAddr::from(ipv6).to_string()
    } else {
        String::new()
    }
}
