//! Certificates of listeners: found, checked, and put into the store that handshakes read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use masque_controller::{Secret, Snapshot};
use masque_model::{ListenerProtocol, ObjectName};
use masque_transport::tls::{CertificateStore, ServerCertificate, ServerTls};
use rustls_pki_types::UnixTime;

use crate::{development, source};

/// Whether a named certificate can be used now.
///
/// # Errors
/// A sentence that says what is wrong and what mends it.
pub(crate) fn check(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<(), String> {
    load(dir, secrets, name).map(drop)
}

fn load(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    name: &ObjectName,
) -> Result<ServerCertificate, String> {
    let pem = source::certificate(dir, secrets, name)?;
    ServerCertificate::from_pem(&pem.certificate, &pem.key, UnixTime::now(), &pem.origin)
        .map_err(|error| error.to_string())
}

/// Certificates by name as they could last be used.
pub(crate) type LastGood = BTreeMap<ObjectName, ServerCertificate>;

/// Every port's certificates, in the order of the snapshots; and what is wrong with the others. One
/// that cannot be used any more (half replaced, or unreadable) stays as it was, so that its clients
/// are not shown the certificate of somebody else.
pub(crate) fn by_port(
    (dir, development_dir): (&Path, Option<&Path>),
    secrets: &BTreeMap<ObjectName, Secret>,
    snapshots: &[Snapshot],
    last_good: &mut LastGood,
) -> (BTreeMap<u16, Vec<ServerCertificate>>, Vec<String>) {
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
                    Err(sentence) => {
                        problems.push(format!(
                            "VPCIngressPoint {}: listener {}: {sentence}",
                            snapshot.ingress_point, listener.name
                        ));
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
            Err(sentence) => problems.push(sentence),
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
