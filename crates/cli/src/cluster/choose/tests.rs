use serde_json::{Value, json};

use super::*;
use crate::cluster::objects::tests::point_of;

fn vpc(text: &str) -> VpcName {
    text.parse().unwrap()
}

/// A point of the VPC `prod` with these more fields of its spec.
fn point(name: &str, made: &str, ready: bool, more: &Value) -> Point {
    let mut point = json!({
        "metadata": {"name": name, "creationTimestamp": made, "generation": 1},
        "spec": {"vpcRef": {"name": "prod"}, "listeners": [{"name": "quic", "port": 443}]},
        "status": {"conditions": [{
            "type": "Ready", "status": if ready { "True" } else { "False" }, "reason": "Ready",
            "message": "", "observedGeneration": 1, "lastTransitionTime": made,
        }]},
    });
    for (key, value) in more.as_object().unwrap() {
        point["spec"][key] = value.clone();
    }
    point_of(point)
}

fn chosen<'a>(points: &'a [Point], text: &str, labels: &[(&str, &str)]) -> &'a str {
    let labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    let found = super::point(points, &vpc(text), "team", &labels.collect());
    found.unwrap().metadata.name.as_deref().unwrap()
}

const OLD: &str = "2026-01-01T00:00:00Z";
const NEW: &str = "2026-02-01T00:00:00Z";

#[test]
fn what_is_ready_comes_before_what_is_old() {
    let none = json!({});
    let points = [
        point("newer", NEW, true, &none),
        point("broken", OLD, false, &none),
        point("older", "2026-01-02T00:00:00Z", true, &none),
    ];
    assert_eq!(chosen(&points, "prod", &[]), "older");
    assert_eq!(chosen(&points[..2], "prod", &[]), "newer");
    assert_eq!(chosen(&points[1..2], "prod", &[]), "broken");
}

#[test]
fn a_point_that_leaves_the_attachment_out_comes_last() {
    let partners = json!({"attachmentSelector": {"matchLabels": {"for": "partners"}}});
    let points = [
        point("partners", OLD, true, &partners),
        point("staff", NEW, false, &json!({})),
    ];
    assert_eq!(chosen(&points, "prod", &[]), "staff");
    assert_eq!(chosen(&points, "prod", &[("for", "partners")]), "partners");
    assert_eq!(
        chosen(&points[..1], "prod", &[]),
        "partners",
        "its operator says why not"
    );
}

#[test]
fn a_vpc_of_another_namespace_is_another_vpc() {
    let there = json!({"vpcRef": {"name": "prod", "namespace": "net"}});
    let points = [
        point("here", NEW, false, &json!({})),
        point("there", OLD, true, &there),
    ];
    assert_eq!(chosen(&points, "prod", &[]), "here");
    assert_eq!(chosen(&points, "team/prod", &[]), "here");
    assert_eq!(chosen(&points, "net/prod", &[]), "there");
    let said = |text: &str| {
        let failure = super::point(&points, &vpc(text), "team", &BTreeMap::new()).unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        failure.to_string()
    };
    assert_eq!(
        said("stage"),
        "there is no VPCIngressPoint of stage in namespace team; the VPCs there are: net/prod, prod"
    );
}

#[test]
fn tells_where_else_there_is_one() {
    let failure = super::point(&[], &vpc("prod"), "default", &BTreeMap::new()).unwrap_err();
    let mut there = point("edge", OLD, true, &json!({}));
    there.metadata.namespace = Some("team".to_owned());
    let failure = elsewhere(failure, &[there], &vpc("prod"));
    assert!(
        failure
            .to_string()
            .ends_with("namespace team has one: `--namespace team`"),
        "{failure}"
    );
}

fn with_endpoints(listeners: &Value, endpoints: &Value) -> Point {
    let mut point = point("edge", OLD, true, &json!({"listeners": listeners}));
    let status = point.status.as_mut().unwrap();
    status.endpoints = serde_json::from_value(endpoints.clone()).unwrap();
    point
}

#[test]
fn dials_the_first_http3_listener_even_beside_unknown_protocols() {
    let listeners = json!([
        {"name": "web", "protocol": "WebTransport", "port": 443},
        {"name": "tcp", "protocol": "HTTP2", "port": 443},
        {"name": "quic", "protocol": "HTTP3", "port": 443},
    ]);
    let path = "/.well-known/masque/ip/{target}/{ipproto}/";
    let endpoints = json!([
        {"listener": "tcp", "uri": "https://tcp.example/"},
        {"listener": "quic", "uri": format!("https://[fd00::1]:30443{path}")},
    ]);
    let found = endpoint(&with_endpoints(&listeners, &endpoints)).unwrap();
    let gateway = found.gateway.unwrap();
    assert_eq!((gateway.host(), gateway.port()), ("fd00::1", 30443));
    assert!(gateway.to_string().ends_with(path), "{gateway}");
    assert!(found.own_ca);
    let failure = endpoint(&with_endpoints(&json!([listeners[1]]), &endpoints)).unwrap_err();
    assert!(
        failure.to_string().contains("no HTTP3 listener"),
        "{failure}"
    );
}

#[test]
fn a_certificate_of_somebody_elses_needs_no_ca_of_ours() {
    let listeners = json!([
        {"name": "quic", "port": 443, "tls": {"certificateRefs": [{"name": "public"}]}},
    ]);
    let found = endpoint(&with_endpoints(&listeners, &json!([{"listener": "quic"}]))).unwrap();
    assert_eq!(
        found,
        Endpoint {
            gateway: None,
            own_ca: false
        }
    );
}

#[test]
fn an_endpoint_that_is_no_gateway_is_told() {
    let bad = json!([{"listener": "quic", "uri": "http://gw.example/"}]);
    let failure = endpoint(&with_endpoints(&json!([{"name": "quic"}]), &bad)).unwrap_err();
    assert!(failure.to_string().contains("https only"), "{failure}");
}

#[test]
fn a_reference_names_a_namespace_only_when_it_is_another() {
    assert_eq!(reference(&vpc("prod"), "team").namespace, None);
    assert_eq!(reference(&vpc("team/prod"), "team").namespace, None);
    let other = reference(&vpc("net/prod"), "team");
    assert_eq!(other.namespace.as_deref(), Some("net"));
    assert!(is_vpc(&other, "team", &vpc("net/prod")));
}
