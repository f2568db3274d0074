//! The operator process against a real API server: from resources to a Snapshot that a pod
//! acknowledged, and through what goes wrong on the way. Needs `KUBECONFIG`; skips loudly without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "api_server/lab.rs"]
mod lab;

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    coordination::v1::Lease,
    core::v1::{ConfigMap, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use masque_model::ObjectName;
use masque_stream::{Client, LinkState, Received, SessionInfo};
use masque_testkit::free_port;
use serde_json::json;

use lab::{Lab, eventually, within};

const POLICY: &str = "VPCAccessPolicy";
const POINT: &str = "VPCIngressPoint";
const ATTACHMENT: &str = "ConnectorAttachment";

/// An operator that rests writes nothing for so long.
const REST: Duration = Duration::from_secs(3);

/// How long the next may take to lead by a Lease that was given back: it looks every second. One that
/// was not given back would last for 15 s.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// A cost is measured so often at most, and two of these must have the usual one. On a loaded machine
/// it may lawfully be higher: a pod's acknowledgement comes after the operator has stopped waiting for
/// it, or an attachment is seen before its Connector.
const TRIES: u8 = 5;

fn is_usual<T: PartialEq>(costs: &[T], wanted: &T) -> bool {
    costs.iter().filter(|cost| *cost == wanted).count() == 2
}

/// Who is refused gets nothing for so long, though it tries again: the client's first pauses are
/// parts of a second.
const REFUSED_FOR: Duration = Duration::from_secs(3);

async fn policy(lab: &Lab, port: u16) {
    let spec = json!({
        "targetRefs": [{"kind": POINT, "name": "edge"}],
        "rules": [{"name": "web", "ports": [{"protocol": "TCP", "port": port}]}],
    });
    lab.apply(POLICY, "web", spec).await;
}

/// The first Snapshot that has a rule and an attachment: what was applied one after the other may come
/// so, on a young API server.
async fn complete(pod: &mut Client) -> Received {
    let come = async {
        loop {
            let received = pod.next().await;
            let snapshot = &received.snapshot;
            if snapshot.rules.len() == 1 && snapshot.attachments.len() == 1 {
                return received;
            }
        }
    };
    tokio::time::timeout(lab::SOON, come).await.unwrap()
}

async fn edit_the_policy(lab: &Lab, pod: &mut Client, version: u64) {
    // A policy edit reaches the pod, and is true once acknowledged.
    policy(lab, 8443).await;
    let edited = tokio::time::timeout(lab::SOON, pod.next()).await.unwrap();
    assert_eq!(edited.snapshot.version, version + 1);
    assert_ne!(lab.condition(POLICY, "web", "Programmed").await.0, "True");
    pod.reject(&edited, "no such route");
    eventually("the rejection is told", async || {
        lab.condition(POINT, "edge", "Programmed").await.1 == "RejectedByGateway"
    })
    .await;
    policy(lab, 80).await;
    let mended = tokio::time::timeout(lab::SOON, pod.next()).await.unwrap();
    pod.ack(&mended).await;
    lab.until(POLICY, "web", "Programmed", "True").await;
}

async fn show_a_session(lab: &Lab, pod: &Client, attachment: ObjectName) {
    pod.report_sessions([SessionInfo {
        id: 1,
        attachment,
        transport: "h3".to_owned(),
        since_unix_s: 1_700_000_000,
    }]);
    lab.until(ATTACHMENT, "laptop", "Connected", "True").await;
    assert_eq!(
        lab.get(ATTACHMENT, "laptop").await["status"]["phase"],
        "Connected"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_become_a_snapshot_that_a_pod_runs() {
    let Some(lab) = Lab::open().await else { return };
    let (stream, dir) = (free_port(), tempfile::tempdir().unwrap());
    let operator = lab.operator("a", stream);
    lab.ingress_point("edge", |_| {}).await;
    lab.attachment("laptop", 1).await;
    policy(&lab, 443).await;
    lab.until(POINT, "edge", "Accepted", "True").await;
    eventually("the address is given", async || {
        lab.get(ATTACHMENT, "laptop").await["status"]["assignedIP"].is_string()
    })
    .await;
    let deployments = lab.core::<Deployment>();
    eventually("the Deployment is there", async || {
        deployments.get("edge-masque-gateway").await.is_ok()
    })
    .await;
    lab.core::<Service>()
        .get("edge-masque-gateway")
        .await
        .unwrap();
    lab.core::<ConfigMap>()
        .get("edge-masque-gateway-ca")
        .await
        .unwrap();
    assert_eq!(
        lab.condition(POINT, "edge", "Programmed").await.1,
        "WaitingForPods"
    );

    let mut pod = lab.pod("edge", "edge-1", stream, dir.path()).await;
    let received = complete(&mut pod).await;
    let attachment = &received.snapshot.attachments[0];
    let told = lab.get(ATTACHMENT, "laptop").await["status"]["assignedIP"].clone();
    assert_eq!(json!(attachment.addresses[0]), told);
    assert_eq!(
        received.snapshot.listeners[0].certificates,
        ["edge-masque-gateway-listener"]
    );
    // Nothing is true before the pod says so.
    assert_ne!(lab.condition(POINT, "edge", "Programmed").await.0, "True");
    pod.ack(&received).await;
    for (kind, name, type_) in [
        (POINT, "edge", "Programmed"),
        (POINT, "edge", "Ready"),
        (ATTACHMENT, "laptop", "Ready"),
        (POLICY, "web", "Programmed"),
    ] {
        lab.until(kind, name, type_, "True").await;
    }

    edit_the_policy(&lab, &mut pod, received.snapshot.version).await;

    show_a_session(&lab, &pod, attachment.name.clone()).await;

    // At rest nothing is written, once nothing waits for its turn either.
    let before = operator.rests().await;
    tokio::time::sleep(REST).await;
    assert_eq!(operator.writes().await, before);
    assert!(operator.stop().success());
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_follow_the_spec_and_come_back() {
    let Some(lab) = Lab::open().await else { return };
    let operator = lab.operator("a", free_port());
    lab.ingress_point("edge", |spec| spec["replicas"] = json!(2))
        .await;
    let child = "edge-masque-gateway";
    eventually("a budget for two pods", async || {
        lab.core::<PodDisruptionBudget>().get(child).await.is_ok()
    })
    .await;
    // One pod needs none.
    lab.ingress_point("edge", |spec| spec["replicas"] = json!(1))
        .await;
    eventually("no budget for one pod", async || {
        lab.core::<PodDisruptionBudget>()
            .get_opt(child)
            .await
            .unwrap()
            .is_none()
    })
    .await;
    // What somebody deletes or changes is made again.
    let gone = lab
        .core::<Service>()
        .delete(child, &DeleteParams::default())
        .await;
    gone.unwrap();
    eventually("the Service is back", async || {
        lab.core::<Service>()
            .get_opt(child)
            .await
            .unwrap()
            .is_some()
    })
    .await;
    let drift = json!({"spec": {"replicas": 7}});
    let params = PatchParams::default();
    let patch = Patch::Merge(&drift);
    lab.core::<Deployment>()
        .patch(child, &params, &patch)
        .await
        .unwrap();
    eventually("the Deployment is as the spec says", async || {
        let deployment = lab.core::<Deployment>().get(child).await.unwrap();
        deployment.spec.unwrap().replicas == Some(1)
    })
    .await;
    // A bad edit is refused with a reason, and changes nothing that runs.
    let secret = json!([{"name": "h3", "port": 443, "tls": {"certificateRefs": [{"name": "no"}]}}]);
    lab.ingress_point("edge", |spec| spec["listeners"] = secret)
        .await;
    eventually("the missing Secret is named", async || {
        lab.condition(POINT, "edge", "ResolvedRefs").await.1 == "CertificateNotFound"
    })
    .await;
    assert!(
        lab.core::<Secret>()
            .get("edge-masque-gateway-stream")
            .await
            .is_ok()
    );
    drop(operator);
    lab.close().await;
}

/// Asked to end, an operator gives the Lease back at once.
async fn gives_the_lease_back(lab: &Lab, second: lab::Operator, stream: u16) {
    let third = lab.operator("c", stream);
    eventually("the next is ready", async || third.is_ready().await).await;
    assert!(second.stop().success());
    let lease = lab.core::<Lease>().get("masque-operator").await.unwrap();
    let holder = lease.spec.and_then(|spec| spec.holder_identity);
    // Nobody's, or the next one's already.
    assert!(!holder.unwrap_or_default().starts_with("b_"));
    within(GIVEN_BACK, "the next leads", async || {
        third.metric("masque_operator_leader").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_others_is_taken_and_nothing_scales_to_one() {
    let Some(lab) = Lab::open().await else { return };
    // Somebody's Secret and Service have the names that ours would have.
    let theirs: Secret = serde_json::from_value(json!({
        "metadata": {"name": "edge-masque-gateway-listener"}, "stringData": {"only": "copy"},
    }))
    .unwrap();
    let params = PostParams::default();
    lab.core::<Secret>().create(&params, &theirs).await.unwrap();
    let service: Service = serde_json::from_value(json!({
        "metadata": {"name": "edge-masque-gateway"}, "spec": {"ports": [{"port": 7}]},
    }))
    .unwrap();
    let services = lab.core::<Service>();
    services.create(&params, &service).await.unwrap();
    let operator = lab.operator("a", free_port());
    lab.ingress_point("edge", |spec| spec["replicas"] = json!(3))
        .await;
    let deployments = lab.core::<Deployment>();
    let replicas = async || {
        let deployment = deployments.get_opt("edge-masque-gateway").await.unwrap();
        deployment.and_then(|it| it.spec).and_then(|it| it.replicas)
    };
    eventually("three replicas", async || replicas().await == Some(3)).await;
    eventually("the Secret is named", async || {
        let point = lab.get(POINT, "edge").await.to_string();
        point.contains("edge-masque-gateway-listener: somebody else")
    })
    .await;
    let secrets = lab.core::<Secret>();
    let secret = secrets.get("edge-masque-gateway-listener").await;
    assert_eq!(secret.unwrap().data.unwrap()["only"].0, b"copy");
    let kept = services.get("edge-masque-gateway").await.unwrap();
    assert_eq!(kept.spec.unwrap().ports.unwrap()[0].port, 7);
    // The autoscaler has no metrics here, so that it changes nothing.
    lab.ingress_point("edge", |spec| {
        spec.as_object_mut().unwrap().remove("replicas");
        spec["autoscaling"] = json!({"maxReplicas": 5});
    })
    .await;
    eventually("an autoscaler", async || {
        let scalers = lab.core::<HorizontalPodAutoscaler>();
        scalers.get("edge-masque-gateway").await.is_ok()
    })
    .await;
    assert_eq!(replicas().await, Some(3));
    // A pod that starts needs its Secret soon.
    let name = "edge-masque-gateway-stream";
    secrets
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
    eventually("the Secret is back", async || {
        secrets.get(name).await.is_ok()
    })
    .await;
    drop(operator);
    lab.close().await;
}

/// The first operator, which leads and gives addresses to `laptop` and `phone`.
async fn leader(lab: &Lab, stream: u16) -> lab::Operator {
    let first = lab.operator("a", stream);
    lab.ingress_point("edge", |_| {}).await;
    lab.attachment("laptop", 1).await;
    lab.attachment("phone", 2).await;
    eventually("the first leads", async || {
        first.metric("masque_operator_leader").await == 1.0
    })
    .await;
    for name in ["laptop", "phone"] {
        lab.until(ATTACHMENT, name, "ResolvedRefs", "True").await;
    }
    eventually("a Secret for the stream", async || {
        lab.core::<Secret>()
            .get("edge-masque-gateway-stream")
            .await
            .is_ok()
    })
    .await;
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_followed_by_the_standby() {
    let Some(lab) = Lab::open().await else { return };
    let (stream, dir) = (free_port(), tempfile::tempdir().unwrap());
    let first = leader(&lab, stream).await;
    let address =
        async |name: &str| lab.get(ATTACHMENT, name).await["status"]["assignedIP"].clone();
    eventually("addresses", async || {
        address("laptop").await.is_string() && address("phone").await.is_string()
    })
    .await;
    let before = (address("laptop").await, address("phone").await);
    assert_ne!(before.0, before.1);
    let mut pod = lab.pod("edge", "edge-1", stream, dir.path()).await;
    let mut received = pod.next().await;
    while received.snapshot.attachments.len() < 2 {
        received = pod.next().await;
    }
    pod.ack(&received).await;
    lab.until(POINT, "edge", "Ready", "True").await;
    for name in ["laptop", "phone"] {
        lab.until(ATTACHMENT, name, "Ready", "True").await;
    }

    // The standby listens on the same port once it leads: here both are one machine.
    let second = lab.operator("b", stream);
    eventually("the standby is ready", async || second.is_ready().await).await;
    assert_eq!(second.metric("masque_operator_leader").await, 0.0);
    // What the first one has not said yet, the second would have to say.
    first.rests().await;
    first.kill();
    let took = within(lab::TAKEOVER, "the standby leads", async || {
        second.metric("masque_operator_leader").await == 1.0
    })
    .await;
    eprintln!("takeover after {took:?}");
    let mut link = pod.link();
    let again = link.wait_for(|link| *link == LinkState::Connected);
    tokio::time::timeout(lab::SOON, again)
        .await
        .unwrap()
        .unwrap();
    lab.until(POINT, "edge", "Ready", "True").await;
    assert_eq!((address("laptop").await, address("phone").await), before);
    // Nothing changed but the leader, so that it has nothing to say.
    assert_eq!(
        second.metric("masque_operator_status_writes_total").await,
        0.0
    );
    let status = lab.get(POINT, "edge").await["status"]["snapshot"].clone();
    assert_eq!(status["version"], json!(received.snapshot.version));

    gives_the_lease_back(&lab, second, stream).await;
    lab.close().await;
}

/// Writes of status so far, of one kind.
async fn status_writes(operator: &lab::Operator, kind: &str) -> f64 {
    let series = format!("masque_operator_status_writes_total{{kind=\"{kind}\"");
    operator.metric(&series).await
}

/// How many writes of status a new attachment costs: not fewer than two.
async fn cost_of_an_attachment(lab: &Lab, operator: &lab::Operator, key: u8) -> f64 {
    operator.rests().await;
    let before = status_writes(operator, ATTACHMENT).await;
    let name = format!("laptop-{key}");
    lab.attachment(&name, key).await;
    lab.until(ATTACHMENT, &name, "Ready", "True").await;
    // Counted a moment after they are visible.
    eventually("both are counted", async || {
        status_writes(operator, ATTACHMENT).await >= before + 2.0
    })
    .await;
    operator.rests().await;
    status_writes(operator, ATTACHMENT).await - before
}

/// How many writes of status an edited policy costs, of the policy and of its ingress point: not
/// fewer than one each.
async fn cost_of_an_edit(lab: &Lab, operator: &lab::Operator, port: u16) -> [f64; 2] {
    operator.rests().await;
    let policies = status_writes(operator, POLICY).await;
    let points = status_writes(operator, POINT).await;
    policy(lab, port).await;
    eventually("the edit is told", async || {
        status_writes(operator, POLICY).await > policies
            && status_writes(operator, POINT).await > points
    })
    .await;
    lab.until(POLICY, "web", "Programmed", "True").await;
    operator.rests().await;
    [
        status_writes(operator, POLICY).await - policies,
        status_writes(operator, POINT).await - points,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attachment_costs_two_writes_and_an_edit_one_each() {
    let Some(lab) = Lab::open().await else { return };
    let (stream, dir) = (free_port(), tempfile::tempdir().unwrap());
    let operator = lab.operator("a", stream);
    lab.ingress_point("edge", |_| {}).await;
    policy(&lab, 443).await;
    let mut pod = lab.pod("edge", "edge-1", stream, dir.path()).await;
    tokio::spawn(async move {
        loop {
            let received = pod.next().await;
            pod.ack(&received).await;
        }
    });
    lab.until(POINT, "edge", "Ready", "True").await;
    lab.until(POLICY, "web", "Programmed", "True").await;
    // Its address, and that a pod expects it.
    let (wanted, mut costs) = (2.0, Vec::new());
    for key in 1..=TRIES {
        if !is_usual(&costs, &wanted) {
            costs.push(cost_of_an_attachment(&lab, &operator, key).await);
        }
    }
    assert!(is_usual(&costs, &wanted), "{costs:?}");
    let (wanted, mut costs) = ([1.0, 1.0], Vec::new());
    for edit in 0..TRIES {
        if !is_usual(&costs, &wanted) {
            let port = 8443 + u16::from(edit);
            costs.push(cost_of_an_edit(&lab, &operator, port).await);
        }
    }
    assert!(is_usual(&costs, &wanted), "{costs:?}");
    lab.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_another_account_gets_nothing() {
    let Some(lab) = Lab::open().await else { return };
    let (stream, dir) = (free_port(), tempfile::tempdir().unwrap());
    let _operator = lab.operator("a", stream);
    lab.ingress_point("edge", |_| {}).await;
    lab.ingress_point("other", |spec| {
        spec["addressPools"] = json!([{"cidr": "10.0.101.0/24"}]);
        spec["fabric"]["static"]["localSID"] = json!("fd00:9::");
    })
    .await;
    for name in ["edge", "other"] {
        eventually("a Secret for the stream", async || {
            let name = format!("{name}-masque-gateway-stream");
            lab.core::<Secret>().get(&name).await.is_ok()
        })
        .await;
    }
    let mut pod = lab.pod("edge", "edge-1", stream, dir.path()).await;
    assert_eq!(pod.next().await.snapshot.ingress_point.name, "edge");
    // The certificate of one ingress point with a token of another's account.
    let other = tempfile::tempdir().unwrap();
    let mut stranger = lab.pod("other", "other-1", stream, other.path()).await;
    assert_eq!(stranger.next().await.snapshot.ingress_point.name, "other");
    drop(stranger);
    std::fs::copy(other.path().join("token"), dir.path().join("token")).unwrap();
    let mut thief = lab.connect("edge-1", stream, dir.path());
    // The first attempt may take its time.
    let mut link = thief.link();
    let refused = link.wait_for(|link| matches!(link, LinkState::Down(_)));
    tokio::time::timeout(lab::SOON, refused)
        .await
        .unwrap()
        .unwrap();
    let got = tokio::time::timeout(REFUSED_FOR, thief.next()).await;
    assert!(got.is_err(), "{got:?}");
    assert!(matches!(&*thief.link().borrow(), LinkState::Down(_)));
    lab.close().await;
}
