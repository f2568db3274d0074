//! The API server of a test run.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{Space, eventually, pod_files::account_token};

/// What `scripts/kube.sh` ends with where a cluster cannot be had.
const UNAVAILABLE: i32 = 69;

/// The compatible Connector: the kind's owner defines it elsewhere.
const CONNECTORS: &str = "crds/compat/connectors.yaml";

/// One API server, etcd and controller manager, with our kinds and a compatible Connector.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    /// Its name for `scripts/kube.sh`; none for that of `KUBECONFIG`.
    id: Option<String>,
}

impl Cluster {
    /// The cluster that all tests of this program share; `None`, said loudly, where none can be
    /// had.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        let start = || match std::env::var_os("KUBECONFIG") {
            Some(path) => Some(Self {
                kubeconfig: path.into(),
                id: None,
            }),
            None => Self::start(&format!("test-{}", std::process::id())),
        };
        // Other tests wait here, each in a runtime of its own.
        let cluster = SHARED.get_or_init(start).as_ref()?;
        cluster.install_kinds().await;
        Some(cluster)
    }

    /// A cluster that one test may stop and start.
    pub async fn own(name: &str) -> Option<Self> {
        let cluster = Self::bare(name)?;
        cluster.install_kinds().await;
        Some(cluster)
    }

    /// [`Cluster::own`] that does not know our kinds yet.
    pub fn bare(name: &str) -> Option<Self> {
        Self::start(&format!("{name}-{}", std::process::id()))
    }

    fn start(id: &str) -> Option<Self> {
        let pid = std::process::id().to_string();
        let output = script(id, &["up", "kcm", "--while", &pid]);
        if output.status.code() == Some(UNAVAILABLE) {
            let why = String::from_utf8_lossy(&output.stderr);
            println!(
                "SKIPPED: no Kubernetes API server for tests: {}",
                why.trim()
            );
            return None;
        }
        let path = text(&output);
        Some(Self {
            kubeconfig: path.into(),
            id: Some(id.to_owned()),
        })
    }

    /// Ends the API server as a power failure would.
    pub fn stop_api_server(&self) {
        let id = self.id.as_deref().expect("a cluster of this test's own");
        text(&script(id, &["stop", "kube-apiserver"]));
    }

    /// Starts what does not run; gives back when it is ready.
    pub fn start_again(&self) {
        let id = self.id.as_deref().expect("a cluster of this test's own");
        text(&script(id, &["up", "kcm"]));
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// An administrator's client, for the runtime of this test.
    pub async fn client(&self) -> Client {
        Client::try_from(self.config().await).expect("a client")
    }

    /// A client with the rights of a ServiceAccount.
    pub async fn client_as(&self, space: &Space, account: &str) -> Client {
        let token = account_token(space, account).await;
        let mut config = self.config().await;
        let user = serde_json::json!({"token": token});
        config.auth_info = serde_json::from_value(user).expect("a user");
        Client::try_from(config).expect("a client")
    }

    /// Applies manifests in YAML.
    pub fn apply_yaml(&self, text: &str) {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("a file");
        let path = file.path().to_str().expect("a path in UTF-8");
        self.kubectl_apply(path);
    }

    fn kubectl_apply(&self, path: &str) {
        let config = self.kubeconfig.to_str().expect("a path in UTF-8");
        let words = ["kubectl", "--kubeconfig", config, "apply", "--server-side"];
        let more = ["--force-conflicts", "-f", path];
        text(&script("any", &[&words[..], &more].concat()));
    }

    async fn config(&self) -> Config {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let file = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await;
        let config = config.expect("a usable kubeconfig");
        let host = config.cluster_url.host().unwrap_or_default();
        assert!(
            ["127.0.0.1", "localhost", "[::1]"].contains(&host),
            "KUBECONFIG names {host}: these tests only touch an API server on loopback"
        );
        config
    }

    /// A new namespace that begins with `name`.
    pub async fn space(&self, name: &str) -> Space {
        Space::create(self.client().await, name).await
    }

    /// Installs our kinds and a compatible Connector, and waits until they are served.
    pub async fn install_kinds(&self) {
        let client = self.client().await;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let params = PatchParams::apply("cluster-tests").force();
        let definitions = masque_api::crds();
        for definition in &definitions {
            let patch = Patch::Apply(definition);
            let applied = api.patch(&definition.name_any(), &params, &patch).await;
            applied.unwrap_or_else(|error| panic!("{}: {error}", definition.name_any()));
        }
        self.kubectl_apply(CONNECTORS);
        eventually("the kinds are served", async || {
            let served = client.list_api_group_resources(masque_api::API_VERSION);
            served.await.is_ok_and(|list| {
                let kinds = list.resources.iter().filter(|one| !one.name.contains('/'));
                kinds.count() > definitions.len()
            })
        })
        .await;
    }
}

fn script(id: &str, arguments: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(root.join("scripts/kube.sh"))
        .current_dir(&root)
        .env("KUBE_LAB_ID", id)
        .args(arguments)
        .output()
        .expect("scripts/kube.sh")
}

/// The one line that a program wrote; fails with what it complained about.
fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {error}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
