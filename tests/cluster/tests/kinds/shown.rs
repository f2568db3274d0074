//! What `kubectl` shows and scales: columns, short names, the category, the scale subresource.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use masque_cluster_tests::{ATTACHMENT, Cluster, POINT, POLICY, Space};
use serde_json::{Value, json};

use crate::{attachment, point, policy};

#[tokio::test]
async fn definitions_are_established_without_complaint() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let api: Api<CustomResourceDefinition> = Api::all(cluster.client().await);
    for definition in masque_api::crds() {
        let name = definition.metadata.name.unwrap();
        let served = api.get(&name).await.unwrap();
        let conditions = served.status.unwrap().conditions.unwrap();
        let status = |type_: &str| {
            let found = conditions.iter().find(|one| one.type_ == type_);
            found.map(|one| one.status.clone())
        };
        assert_eq!(status("Established").as_deref(), Some("True"), "{name}");
        assert_eq!(status("NamesAccepted").as_deref(), Some("True"), "{name}");
        assert_eq!(status("NonStructuralSchema"), None, "{name}");
        // What the API server stores is what we sent: it dropped no rule and no field.
        let ours = serde_json::to_value(&definition.spec.versions[0].schema).unwrap();
        let theirs = serde_json::to_value(&served.spec.versions[0].schema).unwrap();
        assert_eq!(theirs, ours, "{name}");
    }
}

#[tokio::test]
async fn discovery_has_short_names_the_category_and_subresources() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let client = cluster.client().await;
    let served = client
        .list_api_group_resources(masque_api::API_VERSION)
        .await;
    let served = served.unwrap().resources;
    for (plural, short) in [
        ("connectorattachments", "cna"),
        ("vpcingresspoints", "vpcip"),
        ("vpcaccesspolicies", "vpcap"),
    ] {
        let one = served.iter().find(|one| one.name == plural).unwrap();
        assert_eq!(one.short_names.as_deref(), Some(&[short.to_owned()][..]));
        assert_eq!(
            one.categories.as_deref(),
            Some(&["vpcaccess".to_owned()][..])
        );
        assert!(
            served
                .iter()
                .any(|one| one.name == format!("{plural}/status"))
        );
    }
    let scalable: Vec<_> = served
        .iter()
        .filter(|one| one.name.ends_with("/scale"))
        .map(|one| one.name.as_str())
        .collect();
    assert_eq!(scalable, ["vpcingresspoints/scale"]);
}

/// Columns and the cells of the only row, as `kubectl get` asks for them.
async fn table(space: &Space, plural: &str) -> Vec<(String, i64, Value)> {
    let path = format!(
        "/apis/{}/namespaces/{}/{plural}",
        masque_api::API_VERSION,
        space.name
    );
    let request = http::Request::get(path)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
        .body(Vec::new())
        .unwrap();
    let table: Value = space.client.request(request).await.unwrap();
    let columns = table["columnDefinitions"].as_array().unwrap().iter();
    let cells = table["rows"][0]["cells"].as_array().unwrap().iter();
    columns
        .zip(cells)
        .map(|(column, cell)| {
            let name = column["name"].as_str().unwrap().to_owned();
            (name, column["priority"].as_i64().unwrap(), cell.clone())
        })
        .collect()
}

fn names(table: &[(String, i64, Value)], wide: bool) -> String {
    let shown = table
        .iter()
        .filter(|(_, priority, _)| (*priority > 0) == wide);
    let names: Vec<_> = shown.map(|(name, ..)| name.as_str()).collect();
    names.join(" ")
}

fn cell<'a>(table: &'a [(String, i64, Value)], name: &str) -> &'a Value {
    &table.iter().find(|(column, ..)| column == name).unwrap().2
}

#[tokio::test]
async fn columns_show_spec_and_status() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("columns").await;
    space.apply(ATTACHMENT, "laptop", &attachment()).await;
    space.apply(POINT, "edge", &point()).await;
    space.apply(POLICY, "web", &policy()).await;
    let ready = json!([{
        "type": "Ready", "status": "False", "reason": "WaitingForPods", "message": "no pod",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let status = json!({"status": {
        "conditions": ready, "assignedIP": "10.1.0.9", "phase": "Pending",
    }});
    let params = PatchParams::default();
    let api = space.ours(ATTACHMENT);
    api.patch_status("laptop", &params, &Patch::Merge(&status))
        .await
        .unwrap();
    let status = json!({"status": {
        "conditions": ready, "readyReplicas": 2, "addresses": ["192.0.2.1"],
        "attachments": {"accepted": 5, "connected": 3},
    }});
    let api = space.ours(POINT);
    api.patch_status("edge", &params, &Patch::Merge(&status))
        .await
        .unwrap();

    let shown = table(&space, "connectorattachments").await;
    assert_eq!(
        names(&shown, false),
        "Name Ready Phase Connector VPC Address Age"
    );
    assert_eq!(names(&shown, true), "Reason Message");
    assert_eq!(cell(&shown, "Ready"), "False");
    assert_eq!(cell(&shown, "Reason"), "WaitingForPods");
    assert_eq!(cell(&shown, "Connector"), "laptop");
    assert_eq!(cell(&shown, "Address"), "10.1.0.9");

    let shown = table(&space, "vpcingresspoints").await;
    assert_eq!(
        names(&shown, false),
        "Name Ready VPC Replicas Attached Connected Address Age"
    );
    assert_eq!(cell(&shown, "Replicas"), 2);
    assert_eq!(
        (cell(&shown, "Attached"), cell(&shown, "Connected")),
        (&json!(5), &json!(3))
    );
    assert_eq!(cell(&shown, "Address"), "192.0.2.1");

    let shown = table(&space, "vpcaccesspolicies").await;
    assert_eq!(names(&shown, false), "Name Mode Accepted Programmed Age");
    assert_eq!(cell(&shown, "Mode"), "Enforce");
}

#[tokio::test]
async fn an_ingress_point_scales() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("scale").await;
    let mut spec = point();
    spec.as_object_mut().unwrap().remove("autoscaling");
    spec["replicas"] = json!(1);
    space.apply(POINT, "edge", &spec).await;
    let api = space.ours(POINT);
    let params = PatchParams::default();
    let status = json!({"status": {"replicas": 1, "selector": "a=b"}});
    api.patch_status("edge", &params, &Patch::Merge(&status))
        .await
        .unwrap();
    let scale = serde_json::to_value(api.get_scale("edge").await.unwrap()).unwrap();
    assert_eq!(scale["spec"]["replicas"], 1);
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
    let four = json!({"spec": {"replicas": 4}});
    api.patch_scale("edge", &params, &Patch::Merge(&four))
        .await
        .unwrap();
    assert_eq!(space.get(POINT, "edge").await["spec"]["replicas"], 4);
}
