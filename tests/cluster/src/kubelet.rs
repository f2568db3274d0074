//! Does what a kubelet does for one gateway pod, with the real program in a network namespace.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccountTokenProjection};
use kube::{
    ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{Site, Space, eventually, pod_files, program};

/// Where the pod serves its probes.
const ADMIN: &str = "127.0.0.1:9464";
const LABEL: &str = "networking.datumapis.com/ingress-point";

/// A Pod of an ingress point, and the gateway that runs as it; killed when dropped. Its log is shown
/// when the test fails.
pub struct GatewayPod {
    /// The Pod as the ReplicaSet made it.
    pub pod: Pod,
    space: Space,
    folder: TempDir,
    child: Option<Child>,
}

impl GatewayPod {
    /// The Pod that the ReplicaSet of an ingress point made, with its volumes filled.
    pub async fn of(space: &Space, point: &str) -> Self {
        eventually("the ReplicaSet has made a Pod", async || {
            newest(space, point).await.is_some()
        })
        .await;
        let this = Self {
            pod: newest(space, point).await.expect("it was there"),
            space: space.clone(),
            folder: tempfile::tempdir().expect("a folder"),
            child: None,
        };
        this.fill().await;
        this
    }

    /// Writes the volumes anew, from the Secrets as they are now.
    pub async fn fill(&self) {
        pod_files::fill(&self.space, &self.pod, self.folder.path()).await;
    }

    /// The folder of a volume.
    pub fn volume(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// A token of the pod's account: bound to the Pod or to nothing, for this audience.
    pub async fn token(&self, bound: bool, audience: &str) -> String {
        let wanted = ServiceAccountTokenProjection {
            audience: Some(audience.to_owned()),
            expiration_seconds: Some(3600),
            path: "token".to_owned(),
        };
        let spec = self.pod.spec.as_ref().expect("a spec");
        let account = spec.service_account_name.as_deref().expect("an account");
        let pod = bound.then_some(&self.pod);
        pod_files::token(&self.space, account, pod, &wanted).await
    }

    /// Starts the gateway with the arguments, the environment and the kernel settings of the Pod.
    pub async fn start(&mut self, site: &Site) {
        let spec = self.pod.spec.as_ref().expect("a spec");
        let sysctls = spec
            .security_context
            .as_ref()
            .and_then(|c| c.sysctls.as_ref());
        for setting in sysctls.into_iter().flatten() {
            site.pod.sysctl(&setting.name, &setting.value);
        }
        let container = &spec.containers[0];
        let name = self.pod.name_any();
        let arguments = container.args.iter().flatten();
        let arguments: Vec<_> = arguments
            .map(|argument| self.mounted(&argument.replace("$(POD_NAME)", &name)))
            .collect();
        let mut words = ["--pdeathsig", "KILL"].map(str::to_owned).to_vec();
        words.push(
            program("masque-gateway")
                .to_str()
                .expect("a path")
                .to_owned(),
        );
        words.extend(arguments);
        let mut command = site.pod.command("setpriv", &words);
        for source in container.env_from.iter().flatten() {
            let from = source.config_map_ref.as_ref().expect("a ConfigMap");
            let map = self.space.api::<ConfigMap>().get(&from.name).await;
            command.envs(map.expect("the ConfigMap").data.unwrap_or_default());
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file());
        let log = log.expect("a log");
        let child = command
            .env("POD_NAME", name)
            .env_remove("KUBECONFIG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the gateway starts"));
    }

    /// Ends the gateway like a power failure.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it was started");
        child.kill().expect("it still ran");
        child.wait().expect("its end");
    }

    /// Waits for the readiness probe and tells the API server, as a kubelet does.
    pub async fn become_ready(&self, site: &Site) {
        eventually("/readyz says yes", async || self.is_ready(site)).await;
        self.report(true).await;
    }

    /// What the kubelet says of the Pod.
    pub async fn report(&self, ready: bool) {
        let text = if ready { "True" } else { "False" };
        let conditions = ["Initialized", "ContainersReady", "Ready", "PodScheduled"].map(|type_| {
            json!({"type": type_, "status": text, "lastTransitionTime": "2026-01-01T00:00:00Z"})
        });
        let status = json!({"status": {"phase": "Running", "conditions": conditions,
            "podIP": crate::site::POD_ADDRESS, "podIPs": [{"ip": crate::site::POD_ADDRESS}]}});
        let patch = Patch::Merge(&status);
        let params = PatchParams::default();
        let pods = self.space.api::<Pod>();
        let patched = pods
            .patch_status(&self.pod.name_any(), &params, &patch)
            .await;
        patched.expect("the Pod's status");
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(&self, site: &Site) -> bool {
        let answer = self.read(site, "/readyz").unwrap_or_default();
        answer.starts_with("HTTP/1.1 200")
    }

    /// A page of the admin endpoint, with its head.
    pub fn read(&self, site: &Site, path: &str) -> Option<String> {
        let address: SocketAddr = ADMIN.parse().expect("an address");
        site.pod.enter(|| {
            let limit = Duration::from_millis(500);
            let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            Some(answer)
        })
    }

    /// What it logged.
    pub fn log(&self) -> String {
        let text = std::fs::read(self.log_file()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.folder.path().join("log")
    }

    /// An argument with a mount's path replaced by the folder of its volume.
    fn mounted(&self, argument: &str) -> String {
        let spec = self.pod.spec.as_ref().expect("a spec");
        let mounts = spec.containers[0].volume_mounts.iter().flatten();
        for mount in mounts {
            if let Ok(rest) = Path::new(argument).strip_prefix(&mount.mount_path) {
                let path = self.volume(&mount.name).join(rest);
                let path = path.to_str().expect("a plain path");
                return path.trim_end_matches('/').to_owned();
            }
        }
        argument.to_owned()
    }
}

impl Drop for GatewayPod {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _killed = child.kill();
            let _reaped = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A Pod of the newest template.
async fn newest(space: &Space, point: &str) -> Option<Pod> {
    let params = ListParams::default().labels(&format!("{LABEL}={point}"));
    let pods = space.api::<Pod>().list(&params).await.ok()?;
    pods.items
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .max_by_key(|pod| pod.metadata.creation_timestamp.clone())
}
