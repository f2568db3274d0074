//! The operator with exactly the rights that the chart gives it.

use std::{fs, path::Path};

use k8s_openapi::api::{core::v1::Secret, events::v1::Event};
use kube::{Api, api::ListParams};
use masque_cluster_tests::{Cluster, FaultProxy, POLICY, Space, eventually, free_port};
use serde_json::json;

use crate::{How, World};

/// What `helm template` gives; `scripts/chart-test` keeps it current.
const SNAPSHOTS: &str = "../../charts/tests/snapshots";
const ACCOUNT: &str = "masque-operator";
/// The namespaces in the snapshots: the operator's, and the one that it serves.
const NAMESPACES: [&str; 2] = ["masque-system", "production"];

#[tokio::test(flavor = "multi_thread")]
async fn the_charts_rights_suffice_for_one_namespace() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let (own, served) = (cluster.space("ops").await, cluster.space("team").await);
    cluster.apply_yaml(&rights("namespaced", &own, &served));
    whole_life(cluster, &own, served, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_charts_rights_suffice_for_all_namespaces() {
    // Others' ingress points would be this operator's too, without the rights to serve them.
    let Some(cluster) = Cluster::own("rights").await else {
        return;
    };
    let (own, served) = (cluster.space("ops").await, cluster.space("team").await);
    cluster.apply_yaml(&rights("default", &own, &served));
    let (name, team) = (&own.name, &served.name);
    cluster.apply_yaml(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\n\
         metadata: {{name: masque-operator-gateways, namespace: {team}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, \
         name: \"masque-operator:{name}:gateways\"}}\n\
         subjects: [{{kind: ServiceAccount, name: {ACCOUNT}, namespace: {name}}}]\n"
    ));
    whole_life(&cluster, &own, served, true).await;
}

/// The objects of a snapshot that give rights, for these namespaces.
fn rights(snapshot: &str, own: &Space, served: &Space) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SNAPSHOTS);
    let text = fs::read_to_string(path.join(format!("{snapshot}.yaml"))).unwrap();
    let kinds = [
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "Role",
        "RoleBinding",
    ];
    let gives = |document: &&str| {
        let kind = document
            .lines()
            .find_map(|line| line.strip_prefix("kind: "));
        kind.is_some_and(|kind| kinds.contains(&kind))
    };
    let documents: Vec<_> = text.split("\n---\n").filter(gives).collect();
    assert!(documents.len() >= 5, "{snapshot}: {}", documents.len());
    let text = documents.join("\n---\n");
    text.replace(NAMESPACES[0], &own.name).replace(
        &format!("namespace: {}", NAMESPACES[1]),
        &format!("namespace: {}", served.name),
    )
}

/// Ingress point, gateway, attachment, policy, session, an edit: nothing of it is forbidden.
async fn whole_life(cluster: &Cluster, own: &Space, served: Space, everywhere: bool) {
    let client = cluster.client_as(own, ACCOUNT).await;
    // Else the account is an administrator, and this proves nothing.
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &served.name);
    let listed = secrets.list(&ListParams::default()).await;
    assert!(listed.is_err_and(|error| error.to_string().contains("cannot list")));
    let proxy = FaultProxy::start(client).await;
    let how = How {
        kubeconfig: proxy.kubeconfig().to_owned(),
        lease_namespace: own.name.clone(),
        everywhere,
        stream_port: free_port(),
    };
    let Some(mut world) = World::run(served, how).await else {
        return;
    };
    world.program().await;
    let laptop = world.connector("laptop").await;
    let policy = json!({
        "targetRefs": [{"kind": "VPCIngressPoint", "name": "edge"}],
        "rules": [{"name": "web", "prefixes": [{"cidr": "10.1.0.0/16"}]}],
    });
    world.space.apply(POLICY, "web", &policy).await;
    eventually("the policy is programmed", async || {
        world.space.condition(POLICY, "web", "Programmed").await == "True/Programmed"
    })
    .await;
    let session = world.session(&laptop, &world.ca);
    world.becomes("laptop", "Connected").await;
    drop(session);
    eventually("there are events", async || {
        let events = world
            .space
            .api::<Event>()
            .list(&ListParams::default())
            .await;
        let ours = |event: &Event| {
            let by = event.reporting_controller.as_deref().unwrap_or_default();
            by.contains("masque")
        };
        events.is_ok_and(|events| events.items.iter().any(ours))
    })
    .await;
    assert_eq!(proxy.forbidden(), std::collections::BTreeSet::new());
    let log = world.operator.as_ref().unwrap().log();
    assert!(!log.to_lowercase().contains("forbidden"), "{log}");
}
