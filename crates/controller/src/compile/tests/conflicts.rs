//! Two objects that want the same thing.

use super::*;

fn created(text: &str, time: &str) -> String {
    let at = text.find("metadata: {").unwrap() + "metadata: {".len();
    format!("{}creationTimestamp: {time}, {}", &text[..at], &text[at..])
}

fn names(compiled: &Compiled) -> Vec<&str> {
    compiled
        .snapshots
        .iter()
        .map(|snapshot| snapshot.ingress_point.name.as_str())
        .collect()
}

/// A second ingress point of the VPC of `a`, with other SIDs.
fn twin(name: &str) -> String {
    point("a", 1, "")
        .replace("{name: a}", &format!("{{name: {name}}}"))
        .replace("e001", "e00b")
}

#[test]
fn the_first_name_keeps_the_pool() {
    let compiled = compiled(&(twin("b") + &point("a", 1, "")));
    assert_eq!(names(&compiled), ["a"]);
    assert_eq!(
        lines(&compiled),
        [
            "test.yaml:8: VPCIngressPoint default/b: spec.addressPools[0].cidr: 10.1.100.0/24 overlaps \
          the pool 10.1.100.0/24 of VPCIngressPoint default/a, which has precedence; give every \
          ingress point of a VPC a range of its own"
        ]
    );
    assert_eq!(reasons(&compiled), [Reason::Conflicted]);
}

#[test]
fn the_oldest_keeps_the_pool() {
    let young = created(&point("a", 1, ""), "2026-02-01T00:00:00Z");
    let old = created(&twin("b"), "2026-01-01T00:00:00Z");
    assert_eq!(names(&compiled(&(young.clone() + &old))), ["b"]);
    // An object without a time is younger than every one with a time.
    assert_eq!(names(&compiled(&(point("a", 1, "") + &old))), ["b"]);
    let ancient = created(&point("a", 1, ""), "2020-01-01T00:00:00Z");
    assert_eq!(names(&compiled(&(ancient + &old))), ["a"]);
}

#[test]
fn other_vpcs_may_have_the_same_pool() {
    let other = point("b", 1, "").replace("e001", "e00b");
    let compiled = compiled(&(point("a", 1, "") + &other));
    assert_eq!(compiled.problems, []);
    assert_eq!(names(&compiled), ["a", "b"]);
}

#[test]
fn the_overlapping_pool_is_the_one_named() {
    let two = twin("b").replace(
        "[{cidr: 10.1.100.0/24}]",
        "[{cidr: 10.9.0.0/24}, {cidr: 10.1.100.64/26}]",
    );
    let compiled = compiled(&(point("a", 1, "") + &two));
    assert!(lines(&compiled)[0].contains("spec.addressPools[1].cidr: 10.1.100.64/26 overlaps"));
}

#[test]
fn a_sid_belongs_to_one_ingress_point() {
    let thief = point("b", 2, "").replace(
        "localSID: 'fd00:0:1:3:e002::'",
        "localSID: 'fd00:0:1:3:e001::'",
    );
    let compiled = compiled(&(point("a", 1, "") + &thief));
    assert_eq!(names(&compiled), ["a"]);
    assert!(
        lines(&compiled)[0].contains("spec.fabric.static.localSID: fd00:0:1:3:e001:: is a SID of")
    );
    // The second SID counts as well.
    let thief = point("b", 2, "").replace(
        "sourceAddress",
        "localSIDIPv4: 'fd00:0:1:3:e001::'\n      sourceAddress",
    );
    let compiled = super::compiled(&(point("a", 1, "") + &thief));
    assert!(lines(&compiled)[0].contains("spec.fabric.static.localSIDIPv4"));
}

#[test]
fn one_host_has_one_outer_source_address() {
    let other = point("b", 2, "").replace("fd00:0:1:3::1", "fd00:0:1:3::2");
    let text = other + &point("a", 1, "");
    let got = compiled(&text);
    assert_eq!(names(&got), ["a"]);
    assert_eq!(
        lines(&got),
        [
            "test.yaml:14: VPCIngressPoint default/b: spec.fabric.static.sourceAddress: fd00:0:1:3::2 \
             is not the outer source address of VPCIngressPoint default/a, which has precedence with \
             fd00:0:1:3::1; a host has one for all; give both the same, or run them on different hosts"
        ]
    );
    assert_eq!(reasons(&got), [Reason::Conflicted]);
    // In a cluster every ingress point has its own pods.
    let mut options = Options::standalone();
    options.shared_host = false;
    let manifests = parse(&[("test.yaml".to_owned(), text)]);
    assert_eq!(
        compile(&manifests.resources, NOW, &options, &[]).problems,
        []
    );
}

#[test]
fn a_node_that_two_vpcs_share_a_sid_of_is_a_warning() {
    let shared = point("b", 2, "").replace("fd00:0:1:1:e002::", "fd00:0:1:1:e001::");
    let compiled = compiled(&(point("a", 1, "") + &shared));
    assert_eq!(names(&compiled), ["a", "b"]);
    assert_eq!(reasons(&compiled), [Reason::Conflicted]);
    assert!(!compiled.problems[0].is_error());
}

#[test]
fn one_port_speaks_one_protocol() {
    let mut options = Options::standalone();
    options.built.listener_protocols = [
        ListenerProtocol::HTTP3,
        ListenerProtocol::HTTP2,
        ListenerProtocol::Iroh,
    ]
    .into();
    let with = |protocol: &str, options: &Options| {
        let other =
            point("b", 2, "").replace("port: 4433", &format!("port: 4433, protocol: {protocol}"));
        let text = point("a", 1, "") + &other;
        let manifests = parse(&[("test.yaml".to_owned(), text)]);
        compile(&manifests.resources, NOW, options, &[])
    };
    let iroh = with("Iroh", &options);
    assert_eq!(reasons(&iroh), [Reason::Conflicted]);
    assert!(lines(&iroh)[0].contains("spec.listeners[0].port: port 4433 speaks another protocol"));
    // HTTP/2 is on TCP.
    assert_eq!(with("HTTP2", &options).problems, []);
    assert_eq!(with("HTTP3", &options).problems, []);
    // In a cluster every ingress point has its own pods.
    options.shared_host = false;
    assert_eq!(with("Iroh", &options).problems, []);
}

#[test]
fn paths_and_host_names_tell_ingress_points_apart() {
    let pair = |ours: &str, theirs: &str| {
        let with = |name, number, more: &str| {
            point(name, number, "").replace("port: 4433", &format!("port: 4433, {more}"))
        };
        reasons(&compiled(&(with("a", 1, theirs) + &with("b", 2, ours))))
    };
    let vpn = "pathTemplates: [/vpn]";
    assert_eq!(pair(vpn, vpn), [Reason::Conflicted]);
    assert_eq!(pair(vpn, "pathTemplates: [/other]"), []);
    let host = |name| format!("{vpn}, hostname: {name}");
    assert_eq!(pair(&host("a.example"), &host("b.example")), []);
    assert_eq!(
        pair(&host("a.example"), &host("A.example")),
        [Reason::Conflicted]
    );
    assert_eq!(pair(&host("a.example"), vpn), [Reason::Conflicted]);
}

#[test]
fn one_key_has_one_attachment_in_a_vpc() {
    let base = point("p", 1, "") + &point("q", 2, "") + &connector("x", 1) + &connector("y", 1);
    let text = base
        + &attachment("b", "y", "p", "")
        + &attachment("a", "x", "p", "")
        + &attachment("c", "x", "q", "");
    let compiled = compiled(&text);
    assert_eq!(
        compiled
            .problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [format!(
            "test.yaml:{}: ConnectorAttachment default/b: spec.connectorRef.name: the key of \
             default/y is attached to this VPC by ConnectorAttachment default/a, which has \
             precedence; one key has one attachment in a VPC; remove one of them",
            compiled.problems[0].location.as_ref().unwrap().line
        )]
    );
    assert_eq!(compiled.snapshots[0].attachments[0].name.name, "a");
    assert_eq!(compiled.snapshots[1].attachments[0].name.name, "c");
}

#[test]
fn one_address_has_one_attachment() {
    let fixed = "  ipAllocation: {mode: Static, addresses: [10.1.100.9]}\n";
    let base = point("p", 1, "") + &connector("x", 1) + &connector("y", 2);
    let old = created(&attachment("b", "y", "p", fixed), "2026-01-01T00:00:00Z");
    let compiled = compiled(&(base + &attachment("a", "x", "p", fixed) + &old));
    assert_eq!(reasons(&compiled), [Reason::Conflicted]);
    assert!(lines(&compiled)[0].contains("10.1.100.9 belongs to ConnectorAttachment default/b"));
    assert_eq!(compiled.snapshots[0].attachments.len(), 1);
    assert_eq!(compiled.snapshots[0].attachments[0].name.name, "b");
}

#[test]
fn rules_of_one_snapshot_are_bounded() {
    let rules: String = (0..64).map(|i| format!("  - {{name: r{i}}}\n")).collect();
    let count = MAX_RULES / 64 + 1;
    let policies: String = (0..count)
        .map(|i| policy(&format!("p{i:03}"), "prod", &rules))
        .collect();
    let compiled = compiled(&(point("prod", 1, "") + &policies));
    assert_eq!(reasons(&compiled), [Reason::SnapshotTooLarge]);
    assert_eq!(compiled.snapshots[0].rules.len(), MAX_RULES);
}
