//! Conditions tell the truth, and nothing changes at rest.

use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use masque_api::{AttachmentPhase, ConnectorAttachment, Reason, VPCAccessPolicy, VPCIngressPoint};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    Kind, Severity,
    ipam::{AssignOutcome, AssignState, Refusal},
    manifests::parse,
};

mod refusals;

const POINT: &str = "
apiVersion: networking.datumapis.com/v1alpha1
kind: VPCIngressPoint
metadata: {name: prod}
spec:
  vpcRef: {name: vpc}
  replicas: 2
  listeners: [{name: public, port: 4433}, {name: named, port: 443, hostname: vpn.example.com}]
  addressPools: [{cidr: 10.1.100.0/24, reserved: [10.1.100.0/28]}, {cidr: 'fd20::/64'}]
  routes: [10.1.0.0/16]
  fabric:
    provider: Static
    static:
      localSID: 'fd00::1'
      sourceAddress: 'fd00::2'
      routes: [{prefix: 10.1.0.0/16, sid: 'fd00::3'}]
---
apiVersion: networking.datumapis.com/v1alpha1
kind: Connector
metadata: {name: laptop}
status: {connectionDetails: {type: PublicKey, publicKey: {id: KEY}}}
---
apiVersion: networking.datumapis.com/v1alpha1
kind: ConnectorAttachment
metadata: {name: laptop}
spec:
  connectorRef: {name: laptop}
  vpcRef: {name: vpc}
  ipAllocation: {mode: Static, addresses: [10.1.100.50]}
---
apiVersion: networking.datumapis.com/v1alpha1
kind: VPCAccessPolicy
metadata: {name: web}
spec:
  targetRefs: [{kind: VPCIngressPoint, name: prod}, {kind: ConnectorAttachment, name: laptop}]
  rules: [{name: all}]
";

/// One ingress point with one attachment and one policy, as compiled.
struct World {
    point: VPCIngressPoint,
    attachment: ConnectorAttachment,
    policy: VPCAccessPolicy,
    snapshot: Snapshot,
    problems: Vec<Problem>,
    observed: Observed,
}

fn world() -> World {
    let text = POINT.replace("KEY", &"a5".repeat(32));
    let manifests = parse(&[("test.yaml".to_owned(), text)]);
    assert_eq!(manifests.problems, []);
    let resources = manifests.resources;
    let compiled = crate::compile(&resources, 0, &crate::Options::default(), &[]);
    let mut point = (*resources.ingress_points[0].object).clone();
    point.metadata.generation = Some(1);
    let mut attachment = (*resources.attachments[0].object).clone();
    attachment.metadata.generation = Some(1);
    let mut policy = (*resources.policies[0].object).clone();
    policy.metadata.generation = Some(1);
    World {
        point,
        attachment,
        policy,
        snapshot: compiled.snapshots[0].clone(),
        problems: compiled.problems,
        observed: Observed {
            pods: vec![pod("a", Some(1)), pod("b", Some(1))],
            replicas: 2,
            ready_replicas: 2,
            snapshot_hash: Some("00ff".to_owned()),
            ..Observed::default()
        },
    }
}

/// A ready pod.
fn pod(name: &str, acked_version: Option<u64>) -> PodReport {
    PodReport {
        pod: name.to_owned(),
        ready: true,
        acked_version,
        ..PodReport::default()
    }
}

fn session(since_unix_s: u64) -> SessionReport {
    SessionReport {
        attachment: ObjectName::new("default", "laptop"),
        transport: "h3".to_owned(),
        since_unix_s,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl World {
    fn about(&self, kind: Kind, name: &str) -> Vec<&Problem> {
        let object = ObjectRef::new(kind, ObjectName::new("default", name));
        by_object(&self.problems)
            .remove(&object)
            .unwrap_or_default()
    }

    fn states(&self) -> [PointState<'_>; 1] {
        [PointState {
            snapshot: &self.snapshot,
            pods: &self.observed.pods,
        }]
    }

    /// Computes the status of the ingress point and puts it there.
    fn point(&mut self, second: i64) -> Vec<Condition> {
        let problems = self.about(Kind::VPCIngressPoint, "prod");
        let status = ingress_point_status(
            &self.point,
            &problems,
            Some(&self.snapshot),
            &self.observed,
            at(second),
        );
        let conditions = status.conditions.clone();
        self.point.status = Some(status);
        conditions
    }

    fn attachment(&mut self, outcomes: &[&AssignOutcome], second: i64) -> Vec<Condition> {
        let problems = self.about(Kind::ConnectorAttachment, "laptop");
        let open = sessions(&self.observed.pods);
        let open = open.get(&ObjectName::new("default", "laptop"));
        let status = attachment_status(
            &self.attachment,
            &problems,
            outcomes,
            &self.states(),
            open.map_or(&[][..], Vec::as_slice),
            at(second),
        );
        let conditions = status.conditions.clone();
        self.attachment.status = Some(status);
        conditions
    }

    fn phase(&self) -> AttachmentPhase {
        self.attachment.status.as_ref().unwrap().phase.unwrap()
    }

    fn policy(&mut self, second: i64) -> Vec<Vec<Condition>> {
        let problems = self.about(Kind::VPCAccessPolicy, "web");
        let status = policy_status(&self.policy, &problems, &self.states(), at(second));
        self.policy.status = Some(status.clone());
        status
            .ancestors
            .into_iter()
            .map(|entry| entry.conditions)
            .collect()
    }

    /// A problem with one of the objects.
    fn problem(&mut self, kind: Kind, name: &str, field: &str, reason: Reason, error: bool) {
        self.problems.push(Problem {
            location: None,
            object: Some(ObjectRef::new(kind, ObjectName::new("default", name))),
            field: field.to_owned(),
            severity: if error {
                Severity::Error
            } else {
                Severity::Warning
            },
            condition: reason.condition(),
            reason,
            message: "it is wrong".to_owned(),
            hint: "make it right".to_owned(),
        });
    }
}

/// `Type=Status/Reason` of each condition.
fn words(conditions: &[Condition]) -> Vec<String> {
    let word = |c: &Condition| format!("{}={}/{}", c.type_, c.status, c.reason);
    conditions.iter().map(word).collect()
}

fn has(conditions: &[Condition], word: &str) -> bool {
    words(conditions).iter().any(|other| other == word)
}

#[test]
fn a_good_ingress_point_is_ready_and_current() {
    let mut world = world();
    let conditions = world.point(100);
    assert_eq!(
        words(&conditions),
        [
            "Accepted=True/Accepted",
            "ResolvedRefs=True/ResolvedRefs",
            "FabricReady=True/FabricReady",
            "Programmed=True/Programmed",
            "Ready=True/Ready",
        ]
    );
    assert!(
        conditions
            .iter()
            .all(|condition| condition.observed_generation == Some(1))
    );
    let status = world.point.status.unwrap();
    assert_eq!(status.observed_generation, Some(1));
    let snapshot = status.snapshot.unwrap();
    assert_eq!(
        (snapshot.version, snapshot.acked, snapshot.hash.as_str()),
        (1, 2, "00ff")
    );
    assert_eq!(status.attachments.unwrap().accepted, 1);
    // 16 reserved and the broadcast address; network and gateway address are among the reserved.
    assert_eq!((status.pools[0].total, status.pools[0].allocated), (239, 1));
    assert_eq!(status.pools[1].total, i64::MAX);
}

#[test]
fn programmed_waits_for_every_ready_pod() {
    let mut world = world();
    world.observed.pods[1].acked_version = None;
    let conditions = world.point(100);
    assert!(has(&conditions, "Programmed=False/WaitingForAck"));
    assert!(has(&conditions, "Ready=False/WaitingForAck"));
    assert!(has(&conditions, "Reconciling=True/WaitingForAck"));
    // One that stops, or is not ready yet, does not count.
    world.observed.pods[1].terminating = true;
    assert!(has(&world.point(101), "Programmed=True/Programmed"));
    assert!(has(&world.point(101), "Draining=True/Draining"));
    world.observed.pods[1].terminating = false;
    world.observed.pods[1].ready = false;
    assert!(has(&world.point(102), "Programmed=True/Programmed"));
    world.observed.pods.clear();
    assert!(has(&world.point(103), "Programmed=False/WaitingForPods"));
}

#[test]
fn times_move_only_on_flips() {
    let mut world = world();
    let time = |conditions: &[Condition], type_: &str| {
        let found = conditions.iter().find(|condition| condition.type_ == type_);
        found.unwrap().last_transition_time.0.as_second()
    };
    let first = world.point(100);
    let second = world.point(200);
    assert_eq!(first, second);
    world.observed.pods[0].acked_version = Some(0);
    let third = world.point(300);
    assert_eq!(
        (time(&third, "Programmed"), time(&third, "Accepted")),
        (300, 100)
    );
    // Another reason, the same status.
    world.observed.pods[0].rejected = Some("no".to_owned());
    let fourth = world.point(400);
    assert!(has(&fourth, "Programmed=False/RejectedByGateway"));
    assert!(has(&fourth, "Stalled=True/RejectedByGateway"));
    assert_eq!(time(&fourth, "Programmed"), 300);
}

#[test]
fn an_attachment_goes_through_its_phases() {
    let mut world = world();
    world.observed.pods[0].acked_version = None;
    world.attachment(&[], 100);
    assert_eq!(world.phase(), AttachmentPhase::Pending);
    world.observed.pods[0].acked_version = Some(1);
    assert!(has(&world.attachment(&[], 101), "Ready=True/Ready"));
    assert_eq!(world.phase(), AttachmentPhase::Ready);
    world.observed.pods[0].sessions = vec![session(50), session(60)];
    let conditions = world.attachment(&[], 102);
    assert!(has(&conditions, "Connected=True/SessionEstablished"));
    assert_eq!(world.phase(), AttachmentPhase::Connected);
    let status = world.attachment.status.clone().unwrap();
    assert_eq!(status.sessions[0].since.0, at(60));
    assert_eq!(status.last_connected_time.unwrap().0, at(60));
    world.observed.pods[0].sessions.clear();
    assert!(has(
        &world.attachment(&[], 103),
        "Connected=False/NoSession"
    ));
    assert_eq!(world.phase(), AttachmentPhase::Disconnected);
    world.attachment(&[], 104);
    let status = world.attachment.status.clone().unwrap();
    assert_eq!(status.last_connected_time.unwrap().0, at(103));
    world.attachment.spec.suspend = true;
    assert!(has(&world.attachment(&[], 105), "Accepted=False/Suspended"));
    assert_eq!(world.phase(), AttachmentPhase::Suspended);
}

#[test]
fn an_edit_of_something_else_writes_nothing() {
    let mut world = world();
    let (attachment, policy) = (world.attachment(&[], 100), world.policy(100));
    world.snapshot.version = 2;
    world.observed.pods[0].rejected = Some("the new one".to_owned());
    assert_eq!(
        (world.attachment(&[], 200), world.policy(200)),
        (attachment, policy)
    );
    // A new key of its connector is an edit of it.
    world.snapshot.attachments[0].key = masque_model::ConnectorKey::from_bytes([9; 32]);
    assert!(has(
        &world.attachment(&[], 250),
        "Programmed=False/RejectedByGateway"
    ));
    // An edit of the thing itself has to be acknowledged.
    world.observed.pods[0].rejected = None;
    world.attachment.metadata.generation = Some(2);
    world.policy.metadata.generation = Some(2);
    assert!(has(
        &world.attachment(&[], 300),
        "Programmed=False/WaitingForAck"
    ));
    for conditions in world.policy(300) {
        assert!(has(&conditions, "Programmed=False/WaitingForAck"));
    }
}

#[test]
fn addresses_are_left_to_their_own_manager() {
    let mut world = world();
    world.attachment.status = Some(masque_api::ConnectorAttachmentStatus {
        assigned_ip: Some("10.1.100.50".to_owned()),
        assigned_ips: vec!["10.1.100.50".to_owned()],
        ..masque_api::ConnectorAttachmentStatus::default()
    });
    world.attachment(&[], 100);
    let status = world.attachment.status.unwrap();
    assert_eq!((status.assigned_ip, status.assigned_ips.len()), (None, 0));
}

#[test]
fn a_policy_speaks_of_each_target_and_leaves_others_alone() {
    let mut world = world();
    world.policy(100);
    let entries = &mut world.policy.status.as_mut().unwrap().ancestors;
    entries[0].controller_name = "example.com/other".to_owned();
    let foreign = entries[0].clone();
    world.problem(
        Kind::VPCAccessPolicy,
        "web",
        "spec.targetRefs[1].name",
        Reason::TargetNotFound,
        false,
    );
    let conditions = world.policy(101);
    let status = world.policy.status.unwrap();
    assert_eq!(status.ancestors.len(), 3);
    assert_eq!(status.ancestors[0], foreign);
    assert_eq!(status.ancestors[2].ancestor_ref.kind, "ConnectorAttachment");
    assert!(has(&conditions[1], "ResolvedRefs=True/ResolvedRefs"));
    assert!(has(&conditions[2], "ResolvedRefs=False/TargetNotFound"));
}

#[test]
fn endpoints_are_what_clients_dial() {
    let mut world = world();
    let uris = |world: &mut World, service: Value| -> Vec<String> {
        world.observed.service = serde_json::from_value(service).unwrap();
        world.point(100);
        let endpoints = world.point.status.clone().unwrap().endpoints;
        endpoints
            .into_iter()
            .map(|endpoint| endpoint.uri.unwrap_or_default())
            .collect()
    };
    let path = "/.well-known/masque/ip/{target}/{ipproto}/";
    let balancer = json!({
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "lb.example"}]}},
    });
    let expected = [
        format!("https://192.0.2.1:4433{path}"),
        format!("https://vpn.example.com{path}"),
    ];
    assert_eq!(uris(&mut world, balancer), expected);
    let addresses = world.point.status.clone().unwrap().addresses;
    assert_eq!(addresses, ["192.0.2.1", "lb.example"]);
    let inside = json!({"spec": {"type": "ClusterIP", "clusterIPs": ["fd96::1"]}});
    assert_eq!(
        uris(&mut world, inside)[0],
        format!("https://[fd96::1]:4433{path}")
    );
    let nodes = [("n1", "10.0.0.7"), ("n2", "10.0.0.6")]
        .map(|(name, address)| (name.to_owned(), vec![address.parse().unwrap()]));
    world.observed.nodes = Arc::new(nodes.into());
    world.observed.pods[0].node = Some("n1".to_owned());
    let nodes = |policy: &str| {
        json!({"spec": {"type": "NodePort", "externalTrafficPolicy": policy, "ports": [
            {"port": 4433, "protocol": "UDP", "nodePort": 30443},
        ]}})
    };
    let on = |address: &str| format!("https://{address}:30443{path}");
    // A node without a gateway drops what comes under Local.
    assert_eq!(uris(&mut world, nodes("Local"))[0], on("10.0.0.7"));
    assert_eq!(uris(&mut world, nodes("Cluster"))[0], on("10.0.0.6"));
    world.observed.pods[0].terminating = true;
    assert_eq!(uris(&mut world, nodes("Local"))[0], on("10.0.0.6"));
    assert_eq!(
        uris(&mut world, json!({"spec": {"type": "LoadBalancer"}}))[0],
        ""
    );
}

proptest! {
    /// The same input again gives the same status, whatever the pods do.
    #[test]
    fn at_rest_nothing_is_written(
        pods in prop::collection::vec((any::<bool>(), any::<bool>(), 0..3_u64, any::<bool>(), 0..2_usize), 0..4),
        problems in prop::collection::vec((0..Reason::ALL.len(), any::<bool>(), 0..3_usize), 0..3),
        failed in any::<bool>(),
    ) {
        let mut world = world();
        world.observed.pods = pods.iter().enumerate().map(|(i, pod)| PodReport {
            pod: format!("p{i}"),
            ready: pod.0,
            terminating: pod.1,
            acked_version: Some(pod.2),
            rejected: pod.3.then(|| "no".to_owned()),
            sessions: vec![session(5); pod.4],
            ..PodReport::default()
        }).collect();
        world.observed.failed_create = failed.then(|| "quota".to_owned());
        let objects = [
            (Kind::VPCIngressPoint, "prod"),
            (Kind::ConnectorAttachment, "laptop"),
            (Kind::VPCAccessPolicy, "web"),
        ];
        for (reason, error, object) in problems {
            let (kind, name) = objects[object];
            world.problem(kind, name, "spec", Reason::ALL[reason], error);
        }
        let first = (world.point(100), world.attachment(&[], 100), world.policy(100));
        let statuses = (world.point.status.clone(), world.attachment.status.clone());
        // The first call may have seen a session end.
        let second = (world.point(200), world.attachment(&[], 200), world.policy(200));
        prop_assert_eq!(first, second);
        prop_assert_eq!(statuses, (world.point.status.clone(), world.attachment.status.clone()));
        // kstatus: current exactly when Ready, and never both stalled and under way.
        for conditions in [world.point(300), world.attachment(&[], 300)] {
            let is = |type_: &str| conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
            prop_assert!(is("Ready") != (is("Stalled") || is("Reconciling")));
            prop_assert!(!(is("Stalled") && is("Reconciling")));
        }
    }
}
