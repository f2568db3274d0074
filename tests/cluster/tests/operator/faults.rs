//! Operators that die, an API server that goes away or answers badly: all converges, and no address
//! that was given changes.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease};
use kube::api::{DeleteParams, ListParams};
use masque_cluster_tests::{
    ATTACHMENT, Cluster, Fault, FaultProxy, Operator, POINT, Space, TAKEOVER, eventually, within,
};
use serde_json::json;

use crate::{CHILD, addresses, point, populate};

/// The operator's Lease, in its own namespace.
const LEASE: &str = "masque-operator";

async fn replicas(space: &Space) -> Option<i32> {
    let deployment = space.api::<Deployment>().get_opt(CHILD).await.ok()??;
    deployment.spec?.replicas
}

/// Attachments and their addresses.
type Given = Vec<(String, String)>;

/// Every address given so far: none twice.
async fn given(space: &Space) -> Given {
    let all = space.ours(ATTACHMENT).list(&ListParams::default()).await;
    let mut given = Vec::new();
    for one in all.unwrap() {
        let address = one.data.pointer("/status/assignedIP");
        if let Some(address) = address.and_then(|address| address.as_str()) {
            given.push((one.metadata.name.unwrap(), address.to_owned()));
        }
    }
    let different: BTreeSet<_> = given.iter().map(|(_, address)| address).collect();
    assert_eq!(different.len(), given.len(), "{given:?}");
    given
}

/// An operator that leads, and has just been given work: `edge`, and two attachments more.
async fn busy(cluster: &Cluster, space: &Space, key: &mut u8) -> Operator {
    let operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    eventually("it leads", async || operator.leads().await).await;
    space.apply(POINT, "edge", &point()).await;
    for _ in 0..2 {
        *key += 1;
        space.attach(&format!("laptop-{key}"), *key).await;
    }
    operator
}

/// Kills an operator. What is given by then: all that was `held` before, and perhaps more.
async fn killed(operator: Operator, space: &Space, held: &[(String, String)]) -> Given {
    operator.kill();
    // What an impatient person does: the next one leads without waiting for the Lease.
    let leases = space.api::<Lease>();
    let deleted = leases.delete(LEASE, &DeleteParams::default()).await;
    deleted.unwrap();
    let now = given(space).await;
    let kept = held.iter().all(|one| now.contains(one));
    assert!(kept, "{held:?} became {now:?}");
    now
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_killed_anywhere_leaves_nothing_half_done() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("killed").await;
    let mut key = 0;
    // On a slow machine none of the others may come so far as to give an address.
    let operator = busy(cluster, &space, &mut key).await;
    eventually("it gives addresses", async || {
        !given(&space).await.is_empty()
    })
    .await;
    let mut held = killed(operator, &space, &Given::new()).await;
    let mut half_done = 0;
    for after_ms in [5_u64, 20, 45, 80, 130, 200, 320, 500] {
        let operator = busy(cluster, &space, &mut key).await;
        tokio::time::sleep(Duration::from_millis(after_ms)).await;
        held = killed(operator, &space, &held).await;
        half_done += usize::from(held.len() < usize::from(key));
    }
    // Else all of the operators above were done before they were killed.
    println!("{half_done} of 8 were killed before they were done");
    assert!(half_done > 0, "{held:?}");
    let _operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    eventually("all have addresses", async || {
        given(&space).await.len() == usize::from(key)
    })
    .await;
    let now = given(&space).await;
    assert!(
        held.iter().all(|one| now.contains(one)),
        "{held:?} became {now:?}"
    );
    eventually("the Deployment is there", async || {
        replicas(&space).await == Some(1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_follows_a_leader_that_was_killed() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("leader").await;
    let first = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    eventually("the first leads", async || first.leads().await).await;
    let names = ["laptop", "phone"];
    populate(&space, &names).await;
    eventually("addresses", async || {
        addresses(&space, &names).await.is_some()
    })
    .await;
    let before = addresses(&space, &names).await;
    let second = Operator::start(cluster.kubeconfig(), &space.name, "b", false);
    eventually("the standby is ready", async || second.is_ready().await).await;
    assert!(!second.leads().await);
    first.kill();
    let took = within(TAKEOVER, "the standby leads", async || second.leads().await).await;
    println!("takeover after {took:?}");
    let mut spec = point();
    spec["replicas"] = json!(3);
    space.apply(POINT, "edge", &spec).await;
    eventually("it works", async || replicas(&space).await == Some(3)).await;
    assert_eq!(addresses(&space, &names).await, before);
    assert!(second.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_comes_back_is_followed() {
    let Some(cluster) = Cluster::own("restart").await else {
        return;
    };
    let space = cluster.space("restart").await;
    let mut operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    let names = ["laptop"];
    populate(&space, &names).await;
    eventually("the Deployment", async || replicas(&space).await == Some(1)).await;
    eventually("an address", async || {
        addresses(&space, &names).await.is_some()
    })
    .await;
    let before = addresses(&space, &names).await;
    cluster.stop_api_server();
    // Longer than the Lease is renewed without an answer.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(operator.runs(), "it ended with the API server");
    cluster.start_again();
    let mut spec = point();
    spec["replicas"] = json!(2);
    space.apply(POINT, "edge", &spec).await;
    within(TAKEOVER + TAKEOVER, "the edit arrives", async || {
        replicas(&space).await == Some(2)
    })
    .await;
    assert_eq!(addresses(&space, &names).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn storms_of_409_410_and_429_pass() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    for fault in [
        Fault::Conflict,
        Fault::Gone,
        Fault::TooMany,
        Fault::LostAnswer,
    ] {
        let space = cluster.space("storm").await;
        let proxy = FaultProxy::start(space.client.clone()).await;
        // From its first request on: lists and watches are rare once they stand.
        proxy.inject(fault, 3);
        let mut operator = Operator::start(proxy.kubeconfig(), &space.name, "a", false);
        let names = ["laptop", "phone"];
        populate(&space, &names).await;
        eventually("some requests met the fault", async || proxy.injected() > 2).await;
        assert!(operator.runs(), "it ended in a storm of {fault:?}");
        let injected = proxy.heal();
        let what = format!("it converged after {injected} of {fault:?}");
        within(TAKEOVER + TAKEOVER, &what, async || {
            replicas(&space).await == Some(1) && given(&space).await.len() == names.len()
        })
        .await;
    }
}
