//! Certificates for development: what `init` writes, and what a listener without
//! `tls.certificateRefs` shows.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use masque_transport::tls::ServerCertificate;
use rustls_pki_types::{CertificateDer, UnixTime, pem::PemObject as _};

use crate::source::Pem;

/// Who signs them.
const AUTHORITY: &str = "MASQUE gateway development CA";
/// How long the certificates hold.
const VALIDITY_DAYS: i64 = 825;
/// A certificate is made anew when it holds for less than this.
const RENEWAL: Duration = Duration::from_secs(30 * 86_400);
/// The folder inside of the state folder.
const FOLDER: &str = "development-tls";

/// The certificate of a gateway that was given none: made once, kept in the state folder, and made
/// anew when the names or addresses of the machine change, and before it expires. Clients trust `ca.crt` beside it.
///
/// # Errors
/// A sentence that says what is wrong.
pub(crate) fn certificate(
    state_dir: &Path,
    names: &BTreeSet<String>,
) -> Result<(Pem, PathBuf), String> {
    let dir = state_dir.join(FOLDER);
    let hosts: Vec<String> = hosts(names).into_iter().collect();
    let wanted = hosts.join("\n");
    let ca = dir.join("ca.crt");
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "cannot make a development certificate in {}: {error}",
            dir.display()
        )
    };
    let same_hosts = fs::read_to_string(dir.join("hosts")).ok().as_deref() == Some(&wanted);
    if !same_hosts || !is_usable(&dir) {
        let made = certificates(&hosts).map_err(|e| failed(&e))?;
        fs::create_dir_all(&dir).map_err(|e| failed(&e))?;
        for (name, text, mode) in [
            ("ca.crt", &made.ca, 0o644),
            ("tls.crt", &made.chain, 0o644),
            ("tls.key", &made.key, 0o600),
            ("hosts", &wanted, 0o644),
        ] {
            masque_files::replace(&dir.join(name), text.as_bytes(), mode)
                .map_err(|e| failed(&e))?;
        }
    }
    let read = |name: &str| fs::read(dir.join(name)).map_err(|e| failed(&e));
    let pem = Pem {
        origin: dir.display().to_string(),
        certificate: read("tls.crt")?,
        key: read("tls.key")?,
        folder: Some(dir),
    };
    Ok((pem, ca))
}

/// Whether the certificate in the folder can be used, now and in [`RENEWAL`].
fn is_usable(dir: &Path) -> bool {
    let read = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
    let now = UnixTime::now().as_secs();
    [now, now + RENEWAL.as_secs()].into_iter().all(|at| {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(at));
        ServerCertificate::from_pem(&read("tls.crt"), &read("tls.key"), at, FOLDER).is_ok()
    })
}

/// The names of the listeners, and everything this machine is called here.
fn hosts(names: &BTreeSet<String>) -> BTreeSet<String> {
    let mut hosts = names.clone();
    hosts.insert("localhost".to_owned());
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return hosts;
    };
    for address in interfaces.filter_map(|interface| interface.address) {
        if let Some(ipv4) = address.as_sockaddr_in() {
            hosts.insert(ipv4.ip().to_string());
        }
        if let Some(ipv6) = address.as_sockaddr_in6() {
            // Nobody dials a link-local address without its zone, which no certificate holds.
            if !ipv6.ip().is_unicast_link_local() {
                hosts.insert(ipv6.ip().to_string());
            }
        }
    }
    hosts
}

/// PEM texts of a development CA and a server certificate that it signed. The CA's key is thrown
/// away: the folder can serve, but nobody can sign more with it.
pub(crate) struct Certificates {
    /// The CA's certificate, for clients.
    pub(crate) ca: String,
    /// The server's certificate.
    pub(crate) chain: String,
    /// Its key.
    pub(crate) key: String,
}

/// Whether a chain begins with a certificate that a development CA has signed.
pub(crate) fn is_ours(chain: &[u8]) -> bool {
    let leaf = CertificateDer::pem_slice_iter(chain).next();
    let authority = AUTHORITY.as_bytes();
    // The issuer's name stands in the DER as it is, and nobody else is called so.
    leaf.is_some_and(|leaf| {
        leaf.is_ok_and(|der| der.windows(authority.len()).any(|part| part == authority))
    })
}

/// Makes both for these names and addresses.
///
/// # Errors
/// A name that no certificate can hold.
pub(crate) fn certificates(hosts: &[String]) -> Result<Certificates, rcgen::Error> {
    signed(hosts, validity(time::OffsetDateTime::now_utc()))
}

fn signed(
    hosts: &[String],
    now: (time::OffsetDateTime, time::OffsetDateTime),
) -> Result<Certificates, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name.push(DnType::CommonName, AUTHORITY);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (ca.not_before, ca.not_after) = now;
    let ca_certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let server_key = KeyPair::generate()?;
    let mut server = CertificateParams::new(hosts.to_vec())?;
    server.distinguished_name.push(
        DnType::CommonName,
        hosts.first().map_or("gateway", String::as_str),
    );
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (server.not_before, server.not_after) = now;
    let certificate = server.signed_by(&server_key, &issuer)?;
    Ok(Certificates {
        ca: ca_certificate.pem(),
        chain: certificate.pem(),
        key: server_key.serialize_pem(),
    })
}

/// From a day before `now` (clocks differ) to [`VALIDITY_DAYS`] after it.
fn validity(now: time::OffsetDateTime) -> (time::OffsetDateTime, time::OffsetDateTime) {
    (
        now - time::Duration::days(1),
        now + time::Duration::days(VALIDITY_DAYS),
    )
}

/// Certificate and key as `init` made them long ago.
#[cfg(test)]
pub(crate) fn expired() -> (String, String) {
    let then = time::OffsetDateTime::now_utc() - time::Duration::days(VALIDITY_DAYS + 1);
    let made = signed(&["gw.example".to_owned()], validity(then)).unwrap();
    (made.chain, made.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_anew_for_other_names() {
        let dir = tempfile::tempdir().unwrap();
        let names = |name: &str| BTreeSet::from([name.to_owned()]);
        let (first, ca) = certificate(dir.path(), &names("a.example")).unwrap();
        let (again, _) = certificate(dir.path(), &names("a.example")).unwrap();
        assert!(first == again, "a restart keeps the certificate");
        assert!(
            fs::read_to_string(ca)
                .unwrap()
                .contains("BEGIN CERTIFICATE")
        );
        let (other, _) = certificate(dir.path(), &names("b.example")).unwrap();
        assert!(first != other);
        fs::write(dir.path().join(FOLDER).join("tls.crt"), "broken").unwrap();
        let (mended, _) = certificate(dir.path(), &names("b.example")).unwrap();
        assert!(other != mended, "an unusable one is made anew");
    }
}
