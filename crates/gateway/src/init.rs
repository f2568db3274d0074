//! `masque-gateway init DIR`: a folder that runs as it is.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::exit::Fatal;

/// Where a certificate named in `spec.listeners[].tls.certificateRefs` lies: as a Secret mounts.
pub(crate) const SECRETS: &str = "secrets";

/// The starter manifests, each with its file name.
const MANIFESTS: [(&str, &str); 4] = [
    (
        "vpc-ingress-point.yaml",
        include_str!("init/vpc-ingress-point.yaml"),
    ),
    (
        "vpc-access-policy.yaml",
        include_str!("init/vpc-access-policy.yaml"),
    ),
    ("connectors.yaml", include_str!("init/connectors.yaml")),
    ("README.md", include_str!("init/README.md")),
];

/// How long the development certificates hold.
const VALIDITY_DAYS: i64 = 825;

/// Writes the folder.
///
/// # Errors
/// [`Fatal::Exists`] when it is there already, [`Fatal::Write`] or [`Fatal::Certificate`].
pub(crate) fn init(dir: &Path, hosts: &[String]) -> Result<(), Fatal> {
    if dir.exists() && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Fatal::Exists {
            path: dir.to_owned(),
        });
    }
    let certificates = development_certificates(hosts)
        .map_err(|e| Fatal::Certificate(format!("cannot make a certificate: {e}")))?;
    make_dir(dir, 0o755)?;
    for (name, text) in MANIFESTS {
        write(&dir.join(name), text.as_bytes(), 0o644)?;
    }
    let secret = dir.join(SECRETS).join("gateway-tls");
    make_dir(&dir.join(SECRETS), 0o700)?;
    make_dir(&secret, 0o700)?;
    write(
        &secret.join("tls.crt"),
        certificates.server_chain.as_bytes(),
        0o644,
    )?;
    write(
        &secret.join("tls.key"),
        certificates.server_key.as_bytes(),
        0o600,
    )?;
    write(&dir.join("ca.crt"), certificates.ca.as_bytes(), 0o644)?;
    println!("Wrote {}. Next:", dir.display());
    println!(
        "  1. put your connector's key into {}",
        dir.join("connectors.yaml").display()
    );
    println!("     (`datum-connect key` on the client prints the manifest)");
    println!(
        "  2. put your SIDs into {}",
        dir.join("vpc-ingress-point.yaml").display()
    );
    println!("  3. masque-gateway check {}", dir.display());
    println!("  4. masque-gateway --manifests {}", dir.display());
    println!("  5. on the client: datum-connect attach --vpc production-vpc \\");
    println!(
        "       --gateway https://HOST:4433 --ca {}",
        dir.join("ca.crt").display()
    );
    Ok(())
}

/// PEM texts of a development CA and a server certificate that it signed. The CA's key is thrown
/// away: the folder can serve, but nobody can sign more with it.
struct Certificates {
    ca: String,
    server_chain: String,
    server_key: String,
}

fn development_certificates(hosts: &[String]) -> Result<Certificates, rcgen::Error> {
    let now = time_now();
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name
        .push(DnType::CommonName, "MASQUE gateway development CA");
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
        server_chain: certificate.pem(),
        server_key: server_key.serialize_pem(),
    })
}

/// From a day ago (clocks differ) to [`VALIDITY_DAYS`] from now.
fn time_now() -> (time::OffsetDateTime, time::OffsetDateTime) {
    let now = time::OffsetDateTime::now_utc();
    (
        now - time::Duration::days(1),
        now + time::Duration::days(VALIDITY_DAYS),
    )
}

fn make_dir(path: &Path, mode: u32) -> Result<(), Fatal> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Fatal::Write {
            path: path.to_owned(),
            error,
        })
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Fatal> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| Fatal::Write {
            path: path.to_owned(),
            error,
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn writes_once_and_keeps_keys_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("starter");
        init(&dir, &["gw.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        let key = dir.join("secrets/gateway-tls/tls.key");
        assert_eq!(
            fs::metadata(&key).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(fs::read_to_string(&key).unwrap().contains("PRIVATE KEY"));
        assert!(!dir.join("ca.key").exists());
        assert!(matches!(init(&dir, &[]), Err(Fatal::Exists { .. })));
    }
}
