use serde_json::json;

use super::*;
use crate::fake::{Call, Fake};

fn deployment(replicas: u64, image: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {
            "name": "edge", "namespace": "ns", "resourceVersion": "5", "uid": "u",
            "annotations": {"deployment.kubernetes.io/revision": replicas.to_string()},
            "ownerReferences": [{
                "apiVersion": "x/v1", "kind": "VPCIngressPoint", "name": "edge", "uid": "point",
                "controller": true,
            }],
        },
        "spec": {"replicas": replicas, "image": image},
        "status": {"replicas": replicas},
    }))
    .unwrap()
}

#[test]
fn what_controllers_write_is_no_drift() {
    let autoscaled = json!({"spec": {"image": "a"}});
    let mut changed = deployment(3, "a");
    changed.metadata.resource_version = Some("9".to_owned());
    let before = fingerprint(&deployment(2, "a"), &autoscaled);
    assert_eq!(fingerprint(&changed, &autoscaled), before);
    assert_ne!(fingerprint(&deployment(2, "b"), &autoscaled), before);
}

#[test]
fn replicas_that_we_set_are_kept() {
    let fixed = json!({"spec": {"image": "a", "replicas": 2}});
    let before = fingerprint(&deployment(2, "a"), &fixed);
    assert_ne!(fingerprint(&deployment(3, "a"), &fixed), before);
}

#[test]
fn only_own_children_are_pruned() {
    let object = deployment(1, "a");
    assert!(controlled_by(&object.metadata, "point"));
    assert!(!controlled_by(&object.metadata, "another"));
    let mut stray = object;
    stray.metadata.owner_references = None;
    assert!(!controlled_by(&stray.metadata, "point"));
}

#[test]
fn a_fight_over_a_child_is_slow() {
    let now = Instant::now();
    let name = ObjectName::new("ns", "edge");
    let child = Child::new(ChildKind::Deployment, name.clone(), json!({"spec": {}}));
    let known = Known {
        desired: child.hash,
        fingerprint: 1,
        written: Some(now),
        ..Known::default()
    };
    assert_eq!(known.tolerated(&child, now), Some(now + DRIFT_EVERY));
    assert_eq!(known.tolerated(&child, now + DRIFT_EVERY), None);
    // What the spec asks for is never put off.
    let edited = Child::new(
        ChildKind::Deployment,
        name,
        json!({"spec": {"replicas": 1}}),
    );
    assert_eq!(known.tolerated(&edited, now), None);
}

fn family(child: &Child) -> Family {
    Family {
        point: ObjectName::new("ns", "edge"),
        uid: "point".to_owned(),
        children: Arc::new(vec![child.clone()]),
    }
}

fn edge(kind: ChildKind, spec: &Value) -> Child {
    let object = json!({"metadata": {"name": "edge"}, "spec": spec});
    Child::new(kind, ObjectName::new("ns", "edge"), object)
}

/// What was asked for, without queries.
fn asked(calls: &[Call]) -> Vec<String> {
    let of = |call: &Call| {
        format!(
            "{} {}",
            call.method,
            call.manager().as_deref().unwrap_or("-")
        )
    };
    calls.iter().map(of).collect()
}

#[tokio::test]
async fn an_autoscaler_takes_over_the_pods_there_are() {
    let fake = Fake::new(|_| (200, serde_json::to_value(deployment(7, "a")).unwrap()));
    let writer = fake.writer();
    let live = Seen::Read(Arc::new(deployment(7, "a")));
    let kind = ChildKind::Deployment;
    writer.index.lock().children_mut(kind).put(live);
    let applier = Applier::new(writer);
    let autoscaled = edge(ChildKind::Deployment, &json!({"image": "b"}));
    assert_eq!(applier.round(&[family(&autoscaled)]).await.writes, 1);
    let calls = fake.calls();
    let managers = ["masque-operator/handover", "masque-operator/children"];
    assert_eq!(asked(&calls), managers.map(|name| format!("PATCH {name}")));
    assert_eq!(calls[0].body["spec"], json!({"replicas": 7}));
    assert_eq!(calls[0].body["metadata"]["resourceVersion"], "5");
    // A number that the spec gives needs no handing over.
    let fixed = edge(ChildKind::Deployment, &json!({"image": "b", "replicas": 2}));
    applier.round(&[family(&fixed)]).await;
    assert_eq!(asked(&fake.calls()), ["PATCH masque-operator/children"]);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() {
    let theirs = json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": "edge", "namespace": "ns", "uid": "u", "resourceVersion": "1"},
    });
    let fake = Fake::new(move |_| (200, theirs.clone()));
    let applier = Applier::new(fake.writer());
    let service = edge(ChildKind::Service, &json!({}));
    let families = [family(&service)];
    for _ in 0..2 {
        let round = applier.round(&families).await;
        let refused = &round.refused[&families[0].point];
        assert!(
            refused.starts_with("Service edge: somebody else"),
            "{refused}"
        );
        assert!(round.again.is_some());
    }
    assert_eq!(
        asked(&fake.calls()),
        ["GET -"],
        "and it is not asked for all the time"
    );
}
