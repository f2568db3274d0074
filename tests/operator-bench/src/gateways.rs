//! The gateway pods, without gateways: what a kubelet does for a pod, and what a gateway says on the
//! stream. Each acknowledges a Snapshot as soon as it has it.

use std::{fs, sync::Arc, time::Duration};

use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::{Pod, Secret, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use masque_model::Snapshot;
use masque_stream::{ClientConfig, Kept, LinkState};
use serde_json::json;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet, time::Instant};

use crate::{
    failure::Failure,
    fleet::{EDGE, Edit, Fleet},
    wait::until,
};

/// The children of every ingress point are named so.
const CHILD: &str = "edge-masque-gateway";
const AUDIENCE: &str = "masque-operator";
const TOKEN_S: i64 = 8 * 3600;

/// A Snapshot that a pod acknowledged.
#[derive(Clone, Debug)]
struct Ran {
    snapshot: Arc<Snapshot>,
    at: Instant,
}

/// One pod of each ingress point.
pub(crate) struct Gateways {
    pods: Vec<Gateway>,
    /// The streams and the acknowledgements; they end with this.
    _tasks: JoinSet<()>,
}

struct Gateway {
    ran: watch::Receiver<Option<Ran>>,
    link: watch::Receiver<LinkState>,
    _folder: TempDir,
}

impl Gateways {
    /// Waits for the pods that the Deployments make, has them Ready, and connects for each.
    pub(crate) async fn start(
        client: &Client,
        points: u32,
        stream: u16,
        limit: Duration,
    ) -> Result<Self, Failure> {
        let (mut pods, mut tasks) = (Vec::new(), JoinSet::new());
        for point in 0..points {
            let namespace = Fleet::namespace(point);
            let kubelet = Kubelet {
                client: client.clone(),
                namespace,
                limit,
            };
            pods.push(kubelet.run(stream, &mut tasks).await?);
        }
        Ok(Self {
            pods,
            _tasks: tasks,
        })
    }

    /// Waits until the pod of an ingress point acknowledged an edit; when it did.
    pub(crate) async fn ran(&self, edit: &Edit, limit: Duration) -> Result<Instant, Failure> {
        let what = format!("the edit of {} is acknowledged", edit.policy);
        let late = || Failure::Late {
            what: what.clone(),
            limit,
        };
        let point = usize::try_from(edit.point).unwrap_or(usize::MAX);
        let mut ran = self.pods.get(point).ok_or_else(late)?.ran.clone();
        let edited = ran.wait_for(|ran| ran.as_ref().is_some_and(|ran| holds(&ran.snapshot, edit)));
        match tokio::time::timeout(limit, edited).await {
            Ok(Ok(ran)) => ran.as_ref().map(|ran| ran.at).ok_or_else(late),
            _ => Err(late()),
        }
    }

    /// Whether every stream is open.
    pub(crate) fn connected(&self) -> bool {
        let mut pods = self.pods.iter();
        pods.all(|pod| *pod.link.borrow() == LinkState::Connected)
    }
}

fn holds(snapshot: &Snapshot, edit: &Edit) -> bool {
    snapshot.rules.iter().any(|rule| {
        let mut ports = rule.ports.iter();
        rule.policy.name == edit.policy
            && ports.any(|port| port.ports == Some((edit.port, edit.port)))
    })
}

/// What a kubelet does for the pod of one ingress point.
struct Kubelet {
    client: Client,
    namespace: String,
    limit: Duration,
}

impl Kubelet {
    async fn run(&self, stream: u16, tasks: &mut JoinSet<()>) -> Result<Gateway, Failure> {
        let pod = self.pod().await?;
        let name = pod.name_any();
        let folder = tempfile::tempdir().map_err(Failure::io("a folder for the pod"))?;
        let write = |file: &str, data: &[u8]| {
            let path = folder.path().join(file);
            fs::write(&path, data).map_err(Failure::file(&path))
        };
        for (file, data) in self.certificate().await? {
            write(&file, &data)?;
        }
        write("token", self.token(&pod).await?.as_bytes())?;
        let path = |file: &str| folder.path().join(file);
        let config = ClientConfig {
            url: format!("https://127.0.0.1:{stream}"),
            server_name: AUDIENCE.to_owned(),
            ca: path("ca.crt"),
            certificate: path("tls.crt"),
            key: path("tls.key"),
            token: path("token"),
            pod: name.clone(),
            gateway_version: "bench".to_owned(),
            kept: Kept::new(path("kept")),
        };
        let client = masque_stream::Client::new(config, None);
        let (mut client, driver) =
            client.map_err(|source| Failure::Stream { pod: name, source })?;
        let link = client.link();
        let (sender, ran) = watch::channel(None);
        tasks.spawn(driver.run());
        tasks.spawn(async move {
            loop {
                let received = client.next().await;
                client.ack(&received).await;
                let at = Instant::now();
                let snapshot = Arc::new(received.snapshot);
                sender.send_replace(Some(Ran { snapshot, at }));
            }
        });
        Ok(Gateway {
            ran,
            link,
            _folder: folder,
        })
    }

    /// The pod that the Deployment made, Ready from now on.
    async fn pod(&self) -> Result<Pod, Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params =
            ListParams::default().labels(&format!("networking.datumapis.com/ingress-point={EDGE}"));
        let what = format!("{} has a gateway pod", self.namespace);
        until(&what, self.limit, async || {
            let pods = api.list(&params).await.map_err(Failure::api("pods"))?;
            Ok(!pods.items.is_empty())
        })
        .await?;
        let pods = api.list(&params).await.map_err(Failure::api("pods"))?;
        let Some(pod) = pods.items.into_iter().next() else {
            return Err(Failure::Wrong(format!(
                "the pod of {} is gone",
                self.namespace
            )));
        };
        let status = json!({"status": {"phase": "Running", "conditions": [{
            "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]}});
        let (name, params) = (pod.name_any(), PatchParams::default());
        let ready = api
            .patch_status(&name, &params, &Patch::Merge(&status))
            .await;
        ready.map_err(Failure::api(format!("status of {name}")))
    }

    /// The files of the Secret for the stream.
    async fn certificate(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let name = format!("{CHILD}-stream");
        let secret = api.get(&name).await;
        let secret = secret.map_err(Failure::api(format!("Secret {name}")))?;
        let data = secret.data.unwrap_or_default().into_iter();
        Ok(data.map(|(file, data)| (file, data.0)).collect())
    }

    /// A token as the kubelet projects it.
    async fn token(&self, pod: &Pod) -> Result<String, Failure> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![AUDIENCE.to_owned()],
                expiration_seconds: Some(TOKEN_S),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.uid(),
                }),
            },
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PostParams::default();
        let answer = api.create_token_request(CHILD, &params, &request).await;
        let answer = answer.map_err(Failure::api("a token"))?;
        let missing = || Failure::Wrong("a token without a token".to_owned());
        Ok(answer.status.ok_or_else(missing)?.token)
    }
}
