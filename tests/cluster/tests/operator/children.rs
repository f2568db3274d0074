//! Children of an ingress point: made, seen by the controllers of Kubernetes, collected, apart.

use std::time::{Duration, Instant};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use masque_cluster_tests::{Cluster, Operator, POINT, Space, eventually, within};
use serde_json::{Value, json};

use crate::{CHILD, addresses, point, populate};

/// The garbage collector looks for new kinds every 30 s; before that it does not know our owners.
const COLLECTED: Duration = Duration::from_secs(90);

/// How long the controllers of Kubernetes may write of new children, on a loaded machine.
const SETTLED: Duration = Duration::from_secs(60);

/// Kind, name and resource version of everything the operator writes in a namespace.
async fn versions(space: &Space) -> Vec<String> {
    macro_rules! list {
        ($($kind:ty),*) => {{
            let mut all = Vec::new();
            $(
                for one in space.api::<$kind>().list(&ListParams::default()).await.unwrap() {
                    let version = one.resource_version().unwrap();
                    all.push(format!("{} {} {version}", stringify!($kind), one.name_any()));
                }
            )*
            all
        }};
    }
    let mut all = list!(
        Deployment,
        ReplicaSet,
        Service,
        ServiceAccount,
        ConfigMap,
        Secret,
        NetworkPolicy,
        PodDisruptionBudget
    );
    for kind in [POINT, "ConnectorAttachment", "VPCAccessPolicy", "Connector"] {
        for one in space.ours(kind).list(&ListParams::default()).await.unwrap() {
            let version = one.resource_version().unwrap();
            all.push(format!("{kind} {} {version}", one.name_any()));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn children_are_accepted_and_collected() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("children").await;
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    let mut spec = point();
    spec["replicas"] = json!(2);
    space.apply(POINT, "edge", &spec).await;
    eventually("the Deployment has a ReplicaSet", async || {
        let sets = space.api::<ReplicaSet>().list(&ListParams::default()).await;
        sets.is_ok_and(|sets| !sets.items.is_empty())
    })
    .await;

    let uid = space.get(POINT, "edge").await["metadata"]["uid"].clone();
    let deployment = space.api::<Deployment>().get(CHILD).await.unwrap();
    let owner = &deployment.owner_references()[0];
    assert_eq!((json!(owner.uid), owner.controller), (uid, Some(true)));
    check_deployment(&serde_json::to_value(deployment).unwrap());

    let service = space.api::<Service>().get(CHILD).await.unwrap();
    let ports = service.spec.unwrap().ports.unwrap();
    assert!(
        ports
            .iter()
            .any(|port| port.port == 443 && port.protocol.as_deref() == Some("UDP"))
    );
    // Children are written one after the other: what follows the Deployment may not be there yet.
    eventually("every other child is there", async || {
        let there = versions(&space).await;
        ["ServiceAccount", "NetworkPolicy", "PodDisruptionBudget"]
            .iter()
            .all(|kind| has(&there, &format!("{kind} {CHILD} ")))
    })
    .await;

    // The garbage collector takes everything that the ingress point owned.
    let params = DeleteParams::background();
    space.ours(POINT).delete("edge", &params).await.unwrap();
    within(
        COLLECTED,
        "nothing of the ingress point is left",
        async || {
            versions(&space)
                .await
                .iter()
                .all(|one| !one.contains(" edge"))
        },
    )
    .await;
    space.close().await;
}

/// Whether one of [`versions`] begins so.
fn has(versions: &[String], start: &str) -> bool {
    versions.iter().any(|one| one.starts_with(start))
}

/// Two replicas that roll without a gap, and pods with no more rights than they need.
fn check_deployment(deployment: &Value) {
    let at = |pointer: &str| deployment.pointer(pointer).cloned().unwrap_or(Value::Null);
    assert_eq!(at("/spec/replicas"), 2);
    assert_eq!(at("/spec/strategy/rollingUpdate/maxUnavailable"), 0);
    let pod = "/spec/template/spec";
    let container = format!("{pod}/containers/0");
    assert_eq!(at(&format!("{container}/image")), "gateway:test");
    let security = at(&format!("{container}/securityContext"));
    assert_eq!(
        security["capabilities"],
        json!({"add": ["NET_ADMIN"], "drop": ["ALL"]})
    );
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(at(&format!("{pod}/automountServiceAccountToken")), false);
    assert!(at(&format!("{container}/readinessProbe")).is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_at_rest() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("rest").await;
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    let names = ["laptop", "phone"];
    populate(&space, &names).await;
    eventually("it has settled", async || {
        addresses(&space, &names).await.is_some()
            && space.api::<Deployment>().get(CHILD).await.is_ok()
    })
    .await;
    // Settled: two equal readings, five seconds apart; then the next five must be equal too.
    let pause = Duration::from_secs(5);
    let begun = Instant::now();
    let mut before = versions(&space).await;
    loop {
        tokio::time::sleep(pause).await;
        let now = versions(&space).await;
        if now == before {
            break;
        }
        assert!(begun.elapsed() < SETTLED, "{before:?} became {now:?}");
        before = now;
    }
    assert!(before.iter().any(|one| one.contains(CHILD)), "{before:?}");
    tokio::time::sleep(pause).await;
    assert_eq!(versions(&space).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_names_in_two_namespaces_do_not_meet() {
    let Some(cluster) = Cluster::own("names").await else {
        return;
    };
    let (one, two) = (cluster.space("one").await, cluster.space("two").await);
    let _operator = Operator::start(cluster.kubeconfig(), &one.name, "a", true);
    populate(&one, &["laptop"]).await;
    eventually("one has children", async || {
        one.api::<Deployment>().get(CHILD).await.is_ok()
    })
    .await;
    // One SID would lead packets of two VPCs to one of them: the later is refused, the first not hurt.
    populate(&two, &["laptop"]).await;
    eventually("the shared SID is refused", async || {
        two.condition(POINT, "edge", "Accepted").await == "False/Conflicted"
    })
    .await;
    assert_eq!(
        one.condition(POINT, "edge", "Accepted").await,
        "True/Accepted"
    );
    assert!(
        two.api::<Deployment>()
            .get_opt(CHILD)
            .await
            .unwrap()
            .is_none()
    );
    let mut spec = point();
    spec["fabric"]["static"]["localSID"] = json!("fd00:0:1:9::");
    spec["fabric"]["static"]["routes"][0]["sid"] = json!("fd00:0:9::");
    two.apply(POINT, "edge", &spec).await;
    eventually("both have children and an address", async || {
        let mut done = true;
        for space in [&one, &two] {
            done &= space.api::<Deployment>().get(CHILD).await.is_ok();
            done &= space.address("laptop").await.is_some();
        }
        done
    })
    .await;
    // Two VPCs: the same prefix is a pool in each.
    for space in [&one, &two] {
        assert!(
            space
                .address("laptop")
                .await
                .unwrap()
                .starts_with("10.1.8.")
        );
    }
    let kept = two.api::<Deployment>().get(CHILD).await.unwrap().uid();
    let params = DeleteParams::background();
    one.ours(POINT).delete("edge", &params).await.unwrap();
    within(COLLECTED, "the children of one are gone", async || {
        one.api::<Deployment>()
            .get_opt(CHILD)
            .await
            .unwrap()
            .is_none()
    })
    .await;
    assert_eq!(
        two.api::<Deployment>().get(CHILD).await.unwrap().uid(),
        kept
    );
    assert!(two.address("laptop").await.is_some());
}
