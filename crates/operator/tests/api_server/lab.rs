//! A namespace on the API server of `KUBECONFIG`, operators as processes, and pods as stream clients.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
        core::v1::{Namespace, Pod, Secret, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
    },
};
use masque_stream::{Client, ClientConfig, Kept};
use masque_testkit::free_port;
use serde_json::{Value, json};

/// How long anything may take. A call that gets no answer is given up after 10 s and done again, and
/// a change by others is tolerated for 5: two of each, on a machine that does something else.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How long a standby may take to follow a leader that was killed: the Lease's 15 s, its own looks
/// at it, and room for a loaded machine.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(25);

/// Nothing waits and nothing is written for so long: an operator rests. A pass that has something to
/// write has begun and ended by then.
const QUIET: Duration = Duration::from_secs(2);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace of its own; removed when dropped by [`Lab::close`].
pub(crate) struct Lab {
    pub(crate) client: kube::Client,
    pub(crate) namespace: String,
}

/// An operator process; killed when dropped. Of a test that fails, its log is shown.
pub(crate) struct Operator {
    pub(crate) child: Child,
    pub(crate) admin: String,
    log: File,
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let ended = self.child.wait();
        if std::thread::panicking() {
            let mut log = String::new();
            let read = self.log.rewind();
            let read = read.and_then(|()| self.log.read_to_string(&mut log));
            let admin = &self.admin;
            eprintln!("the operator at {admin} ({ended:?}, {read:?}):\n{log}");
        }
    }
}

impl Operator {
    /// Ends it like a power failure.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, and waits.
    pub(crate) fn stop(mut self) -> std::process::ExitStatus {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").arg(id).status().unwrap().success());
        self.child.wait().unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        let text = self.get("/metrics").await;
        text.unwrap_or_default()
    }

    /// The sum of the series that begin so.
    pub(crate) async fn metric(&self, prefix: &str) -> f64 {
        let text = self.metrics().await;
        sum(&text, |line| line.starts_with(prefix))
    }

    /// Writes of anything but the Lease.
    pub(crate) async fn writes(&self) -> f64 {
        written(&self.metrics().await)
    }

    /// Waits until it rests: no write waits for its turn, and none was done for [`QUIET`]. How many
    /// it did by then.
    pub(crate) async fn rests(&self) -> f64 {
        let begun = Instant::now();
        let (mut before, mut since) = (f64::NAN, begun);
        loop {
            let looked = Instant::now();
            let text = self.metrics().await;
            let now = written(&text);
            if now != before || !nothing_waits(&text) {
                (before, since) = (now, Instant::now());
            } else if looked.duration_since(since) >= QUIET {
                return now;
            }
            assert!(begun.elapsed() < SOON, "no rest within {SOON:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether `/readyz` says yes: its first lists have ended, and it stands for election.
    pub(crate) async fn is_ready(&self) -> bool {
        let answer = self.get("/readyz").await;
        answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    async fn get(&self, path: &str) -> Option<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Lab {
    /// The API server of `KUBECONFIG` with our kinds; `None`, said loudly, when there is none.
    pub(crate) async fn open() -> Option<Self> {
        if std::env::var_os("KUBECONFIG").is_none() {
            eprintln!("SKIPPED: no KUBECONFIG of a test API server (see scripts/kube.sh)");
            return None;
        }
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let client = kube::Client::try_default().await.unwrap();
        let lab = Self {
            namespace: format!(
                "operator-{}-{}",
                std::process::id(),
                NUMBER.fetch_add(1, Ordering::Relaxed)
            ),
            client,
        };
        lab.install_kinds().await;
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": lab.namespace}})).unwrap();
        let namespaces: Api<Namespace> = Api::all(lab.client.clone());
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        Some(lab)
    }

    async fn install_kinds(&self) {
        let crds: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let params = PatchParams::apply("test").force();
        let mut all = masque_api::crds();
        if crds
            .get_opt("connectors.networking.datumapis.com")
            .await
            .unwrap()
            .is_none()
        {
            all.push(connectors());
        }
        for crd in all {
            crds.patch(&crd.name_any(), &params, &Patch::Apply(&crd))
                .await
                .unwrap();
        }
        eventually("the kinds are served", async || {
            let version = masque_api::API_VERSION;
            let kinds = self.client.list_api_group_resources(version).await;
            kinds.is_ok_and(|kinds| {
                kinds
                    .resources
                    .iter()
                    .filter(|k| !k.name.contains('/'))
                    .count()
                    == 4
            })
        })
        .await;
    }

    /// Removes the namespace; without a controller manager its objects stay until the API server
    /// ends.
    pub(crate) async fn close(self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _removed = namespaces
            .delete(&self.namespace, &DeleteParams::background())
            .await;
    }

    /// Starts an operator for this namespace; `stream` is what pods dial.
    pub(crate) fn operator(&self, name: &str, stream: u16) -> Operator {
        let admin = format!("127.0.0.1:{}", free_port());
        let log = tempfile::tempfile().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_masque-operator"))
            .args([
                "--namespace",
                &self.namespace,
                "--lease-namespace",
                &self.namespace,
            ])
            .args([
                "--image",
                "gateway:test",
                "--pod-name",
                name,
                "--admin",
                &admin,
            ])
            .args(["--stream-address", &format!("127.0.0.1:{stream}")])
            .args(["--stream-url", &format!("https://127.0.0.1:{stream}")])
            .stdout(log.try_clone().unwrap())
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        Operator { child, admin, log }
    }

    pub(crate) fn ours(&self, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(masque_api::GROUP, masque_api::VERSION, kind);
        let plural = match kind {
            "VPCAccessPolicy" => "vpcaccesspolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    pub(crate) fn core<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies one of our kinds.
    pub(crate) async fn apply(&self, kind: &str, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": masque_api::API_VERSION, "kind": kind,
            "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("person").force();
        self.ours(kind)
            .patch(name, &params, &Patch::Apply(&object))
            .await
            .unwrap();
    }

    /// An ingress point with one pool and one pod.
    pub(crate) async fn ingress_point(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut spec = json!({
            "vpcRef": {"name": "prod"},
            "listeners": [{"name": "h3", "port": 443}],
            "addressPools": [{"cidr": "10.0.100.0/24"}],
            "routes": ["10.0.0.0/16"],
            "replicas": 1,
            "service": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster"},
            "fabric": {"provider": "Static", "static": {
                "localSID": "fd00:1::", "sourceAddress": "fd00::1",
                "routes": [{"prefix": "10.0.0.0/16", "sid": "fd00:2::"}],
            }},
        });
        change(&mut spec);
        self.apply("VPCIngressPoint", name, spec).await;
    }

    /// A connector with a key of its own, and its attachment.
    pub(crate) async fn attachment(&self, name: &str, key: u8) {
        let class = json!({"connectorClassName": "datum-connect"});
        self.apply("Connector", name, class).await;
        let details = json!({"status": {"connectionDetails": {
            "type": "PublicKey", "publicKey": {"id": format!("{key:064x}"), "homeRelay": ""},
        }}});
        let params = PatchParams::default();
        self.ours("Connector")
            .patch_status(name, &params, &Patch::Merge(&details))
            .await
            .unwrap();
        let spec = json!({"connectorRef": {"name": name}, "vpcRef": {"name": "prod"}});
        self.apply("ConnectorAttachment", name, spec).await;
    }

    pub(crate) async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.ours(kind).get(name).await.unwrap();
        serde_json::to_value(object).unwrap()
    }

    /// One condition: its status, reason and the generation it is about.
    pub(crate) async fn condition(&self, kind: &str, name: &str, type_: &str) -> (String, String) {
        let object = self.get(kind, name).await;
        let conditions = match kind {
            "VPCAccessPolicy" => object.pointer("/status/ancestors/0/conditions"),
            _ => object.pointer("/status/conditions"),
        };
        let conditions = conditions
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == type_);
        found.map_or_else(Default::default, |condition| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            let old = condition["observedGeneration"] != object["metadata"]["generation"];
            (
                if old {
                    "Old".to_owned()
                } else {
                    text("status")
                },
                text("reason"),
            )
        })
    }

    /// Waits until a condition has this status.
    pub(crate) async fn until(&self, kind: &str, name: &str, type_: &str, status: &str) {
        let what = format!("{kind} {name}: {type_} is {status}");
        eventually(&what, async || {
            self.condition(kind, name, type_).await.0 == status
        })
        .await;
    }

    /// A gateway pod of an ingress point: its object, ready, and its stream client.
    pub(crate) async fn pod(
        &self,
        point: &str,
        pod: &str,
        stream: u16,
        dir: &std::path::Path,
    ) -> Client {
        let child = format!("{point}-masque-gateway");
        let secret_name = format!("{child}-stream");
        eventually("the children are there", async || {
            let deployments = self.core::<k8s_openapi::api::apps::v1::Deployment>();
            self.core::<Secret>().get(&secret_name).await.is_ok()
                && deployments.get(&child).await.is_ok()
        })
        .await;
        self.pod_object(point, pod).await;
        let secret: Secret = self.core::<Secret>().get(&secret_name).await.unwrap();
        let data = secret.data.unwrap();
        for key in ["ca.crt", "tls.crt", "tls.key"] {
            std::fs::write(dir.join(key), &data[key].0).unwrap();
        }
        std::fs::write(dir.join("token"), self.token(&child, pod).await).unwrap();
        self.connect(pod, stream, dir)
    }

    pub(crate) fn connect(&self, pod: &str, stream: u16, dir: &std::path::Path) -> Client {
        let config = ClientConfig {
            url: format!("https://127.0.0.1:{stream}"),
            server_name: "masque-operator".to_owned(),
            ca: dir.join("ca.crt"),
            certificate: dir.join("tls.crt"),
            key: dir.join("tls.key"),
            token: dir.join("token"),
            pod: pod.to_owned(),
            gateway_version: "test".to_owned(),
            kept: Kept::new(dir.join("kept")),
        };
        let (client, driver) = Client::new(config, None).unwrap();
        tokio::spawn(driver.run());
        client
    }

    /// The Pod object as a kubelet would have it, and the Deployment's status as its controller
    /// would.
    async fn pod_object(&self, point: &str, pod: &str) {
        let child = format!("{point}-masque-gateway");
        let object: Pod = serde_json::from_value(json!({
            "metadata": {"name": pod, "labels": {
                "app.kubernetes.io/name": "masque-gateway",
                "app.kubernetes.io/managed-by": "masque-operator",
                "networking.datumapis.com/ingress-point": point,
            }},
            "spec": {
                "serviceAccountName": child, "automountServiceAccountToken": false,
                "containers": [{"name": "gateway", "image": "gateway:test"}],
            },
        }))
        .unwrap();
        let pods: Api<Pod> = self.core();
        pods.create(&PostParams::default(), &object).await.unwrap();
        let status = json!({"status": {"phase": "Running", "conditions": [{
            "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let params = PatchParams::default();
        pods.patch_status(pod, &params, &Patch::Merge(&status))
            .await
            .unwrap();
        let status = json!({"status": {
            "replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
        }});
        self.core::<k8s_openapi::api::apps::v1::Deployment>()
            .patch_status(&child, &params, &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// A token as the kubelet projects it.
    pub(crate) async fn token(&self, account: &str, pod: &str) -> String {
        let uid = self.core::<Pod>().get(pod).await.unwrap().uid();
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec!["masque-operator".to_owned()],
                expiration_seconds: Some(3600),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.to_owned()),
                    uid,
                }),
            },
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = self.core();
        let params = PostParams::default();
        let answer = accounts
            .create_token_request(account, &params, &request)
            .await
            .unwrap();
        answer.status.unwrap().token
    }
}

/// The sum of these series of a page of metrics.
fn sum(text: &str, wanted: impl Fn(&str) -> bool) -> f64 {
    let lines = text.lines().filter(|line| wanted(line));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// [`Operator::writes`] of a page of metrics.
fn written(text: &str) -> f64 {
    let counters = ["status_writes_total", "child_writes_total"];
    let counters = counters.map(|name| format!("masque_operator_{name}"));
    let verbs = ["patch", "create", "delete"].map(|verb| format!("verb=\"{verb}\""));
    sum(text, |line| counters.iter().any(|it| line.starts_with(it)))
        + sum(text, |line| verbs.iter().any(|it| line.contains(it)))
}

/// Whether a page of metrics says that no write waits for its turn. A page that did not come says
/// nothing.
fn nothing_waits(text: &str) -> bool {
    let mut depths = text
        .lines()
        .filter_map(|line| line.strip_prefix("masque_operator_workqueue_depth "));
    depths.any(|depth| depth.parse::<f64>() == Ok(0.0))
}

/// Waits until `condition` holds; fails after [`SOON`].
pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    within(SOON, what, condition).await;
}

/// Waits until `condition` holds; fails after `limit`. Returns how long it took.
pub(crate) async fn within(
    limit: Duration,
    what: &str,
    condition: impl AsyncFn() -> bool,
) -> Duration {
    let begun = Instant::now();
    while !condition().await {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed()
}

/// The upstream's kind, as open as ours reads it.
fn connectors() -> CustomResourceDefinition {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    serde_json::from_value(json!({
        "metadata": {"name": "connectors.networking.datumapis.com"},
        "spec": {
            "group": "networking.datumapis.com", "scope": "Namespaced",
            "names": {"kind": "Connector", "plural": "connectors", "singular": "connector"},
            "versions": [{
                "name": "v1alpha1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {
                    "type": "object", "properties": {"spec": open, "status": open},
                }},
            }],
        },
    }))
    .unwrap()
}
