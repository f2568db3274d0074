//! The operator's CA, and the Secrets that it issues: for the stream, for pods, for listeners.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use masque_api::VPCIngressPoint;
use masque_controller::{
    children::{
        child_metadata, child_name, client_ca_name, listener_secret_name, stream_secret_name,
    },
    status::MAX_ADDRESSES,
};
use masque_model::{ObjectName, Snapshot};
use masque_stream::{
    Authority, AuthorityPem, CertificateError, Issued, RotationStep, ServerTls, Subject, TlsError,
};

use crate::{
    apply::CHILDREN_MANAGER,
    args::OPERATOR_NAME,
    client::{CallError, call, is_conflict, is_not_found},
    fingerprints::{Fingerprints, fingerprint},
    index::name_of,
    lookups::{Nodes, has_node_port},
    retry::jittered,
};

/// The Secret of the CA.
pub(crate) const CA_SECRET: &str = "masque-operator-ca";

/// Secrets that were found current are read again after about this long: somebody may have deleted
/// them, and no new pod would start. A watch would need the right to read every Secret there is.
const FRESH: Duration = Duration::from_secs(15);

/// Secrets are looked at this seldom at rest, one with another: of many, each is looked at later.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// But none later than about this.
const FRESH_MAX: Duration = Duration::from_secs(300);

/// Those that are due within this are looked at together, so that they cost one pass.
const TOGETHER: Duration = Duration::from_secs(5);

/// While the API server does not answer, a Secret that was found current is believed to be so for
/// this long since the first question: its ingress point has no other trouble to tell than everybody.
const BELIEVED: Duration = Duration::from_secs(120);

/// A Secret that could not be read or written is tried again after this long.
const RETRY: Duration = Duration::from_secs(10);

/// Keys of Secrets.
const CA_CRT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const PREVIOUS_CRT: &str = "previous.crt";
const CROSS_CRT: &str = "cross.crt";
const TLS_CRT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";

/// Why the CA or a certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// The API server.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What is stored is of no use.
    #[error("the Secret {CA_SECRET}: {0}")]
    Certificate(#[from] CertificateError),
    /// What was issued is of no use.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AuthorityError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_transient())
    }
}

/// The CA and what it issued, while this process leads.
pub(crate) struct Certificates {
    client: Client,
    namespace: String,
    authority: Authority,
    /// What the Secret of the CA was read at.
    version: Option<String>,
    server_names: Vec<String>,
    tls: ServerTls,
    known: BTreeMap<ObjectName, Known>,
    /// Fingerprints of the certificates in these Secrets.
    fingerprints: Fingerprints,
    /// How many Secrets were looked at, to spread the next looks.
    looks: u64,
}

/// What the last look at a Secret came to.
struct Known {
    /// What it was wanted for: the CA and the names.
    state: String,
    /// Until when this is taken as true.
    until: Instant,
    /// When it was asked for first, of the times since it was as it should be that nobody answered.
    /// Nothing while its state is known.
    unanswered: Option<Instant>,
    /// Why it is not as it should be.
    failure: Option<String>,
}

impl Known {
    /// Whether it is time for the next look.
    fn is_due(&self) -> bool {
        self.until <= Instant::now() + TOGETHER
    }
}

/// One Secret that there should be.
struct Wanted {
    name: String,
    type_: &'static str,
    subject: Subject,
}

impl Certificates {
    /// Reads the CA, or makes it: of two operators that begin together one gets 409 and reads the
    /// other's.
    ///
    /// # Errors
    /// [`AuthorityError`]; nothing can be issued before it passes.
    pub(crate) async fn load(
        client: Client,
        namespace: &str,
        extra_name: Option<&str>,
    ) -> Result<Self, AuthorityError> {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let secret = match call(api.get(CA_SECRET)).await {
            Ok(secret) => secret,
            Err(error) if is_not_found(&error) => create(&api).await?,
            Err(error) => return Err(error.into()),
        };
        let authority = Authority::from_pem(pem_of(&secret))?;
        let mut server_names = vec![
            OPERATOR_NAME.to_owned(),
            format!("{OPERATOR_NAME}.{namespace}.svc"),
            format!("{OPERATOR_NAME}.{namespace}.svc.cluster.local"),
        ];
        server_names.extend(extra_name.map(str::to_owned));
        let issued = authority.issue(&Subject::Server(server_names.clone()), now_unix_s())?;
        Ok(Self {
            client,
            namespace: namespace.to_owned(),
            tls: ServerTls::new(&issued, &authority.bundle())?,
            version: secret.metadata.resource_version,
            authority,
            server_names,
            known: BTreeMap::new(),
            fingerprints: Fingerprints::new(),
            looks: 0,
        })
    }

    /// What the stream's server shows and trusts; kept up to date by [`Self::renew`].
    pub(crate) fn tls(&self) -> ServerTls {
        self.tls.clone()
    }

    /// Rotates the CA when it is time, and gives the server a fresh certificate. Call it about
    /// every hour.
    ///
    /// # Errors
    /// [`AuthorityError`]; the former CA stays.
    pub(crate) async fn renew(&mut self) -> Result<(), AuthorityError> {
        let now = now_unix_s();
        self.reread().await?;
        let next = match self.authority.due(now) {
            RotationStep::Keep => None,
            RotationStep::Rotate => Some(self.authority.rotate(now)?),
            RotationStep::RetirePrevious => Some(self.authority.retire_previous()?),
        };
        if let Some(next) = next {
            // Stored first: what is issued must outlive this process.
            let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
            let mut secret = ca_secret(next.pem());
            secret.metadata.resource_version = self.version.clone();
            let stored = call(api.replace(CA_SECRET, &PostParams::default(), &secret)).await?;
            self.version = stored.metadata.resource_version;
            self.authority = next;
            self.known.clear();
            tracing::info!(
                expires_unix_s = self.authority.expires_unix_s(),
                "the CA was rotated"
            );
        }
        let subject = Subject::Server(self.server_names.clone());
        let issued = self.authority.issue(&subject, now)?;
        self.tls.replace(&issued, &self.authority.bundle())?;
        Ok(())
    }

    /// Takes the CA as it is stored now: somebody may have put back a backup, or deleted it, which
    /// must not cost every pod its trust.
    async fn reread(&mut self) -> Result<(), AuthorityError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let secret = match call(api.get(CA_SECRET)).await {
            Ok(secret) => secret,
            Err(error) if is_not_found(&error) => {
                let ours = ca_secret(self.authority.pem());
                call(api.create(&PostParams::default(), &ours)).await?
            }
            Err(error) => return Err(error.into()),
        };
        if pem_of(&secret) != *self.authority.pem() {
            self.authority = Authority::from_pem(pem_of(&secret))?;
            self.known.clear();
        }
        self.version = secret.metadata.resource_version;
        Ok(())
    }

    /// When the CA ends, in seconds since 1970.
    pub(crate) fn expires_s(&self) -> i64 {
        i64::try_from(self.authority.expires_unix_s()).unwrap_or(i64::MAX)
    }

    /// The ConfigMap with the CA for clients.
    pub(crate) fn client_ca(&self, point: &VPCIngressPoint) -> ConfigMap {
        let name = point.metadata.name.as_deref().unwrap_or_default();
        ConfigMap {
            metadata: child_metadata(point, client_ca_name(name)),
            data: Some([(CA_CRT.to_owned(), self.authority.bundle())].into()),
            ..ConfigMap::default()
        }
    }

    /// Makes the Secrets of one ingress point current; what could not be done, and when to look
    /// again.
    pub(crate) async fn ensure(
        &mut self,
        point: &VPCIngressPoint,
        hosts: &BTreeSet<String>,
    ) -> (Option<String>, Instant) {
        let point_name = name_of(&point.metadata);
        let (mut failure, mut again) = (None, Instant::now() + FRESH * 2);
        for wanted in wanted(&point_name, hosts) {
            let key = ObjectName::new(&point_name.namespace, &wanted.name);
            let state = format!(
                "{}{:?}{:?}",
                self.authority.bundle(),
                wanted.subject,
                point.metadata.uid
            );
            let known = self.known.get(&key);
            if !known.is_some_and(|it| it.state == state && !it.is_due()) {
                let known = self.look(point, &wanted, &key, state).await;
                self.known.insert(key.clone(), known);
            }
            if let Some(known) = self.known.get(&key) {
                again = again.min(known.until);
                failure = failure.or_else(|| known.failure.clone());
            }
        }
        (failure, again)
    }

    /// Looks at one Secret, and issues it when it is not current.
    async fn look(
        &mut self,
        point: &VPCIngressPoint,
        wanted: &Wanted,
        key: &ObjectName,
        state: String,
    ) -> Known {
        let now = Instant::now();
        let before = self.known.get(key).filter(|known| known.state == state);
        let read = self.read(point, wanted).await;
        let unanswered = match &read {
            Err(error) if error.is_transient() => {
                let was_good = before.filter(|known| known.failure.is_none());
                was_good.map(|known| known.unanswered.unwrap_or(now))
            }
            _ => None,
        };
        let made = match read {
            Ok(secret) => self.renew_one(point, wanted, secret).await,
            Err(error) => Err(error),
        };
        let (failure, pause) = match made {
            Ok(shown) => {
                let shown = shown.map(|shown| (key.clone(), shown));
                self.fingerprints.extend(shown);
                self.looks += 1;
                // Those that were issued together are looked at apart.
                (None, jittered(self.fresh(), self.looks))
            }
            Err(error) => {
                tracing::warn!(%error, secret = %key, "a certificate could not be looked at or issued");
                let believed = unanswered.is_some_and(|since| now < since + BELIEVED);
                let failure = format!("Secret {}: {error}", wanted.name);
                ((!believed).then_some(failure), RETRY)
            }
        };
        Known {
            state,
            until: Instant::now() + pause,
            unanswered,
            failure,
        }
    }

    /// How long a Secret that was found current is not looked at.
    fn fresh(&self) -> Duration {
        let all = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        LOOK_EVERY.saturating_mul(all).clamp(FRESH, FRESH_MAX)
    }

    /// Forgets Secrets of ingress points that are gone.
    pub(crate) fn retain(&mut self, points: &[Arc<VPCIngressPoint>]) {
        let names: BTreeSet<ObjectName> = points
            .iter()
            .map(|point| name_of(&point.metadata))
            .flat_map(|point| {
                let name = |name: String| ObjectName::new(&point.namespace, name);
                [
                    name(stream_secret_name(&point.name)),
                    name(listener_secret_name(&point.name)),
                ]
            })
            .collect();
        self.known.retain(|name, _| names.contains(name));
        self.fingerprints.retain(|name, _| names.contains(name));
    }

    /// Fingerprints of what was issued, by Secret.
    pub(crate) fn fingerprints(&self) -> &Fingerprints {
        &self.fingerprints
    }

    /// One Secret as it is stored.
    async fn read(
        &self,
        point: &VPCIngressPoint,
        wanted: &Wanted,
    ) -> Result<Option<Secret>, AuthorityError> {
        match call(self.secrets_of(point).get(&wanted.name)).await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn secrets_of(&self, point: &VPCIngressPoint) -> Api<Secret> {
        let namespace = point.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Makes one Secret current, which is stored so; the fingerprint of its certificate.
    async fn renew_one(
        &self,
        point: &VPCIngressPoint,
        wanted: &Wanted,
        stored: Option<Secret>,
    ) -> Result<Option<String>, AuthorityError> {
        let bundle = self.authority.bundle();
        let now = now_unix_s();
        if let Some(secret) = stored {
            let issued = Issued {
                certificate_pem: text(&secret, TLS_CRT),
                key_pem: text(&secret, TLS_KEY),
            };
            let owned = secret
                .metadata
                .owner_references
                .iter()
                .flatten()
                .any(|owner| Some(&owner.uid) == point.metadata.uid.as_ref());
            if !owned && !has_our_label(&secret) {
                return Err(CallError::Taken.into());
            }
            if owned
                && text(&secret, CA_CRT) == bundle
                && self.authority.is_current(&issued, &wanted.subject, now)
            {
                return Ok(fingerprint(issued.certificate_pem.as_bytes()));
            }
        }
        let issued = self.authority.issue(&wanted.subject, now)?;
        let shown = fingerprint(issued.certificate_pem.as_bytes());
        let secret = Secret {
            metadata: child_metadata(point, wanted.name.clone()),
            type_: Some(wanted.type_.to_owned()),
            data: Some(
                [
                    (CA_CRT, bundle),
                    (TLS_CRT, issued.certificate_pem),
                    (TLS_KEY, issued.key_pem),
                ]
                .map(|(key, text)| (key.to_owned(), ByteString(text.into_bytes())))
                .into(),
            ),
            ..Secret::default()
        };
        let params = PatchParams::apply(CHILDREN_MANAGER).force();
        let api = self.secrets_of(point);
        call(api.patch(&wanted.name, &params, &Patch::Apply(&secret))).await?;
        Ok(shown)
    }
}

/// Whether an operator issued it, perhaps for a former ingress point of that name.
fn has_our_label(secret: &Secret) -> bool {
    let labels = secret.metadata.labels.as_ref();
    let by = labels.and_then(|labels| labels.get("app.kubernetes.io/managed-by"));
    by.is_some_and(|by| by == OPERATOR_NAME)
}

/// The Secrets of one ingress point.
fn wanted(point: &ObjectName, hosts: &BTreeSet<String>) -> [Wanted; 2] {
    [
        Wanted {
            name: stream_secret_name(&point.name),
            type_: "kubernetes.io/tls",
            subject: Subject::Pods(point.clone()),
        },
        Wanted {
            name: listener_secret_name(&point.name),
            type_: "kubernetes.io/tls",
            subject: Subject::Server(hosts.iter().cloned().collect()),
        },
    ]
}

/// The names and addresses that clients dial: the listeners' host names, those of the Service, and
/// `addresses`. For a Service of type NodePort also those of nodes without a gateway, so that a pod
/// that moves needs no other certificate.
pub(crate) fn hosts(
    point: &VPCIngressPoint,
    addresses: &[String],
    nodes: &Nodes,
) -> BTreeSet<String> {
    let name = name_of(&point.metadata);
    let service = format!("{}.{}.svc", child_name(&name.name), name.namespace);
    let mut hosts: BTreeSet<String> = addresses.iter().cloned().collect();
    if has_node_port(point) {
        let nodes = nodes.values().flatten().take(MAX_ADDRESSES);
        hosts.extend(nodes.map(ToString::to_string));
    }
    hosts.extend(
        point
            .spec
            .listeners
            .iter()
            .filter_map(|listener| listener.hostname.clone()),
    );
    hosts.insert(format!("{service}.cluster.local"));
    hosts.insert(service);
    hosts
}

/// Listeners that name no certificate show the one that the operator issues.
pub(crate) fn own_certificates(snapshot: &mut Snapshot) {
    let issued = listener_secret_name(&snapshot.ingress_point.name);
    for listener in &mut snapshot.listeners {
        if listener.certificates.is_empty() {
            listener.certificates.push(issued.clone());
        }
    }
}

async fn create(api: &Api<Secret>) -> Result<Secret, AuthorityError> {
    let authority = Authority::generate(now_unix_s())?;
    match call(api.create(&PostParams::default(), &ca_secret(authority.pem()))).await {
        Ok(secret) => {
            tracing::info!(secret = CA_SECRET, "made a CA");
            Ok(secret)
        }
        Err(error) if is_conflict(&error) => Ok(call(api.get(CA_SECRET)).await?),
        Err(error) => Err(error.into()),
    }
}

fn ca_secret(pem: &AuthorityPem) -> Secret {
    let parts = [
        (CA_CRT, Some(&pem.ca_crt)),
        (CA_KEY, Some(&pem.ca_key)),
        (PREVIOUS_CRT, pem.previous_crt.as_ref()),
        (CROSS_CRT, pem.cross_crt.as_ref()),
    ];
    let data = parts.into_iter().filter_map(|(key, text)| {
        let text = text?.clone();
        Some((key.to_owned(), ByteString(text.into_bytes())))
    });
    Secret {
        metadata: ObjectMeta {
            name: Some(CA_SECRET.to_owned()),
            labels: Some(
                [(
                    "app.kubernetes.io/managed-by".to_owned(),
                    OPERATOR_NAME.to_owned(),
                )]
                .into(),
            ),
            ..ObjectMeta::default()
        },
        data: Some(data.collect()),
        ..Secret::default()
    }
}

fn pem_of(secret: &Secret) -> AuthorityPem {
    let optional = |key| Some(text(secret, key)).filter(|text| !text.is_empty());
    AuthorityPem {
        ca_crt: text(secret, CA_CRT),
        ca_key: text(secret, CA_KEY),
        previous_crt: optional(PREVIOUS_CRT),
        cross_crt: optional(CROSS_CRT),
    }
}

fn text(secret: &Secret, key: &str) -> String {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.map_or_else(String::new, |bytes| {
        String::from_utf8_lossy(&bytes.0).into_owned()
    })
}

pub(crate) fn now_unix_s() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
