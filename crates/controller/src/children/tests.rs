use masque_api::VPCIngressPoint;
use serde_json::{Value, json};

use super::*;

/// An ingress point with some fields of its spec set.
fn point(spec: Value) -> VPCIngressPoint {
    let mut object = json!({
        "metadata": {"name": "prod", "namespace": "team", "uid": "u-1"},
        "spec": {
            "vpcRef": {"name": "vpc"},
            "listeners": [{"name": "public", "port": 443}],
            "addressPools": [{"cidr": "10.1.100.0/24"}],
            "routes": ["10.1.0.0/16"],
            "fabric": {"provider": "Static", "static": {
                "localSID": "fd00::1", "localSIDIPv4": "fd00::2", "sourceAddress": "fd00::3",
                "routes": [{"prefix": "10.1.0.0/16", "sid": "fd00::4"}],
            }},
        },
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object["apiVersion"] = json!(API_VERSION);
    object["kind"] = json!("VPCIngressPoint");
    serde_json::from_value(object).unwrap()
}

fn options() -> ChildOptions {
    ChildOptions {
        image: "example.com/gateway:1".into(),
        operator_url: "https://masque-operator.ops.svc:9443".into(),
        operator_server_name: "masque-operator".into(),
        ..ChildOptions::default()
    }
}

fn built(spec: Value) -> Children {
    build(&point(spec), &options())
}

fn json_of(object: impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap()
}

fn pod(spec: Value) -> Value {
    json_of(built(spec).deployment)["spec"]["template"]["spec"].take()
}

#[test]
fn building_twice_gives_the_same() {
    assert_eq!(built(json!({})), built(json!({})));
}

#[test]
fn every_child_has_owner_labels_and_name() {
    let children = built(json!({"replicas": 3}));
    let metadata = [
        json_of(&children.service_account),
        json_of(&children.config_map),
        json_of(&children.deployment),
        json_of(&children.service),
        json_of(&children.network_policy),
        json_of(children.pod_disruption_budget.as_ref().unwrap()),
        json_of(
            built(json!({"autoscaling": {"maxReplicas": 4}}))
                .autoscaler
                .unwrap(),
        ),
    ];
    for object in metadata {
        let metadata = &object["metadata"];
        assert_eq!(metadata["name"], "prod-masque-gateway");
        assert_eq!(metadata["namespace"], "team");
        assert_eq!(metadata["ownerReferences"][0]["uid"], "u-1");
        assert_eq!(metadata["labels"][INGRESS_POINT_LABEL], "prod");
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/managed-by"],
            "masque-operator"
        );
    }
}

#[test]
fn replicas_are_two_or_as_written_or_the_autoscalers() {
    let replicas = |spec| json_of(built(spec).deployment)["spec"]["replicas"].clone();
    assert_eq!(replicas(json!({})), 2);
    assert_eq!(replicas(json!({"replicas": 0})), 0);
    assert_eq!(
        replicas(json!({"autoscaling": {"maxReplicas": 5}})),
        Value::Null
    );
}

#[test]
fn a_budget_is_for_several_pods() {
    let budget = |spec| built(spec).pod_disruption_budget;
    assert!(budget(json!({"replicas": 1})).is_none());
    assert!(budget(json!({"autoscaling": {"maxReplicas": 1}})).is_none());
    assert_eq!(json_of(budget(json!({})))["spec"]["maxUnavailable"], 1);
    // Whatever the autoscaler began with: eight pods must not be evicted at one time.
    let few = json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 8}});
    assert_eq!(json_of(budget(few))["spec"]["maxUnavailable"], 1);
}

#[test]
fn the_autoscaler_follows_sessions_one_drain_at_a_time() {
    let spec = json!({
        "autoscaling": {"minReplicas": 3, "maxReplicas": 9, "targetSessions": 70},
        "drain": {"deadline": "2m"},
    });
    let scaler = json_of(built(spec).autoscaler.unwrap());
    assert_eq!(scaler["spec"]["minReplicas"], 3);
    assert_eq!(
        scaler["spec"]["metrics"][0]["pods"]["target"]["averageValue"],
        "70"
    );
    let down = &scaler["spec"]["behavior"]["scaleDown"]["policies"][0];
    assert_eq!(
        *down,
        json!({"type": "Pods", "value": 1, "periodSeconds": 125})
    );
    assert_eq!(built(json!({})).autoscaler, None);
}

#[test]
fn the_drain_decides_about_pre_stop_and_grace() {
    let pod = |drain| {
        let pod = pod(json!({ "drain": drain }));
        let sleep = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"].clone();
        (sleep, pod["terminationGracePeriodSeconds"].clone())
    };
    assert_eq!(pod(json!({})), (json!(5), json!(45)));
    assert_eq!(
        pod(json!({"minimum": "0", "deadline": "1m"})),
        (Value::Null, json!(70))
    );
    assert_eq!(pod(json!({"minimum": "1500ms"})), (json!(2), json!(42)));
}

#[test]
fn a_gateway_has_one_capability() {
    let pod = pod(json!({}));
    let security = &pod["containers"][0]["securityContext"];
    assert_eq!(
        security["capabilities"],
        json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})
    );
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["readOnlyRootFilesystem"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["initContainers"], Value::Null);
}

#[test]
fn kernel_settings_are_sysctls_or_a_privileged_container() {
    let names = |pod: &Value| -> Vec<String> {
        let sysctls = pod["securityContext"]["sysctls"].as_array();
        let name = |sysctl: &Value| sysctl["name"].as_str().unwrap().to_owned();
        sysctls.into_iter().flatten().map(name).collect()
    };
    let usual = pod(json!({}));
    assert!(names(&usual).contains(&"net.ipv6.conf.all.forwarding".to_owned()));
    let privileged = pod(json!({"podTemplate": {"privilegedInit": true}}));
    assert_eq!(names(&privileged), [""; 0]);
    let init = &privileged["initContainers"][0];
    assert_eq!(init["securityContext"]["privileged"], true);
    assert_eq!(init["args"].as_array().unwrap().len(), names(&usual).len());
    assert_eq!(
        privileged["containers"][0]["securityContext"]["privileged"],
        false
    );
}

#[test]
fn a_vrf_is_asked_for_only_where_ipv4_has_no_sid_of_its_own() {
    let strict = |spec| sysctls(&point(spec)).contains(&("net.vrf.strict_mode", "1"));
    let one_sid = json!({"provider": "Static", "static": {
        "localSID": "fd00::1", "sourceAddress": "fd00::3",
        "routes": [{"prefix": "10.1.0.0/16", "sid": "fd00::4"}],
    }});
    assert!(!strict(json!({})));
    assert!(strict(json!({"fabric": one_sid})));
    let ipv6 = json!({
        "fabric": one_sid, "routes": ["fd20::/64"], "addressPools": [{"cidr": "fd20:1::/64"}],
    });
    assert!(!strict(ipv6));
}

#[test]
fn the_service_has_a_port_per_listener_socket() {
    let listeners = json!([
        {"name": "a", "port": 443},
        {"name": "b", "port": 443, "hostname": "b.example.com"},
        {"name": "c", "port": 443, "protocol": "HTTP2"},
    ]);
    let service = json_of(built(json!({ "listeners": listeners })).service);
    let ports: Vec<_> = service["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .collect();
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 443, "protocol": protocol, "targetPort": 443});
    assert_eq!(ports, [&port("c", "TCP"), &port("a", "UDP")]);
    assert_eq!(service["spec"]["type"], "LoadBalancer");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    assert_eq!(service["spec"]["selector"][INGRESS_POINT_LABEL], "prod");
}

#[test]
fn the_service_is_as_written() {
    let service = json!({"type": "ClusterIP", "annotations": {"a": "b"}});
    let service = json_of(built(json!({ "service": service })).service);
    assert_eq!(service["spec"]["type"], "ClusterIP");
    assert_eq!(service["spec"]["externalTrafficPolicy"], Value::Null);
    assert_eq!(service["metadata"]["annotations"], json!({"a": "b"}));
}

#[test]
fn clients_reach_listeners_and_pods_reach_metrics() {
    let policy = json_of(built(json!({})).network_policy);
    let ingress = &policy["spec"]["ingress"];
    assert_eq!(
        ingress[0],
        json!({"ports": [{"port": 443, "protocol": "UDP"}]})
    );
    assert_eq!(ingress[1]["ports"][0]["port"], ADMIN_PORT);
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
}

/// A rule with ports is about TCP, UDP and SCTP; SRv6 comes as protocol 4 or 41.
#[test]
fn nodes_of_the_fabric_reach_gateways_by_every_protocol() {
    let rules = |peers: Value| {
        let mut fabric = json_of(point(json!({})).spec.fabric);
        fabric["static"]["peers"] = peers;
        let policy = json_of(built(json!({ "fabric": fabric })).network_policy);
        policy["spec"]["ingress"].as_array().unwrap().clone()
    };
    let block = |cidr: &str| json!({"ipBlock": {"cidr": cidr}});
    let last = |peers| rules(peers).pop().unwrap();
    assert_eq!(last(json!([])), json!({"from": [block("::/0")]}));
    assert_eq!(
        last(json!(["fd00:0:1::/48", "fd00:0:2::/48"])),
        json!({"from": [block("fd00:0:1::/48"), block("fd00:0:2::/48")]})
    );
}

#[test]
fn certificates_lie_in_folders_of_their_secrets() {
    let tls = json!([{"name": "a", "port": 443, "tls": {"certificateRefs": [{"name": "web"}]}}]);
    let pod = pod(json!({ "listeners": tls }));
    let sources = &pod["volumes"][2]["projected"]["sources"];
    assert_eq!(sources[0]["secret"]["name"], "prod-masque-gateway-listener");
    assert_eq!(
        sources[1]["secret"]["items"][0],
        json!({"key": "tls.crt", "path": "web/tls.crt"})
    );
    assert_eq!(sources[1]["secret"]["optional"], true);
}

#[test]
fn live_settings_restart_nothing() {
    let template = |spec| json_of(built(spec).deployment)["spec"]["template"].clone();
    let before = template(json!({}));
    for spec in [
        json!({"listeners": [{"name": "other", "port": 8443}]}),
        json!({"addressPools": [{"cidr": "10.9.0.0/24"}]}),
        json!({"routes": ["10.2.0.0/16"], "mtu": 1300}),
        json!({"replicas": 7}),
        json!({"sessions": {"maxTotal": 5}}),
        json!({"service": {"type": "NodePort"}}),
    ] {
        assert_eq!(template(spec.clone()), before, "{spec}");
    }
    let more = ChildOptions {
        log_filter: "debug".into(),
        ..options()
    };
    let changed = json_of(build(&point(json!({})), &more).deployment);
    assert_ne!(changed["spec"]["template"], before);
}

#[test]
fn the_pod_template_is_added_and_ours_wins() {
    let template = json!({
        "labels": {"team": "x", INGRESS_POINT_LABEL: "other"},
        "tolerations": [{"key": "edge", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "2"}},
        "nodeSelector": {"edge": "yes"},
    });
    let deployment = json_of(built(json!({ "podTemplate": template })).deployment);
    let template = &deployment["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["team"], "x");
    assert_eq!(template["metadata"]["labels"][INGRESS_POINT_LABEL], "prod");
    assert_eq!(template["spec"]["tolerations"][0]["key"], "edge");
    assert_eq!(
        template["spec"]["containers"][0]["resources"]["requests"]["cpu"],
        "2"
    );
    assert_eq!(template["spec"]["nodeSelector"]["edge"], "yes");
}

#[test]
fn names_are_valid_and_different() {
    let long = "a".repeat(63);
    let names = ["prod", "prod.eu", "prod-eu", "1st", &long, &long[1..]];
    let children: std::collections::BTreeSet<_> = names.iter().map(|n| child_name(n)).collect();
    assert_eq!(children.len(), names.len());
    for name in children {
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= 52 && name.chars().all(letters), "{name}");
        assert!(name.starts_with(|c: char| c.is_ascii_lowercase()), "{name}");
    }
    assert_eq!(child_name("prod"), "prod-masque-gateway");
    assert_eq!(label_value(&"x".repeat(200)).len(), 63);
    assert_eq!(
        selector_text("prod"),
        "app.kubernetes.io/name=masque-gateway,networking.datumapis.com/ingress-point=prod"
    );
}
