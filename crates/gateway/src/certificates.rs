//! Certificates of listeners: found, checked, and put into the store that handshakes read.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use masque_controller::{Secret, Snapshot};
use masque_model::{ListenerProtocol, ObjectName};
use masque_transport::tls::{CertificateStore, ServerCertificate, ServerTls};
use rustls_pki_types::UnixTime;

use crate::source;

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

/// Every port's certificates, in the order of the snapshots; and what is wrong with the others.
pub(crate) fn by_port(
    dir: &Path,
    secrets: &BTreeMap<ObjectName, Secret>,
    snapshots: &[Snapshot],
) -> (BTreeMap<u16, Vec<ServerCertificate>>, Vec<String>) {
    let mut ports: BTreeMap<u16, Vec<ServerCertificate>> = BTreeMap::new();
    let mut problems = Vec::new();
    for snapshot in snapshots {
        let http3 = snapshot
            .listeners
            .iter()
            .filter(|l| l.protocol == ListenerProtocol::Http3);
        for listener in http3 {
            for certificate in &listener.certificates {
                let name = ObjectName::new(&*snapshot.ingress_point.namespace, certificate);
                match load(dir, secrets, &name) {
                    Ok(loaded) => ports.entry(listener.port).or_default().push(loaded),
                    Err(sentence) => problems.push(format!(
                        "VPCIngressPoint {}: listener {}: {sentence}",
                        snapshot.ingress_point, listener.name
                    )),
                }
            }
        }
    }
    (ports, problems)
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
