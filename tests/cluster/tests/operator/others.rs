//! What others do meanwhile: kinds that come late, namespaces that go, fields of other managers,
//! addresses that rest.

use std::time::{Duration, Instant};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use masque_cluster_tests::{ATTACHMENT, Cluster, Operator, POINT, Space, eventually};
use serde_json::json;

use crate::{CHILD, point, populate};

/// How long a freed address rests in these tests.
const QUARANTINE: Duration = Duration::from_secs(5);

async fn replicas(space: &Space) -> Option<i32> {
    let deployment = space.api::<Deployment>().get_opt(CHILD).await.ok()??;
    deployment.spec?.replicas
}

#[tokio::test(flavor = "multi_thread")]
async fn kinds_may_come_late_and_namespaces_go_early() {
    let Some(cluster) = Cluster::bare("late") else {
        return;
    };
    let space = cluster.space("late").await;
    let mut operator = Operator::start(cluster.kubeconfig(), &space.name, "a", true);
    eventually("it names what is missing", async || {
        let told = operator.readiness().await;
        told.starts_with("HTTP/1.1 503") && told.contains("vpcingresspoints.networking")
    })
    .await;
    assert!(operator.runs());
    cluster.install_kinds().await;
    eventually("it is ready", async || operator.is_ready().await).await;
    populate(&space, &["laptop"]).await;
    eventually("it works", async || replicas(&space).await == Some(1)).await;

    // Goes while its children are being made.
    let doomed = cluster.space("doomed").await;
    let mut spec = point();
    spec["fabric"]["static"]["localSID"] = json!("fd00:0:1:9::");
    doomed.apply(POINT, "edge", &spec).await;
    doomed.attach("phone", 2).await;
    doomed.close().await;
    assert!(operator.runs());
    let mut spec = point();
    spec["replicas"] = json!(3);
    space.apply(POINT, "edge", &spec).await;
    eventually("others go on", async || replicas(&space).await == Some(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_others_stay_and_its_own_come_back() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("managers").await;
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    space.apply(POINT, "edge", &point()).await;
    eventually("the children", async || {
        replicas(&space).await == Some(1) && space.api::<Service>().get(CHILD).await.is_ok()
    })
    .await;
    let person = PatchParams::apply("person").force();
    let note = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"annotations": {"example.com/owner": "team-a"}}});
    let services = space.api::<Service>();
    let applied = services.patch(CHILD, &person, &Patch::Apply(&note)).await;
    applied.unwrap();
    let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 5}});
    let deployments = space.api::<Deployment>();
    let applied = deployments
        .patch(CHILD, &person, &Patch::Apply(&scaled))
        .await;
    assert_eq!(applied.unwrap().spec.unwrap().replicas, Some(5));
    eventually("its own field comes back", async || {
        replicas(&space).await == Some(1)
    })
    .await;
    let mut spec = point();
    spec["replicas"] = json!(2);
    space.apply(POINT, "edge", &spec).await;
    eventually("an edit arrives", async || {
        replicas(&space).await == Some(2)
    })
    .await;
    let service = services.get(CHILD).await.unwrap();
    let annotations = service.metadata.annotations.unwrap_or_default();
    let owner = annotations.get("example.com/owner");
    assert_eq!(owner.map(String::as_str), Some("team-a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freed_address_rests_before_it_is_given_again() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("rests").await;
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    let mut spec = point();
    spec["addressPools"] = json!([{"cidr": "10.1.8.0/30"}]);
    spec["sessions"] = json!({"addressQuarantine": format!("{}s", QUARANTINE.as_secs())});
    space.apply(POINT, "edge", &spec).await;
    let names = ["one", "two", "three", "four", "five"];
    for (key, name) in (1..).zip(names) {
        space.attach(name, key).await;
    }
    let exhausted = async || {
        let mut found = Vec::new();
        for name in names {
            let programmed = space.condition(ATTACHMENT, name, "Programmed").await;
            if programmed == "False/PoolExhausted" {
                found.push(name);
            }
        }
        found
    };
    let holders = async || {
        let mut found = Vec::new();
        for name in names {
            if let Ok(Some(object)) = space.ours(ATTACHMENT).get_opt(name).await {
                let address = object.data.pointer("/status/assignedIP").cloned();
                found.extend(address.map(|address| (name, address)));
            }
        }
        found
    };
    eventually("all is settled", async || {
        holders().await.len() + exhausted().await.len() == names.len()
            && !exhausted().await.is_empty()
    })
    .await;
    let before = holders().await;
    let (gone, address) = before[0].clone();
    let api = space.ours(ATTACHMENT);
    let freed = Instant::now();
    api.delete(gone, &DeleteParams::default()).await.unwrap();
    eventually("the address is given again", async || {
        let now = holders().await;
        now.iter().any(|(name, it)| *name != gone && *it == address)
    })
    .await;
    assert!(freed.elapsed() >= QUARANTINE, "{:?}", freed.elapsed());
    // All others kept theirs.
    let now = holders().await;
    assert!(
        before[1..].iter().all(|one| now.contains(one)),
        "{before:?} became {now:?}"
    );
}
