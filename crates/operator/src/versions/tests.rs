use masque_controller::{Options, Resources, Sourced, compile};
use serde_json::json;

use super::*;

fn point(status: serde_json::Value) -> VPCIngressPoint {
    serde_json::from_value(json!({
        "apiVersion": "networking.datumapis.com/v1alpha1",
        "kind": "VPCIngressPoint",
        "metadata": {"name": "edge", "namespace": "ns"},
        "spec": {
            "vpcRef": {"name": "prod"},
            "listeners": [{"name": "h3", "port": 443}],
            "addressPools": [{"cidr": "10.0.100.0/24"}],
            "routes": ["10.0.0.0/16"],
            "fabric": {"provider": "Static", "static": {
                "localSID": "fd00:1::", "sourceAddress": "fd00::1",
                "routes": [{"prefix": "10.0.0.0/16", "sid": "fd00:2::"}],
            }},
        },
        "status": status,
    }))
    .unwrap()
}

fn snapshot() -> Snapshot {
    let resources = Resources {
        ingress_points: vec![Sourced::new(point(json!({})))],
        ..Resources::default()
    };
    let compiled = compile(&resources, 0, &Options::default(), &[]);
    assert_eq!(compiled.snapshots.len(), 1, "{:?}", compiled.problems);
    compiled.snapshots.into_iter().next().unwrap()
}

fn put(versions: &mut Versions, snapshot: Snapshot) {
    let document = Document::encode(&snapshot).unwrap();
    versions.put(Arc::new(snapshot), &document);
}

#[test]
fn only_a_change_gets_a_number() {
    let mut versions = Versions::default();
    let first = versions.next(snapshot(), None).unwrap();
    assert_eq!(first.version, 1);
    put(&mut versions, first);
    assert!(versions.next(snapshot(), None).is_none());
    let mut changed = snapshot();
    changed.mtu_bytes = Some(1400);
    assert_eq!(versions.next(changed, None).unwrap().version, 2);
}

#[test]
fn a_new_leader_goes_on_where_the_status_says() {
    let versions = Versions::default();
    let hash = hash_of(&snapshot()).unwrap();
    let same = point(json!({"snapshot": {"version": 7, "hash": hash, "acked": 2}}));
    assert_eq!(versions.next(snapshot(), Some(&same)).unwrap().version, 7);
    let other = point(json!({"snapshot": {"version": 7, "hash": "00", "acked": 2}}));
    assert_eq!(versions.next(snapshot(), Some(&other)).unwrap().version, 8);
}

#[test]
fn numbers_outlive_a_snapshot_that_was_withdrawn() {
    let mut versions = Versions::default();
    let first = versions.next(snapshot(), None).unwrap();
    put(&mut versions, first);
    let gone = versions.retain(|_| false, |_| true);
    assert_eq!(gone, [ObjectName::new("ns", "edge")]);
    assert_eq!(versions.next(snapshot(), None).unwrap().version, 2);
    versions.retain(|_| false, |_| false);
    assert_eq!(versions.next(snapshot(), None).unwrap().version, 1);
}
