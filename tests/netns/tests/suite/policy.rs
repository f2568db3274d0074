//! What policies let pass, and edits under traffic.

use std::{fs, io::ErrorKind, path::Path, time::Duration};

use masque_netns_tests::{
    Echo, Fabric, Flow, Process, connects, eventually, exchange, program, within,
};

use crate::{CUT_AFTER, WEB, WORK_V4, WORK_V6, at, connects_not, with_both, with_laptop};

const VPC: &str = "production-vpc";

#[test]
fn denied_connections_fail_at_once_and_are_counted_with_the_reason() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _debugger = Echo::on_port(&fabric.work_1p, 9999);
    let _other = Echo::on_port(&fabric.work_1p, 9000);
    for (address, port, reason) in [
        (WORK_V4, 9999, "policy_denied"),
        (WORK_V6, 9999, "policy_denied"),
        (WORK_V4, 9000, "policy_not_allowed"),
        (WORK_V6, 9000, "policy_not_allowed"),
    ] {
        let before = gateway.dropped(VPC, reason);
        let limit = Duration::from_secs(4);
        let error = connects(&fabric.laptop, at(address, port), limit).unwrap_err();
        // Told by ICMP, not found out by a timeout.
        assert_ne!(error.kind(), ErrorKind::TimedOut, "{error}");
        gateway.wait_dropped(VPC, reason, before + 1);
    }
    // From the VPC nothing but port 7000 is allowed.
    let _callback = Echo::on_port(&fabric.laptop, 7001);
    let before = gateway.dropped(VPC, "policy_not_allowed");
    connects_not(&fabric.work_1p, at(&laptop_v4(&fabric), 7001));
    gateway.wait_dropped(VPC, "policy_not_allowed", before + 1);
}

#[test]
fn explain_names_the_rule_that_decides() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let explain = |words: &str| {
        gateway.ask(&format!(
            "explain --attachment laptop-production-vpc {words}"
        ))
    };
    for (words, said) in [
        (
            "--to 10.0.1.10:9999",
            "to 10.0.1.10, TCP port 9999 (default/production-vpc): dropped (policy_denied) by \
             default/production/no-debugger",
        ),
        ("--to 10.0.1.10:80", "allowed by default/production/web"),
        (
            "--to [fd20:10:0:1::10]:8080",
            "allowed by default/production/web",
        ),
        (
            "--to fd20:10:0:1::10",
            "ICMP (default/production-vpc): allowed by default/production/ping",
        ),
        (
            "--to 10.0.1.10:80 --protocol udp",
            "dropped (policy_not_allowed): No Allow rule",
        ),
        (
            "--to 10.0.1.10:7000 --from-vpc",
            "allowed by default/production/callback",
        ),
        ("--to 192.168.0.1:80", "dropped (no_route)"),
    ] {
        let answer = explain(words);
        assert!(answer.contains(said), "{words}: {answer}");
        assert_eq!(answer.lines().count(), 1, "{answer}");
    }
    let json = explain("--to 10.0.1.10:9999 --json");
    for field in [
        "\"allowed\": false",
        "\"drop_reason\": \"policy_denied\"",
        "\"rule\": \"default/production/no-debugger\"",
    ] {
        assert!(json.contains(field), "no {field} in {json}");
    }

    // It says what an edit made of the rules.
    let (from, to) = ("port: 9999", "port: 9998");
    let yaml = fabric.manifests.dir.join("production-policy.yaml");
    let edited = fs::read_to_string(&yaml).unwrap().replace(from, to);
    fabric.manifests.replace("production-policy.yaml", &edited);
    eventually("the rule moved", || {
        explain("--to 10.0.1.10:9998").contains("no-debugger")
    });
}

#[test]
fn explain_knows_no_such_attachment() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let dir = fabric.manifests.dir.to_str().unwrap();
    let ended = Process::run(
        &fabric.gateway,
        program("masque-gateway"),
        &[
            "explain",
            "--manifests",
            dir,
            "--attachment",
            "nobody",
            "--to",
            "10.0.1.10",
        ],
        &fabric.folder().join("explain.log"),
        Duration::from_secs(10),
    );
    assert_eq!(ended.code, Some(64), "{}", ended.output);
    assert!(ended.output.contains("`nobody`"), "{}", ended.output);
}

const AUDIT: &str = "apiVersion: networking.datumapis.com/v1alpha1
kind: VPCAccessPolicy
metadata: {name: staged}
spec:
  mode: Audit
  targetRefs: [{kind: VPCIngressPoint, name: production}]
  rules:
    - {name: no-web, action: Deny, ports: [{protocol: TCP, port: 8080}]}
";

#[test]
fn audit_logs_the_flow_and_the_rule_that_would_deny_it() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    fs::write(fabric.manifests.dir.join("staged.yaml"), AUDIT).unwrap();
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let _other = Echo::on_port(&fabric.work_1p, 80);
    exchange(&fabric.laptop, at(WORK_V4, 80), 1000).unwrap();
    exchange(&fabric.laptop, at(WORK_V4, WEB), 100_000).unwrap();
    let told = || -> Vec<String> {
        let log = gateway.log();
        let lines = log.lines().filter(|line| line.contains("Audit mode"));
        lines.map(str::to_owned).collect()
    };
    eventually("the flow is told", || !told().is_empty());
    let client = laptop_v4(&fabric);
    let line = &told()[0];
    for word in [
        "INFO",
        "default/laptop",
        "default/production-vpc",
        "default/staged/no-web",
        "ToVPC",
        "destination_port=8080",
        &format!("source={client}"),
        &format!("destination={WORK_V4}"),
    ] {
        assert!(line.contains(word), "no {word} in {line}");
    }
    assert_eq!(told().len(), 1, "once for a flow, and for no other flow");
    let answer = gateway.ask(&format!(
        "explain --attachment laptop-production-vpc --to {WORK_V4}:{WEB}"
    ));
    let said =
        "allowed by default/production/web; default/staged/no-web in Audit mode would deny it";
    assert!(answer.contains(said), "{answer}");
}

fn laptop_v4(fabric: &Fabric) -> String {
    let text = fabric
        .laptop
        .ip(&["-4", "-o", "addr", "show", "dev", "dc0"]);
    let word = text.split_whitespace().nth(3).unwrap();
    word.split('/').next().unwrap().to_owned()
}

#[test]
fn an_edit_cuts_one_flow_and_leaves_the_other_alone() {
    let Some(mut fabric) = with_both() else {
        return;
    };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _phone = fabric.attach(&fabric.phone, "phone", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let _other = Echo::on_port(&fabric.work_1p, 80);
    let cut = Flow::start(&fabric.laptop, at(WORK_V4, WEB));
    let unharmed = Flow::start(&fabric.phone, at(WORK_V6, 80));
    let both_go_on = || cut.records() > 5 && unharmed.records() > 5;
    eventually("both flows go on", both_go_on);

    let rules = fabric.manifests.production().rules.clone();
    let production = fabric.manifests.production();
    production.rules[0] = "{name: web, ports: [{protocol: TCP, port: 80}]}".into();
    fabric.manifests.write();
    eventually("the removed rule cuts the flow", || {
        cut.silent() > CUT_AFTER
    });
    connects_not(&fabric.laptop, at(WORK_V4, WEB));
    let records = unharmed.records();
    let goes_on = || unharmed.records() > records + 20;
    eventually("the other session goes on", goes_on);

    fabric.manifests.production().rules = rules;
    fabric
        .manifests
        .production()
        .rules
        .push("{name: more, ports: [{protocol: TCP, port: 9000}]}".into());
    let _more = Echo::on_port(&fabric.work_1p, 9000);
    fabric.manifests.write();
    let opens = || {
        connects(
            &fabric.laptop,
            at(WORK_V4, 9000),
            Duration::from_millis(300),
        )
        .is_ok()
    };
    let took = within(Duration::from_secs(15), opens).expect("the added rule allows");
    let longest = unharmed.longest_gap();
    eprintln!("the added rule after {took:?}; the other session's longest gap {longest:?}");
    assert!(!unharmed.is_over());
    assert_eq!(gateway.sessions(), 2);
    let setups = "masque_gateway_session_setups_total";
    assert_eq!(gateway.metrics().sum(setups, &[]), 2, "nobody came again");
}

#[test]
fn a_broken_manifest_keeps_the_last_good_state_and_shows() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let flow = Flow::start(&fabric.laptop, at(WORK_V4, WEB));
    let errors = || {
        gateway
            .metrics()
            .sum("masque_gateway_manifest_problems", &["severity=\"error\""])
    };
    assert_eq!(errors(), 0);
    let good = fs::read_to_string(fabric.manifests.dir.join("production.yaml")).unwrap();
    for broken in [
        "spec: {oops\n".to_owned(),
        good.replace("10.0.1.0/24", "10.0.1.0/244"),
        good.replace("port: 4433", "port: 70000"),
    ] {
        fabric.manifests.replace("production.yaml", &broken);
        eventually("the metrics show the problem", || errors() > 0);
        exchange(&fabric.laptop, at(WORK_V6, WEB), 1000).unwrap();
        fabric.manifests.replace("production.yaml", &good);
        eventually("the problem is gone", || errors() == 0);
    }
    let records = flow.records();
    eventually("the flow goes on", || flow.records() > records + 5);
    eprintln!("its longest gap: {:?}", flow.longest_gap());
    assert_eq!(gateway.sessions(), 1);
    assert!(gateway.ask("status").contains("production"));
}

#[test]
fn check_tells_by_its_exit_status_and_names_the_place() {
    let Some(fabric) = with_laptop() else { return };
    fabric.manifests.write();
    let log = fabric.folder().join("check.log");
    let check = |dir: &Path| {
        let limit = Duration::from_secs(10);
        let args = ["check", dir.to_str().unwrap()];
        Process::run(
            &fabric.gateway,
            program("masque-gateway"),
            &args,
            &log,
            limit,
        )
    };
    let good = check(&fabric.manifests.dir);
    assert_eq!(good.code, Some(0), "{}", good.output);

    let manifest = fabric.manifests.dir.join("production.yaml");
    let text = fs::read_to_string(&manifest).unwrap();
    let line = text
        .lines()
        .position(|l| l.contains("- 10.0.1.0/24"))
        .unwrap()
        + 1;
    let broken = text.replacen("- 10.0.1.0/24", "- 10.0.1.0/244", 1);
    fabric.manifests.replace("production.yaml", &broken);
    let bad = check(&fabric.manifests.dir);
    assert_eq!(bad.code, Some(65), "{}", bad.output);
    let place = format!("production.yaml:{line}");
    assert!(bad.output.contains(&place), "{place}:\n{}", bad.output);

    let missing = check(&fabric.folder().join("nowhere"));
    assert_eq!(missing.code, Some(66), "{}", missing.output);
}
