//! Every CEL rule refuses something, with its own message at its own field, and so do the bounds.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt as _, api::ListParams};
use masque_cluster_tests::{ATTACHMENT, Cluster, POINT, POLICY, Space};
use serde_json::{Value, json};

use crate::{attachment, point, policy};

/// KIND, pointer below spec, value ("-" removes), the field that is named, the start of the message.
const RULES: &str = r#"
ConnectorAttachment | /allowedRoutes/0 | "10.1.0.5/16" | spec.allowedRoutes[0] | must be a CIDR
ConnectorAttachment | /ipAllocation/addresses/0 | "10.1.0" | spec.ipAllocation.addresses[0] | must be an IP
ConnectorAttachment | /ipAllocation/mode | "Dynamic" | spec.ipAllocation | addresses are required when
ConnectorAttachment | /ipAllocation/addresses | - | spec.ipAllocation | addresses are required when
VPCIngressPoint | /addressPools/1/cidr | "10.1.8.128/25" | spec.addressPools | address pools must not
VPCIngressPoint | /addressPools/0/reserved/0 | "10.2.0.0/29" | spec.addressPools[0] | every reserved
VPCIngressPoint | /replicas | 2 | spec.replicas | replicas and autoscaling
VPCIngressPoint | /autoscaling/minReplicas | 4 | spec.autoscaling.minReplicas | minReplicas must
VPCIngressPoint | /service/type | "ClusterIP" | spec.service.loadBalancerClass | loadBalancerClass belongs
VPCIngressPoint | /fabric/static | - | spec.fabric.static | the block static
VPCIngressPoint | /fabric/galactic | {} | spec.fabric.galactic | the block galactic
VPCIngressPoint | /fabric/bgp | {} | spec.fabric.bgp | the block bgp
VPCIngressPoint | /fabric/static/localSID | "192.0.2.1" | spec.fabric.static.localSID | localSID must be
VPCIngressPoint | /fabric/static/localSIDIPv4 | "192.0.2.1" | spec.fabric.static.localSIDIPv4 | localSIDIPv4 must be
VPCIngressPoint | /fabric/static/localSIDIPv4 | "fd00:0:1:1::" | spec.fabric.static.localSIDIPv4 | localSIDIPv4 must differ
VPCIngressPoint | /fabric/static/sourceAddress | "192.0.2.1" | spec.fabric.static.sourceAddress | sourceAddress must
VPCIngressPoint | /fabric/static/routes/0/sid | "192.0.2.1" | spec.fabric.static.routes[0].sid | sid must
VPCIngressPoint | /fabric/static/peers | ["192.0.2.0/24"] | spec.fabric.static.peers | peers must be IPv6
VPCAccessPolicy | /rules/0/prefixes/0/except/0 | "10.2.0.0/24" | spec.rules[0].prefixes[0] | every prefix in
VPCAccessPolicy | /rules/0/ports/0/endPort | 7999 | spec.rules[0].ports[0].endPort | endPort needs port
VPCAccessPolicy | /rules/0/ports/0/protocol | "ICMP" | spec.rules[0].ports[0].port | only TCP, UDP
"#;

/// The same, for what is no CEL rule: bounds, patterns, enumerations, unknown fields.
const BOUNDS: &str = r#"
ConnectorAttachment | /connectorRef/name | "Laptop" | spec.connectorRef.name | should match
ConnectorAttachment | /limits | {"sessions": 65} | spec.limits.sessions | less than or equal to 64
ConnectorAttachment | /ipAllocation/mode | "Sticky" | spec.ipAllocation.mode | supported values
ConnectorAttachment | /allowedRoutes | ["10.1.0.0/16", "10.1.0.0/16"] | spec.allowedRoutes | duplicate
VPCIngressPoint | /listeners | [] | spec.listeners | should have at least 1 items
VPCIngressPoint | /listeners/0/port | 65536 | spec.listeners[0].port | less than or equal to 65535
VPCIngressPoint | /mtu | 1279 | spec.mtu | greater than or equal to 1280
VPCIngressPoint | /drain | {"deadline": "soon"} | spec.drain.deadline | should match
VPCIngressPoint | /replica | 1 | .spec.replica | field not declared in schema
VPCAccessPolicy | /targetRefs | [] | spec.targetRefs | should have at least 1 items
VPCAccessPolicy | /rules/0/action | "Maybe" | spec.rules[0].action | supported values
VPCAccessPolicy | /rules/0/ports/0/protocol | "QUIC" | spec.rules[0].ports[0].protocol | should match
"#;

fn good(kind: &str) -> Value {
    match kind {
        ATTACHMENT => attachment(),
        POINT => point(),
        POLICY => policy(),
        other => panic!("no kind: {other}"),
    }
}

fn change(spec: &mut Value, pointer: &str, value: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(map), "-") => drop(map.remove(key)),
        (Value::Object(map), json) => {
            map.insert(key.to_owned(), serde_json::from_str(json).unwrap());
        }
        (Value::Array(list), json) => {
            list[key.parse::<usize>().unwrap()] = serde_json::from_str(json).unwrap();
        }
        (other, _) => panic!("{other} at {pointer}"),
    }
}

/// Applies every line; gives the refusals.
async fn refusals(space: &Space, table: &str) -> String {
    let mut all = String::new();
    for (number, line) in table.lines().filter(|line| !line.is_empty()).enumerate() {
        let [kind, pointer, value, field, message] =
            *line.split(" | ").map(str::trim).collect::<Vec<_>>()
        else {
            panic!("not five columns: {line}");
        };
        let mut spec = good(kind);
        change(&mut spec, pointer, value);
        let name = format!("bad-{number}");
        let refused = space.try_apply("person", kind, &name, &spec).await;
        let error = match refused {
            Err(kube::Error::Api(status)) => status.message,
            Err(other) => panic!("{line}: {other}"),
            Ok(_) => panic!("accepted: {line}"),
        };
        assert!(
            error.contains(field) && error.contains(message),
            "{line}\n{error}"
        );
        all.push_str(&error);
    }
    all
}

#[tokio::test]
async fn every_rule_refuses_something() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("rules").await;
    for kind in [ATTACHMENT, POINT, POLICY] {
        space.apply(kind, "good", &good(kind)).await;
    }
    let told = refusals(&space, RULES).await;
    let api: Api<CustomResourceDefinition> = Api::all(space.client.clone());
    let mut rules = BTreeSet::new();
    for definition in api.list(&ListParams::default()).await.unwrap() {
        let known = [
            "connectorattachments",
            "vpcingresspoints",
            "vpcaccesspolicies",
        ];
        if known.contains(&definition.spec.names.plural.as_str()) {
            messages(&serde_json::to_value(&definition.spec).unwrap(), &mut rules);
        }
    }
    // Changes and names have tests of their own.
    rules.retain(|rule| !rule.contains("immutable") && !rule.starts_with("the name must not"));
    assert!(rules.len() > 15, "{rules:?}");
    let silent: Vec<_> = rules.iter().filter(|rule| !told.contains(*rule)).collect();
    assert!(silent.is_empty(), "no line above provokes {silent:?}");
}

/// The messages of all CEL rules in a definition.
fn messages(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            let rules = map
                .get("x-kubernetes-validations")
                .and_then(Value::as_array);
            for rule in rules.into_iter().flatten() {
                found.insert(rule["message"].as_str().unwrap().to_owned());
            }
            map.values().for_each(|inner| messages(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| messages(inner, found)),
        _ => {}
    }
}

#[tokio::test]
async fn bounds_patterns_and_unknown_fields_are_refused() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    refusals(&cluster.space("bounds").await, BOUNDS).await;
}

#[tokio::test]
async fn a_name_longer_than_a_label_is_refused() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("names").await;
    space
        .apply(ATTACHMENT, &"a".repeat(63), &attachment())
        .await;
    let long = "a".repeat(64);
    let refused = space
        .try_apply("person", ATTACHMENT, &long, &attachment())
        .await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("the name must not be longer"), "{error}");
}

#[tokio::test]
async fn references_are_immutable_and_the_rest_is_not() {
    let Some(cluster) = Cluster::shared().await else {
        return;
    };
    let space = cluster.space("changes").await;
    let cases = [
        (
            ATTACHMENT,
            "/connectorRef/name",
            "connectorRef.name is immutable",
        ),
        (ATTACHMENT, "/vpcRef/name", "vpcRef is immutable"),
        (POINT, "/vpcRef/name", "vpcRef is immutable"),
    ];
    for (kind, pointer, message) in cases {
        space.apply(kind, "fixed", &good(kind)).await;
        let mut spec = good(kind);
        *spec.pointer_mut(pointer).unwrap() = json!("other");
        let refused = space.try_apply("person", kind, "fixed", &spec).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(message), "{kind} {pointer}: {error}");
    }
    let mut spec = attachment();
    spec["suspend"] = json!(true);
    let changed = space.apply(ATTACHMENT, "fixed", &spec).await;
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(
        space
            .ours(ATTACHMENT)
            .get("fixed")
            .await
            .unwrap()
            .name_any(),
        "fixed"
    );
}
