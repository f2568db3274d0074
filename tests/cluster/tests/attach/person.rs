//! Somebody with rights of their own: a ServiceAccount with roles of the example.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use k8s_openapi::api::{
    authentication::v1::TokenRequest, core::v1::ServiceAccount, rbac::v1::RoleBinding,
};
use kube::{
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use masque_cluster_tests::{Cluster, Space};
use serde_json::{Value, json};

const ROLES: &str = include_str!("../../../../examples/kubernetes/small/roles.yaml");

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a kubeconfig holds.
#[derive(Clone)]
pub(crate) struct Person {
    server: String,
    /// PEM.
    ca: String,
    token: String,
    namespace: String,
}

impl Person {
    /// One with exactly these roles of the example in the namespace of `space`.
    pub(crate) async fn new(cluster: &Cluster, space: &Space, roles: &[&str]) -> Self {
        let text = ROLES.replace(
            "namespace: production",
            &format!("namespace: {}", space.name),
        );
        kubectl(
            cluster,
            &["apply", "--server-side", "--force-conflicts"],
            &text,
        );
        let name = format!("person-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let accounts = space.api::<ServiceAccount>();
        let params = PostParams::default();
        let account = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        accounts.create(&params, &account).await.unwrap();
        for role in roles {
            let binding = json!({
                "metadata": {"name": format!("{name}-{role}")},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role},
                "subjects": [{
                    "kind": "ServiceAccount", "name": name, "namespace": space.name,
                }],
            });
            let binding = serde_json::from_value(binding).unwrap();
            let bindings = space.api::<RoleBinding>();
            bindings.create(&params, &binding).await.unwrap();
        }
        let request: TokenRequest =
            serde_json::from_value(json!({"spec": {"audiences": []}})).unwrap();
        let token = accounts
            .create_token_request(&name, &params, &request)
            .await;
        let (server, ca) = server(cluster).await;
        Self {
            server,
            ca,
            token: token.unwrap().status.unwrap().token,
            namespace: space.name.clone(),
        }
    }

    /// The same with another token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// The same who looks for the API server elsewhere.
    pub(crate) fn with_server(&self, server: &str) -> Self {
        Self {
            server: server.to_owned(),
            ..self.clone()
        }
    }

    /// The same who trusts another authority.
    pub(crate) fn with_ca(&self, pem: &str) -> Self {
        Self {
            ca: pem.to_owned(),
            ..self.clone()
        }
    }

    /// The same whose namespace is another.
    pub(crate) fn with_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// Writes the kubeconfig into a folder.
    pub(crate) fn kubeconfig(&self, folder: &Path) -> PathBuf {
        let ca = folder.join("cluster-ca.crt");
        fs::write(&ca, &self.ca).unwrap();
        let context = json!({"cluster": "c", "user": "u", "namespace": self.namespace});
        let config: Value = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "c", "cluster": {
                "server": self.server, "certificate-authority": ca,
            }}],
            "users": [{"name": "u", "user": {"token": self.token}}],
            "contexts": [{"name": "here", "context": context}],
        });
        let path = folder.join("kubeconfig");
        fs::write(&path, config.to_string()).unwrap();
        path
    }
}

/// The API server's address, and the authority that signed its certificate.
async fn server(cluster: &Cluster) -> (String, String) {
    let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(file.clone(), &options).await;
    let server = config.unwrap().cluster_url.to_string();
    let named = file.clusters.into_iter().next().unwrap().cluster.unwrap();
    let ca = fs::read_to_string(named.certificate_authority.unwrap()).unwrap();
    (server.trim_end_matches('/').to_owned(), ca)
}

/// kubectl as the administrator, with `-f -` at the end and `input` there.
pub(crate) fn kubectl(cluster: &Cluster, arguments: &[&str], input: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut child = Command::new(root.join("scripts/kube.sh"))
        .args(["kubectl", "--kubeconfig"])
        .arg(cluster.kubeconfig())
        .args(arguments)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let status = child.wait().unwrap();
    assert!(status.success(), "kubectl {arguments:?}: {status}\n{input}");
}
