//! Pods that cannot be made or do not start, as admission, scheduler and kubelet tell it.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use masque_cluster_tests::{Cluster, Operator, POINT, Space, eventually};
use serde_json::{Value, json};

use crate::point;

/// Every message of the ingress point's conditions.
async fn messages(space: &Space) -> String {
    let object = space.get(POINT, "edge").await;
    let conditions = object["status"]["conditions"].as_array().cloned();
    let texts = conditions.unwrap_or_default();
    let texts = texts.iter().map(|one| one["message"].to_string());
    texts.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn pod_security_that_refuses_gateways_is_told() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("baseline").await;
    let label = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}});
    let namespaces: Api<Namespace> = Api::all(space.client.clone());
    let params = PatchParams::default();
    let patch = Patch::Merge(&label);
    let patched = namespaces.patch(&space.name, &params, &patch).await;
    patched.unwrap();
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    space.apply(POINT, "edge", &point()).await;
    eventually("admission's refusal is told", async || {
        let programmed = space.condition(POINT, "edge", "Programmed").await;
        programmed == "False/PodSecurityForbidden"
    })
    .await;
    let told = messages(&space).await;
    assert!(
        told.contains("NET_ADMIN") && told.contains("privileged"),
        "{told}"
    );
}

/// The Pod that the ReplicaSet made.
async fn pod(space: &Space) -> String {
    let list = async || {
        let pods = space.api::<Pod>().list(&ListParams::default()).await;
        let pod = pods.unwrap().items.into_iter().next();
        pod.and_then(|pod| pod.metadata.name)
    };
    eventually("a Pod", async || list().await.is_some()).await;
    list().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_do_not_start_are_told() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("pods").await;
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    space.apply(POINT, "edge", &point()).await;
    let pod = pod(&space).await;
    let waiting = json!({"phase": "Pending", "containerStatuses": [{
        "name": "gateway", "image": "gateway:test", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"waiting": {
            "reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
    }]});
    let unschedulable = json!({"phase": "Pending", "conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]});
    let forbidden = json!({"phase": "Failed", "reason": "SysctlForbidden",
        "message": "forbidden sysctl: \"net.ipv4.ip_forward\" not allowlisted",
        "conditions": Value::Null, "containerStatuses": Value::Null});
    for (status, words) in [
        (waiting, "imagePullSecrets"),
        (unschedulable, "0/3 nodes are available"),
        (forbidden, "--allowed-unsafe-sysctls"),
    ] {
        let patch = json!({"status": status});
        let params = PatchParams::default();
        let pods = space.api::<Pod>();
        let patched = pods
            .patch_status(&pod, &params, &Patch::Merge(&patch))
            .await;
        patched.unwrap();
        let what = format!("{words:?} is told");
        eventually(&what, async || messages(&space).await.contains(words)).await;
    }
}
