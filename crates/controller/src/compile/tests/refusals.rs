//! What is refused, and what is said about it.

use super::*;

/// The only problem of some documents.
fn problem(text: &str) -> String {
    let lines = lines(&compiled(text));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines.into_iter().next().unwrap_or_default()
}

/// [`point`] with a piece of text replaced.
fn changed(from: &str, to: &str) -> String {
    let point = point("prod", 1, "");
    assert!(point.contains(from), "{from}");
    point.replace(from, to)
}

#[test]
fn host_bits_are_named_with_the_prefix_that_was_meant() {
    assert_eq!(
        problem(&changed("{cidr: 10.1.100.0/24}", "{cidr: 10.1.100.1/24}")),
        "test.yaml:8: VPCIngressPoint default/prod: spec.addressPools[0].cidr: 10.1.100.1/24 has \
         host bits set; write 10.1.100.0/24"
    );
}

/// Changes to a good ingress point, and what is said about them.
const CASES: &str = r#"
{cidr: 10.1.100.0/24} => {cidr: 10.1.100.0} => write 10.1.100.0/32 for one address
{cidr: 10.1.100.0/24} => {cidr: 224.0.0.0/24} => begins with a multicast address
{cidr: 10.1.100.0/24} => {cidr: '::ffff:10.0.0.0/112'} => is IPv4 in IPv6 form
[{cidr: 10.1.100.0/24}] => [{cidr: 10.1.100.0/24}, {cidr: 10.1.100.128/25}] => spec.addressPools[1].cidr: 10.1.100.128/25 overlaps the pool 10.1.100.0/24
{cidr: 10.1.100.0/24} => {cidr: 10.1.100.0/24, reserved: [10.1.101.0/28]} => spec.addressPools[0].reserved[0]: 10.1.101.0/28 is not inside 10.1.100.0/24
port: 4433 => port: 4433, protocol: HTTP2 => HTTP2 is not built into this version; write HTTP3
port: 4433 => port: 4433, pathTemplates: ['/{x}'] => {x} is not expected
port: 4433 => port: 4433, tls: {clientCARefs: [{name: ca}]} => client certificates are recognized by their key
{name: public, port: 4433} => {name: public, port: 4433}, {name: other, port: 4433} => spec.listeners[1].port: port 4433 belongs to the listener public
provider: Static => provider: Galactic => the provider Galactic is not built
'fd00:0:1:3:e001::' => 10.0.0.1 => spec.fabric.static.localSID: 10.0.0.1 is not IPv6
'fd00:0:1:3:e001::' => 'ff02::1' => is a multicast address
fd00:0:1:3::1 => 'fd00:0:1:3::1/64' => write fd00:0:1:3::1 without the length
'fd00:0:1:1:e001::' => 'fd00:0:1:3:e001::' => is this gateway's own SID
sourceAddress => localSIDIPv4: 'fd00:0:1:3:e001::', sourceAddress => spec.fabric.static.localSIDIPv4: the same SID as localSID
spec: => spec:|  bridge: {mode: XDP} => XDP is not built
spec: => spec:|  authentication: {methods: [Bearer]} => spec.authentication.methods[0]: Bearer is not built
spec: => spec:|  attachmentSelector: {matchExpressions: [{key: a, operator: is}]} => "is" is no operator
spec: => spec:|  replicas: 1|  autoscaling: {maxReplicas: 2} => replicas and autoscaling exclude each other
spec: => spec:|  autoscaling: {minReplicas: 3, maxReplicas: 2} => minReplicas is more than maxReplicas
spec: => spec:|  service: {type: NodePort, loadBalancerClass: x} => loadBalancerClass belongs to type LoadBalancer
"#;

#[test]
fn fields_of_an_ingress_point() {
    for line in CASES.lines().filter(|line| !line.is_empty()) {
        let [from, to, message] = *line.split(" => ").collect::<Vec<_>>() else {
            panic!("{line}")
        };
        // A bar is a line break; a comma between fields of the block `static` as well.
        let to = to
            .replace('|', "\n")
            .replace(", sourceAddress", "\n      sourceAddress");
        let text = changed(from, &to);
        let problem = problem(&text);
        assert!(problem.contains(message), "{to}: {problem}");
        assert_eq!(compiled(&text).snapshots, [], "{to}");
    }
}

#[test]
fn a_fabric_without_its_block_is_incomplete() {
    let text = point("prod", 1, "");
    let block = text.find("    static:").unwrap();
    assert!(problem(&text[..block]).contains("spec.fabric: the provider Static needs the block"));
}

#[test]
fn a_route_without_a_sid_is_a_warning() {
    let text = changed(
        "  routes: [10.1.0.0/16]",
        "  routes: [10.1.0.0/16, 10.7.0.0/24]",
    );
    let compiled = compiled(&text);
    assert_eq!(reasons(&compiled), [Reason::SIDNotRegistered]);
    assert!(lines(&compiled)[0].contains("no SID for any part of 10.7.0.0/24"));
    assert_eq!(compiled.snapshots.len(), 1);
}

#[test]
fn certificates_must_be_there() {
    let text = changed(
        "port: 4433",
        "port: 4433, tls: {certificateRefs: [{name: gatway-tls}]}",
    );
    let manifests = parse(&[("test.yaml".to_owned(), text.clone())]);
    let mut options = Options::standalone();
    options
        .secrets
        .insert(ObjectName::new("default", "gateway-tls"));
    let compiled = compile(&manifests.resources, NOW, &options, &[]);
    assert!(
        lines(&compiled)[0]
            .contains("there is no Secret default/gatway-tls; did you mean gateway-tls?")
    );
    assert_eq!(reasons(&compiled), [Reason::CertificateNotFound]);
    assert_eq!(compiled.snapshots, []);

    let secret = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: gatway-tls}\n";
    let compiled = super::compiled(&format!("{text}{secret}"));
    assert_eq!(compiled.problems, []);
    assert_eq!(
        compiled.snapshots[0].listeners[0].certificates,
        ["gatway-tls"]
    );
}

#[test]
fn fields_of_an_attachment() {
    let static_ =
        |addresses: &str| format!("  ipAllocation: {{mode: Static, addresses: [{addresses}]}}\n");
    let cases = [
        (
            static_("10.1.99.1"),
            "10.1.99.1 is in no pool of default/prod; use a free address of",
        ),
        (
            static_("10.1.100.0"),
            "is the network or broadcast address of a pool",
        ),
        (
            static_("10.1.100.255"),
            "is the network or broadcast address of a pool",
        ),
        (
            static_("10.1.100.1"),
            "is the gateway's own address in a pool",
        ),
        (static_(""), "mode Static needs addresses"),
        (
            static_("10.1.100.9/24"),
            "write 10.1.100.9 without the length",
        ),
        (
            "  ipAllocation: {addresses: [10.1.100.9]}\n".into(),
            "addresses belong to mode Static",
        ),
        (
            "  ipAllocation: {families: [IPv6]}\n".into(),
            "spec.ipAllocation.families: default/prod has no pool of a wanted family",
        ),
        (
            "  allowedRoutes: [10.1.0.1/16]\n".into(),
            "write 10.1.0.0/16",
        ),
    ];
    for (more, message) in cases {
        let text = point("prod", 1, "")
            + &connector("laptop", 1)
            + &attachment("a", "laptop", "prod", &more);
        let problem = problem(&text);
        assert!(problem.contains(message), "{more}: {problem}");
        assert_eq!(compiled(&text).snapshots[0].attachments, [], "{more}");
    }
}

#[test]
fn references_of_an_attachment() {
    let vpc = "---\napiVersion: x/v1\nkind: VPC\nmetadata: {name: prod-vpc}\n";
    let base = point("prod", 1, "") + &connector("laptop", 1);
    let reason = |text: &str| {
        let compiled = compiled(&format!("{base}{text}"));
        assert_eq!(compiled.problems.len(), 1, "{:#?}", lines(&compiled));
        (
            compiled.problems[0].reason,
            compiled.problems[0].hint.clone(),
        )
    };
    let (is, hint) = reason(&attachment("a", "labtop", "prod", ""));
    assert_eq!(
        (is, hint.as_str()),
        (Reason::ConnectorNotFound, "did you mean laptop?")
    );
    let (is, hint) = reason(&attachment("a", "laptop", "pord", ""));
    assert_eq!(
        (is, hint.as_str()),
        (Reason::NoIngressPoint, "did you mean prod-vpc?")
    );
    let keyless = connector("phone", 2).replace("status", "spec: {}\nx");
    let (is, _) = reason(&(keyless + &attachment("a", "phone", "prod", "")));
    assert_eq!(is, Reason::ConnectorKeyMissing);
    let odd = connector("phone", 2).replace("02", "0g");
    let (is, _) = reason(&(odd + &attachment("a", "phone", "prod", "")));
    assert_eq!(is, Reason::ConnectorKeyMalformed);
    for anybodys in [
        "00".repeat(32),
        format!("ec{}ff", "ff".repeat(30)),
        "y".repeat(52),
    ] {
        let zero = connector("phone", 2).replace(&"02".repeat(32), &anybodys);
        let (is, hint) = reason(&(zero + &attachment("a", "phone", "prod", "")));
        assert_eq!(is, Reason::ConnectorKeyMalformed, "{anybodys}");
        assert!(hint.contains("placeholder"), "{hint}");
    }
    let other = point("staging", 2, "");
    let (is, hint) = reason(&format!("{vpc}{other}"));
    assert_eq!(is, Reason::VPCNotFound, "{hint}");
}

#[test]
fn where_there_is_no_vpc_at_all_every_name_is_wrong() {
    let text = point("prod", 1, "");
    let mut resources = parse(&[("test.yaml".to_owned(), text)]).resources;
    let reasons =
        |resources: &Resources| reasons(&compile(resources, NOW, &Options::default(), &[]));
    // A folder without VPCs, or a cluster that does not serve them: nobody knows.
    assert_eq!(reasons(&resources), []);
    resources.vpcs = Some(BTreeSet::new().into());
    assert_eq!(reasons(&resources), [Reason::VPCNotFound]);
}

/// Status has places for the addresses of so many.
#[test]
fn an_attachment_has_a_bounded_number_of_ingress_points() {
    let points = |count: u8| -> String {
        (0..count)
            .map(|n| {
                point("prod", n, "")
                    .replace("{name: prod}", &format!("{{name: p{n:02}}}"))
                    .replace("4433", &(4000 + u16::from(n)).to_string())
            })
            .collect()
    };
    let with = |count| {
        let attachment = attachment("a", "laptop", "prod", "");
        compiled(&(points(count) + &connector("laptop", 1) + &attachment))
    };
    let taken = |compiled: &Compiled| {
        let snapshots = compiled.snapshots.iter();
        snapshots.filter(|s| !s.attachments.is_empty()).count()
    };
    let all = with(32);
    assert_eq!((taken(&all), lines(&all)), (32, vec![]));
    let more = with(33);
    assert_eq!(taken(&more), 32);
    assert_eq!(reasons(&more), [Reason::NotAllowedByIngressPoint]);
    assert!(!more.problems[0].is_error());
}

#[test]
fn a_selector_leaves_attachments_out() {
    let selector = "  attachmentSelector: {matchLabels: {tier: gold}}\n";
    let gold = attachment("b", "phone", "prod", "")
        .replace("{name: b}", "{name: b, labels: {tier: gold}}");
    let compiled = compiled(
        &(point("prod", 1, selector)
            + &connector("laptop", 1)
            + &connector("phone", 2)
            + &attachment("a", "laptop", "prod", "")
            + &gold),
    );
    assert_eq!(reasons(&compiled), [Reason::NotAllowedByIngressPoint]);
    let names: Vec<_> = compiled.snapshots[0]
        .attachments
        .iter()
        .map(|a| &a.name.name)
        .collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn another_namespace_needs_permission() {
    let text =
        point("prod", 1, "").replace("{name: prod-vpc}", "{name: prod-vpc, namespace: vpcs}");
    let manifests = parse(&[("test.yaml".to_owned(), text.clone())]);
    let operator = compile(&manifests.resources, NOW, &Options::default(), &[]);
    assert_eq!(reasons(&operator), [Reason::RefNotPermitted]);
    let standalone = compiled(&text);
    assert_eq!(standalone.problems, []);
    assert_eq!(
        standalone.snapshots[0].vpc,
        ObjectName::new("vpcs", "prod-vpc")
    );
}

#[test]
fn routes_are_cut_and_what_is_outside_is_reported() {
    let allowed = "  allowedRoutes: [10.0.0.0/8, 10.1.2.0/24, 172.16.0.0/12]\n";
    let both = compiled(
        &(point("prod", 1, "") + &connector("l", 1) + &attachment("a", "l", "prod", allowed)),
    );
    assert_eq!(reasons(&both), [Reason::RouteOutsideVPC]);
    assert!(lines(&both)[0].contains("spec.allowedRoutes[2]: no part of 172.16.0.0/12"));
    assert_eq!(
        both.snapshots[0].attachments[0].routes,
        ["10.1.0.0/16".parse().unwrap()]
    );
    // Nothing in common is nothing, not everything.
    let none = "  allowedRoutes: [172.16.0.0/12]\n";
    let none = compiled(
        &(point("prod", 1, "") + &connector("l", 1) + &attachment("a", "l", "prod", none)),
    );
    assert_eq!(none.snapshots[0].attachments[0].routes, []);
}

#[test]
fn fields_of_a_policy() {
    let cases = [
        (
            "ports: [{protocol: ICMP, port: 1}]",
            "only TCP, UDP and SCTP have ports",
        ),
        (
            "ports: [{protocol: 47, port: 1}]",
            "only TCP, UDP and SCTP have ports",
        ),
        ("ports: [{protocol: TCP, endPort: 1}]", "endPort needs port"),
        (
            "ports: [{protocol: TCP, port: 9, endPort: 8}]",
            "8 is less than port 9",
        ),
        (
            "prefixes: [{cidr: 10.1.0.0/16, except: [10.2.0.0/24]}]",
            "10.2.0.0/24 is not inside",
        ),
        (
            "connectors: {selector: {matchExpressions: [{key: a, operator: In}]}}",
            "spec.rules[0].connectors.selector.matchExpressions[0].values: In needs at least",
        ),
    ];
    for (rule, message) in cases {
        let text =
            point("prod", 1, "") + &policy("p", "prod", &format!("  - {{name: r, {rule}}}\n"));
        let problem = problem(&text);
        assert!(problem.contains(message), "{rule}: {problem}");
        assert_eq!(compiled(&text).snapshots[0].rules, [], "{rule}");
    }
}

/// A policy with a target, a connector and a prefix that lead nowhere.
fn lost() -> String {
    point("prod", 1, "")
        + &connector("laptop", 1)
        + &attachment("a", "laptop", "prod", "")
        + &policy(
            "p",
            "prod",
            "  - {name: r, connectors: {names: [labtop]}, prefixes: [{cidr: 172.16.0.0/12}]}\n",
        )
        + &policy("q", "prot", "  - {name: r}\n")
}

#[test]
fn references_of_a_policy() {
    let text = lost();
    let compiled = compiled(&text);
    let line = |word: &str| text.lines().position(|line| line.contains(word)).unwrap() + 1;
    let errors: Vec<_> = compiled.problems.iter().filter(|p| p.is_error()).collect();
    let expected = [
        format!(
            "test.yaml:{}: VPCAccessPolicy default/p: spec.rules[0].connectors.names[0]: there is no \
             Connector default/labtop; did you mean laptop?",
            line("labtop")
        ),
        format!(
            "test.yaml:{}: VPCAccessPolicy default/q: spec.targetRefs[0].name: there is no \
             VPCIngressPoint default/prot; did you mean prod?",
            line("name: prot}")
        ),
    ];
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(told, expected);
    assert!(reasons(&compiled).contains(&Reason::RouteOutsideVPC));
    assert_eq!(compiled.problems.len(), 3);
    // A name that leads nowhere matches nobody: never everybody.
    assert_eq!(
        compiled.snapshots[0].rules[0].attachments,
        AttachmentSet::Some(Vec::new())
    );
    assert_eq!(compiled.snapshots[0].rules.len(), 1);
}

#[test]
fn in_a_cluster_what_a_policy_names_may_come_later() {
    let manifests = parse(&[("test.yaml".to_owned(), lost())]);
    let cluster = compile(&manifests.resources, NOW, &Options::default(), &[]);
    let expected = [
        Reason::RouteOutsideVPC,
        Reason::ConnectorNotFound,
        Reason::TargetNotFound,
    ];
    let is: BTreeSet<_> = reasons(&cluster).into_iter().collect();
    assert_eq!(is, expected.into());
    assert!(cluster.problems.iter().all(|problem| !problem.is_error()));
    assert_eq!(cluster.snapshots, compiled(&lost()).snapshots);
}

#[test]
fn a_policy_is_in_force_with_the_names_that_are_known() {
    let phone = connector("phone", 2);
    let text = point("prod", 1, "")
        + &connector("laptop", 1)
        + &phone
        + &attachment("a", "laptop", "prod", "")
        + &policy(
            "p",
            "prod}, {kind: ConnectorAttachment, name: gone",
            "  - {name: r, action: Deny, connectors: {names: [phone, laptop]}}\n",
        );
    let both = compiled(&text);
    assert_eq!(reasons(&both), [Reason::TargetNotFound]);
    let after = after(&text.replace(&phone, ""), &both.snapshots);
    let expected = [Reason::ConnectorNotFound, Reason::TargetNotFound];
    assert_eq!(
        reasons(&after).into_iter().collect::<BTreeSet<_>>(),
        expected.into()
    );
    assert!(after.problems.iter().all(Problem::is_error));
    assert_eq!(after.snapshots, both.snapshots);
    assert_eq!(
        after.snapshots[0].rules[0].attachments,
        AttachmentSet::Some(vec![ObjectName::new("default", "a")])
    );
}

#[test]
fn a_name_of_what_cannot_be_read_is_no_second_error() {
    let text = lost().replace(
        "  vpcRef: {name: prod-vpc}\n  l",
        "  vpcReff: {name: prod-vpc}\n  l",
    );
    let text = text.replace("labtop", "laptop").replace("prot", "prod");
    let text = text.replace("status: {connectionDetails", "status: [{connectionDetails");
    let text = text.replace("'}}}", "'}}}]");
    let manifests = parse(&[("test.yaml".to_owned(), text)]);
    assert!(!manifests.resources.unreadable.is_empty());
    let compiled = compile(&manifests.resources, NOW, &Options::standalone(), &[]);
    let about_policies = |problem: &&Problem| {
        [Reason::ConnectorNotFound, Reason::TargetNotFound].contains(&problem.reason)
            && problem.object.as_ref().unwrap().kind == "VPCAccessPolicy"
    };
    let told: Vec<_> = compiled.problems.iter().filter(about_policies).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|problem| !problem.is_error()), "{told:?}");
}

#[test]
fn rules_name_attachments() {
    let rules = "  - {name: everybody}
  - {name: by-name, connectors: {names: [laptop]}}
  - {name: by-label, connectors: {selector: {matchLabels: {team: phone}}}}
  - {name: either, connectors: {names: [laptop], selector: {matchLabels: {team: phone}}}}
  - {name: empty, connectors: {}}
";
    let single = "---
apiVersion: networking.datumapis.com/v1alpha1
kind: VPCAccessPolicy
metadata: {name: q}
spec:
  targetRefs: [{kind: ConnectorAttachment, name: b}]
  mode: Audit
  rules: [{name: all, notAfter: 2026-06-01T00:00:00Z}, {name: laptop, connectors: {names: [laptop]}}]
";
    let compiled = compiled(
        &(point("prod", 1, "")
            + &connector("laptop", 1)
            + &connector("phone", 2)
            + &attachment("a", "laptop", "prod", "")
            + &attachment("b", "phone", "prod", "")
            + &policy("p", "prod", rules)
            + single),
    );
    assert_eq!(compiled.problems, []);
    let some = |names: &[&str]| {
        AttachmentSet::Some(
            names
                .iter()
                .map(|name| ObjectName::new("default", *name))
                .collect(),
        )
    };
    let rules = &compiled.snapshots[0].rules;
    let sets: Vec<_> = rules
        .iter()
        .map(|rule| (rule.name.as_str(), rule.attachments.clone()))
        .collect();
    assert_eq!(
        sets,
        [
            ("by-label", some(&["b"])),
            ("by-name", some(&["a"])),
            ("either", some(&["a", "b"])),
            ("empty", AttachmentSet::All),
            ("everybody", AttachmentSet::All),
            ("all", some(&["b"])),
            ("laptop", some(&[])),
        ]
    );
    assert_eq!(rules[5].mode, masque_model::Mode::Audit);
    assert_eq!(rules[5].not_after_unix_s, Some(1_780_272_000));
}

#[test]
fn a_rule_that_ended_is_a_warning() {
    let rule = "  - {name: r, notAfter: 2025-12-31T00:00:00Z}\n";
    let compiled = compiled(&(point("prod", 1, "") + &policy("p", "prod", rule)));
    assert!(
        lines(&compiled)[0].contains("warning: "),
        "{:?}",
        lines(&compiled)
    );
    assert!(lines(&compiled)[0].contains("the rule ended at 2025-12-31T00:00:00Z"));
    assert_eq!(
        compiled.snapshots[0].rules[0].not_after_unix_s,
        Some(1_767_139_200)
    );
}

#[test]
fn defaults_are_those_of_the_reference() {
    let compiled = compiled(&point("prod", 1, ""));
    let snapshot = &compiled.snapshots[0];
    assert_eq!(snapshot.sessions.idle_timeout_ms, 600_000);
    assert_eq!(snapshot.sessions.resume_window_ms, 3_600_000);
    assert_eq!(snapshot.sessions.address_quarantine_ms, 600_000);
    assert_eq!(snapshot.sessions.max_total, 10_000);
    assert_eq!(snapshot.drain_deadline_ms, 30_000);
    assert!(snapshot.auth.concealed_key && snapshot.auth.client_certificate);
    assert_eq!(snapshot.mtu_bytes, None);
    let written = "  sessions: {idleTimeout: '0', resumeWindow: 1m30s, maxTotal: 7}
  drain: {deadline: 5m}
  authentication: {methods: [ConcealedKey]}
  mtu: 1400
";
    let snapshot = &super::compiled(&point("prod", 1, written)).snapshots[0];
    assert_eq!(snapshot.sessions.idle_timeout_ms, 0);
    assert_eq!(snapshot.sessions.resume_window_ms, 90_000);
    assert_eq!(snapshot.sessions.max_total, 7);
    assert_eq!(snapshot.drain_deadline_ms, 300_000);
    assert!(snapshot.auth.concealed_key && !snapshot.auth.client_certificate);
    assert_eq!(snapshot.mtu_bytes, Some(1400));
}
