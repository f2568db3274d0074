use std::collections::BTreeSet;

use kube::core::cel::{Validator, apply_defaults};

use super::*;

fn crd(kind: &str) -> CustomResourceDefinition {
    crds()
        .into_iter()
        .find(|crd| crd.spec.names.kind == kind)
        .unwrap()
}

fn schema(kind: &str) -> Value {
    let version = crd(kind).spec.versions.remove(0);
    serde_json::to_value(version.schema.unwrap().open_api_v3_schema.unwrap()).unwrap()
}

/// What the CEL rules say of an object: field path and message of every rule that fails.
fn failures(object: &Value, old: Option<&Value>) -> Vec<String> {
    let schema = schema(object["kind"].as_str().unwrap());
    let object = apply_defaults(&schema, object);
    let old = old.map(|old| apply_defaults(&schema, old));
    let errors = Validator::new()
        .validate(&schema, &object, old.as_ref())
        .err();
    let errors = errors.map(|errors| errors.into_vec()).unwrap_or_default();
    errors
        .iter()
        .map(|error| format!("{}: {}", error.field_path, error.message))
        .collect()
}

fn object(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": crate::API_VERSION, "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

fn attachment() -> Value {
    object(
        "ConnectorAttachment",
        json!({
            "connectorRef": {"name": "laptop"},
            "vpcRef": {"name": "prod"},
            "ipAllocation": {"mode": "Static", "addresses": ["10.0.100.50", "fd20::50"]},
            "allowedRoutes": ["10.0.0.0/16", "fd20::/64"],
        }),
    )
}

fn ingress_point() -> Value {
    object(
        "VPCIngressPoint",
        json!({
            "vpcRef": {"name": "prod"},
            "listeners": [{"name": "public", "port": 443}],
            "addressPools": [
                {"cidr": "10.0.100.0/24", "reserved": ["10.0.100.0/28"]},
                {"cidr": "fd20:0:0:100::/64"},
            ],
            "routes": ["10.0.0.0/16"],
            "fabric": {
                "provider": "Static",
                "static": {
                    "localSID": "fd00:0:1:3:e001::",
                    "localSIDIPv4": "fd00:0:1:3:d001::",
                    "sourceAddress": "fd00:0:1:3::1",
                    "routes": [{"prefix": "10.0.1.0/24", "sid": "fd00:0:1:1:e001::"}],
                    "peers": ["fd00:0:1::/48"],
                },
            },
            "autoscaling": {"minReplicas": 2, "maxReplicas": 4},
            "service": {"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"},
        }),
    )
}

fn policy() -> Value {
    object(
        "VPCAccessPolicy",
        json!({
            "targetRefs": [{"kind": "VPCIngressPoint", "name": "prod"}],
            "rules": [{
                "name": "web",
                "prefixes": [{"cidr": "10.0.0.0/16", "except": ["10.0.9.0/24"]}],
                "ports": [
                    {"protocol": "TCP", "port": 80, "endPort": 90},
                    {"protocol": "ICMP"},
                    {"protocol": 47},
                ],
            }],
        }),
    )
}

fn good_objects() -> [Value; 3] {
    [attachment(), ingress_point(), policy()]
}

/// Sets the value at a JSON pointer; null removes it.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Object(map) if value.is_null() => drop(map.remove(key)),
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => panic!("{other} at {parent}"),
    }
    object
}

#[test]
fn good_objects_pass_every_rule() {
    for good in good_objects() {
        assert_eq!(failures(&good, Some(&good)), [""; 0]);
    }
    let dynamic = with(attachment(), "/spec/ipAllocation", json!(null));
    assert_eq!(failures(&dynamic, None), [""; 0]);
}

/// Changes to good objects, and the failures that follow: pointer, value, field, message.
const CASES: &str = r#"
ConnectorAttachment
/metadata/name | "LONG" | | the name must not be longer
/spec/allowedRoutes/0 | "10.0.0.1/16" | spec.allowedRoutes[0] | must be a CIDR
/spec/allowedRoutes/0 | "10.0.0.0" | spec.allowedRoutes[0] | must be a CIDR
/spec/ipAllocation/addresses/1 | "fd20::/64" | spec.ipAllocation.addresses[1] | must be an IP
/spec/ipAllocation/mode | "Dynamic" | spec.ipAllocation | addresses are required when
/spec/ipAllocation/addresses | null | spec.ipAllocation | addresses are required when
VPCIngressPoint
/spec/addressPools/0/cidr | "10.0.100.1/24" | spec.addressPools[0].cidr | must be a CIDR
/spec/addressPools/1/cidr | "10.0.100.128/25" | spec.addressPools | address pools must not
/spec/addressPools/0/reserved/0 | "10.0.9.0/28" | spec.addressPools[0] | every reserved
/spec/replicas | 3 | spec.replicas | replicas and autoscaling
/spec/autoscaling/minReplicas | 9 | spec.autoscaling.minReplicas | minReplicas must
/spec/service/type | "NodePort" | spec.service.loadBalancerClass | loadBalancerClass belongs
/spec/fabric/static | null | spec.fabric.static | the block static belongs
/spec/fabric/provider | "BGP" | spec.fabric.static | the block static belongs
/spec/fabric/bgp | {} | spec.fabric.bgp | the block bgp belongs
/spec/fabric/galactic | {} | spec.fabric.galactic | the block galactic
/spec/fabric/static/localSID | "10.0.0.1" | spec.fabric.static.localSID | localSID must be
/spec/fabric/static/localSIDIPv4 | "10.0.0.1" | spec.fabric.static.localSIDIPv4 | localSIDIPv4 must be
/spec/fabric/static/localSID | "fd00:0:1:3:d001::" | spec.fabric.static.localSIDIPv4 | localSIDIPv4 must differ
/spec/fabric/static/sourceAddress | "10.0.0.1" | spec.fabric.static.sourceAddress | sourceAddress must
/spec/fabric/static/peers/0 | "10.0.0.0/8" | spec.fabric.static.peers | peers must be IPv6
/spec/fabric/static/routes/0/sid | "x" | spec.fabric.static.routes[0].sid | sid must
VPCAccessPolicy
/spec/rules/0/prefixes/0/except/0 | "10.9.0.0/24" | spec.rules[0].prefixes[0] | every prefix in
/spec/rules/0/ports/0/endPort | 79 | spec.rules[0].ports[0].endPort | endPort needs port
/spec/rules/0/ports/0/port | null | spec.rules[0].ports[0].endPort | endPort needs port
/spec/rules/0/ports/0/protocol | "ICMP" | spec.rules[0].ports[0].port | only TCP, UDP
/spec/rules/0/ports/0/protocol | 47 | spec.rules[0].ports[0].port | only TCP, UDP
"#;

/// Runs every case; gives the messages of the rules that failed as they should.
fn run_cases() -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut good = Value::Null;
    for line in CASES.lines().filter(|line| !line.is_empty()) {
        let [pointer, value, field, message] = *line.split('|').map(str::trim).collect::<Vec<_>>()
        else {
            good = good_objects()
                .into_iter()
                .find(|object| object["kind"] == line)
                .unwrap();
            continue;
        };
        let value = serde_json::from_str(&value.replace("LONG", &"a".repeat(64))).unwrap();
        let failures = failures(&with(good.clone(), pointer, value), None);
        let expected = format!("{field}: {message}");
        let found = failures
            .iter()
            .find(|failure| failure.starts_with(&expected));
        let found = found.unwrap_or_else(|| panic!("{line}: {failures:?}"));
        seen.insert(found[field.len() + 2..].to_owned());
    }
    seen
}

#[test]
fn every_rule_refuses_something() {
    fn messages(schema: &Value, found: &mut BTreeSet<String>) {
        match schema {
            Value::Object(map) => {
                let rules = map
                    .get("x-kubernetes-validations")
                    .and_then(Value::as_array);
                for rule in rules.into_iter().flatten() {
                    found.insert(rule["message"].as_str().unwrap().to_owned());
                }
                map.values().for_each(|value| messages(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| messages(value, found)),
            _ => {}
        }
    }
    let mut rules = BTreeSet::new();
    for object in good_objects() {
        messages(&schema(object["kind"].as_str().unwrap()), &mut rules);
    }
    // Transitions have a test of their own.
    rules.retain(|message| !message.contains("immutable"));
    assert_eq!(run_cases(), rules);
}

#[test]
fn references_are_immutable() {
    let cases = [
        (
            attachment(),
            "/spec/connectorRef/name",
            "spec.connectorRef.name",
        ),
        (attachment(), "/spec/vpcRef/name", "spec.vpcRef"),
        (ingress_point(), "/spec/vpcRef/name", "spec.vpcRef"),
    ];
    for (old, pointer, field) in cases {
        let failures = failures(&with(old.clone(), pointer, json!("other")), Some(&old));
        assert_eq!(failures.len(), 1, "{failures:?}");
        assert!(
            failures[0].starts_with(&format!("{field}: ")),
            "{failures:?}"
        );
        assert!(failures[0].contains("immutable"));
    }
}

#[test]
fn types_and_schemas_agree() {
    fn back<T: serde::Serialize + serde::de::DeserializeOwned>(object: Value) {
        let schema = schema(object["kind"].as_str().unwrap());
        let full = apply_defaults(&schema, &object);
        let typed: T = serde_json::from_value(full.clone()).unwrap();
        assert_eq!(serde_json::to_value(&typed).unwrap(), with_status(full));
    }
    // The schema gives a new object its first status.
    fn with_status(mut object: Value) -> Value {
        if let Some(status) = object.get_mut("status") {
            assert_eq!(status["conditions"][0]["status"], "Unknown");
        }
        object["spec"].as_object_mut().unwrap();
        object
    }
    back::<ConnectorAttachment>(attachment());
    back::<VPCIngressPoint>(ingress_point());
    back::<VPCAccessPolicy>(policy());
}

#[test]
fn definitions_are_complete() {
    let expected = [
        ("ConnectorAttachment", "connectorattachments", "cna", 8),
        ("VPCIngressPoint", "vpcingresspoints", "vpcip", 9),
        ("VPCAccessPolicy", "vpcaccesspolicies", "vpcap", 5),
    ];
    for (kind, plural, short, columns) in expected {
        let crd = crd(kind);
        assert_eq!(crd.spec.group, crate::GROUP);
        assert_eq!(crd.spec.scope, "Namespaced");
        assert_eq!(crd.spec.names.plural, plural);
        assert_eq!(
            crd.spec.names.short_names.as_deref(),
            Some(&[short.to_owned()][..])
        );
        assert_eq!(
            crd.spec.names.categories.as_deref(),
            Some(&["vpcaccess".to_owned()][..])
        );
        let version = &crd.spec.versions[0];
        assert_eq!(
            (version.name.as_str(), version.served, version.storage),
            (crate::VERSION, true, true)
        );
        assert_eq!(
            version.additional_printer_columns.as_ref().map(Vec::len),
            Some(columns)
        );
        let subresources = version.subresources.as_ref().unwrap();
        assert!(subresources.status.is_some());
        assert_eq!(subresources.scale.is_some(), kind == "VPCIngressPoint");
        // `kubectl apply` keeps a copy in an annotation of at most 256 KiB.
        assert!(
            serde_json::to_string(&crd).unwrap().len() < 200_000,
            "{kind}"
        );
    }
}

#[test]
fn everything_is_bounded() {
    // What Kubernetes defines (selectors, affinity, conditions) has the bounds it has.
    const FOREIGN: [&str; 9] = [
        "attachmentSelector",
        "selector",
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "resources",
        "conditions",
        "imagePullSecrets",
        "annotations",
    ];
    fn walk(schema: &Value, path: &str) {
        let last = path.rsplit('.').next().unwrap_or_default();
        if FOREIGN.contains(&last) {
            return;
        }
        match schema["type"].as_str() {
            Some("array") => {
                assert!(schema["maxItems"].is_number(), "{path} has no maxItems");
                assert!(
                    schema["x-kubernetes-list-type"].is_string(),
                    "{path} has no list type"
                );
                walk(&schema["items"], &format!("{path}[]"));
            }
            Some("string") => {
                let bounded = schema["maxLength"].is_number()
                    || schema["enum"].is_array()
                    || schema["format"] == "date-time";
                assert!(bounded, "{path} has no maxLength");
            }
            Some("object") if schema["additionalProperties"].is_object() => {
                assert!(
                    schema["maxProperties"].is_number(),
                    "{path} has no maxProperties"
                );
            }
            _ => {}
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(property, &format!("{path}.{name}"));
        }
    }
    for kind in ["ConnectorAttachment", "VPCIngressPoint", "VPCAccessPolicy"] {
        let schema = schema(kind);
        for part in ["spec", "status"] {
            walk(&schema["properties"][part], part);
        }
    }
}

#[test]
fn a_new_object_is_not_ready() {
    for kind in ["ConnectorAttachment", "VPCIngressPoint"] {
        let status = &schema(kind)["properties"]["status"]["default"];
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|c| c["type"] == "Ready");
        assert_eq!(ready.unwrap()["status"], "Unknown", "{kind}");
    }
}

#[test]
fn the_reference_has_every_field_and_reason() {
    const REFERENCE: &str = include_str!("../../../../docs/reference/resources.md");
    // Inside what Kubernetes itself defines.
    const FOREIGN: [&str; 6] = [
        "attachmentSelector",
        "selector",
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "resources",
    ];
    fn names(schema: &Value, found: &mut BTreeSet<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            found.insert(name.clone());
            if !FOREIGN.contains(&name.as_str()) && name != "conditions" {
                names(property, found);
                names(&property["items"], found);
            }
            for word in property["enum"].as_array().into_iter().flatten() {
                found.extend(word.as_str().map(str::to_owned));
            }
        }
    }
    let mut words = BTreeSet::new();
    for object in good_objects() {
        let schema = schema(object["kind"].as_str().unwrap());
        names(&schema["properties"]["spec"], &mut words);
        names(&schema["properties"]["status"], &mut words);
    }
    assert!(words.len() > 100);
    words.extend(Reason::ALL.iter().map(ToString::to_string));
    words.extend(ConditionType::ALL.iter().map(ToString::to_string));
    let written: BTreeSet<_> = REFERENCE
        .split(|c: char| !c.is_ascii_alphanumeric())
        .collect();
    let missing: Vec<_> = words
        .iter()
        .filter(|word| !written.contains(word.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
