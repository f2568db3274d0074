//! What people get wrong: each gives its reason, names what is wrong, and hurts nothing else.

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use masque_cluster_tests::{ATTACHMENT, Cluster, Operator, POINT, POLICY, Space, eventually};
use masque_testkit::DevelopmentCa;
use serde_json::{Value, json};

use crate::{point, populate};

/// A namespace with an operator; `None` after a line `SKIPPED:`.
async fn begin(name: &str) -> Option<(Space, Operator)> {
    let cluster = Cluster::shared().await?;
    let space = cluster.space(name).await;
    let operator = Operator::start(cluster.kubeconfig(), &space.name, "a", false);
    Some((space, operator))
}

/// Waits for a condition, and for `words` in its message.
async fn told(space: &Space, (kind, name): (&str, &str), type_: &str, is: &str, words: &str) {
    let what = format!("{kind} {name} has {type_}={is}");
    eventually(&what, async || {
        space.condition(kind, name, type_).await == is
    })
    .await;
    let object = space.get(kind, name).await;
    let path = match kind {
        POLICY => "/status/ancestors/0/conditions",
        _ => "/status/conditions",
    };
    let all = object.pointer(path).and_then(Value::as_array).unwrap();
    let condition = all.iter().find(|one| one["type"] == type_).unwrap();
    let message = condition["message"].as_str().unwrap();
    assert!(message.contains(words), "{words:?} is not in {message:?}");
}

async fn put_tls(space: &Space, name: &str, certificate: &str, key: &str) {
    let data = [("tls.crt", certificate), ("tls.key", key)];
    let data = data.map(|(name, pem)| (name.to_owned(), ByteString(pem.as_bytes().to_vec())));
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    };
    let params = PostParams::default();
    space
        .api::<Secret>()
        .create(&params, &secret)
        .await
        .unwrap();
}

/// A self-signed certificate of 2020, and its key.
fn expired() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 4, 1);
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_that_cannot_be_used_are_named() {
    let Some((space, _operator)) = begin("certificates").await else {
        return;
    };
    let ca = DevelopmentCa::new();
    let (one, other) = (ca.server(&["a.example"]), ca.server(&["b.example"]));
    put_tls(&space, "wrong-key", &one.cert_pem, &other.key_pem).await;
    let (certificate, key) = expired();
    put_tls(&space, "expired", &certificate, &key).await;
    for (secret, reason, words) in [
        (
            "wrong-key",
            "CertificateInvalid",
            "wrong-key has a key that is not",
        ),
        ("expired", "CertificateInvalid", "expired on"),
        ("absent", "CertificateNotFound", "absent"),
    ] {
        let mut spec = point();
        spec["listeners"][0]["tls"] = json!({"certificateRefs": [{"name": secret}]});
        space.apply(POINT, "edge", &spec).await;
        let is = format!("False/{reason}");
        told(&space, (POINT, "edge"), "ResolvedRefs", &is, words).await;
    }
    // The Secret that comes later is seen without an edit.
    put_tls(&space, "absent", &one.cert_pem, &one.key_pem).await;
    eventually("it is found", async || {
        space.condition(POINT, "edge", "ResolvedRefs").await == "True/ResolvedRefs"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_want_the_older_has() {
    let Some((space, _operator)) = begin("conflicts").await else {
        return;
    };
    populate(&space, &["laptop"]).await;
    eventually("an address", async || {
        space.address("laptop").await.is_some()
    })
    .await;
    let address = space.address("laptop").await.unwrap();
    // Precedence is by creation, in whole seconds.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    space.attach("thief", 1).await;
    let conflicted = "False/Conflicted";
    told(
        &space,
        (ATTACHMENT, "thief"),
        "Accepted",
        conflicted,
        "laptop",
    )
    .await;

    let mut second = point();
    second["addressPools"] = json!([{"cidr": "10.1.8.128/25"}]);
    second["fabric"]["static"]["localSID"] = json!("fd00:0:1:9::");
    space.apply(POINT, "second", &second).await;
    told(
        &space,
        (POINT, "second"),
        "Accepted",
        conflicted,
        "10.1.8.0/24",
    )
    .await;

    // The older has what it had.
    assert_eq!(space.address("laptop").await, Some(address));
    let accepted = space.condition(POINT, "edge", "Accepted").await;
    assert_eq!(accepted, "True/Accepted");
    space
        .ours(ATTACHMENT)
        .delete("laptop", &DeleteParams::default())
        .await
        .unwrap();
    eventually("the next in line has the key", async || {
        space.condition(ATTACHMENT, "thief", "Accepted").await == "True/Accepted"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pools_end_and_addresses_are_taken() {
    let Some((space, _operator)) = begin("pools").await else {
        return;
    };
    let mut small = point();
    // Two addresses for attachments, at most.
    small["addressPools"] = json!([{"cidr": "10.1.8.0/30"}]);
    space.apply(POINT, "edge", &small).await;
    let names = ["one", "two", "three", "four", "five"];
    for (key, name) in (1..).zip(names) {
        space.attach(name, key).await;
    }
    let exhausted = async || {
        let mut count = 0;
        for name in names {
            let programmed = space.condition(ATTACHMENT, name, "Programmed").await;
            count += usize::from(programmed == "False/PoolExhausted");
        }
        count
    };
    eventually("some have no address", async || exhausted().await > 0).await;
    let mut wide = small.clone();
    wide["addressPools"] = json!([{"cidr": "10.1.8.0/30"}, {"cidr": "10.1.9.0/24"}]);
    space.apply(POINT, "edge", &wide).await;
    eventually("a wider pool cures it", async || {
        let mut all = true;
        for name in names {
            all &= space.address(name).await.is_some();
        }
        all && exhausted().await == 0
    })
    .await;
    let taken = space.address("one").await.unwrap();
    space.attach("fixed", 9).await;
    let spec = json!({
        "connectorRef": {"name": "fixed"}, "vpcRef": {"name": "prod"},
        "ipAllocation": {"mode": "Static", "addresses": [taken]},
    });
    let api = space.ours(ATTACHMENT);
    api.delete("fixed", &DeleteParams::default()).await.unwrap();
    space.apply(ATTACHMENT, "fixed", &spec).await;
    eventually("a taken address is refused", async || {
        let accepted = space.condition(ATTACHMENT, "fixed", "Accepted").await;
        let programmed = space.condition(ATTACHMENT, "fixed", "Programmed").await;
        accepted == "False/Conflicted" || programmed == "False/AddressUnavailable"
    })
    .await;
    assert_eq!(space.address("one").await, Some(taken));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_a_target_says_so() {
    let Some((space, _operator)) = begin("target").await else {
        return;
    };
    let policy = json!({
        "targetRefs": [{"kind": POINT, "name": "egde"}],
        "rules": [{"name": "web", "prefixes": [{"cidr": "10.1.0.0/16"}]}],
    });
    space.apply(POLICY, "web", &policy).await;
    let not_found = "False/TargetNotFound";
    told(&space, (POLICY, "web"), "ResolvedRefs", not_found, "egde").await;
    let mut cured = policy.clone();
    cured["targetRefs"][0]["name"] = json!("edge");
    space.apply(POINT, "edge", &point()).await;
    space.apply(POLICY, "web", &cured).await;
    eventually("it has a target", async || {
        space.condition(POLICY, "web", "ResolvedRefs").await == "True/ResolvedRefs"
    })
    .await;
}
