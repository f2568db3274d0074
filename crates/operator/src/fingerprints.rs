//! Fingerprints of the certificates that listeners show, for clients that pin them.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER;
use masque_api::VPCIngressPoint;
use masque_controller::children::listener_secret_name;
use masque_model::ObjectName;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::index::name_of;

/// Fingerprints by Secret: SHA-256 of its certificate, in hexadecimal.
pub(crate) type Fingerprints = BTreeMap<ObjectName, String>;

/// The fingerprint of the first certificate of a chain in PEM; nothing when there is none.
pub(crate) fn fingerprint(chain_pem: &[u8]) -> Option<String> {
    let first = CertificateDer::from_pem_slice(chain_pem).ok()?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &first);
    Some(HEXLOWER.encode(digest.as_ref()))
}

/// The fingerprint of what each listener shows to a client that names no host: its first
/// certificate that is there, or the one that the operator issues.
pub(crate) fn by_listener(
    point: &VPCIngressPoint,
    known: &Fingerprints,
) -> BTreeMap<String, String> {
    let point_name = name_of(&point.metadata);
    let of = |secret: &str| known.get(&ObjectName::new(&*point_name.namespace, secret));
    let listeners = point.spec.listeners.iter().filter_map(|listener| {
        let refs = listener.tls.as_ref().map(|tls| &tls.certificate_refs);
        let found = match refs.filter(|refs| !refs.is_empty()) {
            Some(refs) => refs.iter().find_map(|secret| of(&secret.name)),
            None => of(&listener_secret_name(&point_name.name)),
        };
        Some((listener.name.clone(), found?.clone()))
    });
    listeners.collect()
}

#[cfg(test)]
mod tests {
    use masque_stream::{Authority, Subject};
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_that_of_the_first_certificate() {
        let chain = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n\
                     -----BEGIN CERTIFICATE-----\nZGVm\n-----END CERTIFICATE-----\n";
        // SHA-256 of `abc` (FIPS 180-4, appendix).
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(fingerprint(chain.as_bytes()).as_deref(), Some(abc));
        assert_eq!(fingerprint(b""), None);
        let issued = Authority::generate(0)
            .unwrap()
            .issue(&Subject::Server(vec!["a.example".to_owned()]), 0)
            .unwrap();
        assert_eq!(
            fingerprint(issued.certificate_pem.as_bytes())
                .unwrap()
                .len(),
            64
        );
    }

    #[test]
    fn listeners_show_their_first_certificate_or_the_issued_one() {
        let point: VPCIngressPoint = serde_json::from_value(json!({
            "apiVersion": masque_api::API_VERSION,
            "kind": "VPCIngressPoint",
            "metadata": {"name": "edge", "namespace": "team"},
            "spec": {
                "vpcRef": {"name": "vpc"},
                "listeners": [
                    {"name": "issued", "port": 443},
                    {"name": "own", "port": 444, "tls": {"certificateRefs": [
                        {"name": "missing"}, {"name": "web"}]}},
                    {"name": "none", "port": 445, "tls": {"certificateRefs": [{"name": "missing"}]}},
                ],
                "addressPools": [{"cidr": "10.1.100.0/24"}],
                "fabric": {"provider": "Static"},
            },
        }))
        .unwrap();
        let known: Fingerprints = [("edge-masque-gateway-listener", "aa"), ("web", "bb")]
            .map(|(name, text)| (ObjectName::new("team", name), text.to_owned()))
            .into();
        let wanted = [("issued", "aa"), ("own", "bb")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(by_listener(&point, &known), wanted.into());
        assert!(by_listener(&point, &Fingerprints::new()).is_empty());
    }
}
