//! From the definitions of an earlier version to those of today.

use masque_cluster_tests::{
    ATTACHMENT, Cluster, Operator, POINT, SOON, Space, TAKEOVER, eventually, within,
};
use serde_json::{Value, json};

use crate::{addresses, point, populate};

const FIRST: &str = include_str!("../../fixtures/first-crds.yaml");
const CONNECTORS: &str = include_str!("../../../../crds/compat/connectors.yaml");

/// What an upgrade must not change.
async fn kept(space: &Space) -> Vec<Value> {
    let mut all = Vec::new();
    for (kind, name) in [(POINT, "edge"), (ATTACHMENT, "laptop")] {
        let object = space.get(kind, name).await;
        all.push(json!([
            object["metadata"]["uid"],
            object["metadata"]["generation"],
            object["spec"]
        ]));
    }
    all
}

/// An ingress point with a field that the first definitions do not have.
fn with_peers() -> Value {
    let mut spec = point();
    spec["fabric"]["static"]["peers"] = json!(["fd00::/32"]);
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_first_definitions_live_on() {
    let Some(cluster) = Cluster::bare("upgrade") else {
        return;
    };
    cluster.apply_yaml(FIRST);
    cluster.apply_yaml(CONNECTORS);
    let space = cluster.space("upgrade").await;
    let config = cluster.kubeconfig();
    let operator = Operator::start(config, &space.name, "a", true);
    eventually("it works with what is there", async || {
        operator.is_ready().await
    })
    .await;
    populate(&space, &["laptop"]).await;
    let given = || addresses(&space, &["laptop"]);
    eventually("an address", async || given().await.is_some()).await;
    let (before, address) = (kept(&space).await, given().await);
    let newer = with_peers();
    let early = space.try_apply("person", POINT, "edge", &newer).await;
    assert!(early.is_err(), "a field that is not there yet");
    operator.kill();

    cluster.install_kinds().await;
    assert_eq!(kept(&space).await, before);
    let mut operator = Operator::start(config, &space.name, "b", true);
    eventually("it works with the new ones", async || {
        operator.is_ready().await
    })
    .await;
    space.apply(POINT, "edge", &newer).await;
    // It was started a moment ago, and waits for the Lease of the one that was killed.
    within(TAKEOVER + SOON, "the edit is looked at", async || {
        let accepted = space.condition(POINT, "edge", "Accepted").await;
        accepted == "True/Accepted"
    })
    .await;
    assert_eq!(given().await, address, "nobody loses an address");
    assert!(operator.runs());
}
