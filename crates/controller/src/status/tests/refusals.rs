//! What is in the way, and what is said about it.

use super::*;

#[test]
fn a_bad_spec_is_stalled_and_says_what_goes_on() {
    let mut world = world();
    world.problem(
        Kind::VPCIngressPoint,
        "prod",
        "spec.mtu",
        Reason::Invalid,
        true,
    );
    let conditions = world.point(100);
    assert!(has(&conditions, "Accepted=False/Invalid"));
    assert!(has(&conditions, "Programmed=False/Invalid"));
    assert!(has(&conditions, "Stalled=True/Invalid"));
    assert_eq!(
        conditions[0].message,
        "spec.mtu: it is wrong; make it right. The gateways go on with the spec before"
    );
}

#[test]
fn a_warning_does_not_block() {
    let mut world = world();
    world.problem(
        Kind::VPCIngressPoint,
        "prod",
        "spec.vpcRef.name",
        Reason::VPCNotFound,
        false,
    );
    let conditions = world.point(100);
    assert!(has(&conditions, "ResolvedRefs=False/VPCNotFound"));
    assert!(has(&conditions, "Ready=True/Ready"));
}

#[test]
fn a_snapshot_that_is_too_large_is_said_to_be() {
    let mut world = world();
    world.problem(
        Kind::VPCIngressPoint,
        "prod",
        "",
        Reason::SnapshotTooLarge,
        false,
    );
    let conditions = world.point(100);
    assert!(has(&conditions, "Programmed=False/SnapshotTooLarge"));
    assert!(has(&conditions, "Stalled=True/SnapshotTooLarge"));
}

#[test]
fn an_address_that_is_refused_rejects_the_attachment() {
    for reason in [Reason::AddressUnavailable, Reason::PoolExhausted] {
        let mut world = world();
        world.snapshot.attachments.clear();
        let outcome = AssignOutcome {
            ingress_point: world.snapshot.ingress_point.clone(),
            attachment: ObjectName::new("default", "laptop"),
            state: AssignState::Refused(Refusal {
                reason,
                message: "taken".to_owned(),
            }),
        };
        let conditions = world.attachment(&[&outcome], 100);
        assert!(has(&conditions, &format!("Programmed=False/{reason}")));
        assert!(has(&conditions, &format!("Stalled=True/{reason}")));
        assert_eq!(world.phase(), AttachmentPhase::Rejected);
    }
}

#[test]
fn pods_that_may_not_be_made_name_the_label() {
    let deployment: Deployment = serde_json::from_value(json!({"status": {"conditions": [{
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\"",
    }]}}))
    .unwrap();
    let mut world = world();
    world.observed.pods.clear();
    world.observed.failed_create = failed_create(&deployment);
    let conditions = world.point(100);
    assert!(has(&conditions, "Programmed=False/PodSecurityForbidden"));
    assert!(has(&conditions, "Degraded=True/PodSecurityForbidden"));
    assert!(has(&conditions, "Stalled=True/PodSecurityForbidden"));
    assert!(
        conditions[3]
            .message
            .contains("pod-security.kubernetes.io/enforce")
    );
    world.observed.failed_create = Some("exceeded quota".to_owned());
    assert!(has(&world.point(101), "Programmed=False/FailedCreate"));
    assert_eq!(failed_create(&Deployment::default()), None);
}

/// The status of a pod, and the reason for its trouble.
const TROUBLES: &str = r#"
{"phase":"Failed","reason":"SysctlForbidden","message":"forbidden sysctl"} => PodSecurityForbidden => --allowed-unsafe-sysctls
{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable","message":"0/3 nodes"}]} => PodUnschedulable => 0/3 nodes
{"containerStatuses":[{"name":"g","image":"x:1","imageID":"","ready":false,"restartCount":0,"state":{"waiting":{"reason":"ImagePullBackOff"}}}]} => ImagePullFailed => imagePullSecrets
{"containerStatuses":[{"name":"g","image":"x:1","imageID":"","ready":false,"restartCount":9,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]} => PodCrashing => -c g --previous
{"initContainerStatuses":[{"name":"sysctls","image":"x:1","imageID":"","ready":false,"restartCount":9,"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]} => PodCrashing => -c sysctls
{"containerStatuses":[{"name":"g","image":"x:1","imageID":"","ready":false,"restartCount":0,"state":{"waiting":{"reason":"CreateContainerConfigError","message":"no configmap"}}}]} => PodsNotReady => no configmap
"#;

#[test]
fn troubles_of_pods_are_told() {
    for line in TROUBLES.lines().filter(|line| !line.is_empty()) {
        let [status, reason, text] = *line.split(" => ").collect::<Vec<_>>() else {
            panic!("{line}")
        };
        let status: Value = serde_json::from_str(status).unwrap();
        let object = json!({"metadata": {"name": "p"}, "status": status});
        let pod: Pod = serde_json::from_value(object).unwrap();
        let mut world = world();
        world.observed.pods = vec![PodReport::new(&pod)];
        world.observed.ready_replicas = 0;
        let conditions = world.point(100);
        assert!(
            has(&conditions, &format!("Degraded=True/{reason}")),
            "{line}"
        );
        let programmed = &conditions[3];
        assert_eq!(programmed.status, "False");
        assert!(programmed.message.contains(text), "{}", programmed.message);
    }
}

/// The kubelet leaves pods that it refused; the one that replaced them is what counts.
#[test]
fn pods_that_were_refused_before_the_cure_are_history() {
    let pod = |name: &str, second: i64, status: Value| {
        let object = json!({
            "metadata": {"name": name, "creationTimestamp": at(second).to_string()},
            "status": status,
        });
        PodReport::new(&serde_json::from_value(object).unwrap())
    };
    let refused = json!({"phase": "Failed", "reason": "SysctlForbidden", "message": "no"});
    let crashing = json!({"phase": "Pending", "containerStatuses": [{
        "name": "g", "image": "x:1", "imageID": "", "ready": false, "restartCount": 9,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    }]});
    let fine = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let degraded = |pods: Vec<PodReport>| {
        let mut world = world();
        world.observed.pods = pods;
        let conditions = world.point(100);
        let found = conditions.iter().find(|c| c.type_ == "Degraded");
        found.map(|condition| condition.reason.clone())
    };
    let (old, new) = (pod("a", 10, refused.clone()), pod("b", 20, fine.clone()));
    assert_eq!(degraded(vec![old.clone(), new]), None);
    // A rollout that is refused, while the pods before it serve on.
    let later = vec![pod("a", 30, refused), pod("b", 20, fine.clone())];
    assert_eq!(degraded(later).as_deref(), Some("PodSecurityForbidden"));
    let worse = vec![old, pod("b", 20, crashing.clone())];
    assert_eq!(degraded(worse).as_deref(), Some("PodCrashing"));
    // One that goes on trying is not over, however old it is.
    let both = vec![pod("a", 10, crashing), pod("b", 20, fine)];
    assert_eq!(degraded(both).as_deref(), Some("PodCrashing"));
}

#[test]
fn no_replicas_are_nobodys_fault() {
    let mut world = world();
    world.point.spec.replicas = Some(0);
    world.observed.pods.clear();
    world.observed.ready_replicas = 0;
    let conditions = world.point(100);
    assert!(has(&conditions, "Programmed=False/WaitingForPods"));
    assert!(conditions[3].message.contains("spec.replicas"));
}

#[test]
fn fewer_pods_than_asked_for_is_degraded() {
    let mut world = world();
    world.observed.ready_replicas = 1;
    let conditions = world.point(100);
    assert!(has(&conditions, "Degraded=True/PodsNotReady"));
    assert!(has(&conditions, "Ready=True/Ready"));
}

#[test]
fn a_ready_pod_is_read_as_such() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }))
    .unwrap();
    let report = PodReport::new(&pod);
    assert_eq!(
        (report.ready, report.terminating, report.trouble),
        (true, true, None)
    );
}

#[test]
fn a_message_has_a_bound() {
    let mut world = world();
    for _ in 0..200 {
        world.problem(
            Kind::VPCIngressPoint,
            "prod",
            "spec.ü",
            Reason::Invalid,
            true,
        );
    }
    let conditions = world.point(100);
    assert!(conditions[0].message.len() <= 1024 && conditions[0].message.ends_with("..."));
}
