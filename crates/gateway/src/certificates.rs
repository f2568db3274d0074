//! Certificates of listeners: found, checked, and put into the store that handshakes read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use masque_controller::{Secret, Snapshot};
use masque_model::{ListenerProtocol, ObjectName};
use masque_transport::tls::{CertificateStore, ServerCertificate, ServerTls, TlsError};
use rustls_pki_types::UnixTime;

use crate::{
    development,
    source::{self, CertificateError, Pem},
};

/// Whether a named certificate can be used now.
///
/// # Errors
/// [`CertificateError`] says what is wrong and what mends it.
pub(crate) fn check(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<(), CertificateError> {
    load(dir, secrets, name).map(drop)
}

fn load(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<ServerCertificate, CertificateError> {
    let pem = source::certificate(dir, secrets, name)?;
    ServerCertificate::from_pem(&pem.certificate, &pem.key, UnixTime::now(), &pem.origin)
        .map_err(|error| CertificateError::Unusable(told(&error, &pem)))
}

/// What is wrong with a certificate, and the command that shows or mends it.
fn told(error: &TlsError, pem: &Pem) -> String {
    let Some(folder) = pem.folder.as_ref().map(|folder| folder.display()) else {
        return error.to_string();
    };
    match error {
        TlsError::Expired { .. } if development::is_ours(&pem.certificate) => format!(
            "{error}; `masque-gateway init NEW-DIR --host HOST` makes another, to be put into \
             {folder}, and the ca.crt that its clients need then"
        ),
        TlsError::Expired { .. } => format!(
            "{error}; `openssl x509 -in {folder}/tls.crt -noout -issuer -dates` says who signs it"
        ),
        TlsError::KeyMismatch { .. } => format!(
            "{error}; of a pair `openssl x509 -in {folder}/tls.crt -noout -pubkey` and \
             `openssl pkey -in {folder}/tls.key -pubout` print the same"
        ),
        _ => error.to_string(),
    }
}

/// Certificates by name as they could last be used.
pub(crate) type LastGood = BTreeMap<ObjectName, ServerCertificate>;

/// A certificate that cannot be shown.
#[derive(Debug)]
pub(crate) struct Lacking {
    /// What is wrong, where, and what mends it.
    pub(crate) line: String,
    /// Whether this process only lacks the permission to read it.
    pub(crate) is_denied: bool,
}

impl Lacking {
    fn new(snapshot: &Snapshot, listener: &str, error: &CertificateError) -> Self {
        let sentence = match error {
            CertificateError::Denied(denied) => denied.told_to_the_gateway(),
            CertificateError::Unusable(sentence) => sentence.clone(),
        };
        let point = &snapshot.ingress_point;
        Self {
            line: format!("VPCIngressPoint {point}: listener {listener}: {sentence}"),
            is_denied: matches!(error, CertificateError::Denied(_)),
        }
    }
}

/// Every port's certificates, in the order of the snapshots; and what is wrong with the others. One
/// that cannot be used any more (half replaced, or unreadable) stays as it was, so that its clients
/// are not shown the certificate of somebody else.
pub(crate) fn by_port(
    (dir, development_dir): (&Path, Option<&Path>),
    secrets: &BTreeMap<ObjectName, Secret>,
    snapshots: &[Snapshot],
    last_good: &mut LastGood,
) -> (BTreeMap<u16, Vec<ServerCertificate>>, Vec<Lacking>) {
    let mut ports: BTreeMap<u16, Vec<ServerCertificate>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut without = BTreeSet::new();
    let mut names = BTreeSet::new();
    let mut used = LastGood::new();
    for snapshot in snapshots {
        let http3 = snapshot
            .listeners
            .iter()
            .filter(|l| l.protocol == ListenerProtocol::Http3);
        for listener in http3 {
            if listener.certificates.is_empty() {
                without.insert(listener.port);
                names.extend(listener.hostname.clone());
            }
            for certificate in &listener.certificates {
                let name = ObjectName::new(&*snapshot.ingress_point.namespace, certificate);
                let usable = match load(dir, secrets, &name) {
                    Ok(loaded) => Some(loaded),
                    Err(error) => {
                        problems.push(Lacking::new(snapshot, &listener.name, &error));
                        last_good.get(&name).cloned()
                    }
                };
                if let Some(certificate) = usable {
                    used.insert(name, certificate.clone());
                    ports.entry(listener.port).or_default().push(certificate);
                }
            }
        }
    }
    if !without.is_empty() {
        let made = development_dir.map_or_else(
            || Err("a listener names no certificate, and there is none for it".to_owned()),
            |dir| development_certificate(dir, &names),
        );
        match made {
            Ok(certificate) => {
                for port in without {
                    ports.entry(port).or_default().push(certificate.clone());
                }
            }
            Err(line) => problems.push(Lacking {
                line,
                is_denied: false,
            }),
        }
    }
    *last_good = used;
    (ports, problems)
}

fn development_certificate(
    state_dir: &Path,
    names: &BTreeSet<String>,
) -> Result<ServerCertificate, String> {
    let (pem, ca) = development::certificate(state_dir, names)?;
    tracing::warn!(
        ca = %ca.display(),
        "a listener names no certificate, so one for development is shown; clients need --ca"
    );
    ServerCertificate::from_pem(&pem.certificate, &pem.key, UnixTime::now(), &pem.origin)
        .map_err(|error| error.to_string())
}

/// One port's TLS.
#[derive(Debug)]
pub(crate) struct PortTls {
    store: Arc<CertificateStore>,
}

impl PortTls {
    /// A store with these certificates, and the QUIC side of it.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub(crate) fn new(
        certificates: Vec<ServerCertificate>,
        token_secret: &[u8; 32],
    ) -> Result<(Self, Arc<masque_transport::quinn_proto::ServerConfig>), String> {
        let store = CertificateStore::new(certificates).map_err(|e| e.to_string())?;
        let tls = ServerTls {
            certificates: Arc::clone(&store),
            ask_client_certificate: true,
        };
        let config = tls.build().map_err(|e| e.to_string())?;
        let server =
            masque_transport::server_config(config, token_secret).map_err(|e| e.to_string())?;
        Ok((Self { store }, server))
    }

    /// Handshakes to come show these.
    ///
    /// # Errors
    /// A sentence; the present certificates stay.
    pub(crate) fn replace(&self, certificates: Vec<ServerCertificate>) -> Result<(), String> {
        self.store.replace(certificates).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A certificate that ends so many days from now, and its key.
    fn pair(until_days: i64) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gw.example".to_owned()]).unwrap();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(20);
        params.not_after = now + time::Duration::days(until_days);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_certificate_that_cannot_be_used_names_a_command() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("tls");
        fs::create_dir(&folder).unwrap();
        let told = |certificate: &str, key: &str| {
            fs::write(folder.join("tls.crt"), certificate).unwrap();
            fs::write(folder.join("tls.key"), key).unwrap();
            let name = ObjectName::new("default", "tls");
            check(dir.path(), &BTreeMap::new(), &name).map_err(|error| error.to_string())
        };
        let ((expired, expired_key), (good, key)) = (pair(-10), pair(10));
        let at = folder.display();
        let line = told(&expired, &expired_key).unwrap_err();
        let shows = format!("`openssl x509 -in {at}/tls.crt -noout -issuer -dates`");
        assert!(line.contains(&shows), "{line}");
        assert!(line.contains(" UTC: renew it; "), "{line}");
        let (ours, ours_key) = development::expired();
        let line = told(&ours, &ours_key).unwrap_err();
        let makes = "`masque-gateway init NEW-DIR --host HOST`";
        assert!(line.contains(makes), "{line}");
        let line = told(&good, &expired_key).unwrap_err();
        let shows = [
            format!("`openssl x509 -in {at}/tls.crt -noout -pubkey`"),
            format!("`openssl pkey -in {at}/tls.key -pubout`"),
        ];
        assert!(shows.iter().all(|command| line.contains(command)), "{line}");
        assert_eq!(told(&good, &key), Ok(()));
    }
}
