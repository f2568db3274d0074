use serde_json::json;

use super::*;

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
    assert!(owned_by(&object, "point"));
    assert!(!owned_by(&object, "another"));
    let mut stray = object;
    stray.metadata.owner_references = None;
    assert!(!owned_by(&stray, "point"));
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
