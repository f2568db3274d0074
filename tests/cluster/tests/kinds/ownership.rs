//! Server-side apply by several managers, and what the API server fills in.

use kube::api::{Patch, PatchParams};
use masque_cluster_tests::{ATTACHMENT, CONNECTOR, Cluster, POINT, POLICY};
use serde_json::json;

use crate::{attachment, point, policy};

#[tokio::test]
async fn two_managers_share_one_list() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("managers").await;
    space
        .try_apply("team-a", POINT, "edge", &point())
        .await
        .unwrap();
    // The second manager names what the schema requires, with equal values: shared ownership.
    let mut second = point();
    second["listeners"] = json!([{"name": "web", "port": 8443, "protocol": "HTTP2"}]);
    second["addressPools"] = json!([{"cidr": "10.1.9.0/24"}]);
    for field in ["autoscaling", "service"] {
        second.as_object_mut().unwrap().remove(field);
    }
    let both = space
        .try_apply("team-b", POINT, "edge", &second)
        .await
        .unwrap();
    let names = |object: &serde_json::Value, list: &str, key: &str| -> Vec<String> {
        let items = object["spec"][list].as_array().unwrap().iter();
        items
            .map(|item| item[key].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&both, "listeners", "name"), ["quic", "web"]);
    assert_eq!(names(&both, "addressPools", "cidr").len(), 3);

    // A value that somebody else set is a conflict that names its manager.
    second["listeners"] = json!([{"name": "quic", "port": 444}]);
    let refused = space.try_apply("team-b", POINT, "edge", &second).await;
    let error = match refused.unwrap_err() {
        kube::Error::Api(status) => status,
        other => panic!("{other}"),
    };
    assert_eq!(error.code, 409);
    assert!(error.message.contains("team-a"), "{}", error.message);

    // What a manager no longer names goes; the other's stays.
    second["listeners"] = json!([{"name": "quic", "port": 443}]);
    let left = space
        .try_apply("team-b", POINT, "edge", &second)
        .await
        .unwrap();
    assert_eq!(names(&left, "listeners", "name"), ["quic"]);
    assert_eq!(left["spec"]["autoscaling"]["maxReplicas"], 3);
}

#[tokio::test]
async fn status_is_apart_from_spec() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("status").await;
    space.attach("laptop", 7).await;
    let api = space.ours(ATTACHMENT);
    let params = PatchParams::default();
    let sneaky = json!({"spec": {"suspend": true}, "status": {"assignedIP": "10.1.8.9"}});
    let patched = api
        .patch_status("laptop", &params, &Patch::Merge(&sneaky))
        .await;
    let patched = serde_json::to_value(patched.unwrap()).unwrap();
    assert_eq!(patched["status"]["assignedIP"], "10.1.8.9");
    assert!(patched["spec"].get("suspend").is_none(), "{patched}");
    // A status alone is no new generation, and a change of spec leaves the status.
    assert_eq!(patched["metadata"]["generation"], 1);
    let suspend = json!({"spec": {"suspend": true}, "status": {"assignedIP": "10.9.9.9"}});
    let changed = api.patch("laptop", &params, &Patch::Merge(&suspend)).await;
    let changed = serde_json::to_value(changed.unwrap()).unwrap();
    assert_eq!(changed["status"]["assignedIP"], "10.1.8.9");
    assert_eq!(changed["metadata"]["generation"], 2);
    let connector = space.get(CONNECTOR, "laptop").await;
    assert_eq!(
        connector["status"]["connectionDetails"]["publicKey"]["id"],
        format!("{:064x}", 7)
    );
}

#[tokio::test]
async fn defaults_are_filled_in() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("defaults").await;
    let mut spec = attachment();
    spec.as_object_mut().unwrap().remove("ipAllocation");
    let made = space.apply(ATTACHMENT, "dynamic", &spec).await;
    assert_eq!(made["spec"]["ipAllocation"]["mode"], "Dynamic");
    assert_eq!(made["spec"]["vpcRef"]["kind"], "VPC");
    assert_eq!(made["spec"]["vpcRef"]["group"], "cloud.datumapis.com");

    let made = space.apply(POINT, "edge", &point()).await;
    assert_eq!(made["spec"]["listeners"][0]["protocol"], "HTTP3");
    assert_eq!(made["spec"]["bridge"]["mode"], "Kernel");
    assert_eq!(made["spec"]["service"]["externalTrafficPolicy"], "Local");

    let made = space.apply(POLICY, "web", &policy()).await;
    assert_eq!(made["spec"]["mode"], "Enforce");
    assert_eq!(made["spec"]["rules"][0]["action"], "Allow");
    assert_eq!(made["spec"]["rules"][0]["direction"], "ToVPC");
}
