//! The API server, etcd and controller manager of one run, by `scripts/kube.sh`.

use std::{path::PathBuf, process::Stdio, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{exposition::Exposition, failure::Failure, wait::until};

/// What `scripts/kube.sh` ends with where a cluster cannot be had.
const UNAVAILABLE: i32 = 69;
/// The compatible Connector: the kind's owner defines it elsewhere.
const CONNECTORS: &str = "crds/compat/connectors.yaml";
/// How long a kind may take from its definition to being served.
const SERVED_S: u64 = 30;
const PORT_FREE: Duration = Duration::from_secs(2);
const REQUESTS: &str = "apiserver_request_total";
/// Verbs that change something.
const WRITES: [&str; 6] = [
    "POST",
    "PUT",
    "PATCH",
    "APPLY",
    "DELETE",
    "DELETECOLLECTION",
];
/// Questions in the form of a write, and the Leases of everybody.
const NO_WRITES: [&str; 5] = [
    "leases",
    "tokenreviews",
    "subjectaccessreviews",
    "serviceaccounts/token",
    "selfsubjectaccessreviews",
];

/// A cluster of this run's own; removed when dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    id: String,
    root: PathBuf,
    pub(crate) kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts one with our kinds in it.
    pub(crate) async fn start(root: &std::path::Path, size: u32) -> Result<Self, Failure> {
        let mut cluster = Self {
            id: format!("operator-bench-{}-{size}", std::process::id()),
            root: root.to_owned(),
            kubeconfig: PathBuf::new(),
        };
        cluster.kubeconfig = cluster.up().await?.into();
        cluster.install_kinds().await?;
        Ok(cluster)
    }

    /// Ends the API server as a power failure would, and starts it again.
    pub(crate) async fn restart_api_server(&self) -> Result<(), Failure> {
        self.script(&["stop", "kube-apiserver"]).await?;
        // The threads of a killed process let go of its port one after another.
        tokio::time::sleep(PORT_FREE).await;
        self.up().await?;
        Ok(())
    }

    /// An administrator's client.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::Wrong(format!("{}: {error}", self.kubeconfig.display()))
        };
        let file = Kubeconfig::read_from(&self.kubeconfig).map_err(|error| unusable(&error))?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let config = config.map_err(|error| unusable(&error))?;
        Client::try_from(config).map_err(|error| unusable(&error))
    }

    async fn up(&self) -> Result<String, Failure> {
        let pid = std::process::id().to_string();
        self.script(&["up", "kcm", "--while", &pid]).await
    }

    async fn install_kinds(&self) -> Result<(), Failure> {
        let client = self.client().await?;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let params = PatchParams::apply("operator-bench").force();
        let definitions = masque_api::crds();
        for definition in &definitions {
            let name = definition.name_any();
            let applied = api.patch(&name, &params, &Patch::Apply(definition)).await;
            applied.map_err(Failure::api(name))?;
        }
        let config = self.kubeconfig.display().to_string();
        let words = ["kubectl", "--kubeconfig", &config, "apply", "--server-side"];
        self.script(&[&words[..], &["-f", CONNECTORS]].concat())
            .await?;
        let limit = Duration::from_secs(SERVED_S);
        until("the kinds are served", limit, async || {
            let list = client.list_api_group_resources(masque_api::API_VERSION);
            Ok(list.await.is_ok_and(|list| {
                let kinds = list.resources.iter().filter(|one| !one.name.contains('/'));
                kinds.count() > definitions.len()
            }))
        })
        .await?;
        Ok(())
    }

    /// What a successful `scripts/kube.sh` printed.
    async fn script(&self, arguments: &[&str]) -> Result<String, Failure> {
        let output = tokio::process::Command::new(self.root.join("scripts/kube.sh"))
            .current_dir(&self.root)
            .env("KUBE_LAB_ID", &self.id)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(Failure::io("scripts/kube.sh"))?;
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        match output.status.code() {
            Some(0) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            Some(UNAVAILABLE) => Err(Failure::Unavailable(error)),
            _ => Err(Failure::Wrong(format!(
                "scripts/kube.sh {arguments:?}: {error}"
            ))),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = std::process::Command::new(self.root.join("scripts/kube.sh"))
            .env("KUBE_LAB_ID", &self.id)
            .arg("down")
            .status();
        if !down.is_ok_and(|status| status.success()) {
            eprintln!(
                "KUBE_LAB_ID={} scripts/kube.sh down did not succeed",
                self.id
            );
        }
    }
}

/// Writes that the API server was asked for, by everybody, by resource and subresource; without
/// Leases and questions.
pub(crate) async fn writes(client: &Client) -> Result<Writes, Failure> {
    let what = "the API server's metrics";
    let request = http::Request::get("/metrics").body(Vec::new());
    let request = request.map_err(|error| Failure::Wrong(error.to_string()))?;
    let text = client.request_text(request).await;
    let metrics = Exposition::parse(&text.map_err(Failure::api(what))?, &[REQUESTS]);
    let mut sums = metrics.sums_by(REQUESTS, ("verb", &WRITES), &["resource", "subresource"]);
    sums.retain(|resource, _| !NO_WRITES.contains(&resource.as_str()));
    Ok(Writes(sums))
}

/// Counts of writes by resource.
#[derive(Clone, Debug, Default)]
pub(crate) struct Writes(pub(crate) std::collections::BTreeMap<String, f64>);

impl Writes {
    /// What was written since `before`; nothing that was not.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let grown = self.0.iter().map(|(resource, count)| {
            let old = before.0.get(resource).copied().unwrap_or_default();
            (resource.clone(), count - old)
        });
        Self(grown.filter(|(_, count)| *count > 0.0).collect())
    }

    /// All of them.
    pub(crate) fn total(&self) -> f64 {
        self.0.values().fold(0.0, |sum, count| sum + count)
    }

    /// Those of one resource.
    pub(crate) fn of(&self, resource: &str) -> f64 {
        self.0.get(resource).copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Writes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let parts = self
            .0
            .iter()
            .map(|(resource, count)| format!("{resource} {count}"));
        f.write_str(&parts.collect::<Vec<_>>().join(", "))
    }
}
