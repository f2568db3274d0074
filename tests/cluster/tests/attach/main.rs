//! `datum-connect attach --kubeconfig` against a real API server. Statuses are written here, as an
//! operator would; no gateway runs, so that a machine that is let in ends where it would dial one.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod laptop;
mod person;

use masque_cluster_tests::{ATTACHMENT, CONNECTOR, Cluster, POINT, Space};
use serde_json::{Value, json};

use crate::{
    laptop::{Laptop, Ran},
    person::Person,
};

/// Nothing listens here.
const GATEWAY: &str = "https://127.0.0.1:9/.well-known/masque/ip/{target}/{ipproto}/";
/// sysexits(3).
const UNAVAILABLE: i32 = 69;
const TEMPORARY: i32 = 75;
const NO_PERMISSION: i32 = 77;
const CONFIG: i32 = 78;

/// The ingress point of the example, so that the example's roles fit.
fn point() -> Value {
    json!({
        "vpcRef": {"name": "production-vpc"},
        "listeners": [{"name": "public", "protocol": "HTTP3", "port": 443}],
        "addressPools": [{"cidr": "10.0.100.0/24"}],
        "fabric": {"provider": "Static", "static": {
            "localSID": "fd00:0:1:3:e001::", "sourceAddress": "fd00:0:1:3::1",
            "routes": [{"prefix": "10.0.1.0/24", "sid": "fd00:0:1:1:e001::"}],
        }},
    })
}

fn condition(type_: &str, status: &str, reason: &str, generation: &Value) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": "as the operator says",
        "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z",
    })
}

/// Writes a status as the operator does, with the conditions (type, status, reason).
async fn report(
    space: &Space,
    kind: &str,
    name: &str,
    mut status: Value,
    conditions: &[[&str; 3]],
) {
    let object = space.get(kind, name).await;
    let generation = &object["metadata"]["generation"];
    let all = conditions.iter();
    status["conditions"] = all
        .map(|[type_, is, reason]| condition(type_, is, reason, generation))
        .collect();
    let patch = kube::api::Patch::Merge(json!({"status": status}));
    let params = kube::api::PatchParams::default();
    let done = space.ours(kind).patch_status(name, &params, &patch).await;
    done.unwrap();
}

/// An ingress point that is Ready, and the CA of its gateways.
async fn gateways(space: &Space) {
    space.apply(POINT, "production", &point()).await;
    let endpoints = json!([{"listener": "public", "uri": GATEWAY}]);
    let status = json!({"addresses": ["127.0.0.1"], "endpoints": endpoints});
    report(
        space,
        POINT,
        "production",
        status,
        &[["Ready", "True", "Ready"]],
    )
    .await;
    let ca = laptop::certificate();
    let map = json!({
        "metadata": {"name": masque_api::client_ca_name("production")}, "data": {"ca.crt": ca},
    });
    let map = serde_json::from_value(map).unwrap();
    let api = space.api::<k8s_openapi::api::core::v1::ConfigMap>();
    api.create(&Default::default(), &map).await.unwrap();
}

/// A laptop was let in, and dialled the gateway, where nobody answered.
fn assert_let_in(ran: &Ran, address: &str) {
    assert_eq!(ran.code, UNAVAILABLE, "{ran:?}");
    let said = format!("  let in        as {address}\n");
    assert!(ran.stderr.contains(&said), "{ran:?}");
    assert!(ran.stderr.contains("https://127.0.0.1:9/"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_the_documented_rights_lets_their_laptop_in() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("self").await;
    gateways(&space).await;
    let ada = Person::new(cluster, &space, &["masque-attach", "masque-attach-self"]).await;
    let laptop = Laptop::new("ada-laptop");
    let running = laptop.start(&ada, &[]);

    // The operator comes later.
    let name = "ada-laptop-production-vpc";
    masque_cluster_tests::eventually("the attachment is made", async || {
        matches!(space.ours(ATTACHMENT).get_opt(name).await, Ok(Some(_)))
    })
    .await;
    let connector = space.get(CONNECTOR, "ada-laptop").await;
    let key = &connector["status"]["connectionDetails"]["publicKey"]["id"];
    assert_eq!(key, &json!(laptop.id()));
    let missing = [
        ["Ready", "False", "ConnectorKeyMissing"],
        ["Stalled", "True", "ConnectorKeyMissing"],
    ];
    report(&space, ATTACHMENT, name, json!({}), &missing).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let status = json!({"assignedIP": "10.0.100.2", "assignedIPs": ["10.0.100.2"]});
    report(
        &space,
        ATTACHMENT,
        name,
        status,
        &[["Ready", "True", "Ready"]],
    )
    .await;
    let ran = running.wait();
    assert_let_in(&ran, "10.0.100.2");
    assert!(
        ran.stderr.contains("ada-laptop-production-vpc, made"),
        "{ran:?}"
    );

    let again = laptop.start(&ada, &[]).wait();
    assert_let_in(&again, "10.0.100.2");
    assert!(
        !again.stderr.contains("made"),
        "nothing is made twice: {again:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_may_not_make_is_printed_for_somebody_who_may() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("print").await;
    gateways(&space).await;
    let ada = Person::new(cluster, &space, &["masque-attach"]).await;
    let laptop = Laptop::new("ada-laptop");
    let ran = laptop.start(&ada, &["--wait", "0"]).wait();
    assert_eq!(ran.code, NO_PERMISSION, "{ran:?}");
    assert!(ran.stderr.contains("cannot create connectors"), "{ran:?}");
    assert!(
        ran.stderr.contains(
            "`kubectl apply --server-side -f FILE && kubectl apply --server-side \
             --subresource=status -f FILE`"
        ),
        "{ran:?}"
    );

    // Word for word.
    let apply = ["apply", "--server-side"];
    person::kubectl(cluster, &apply, &ran.stdout);
    let halfway = laptop.start(&ada, &["--wait", "0"]).wait();
    assert_eq!(halfway.code, NO_PERMISSION, "{halfway:?}");
    assert!(
        halfway.stderr.contains("cannot patch connectors/status"),
        "{halfway:?}"
    );
    assert!(
        !halfway.stdout.contains("ConnectorAttachment"),
        "{halfway:?}"
    );
    person::kubectl(
        cluster,
        &[&apply[..], &["--subresource=status"]].concat(),
        &ran.stdout,
    );

    let name = "ada-laptop-production-vpc";
    let status = json!({"assignedIPs": ["10.0.100.3"]});
    report(
        &space,
        ATTACHMENT,
        name,
        status,
        &[["Ready", "True", "Ready"]],
    )
    .await;
    assert_let_in(&laptop.start(&ada, &[]).wait(), "10.0.100.3");
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_with_the_operators_words() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("words").await;
    gateways(&space).await;
    let ada = Person::new(cluster, &space, &["masque-attach", "masque-attach-self"]).await;
    let laptop = Laptop::new("ada-laptop");
    let mine = ["--attachment", "mine"];
    let untouched = laptop
        .start(&ada, &[&mine[..], &["--wait", "1"]].concat())
        .wait();
    assert_eq!(untouched.code, TEMPORARY, "{untouched:?}");
    assert!(
        untouched
            .stderr
            .contains("no operator has looked at it yet"),
        "{untouched:?}"
    );

    for (reason, code) in [("Suspended", NO_PERMISSION), ("Conflicted", CONFIG)] {
        let stalled = [["Ready", "False", reason], ["Stalled", "True", reason]];
        report(&space, ATTACHMENT, "mine", json!({}), &stalled).await;
        let ran = laptop.start(&ada, &mine).wait();
        assert_eq!(ran.code, code, "{ran:?}");
        let words = format!("ConnectorAttachment mine: {reason}: as the operator says");
        assert!(ran.stderr.contains(&words), "{ran:?}");
    }

    // Another machine of the same name gets neither the name nor its access.
    let thief = Laptop::new("ada-laptop").start(&ada, &[]).wait();
    assert!(
        thief.stderr.contains("Connector ada-laptop in namespace"),
        "{thief:?}"
    );
    assert!(
        thief.stderr.contains("datum-connect key --name NAME"),
        "{thief:?}"
    );
    // One that takes the other's attachment is told what it is of.
    let other = Laptop::new("bob-laptop").start(&ada, &mine).wait();
    assert!(
        other.stderr.contains("Connector ada-laptop in namespace"),
        "{other:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn says_in_one_line_why_the_cluster_cannot_be_asked() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("asked").await;
    gateways(&space).await;
    let laptop = Laptop::new("ada-laptop");
    let nobody = Person::new(cluster, &space, &[]).await;
    let ada = Person::new(cluster, &space, &["masque-attach"]).await;
    for (person, code, part) in [
        (
            &nobody,
            NO_PERMISSION,
            "cannot list vpcingresspoints in namespace",
        ),
        (
            &ada.with_token("forged"),
            NO_PERMISSION,
            "does not know who you are (401)",
        ),
        (
            &ada.with_server("https://127.0.0.1:9"),
            UNAVAILABLE,
            "cannot be reached",
        ),
        (
            &ada.with_ca(&laptop::certificate()),
            UNAVAILABLE,
            "is not acceptable",
        ),
        (
            &ada.with_namespace("default"),
            NO_PERMISSION,
            "is default the right namespace",
        ),
    ] {
        let ran = laptop.start(person, &[]).wait();
        assert_eq!(ran.code, code, "{ran:?}");
        let last = ran.stderr.lines().last().unwrap();
        assert!(
            last.starts_with("datum-connect: ") && last.contains(part),
            "{ran:?}"
        );
        assert!(last.contains("; "), "with a cure: {last}");
    }
}
