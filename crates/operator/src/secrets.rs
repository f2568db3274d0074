//! Secrets that listeners refer to: looked up by name, because a watch would need the right to read
//! every Secret there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use k8s_openapi::{api::core::v1::Secret, jiff::Timestamp};
use kube::{Api, Client};
use masque_api::{Reason, VPCIngressPoint};
use masque_controller::{Kind, ObjectRef, Problem, Severity};
use masque_model::ObjectName;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    client::{call, is_not_found},
    fingerprints::{Fingerprints, fingerprint},
};

/// How long a Secret that is fine is taken as known.
const FRESH: Duration = Duration::from_secs(60);

/// How soon a Secret that is missing or bad is looked up again.
const ANXIOUS: Duration = Duration::from_secs(5);

/// Lookups under way at one time.
const CONCURRENT: usize = 16;

/// What a lookup found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// A certificate and its key; the certificate's fingerprint.
    Usable(String),
    /// A Secret that no gateway can use, and why.
    Bad(String),
    /// No such Secret.
    Missing,
}

/// The Secrets that ingress points refer to.
pub(crate) struct Secrets {
    client: Client,
    known: BTreeMap<ObjectName, (Found, Instant)>,
}

/// Secrets as the compiler wants them.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// Secrets that are there.
    pub(crate) present: BTreeSet<ObjectName>,
    /// Fingerprints of those that are usable.
    pub(crate) fingerprints: Fingerprints,
    /// What is wrong with them.
    pub(crate) problems: Vec<Problem>,
    /// When to look again.
    pub(crate) again: Option<Instant>,
}

impl Secrets {
    /// Lookups by `client`, which needs `get` on Secrets.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            known: BTreeMap::new(),
        }
    }

    /// Looks up what these ingress points refer to, as far as it is not known well enough.
    pub(crate) async fn look(&mut self, points: &[Arc<VPCIngressPoint>]) -> Looked {
        let wanted: BTreeSet<ObjectName> = points
            .iter()
            .flat_map(|point| references(point))
            .map(|(_, name)| name)
            .collect();
        self.known.retain(|name, _| wanted.contains(name));
        let now = Instant::now();
        let stale = wanted.iter().filter(|name| {
            let known = self.known.get(*name);
            known.is_none_or(|(_, until)| *until <= now)
        });
        let client = &self.client;
        let results: Vec<_> = futures_util::stream::iter(stale.cloned())
            .map(|name| async move {
                let found = lookup(client, &name).await;
                (name, found)
            })
            .buffer_unordered(CONCURRENT)
            .collect()
            .await;
        for (name, found) in results {
            self.learn(name, found, Instant::now());
        }
        self.looked(points)
    }

    fn learn(&mut self, name: ObjectName, found: Option<Found>, now: Instant) {
        match found {
            Some(found) => {
                let fresh = match found {
                    Found::Usable(_) => FRESH,
                    Found::Bad(_) | Found::Missing => ANXIOUS,
                };
                self.known.insert(name, (found, now + fresh));
            }
            // The API server did not answer: what was known stays.
            None => {
                let old = self
                    .known
                    .remove(&name)
                    .map_or(Found::Missing, |(found, _)| found);
                self.known.insert(name, (old, now + ANXIOUS));
            }
        }
    }

    fn looked(&self, points: &[Arc<VPCIngressPoint>]) -> Looked {
        let mut looked = Looked {
            again: self.known.values().map(|(_, until)| *until).min(),
            ..Looked::default()
        };
        for point in points {
            for (field, name) in references(point) {
                match self.known.get(&name).map(|(found, _)| found) {
                    Some(Found::Usable(fingerprint)) => {
                        looked
                            .fingerprints
                            .insert(name.clone(), fingerprint.clone());
                        looked.present.insert(name);
                    }
                    Some(Found::Bad(why)) => {
                        let problem = bad(point, field, &name, why);
                        looked.problems.push(problem);
                        looked.present.insert(name);
                    }
                    Some(Found::Missing) | None => {}
                }
            }
        }
        looked
    }
}

/// The Secrets that an ingress point refers to, with the fields that do.
fn references(point: &VPCIngressPoint) -> Vec<(String, ObjectName)> {
    let namespace = point.metadata.namespace.clone().unwrap_or_default();
    let mut names = Vec::new();
    for (i, listener) in point.spec.listeners.iter().enumerate() {
        let refs = listener.tls.iter().flat_map(|tls| &tls.certificate_refs);
        for (j, secret) in refs.enumerate() {
            let field = format!("spec.listeners[{i}].tls.certificateRefs[{j}].name");
            names.push((field, ObjectName::new(namespace.clone(), &secret.name)));
        }
    }
    names
}

fn bad(point: &VPCIngressPoint, field: String, secret: &ObjectName, why: &str) -> Problem {
    let name = crate::index::name_of(&point.metadata);
    Problem {
        location: None,
        object: Some(ObjectRef::new(Kind::VPCIngressPoint, name)),
        field,
        severity: Severity::Warning,
        condition: Reason::CertificateInvalid.condition(),
        reason: Reason::CertificateInvalid,
        message: format!("the Secret {} {why}", secret.name),
        hint: "put a certificate chain into tls.crt and its key into tls.key".to_owned(),
    }
}

/// One lookup; nothing when the API server did not answer.
async fn lookup(client: &Client, name: &ObjectName) -> Option<Found> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &name.namespace);
    match call(api.get(&name.name)).await {
        Ok(secret) => Some(judge(&secret)),
        Err(error) if is_not_found(&error) => Some(Found::Missing),
        Err(error) => {
            tracing::warn!(%error, %name, "a Secret could not be looked up");
            None
        }
    }
}

/// Whether a gateway can use a Secret.
fn judge(secret: &Secret) -> Found {
    let type_ = secret.type_.as_deref().unwrap_or("Opaque");
    if type_ != "kubernetes.io/tls" {
        return Found::Bad(format!("has the type {type_} and not kubernetes.io/tls"));
    }
    let part = |key: &str| {
        let data = secret.data.as_ref().and_then(|data| data.get(key));
        data.map_or(&[][..], |bytes| bytes.0.as_slice())
    };
    match pair(part("tls.crt"), part("tls.key")) {
        Ok(()) => Found::Usable(fingerprint(part("tls.crt")).unwrap_or_default()),
        Err(why) => Found::Bad(why),
    }
}

/// Checks that `key` is that of the first certificate, and that it has not ended.
fn pair(chain: &[u8], key: &[u8]) -> Result<(), String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("has a tls.crt that is not PEM: {error}"))?;
    let Some(first) = chain.first() else {
        return Err("has no certificate in tls.crt".to_owned());
    };
    let (_, certificate) = X509Certificate::from_der(first)
        .map_err(|error| format!("has a bad certificate: {error}"))?;
    let ends = certificate.validity().not_after;
    if ends.timestamp() <= Timestamp::now().as_second() {
        return Err(format!("has a certificate that expired on {ends}"));
    }
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("has no usable tls.key: {error}"))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map(|_| ())
        .map_err(|error| format!("has a key that is not the certificate's: {error}"))
}

#[cfg(test)]
mod tests;
