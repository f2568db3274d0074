//! Objects as an API server gives them: compiled, addressed, turned into children and statuses.
//!
//! The bytes choose objects and changes to them, so that names, VPCs, keys and pools meet often; an
//! object that does not fit its type is unreadable, as it is for the operator.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;
use masque_api::{Connector, ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_controller::{
    Compiled, Kind, ObjectRef, Options, Points, Problem, Resources, Snapshot, Sourced,
    children::{self, ChildOptions},
    compile,
    ipam::{self, Held, Ledger},
    status::{
        Observed, PodReport, PointState, attachment_status, by_object, ingress_point_status,
        policy_status,
    },
};
use masque_model::ObjectName;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::input::Input;

const NOW_UNIX_S: u64 = 1_800_000_000;

/// Objects of one run.
const MAX_OBJECTS: usize = 32;

/// Sorted, as problems are.
const NAMESPACES: [&str; 2] = ["default", "team"];

/// Names of one namespace, and of them those that VPCs have.
const NAMES: u8 = 8;
const VPCS: u8 = 2;

/// Keys that connectors have by themselves.
const KEYS: u8 = 6;

/// Of the objects, this share has no changes: too many leave nothing that fits together.
const UNCHANGED: u8 = 11;
const CHANGES: u8 = 15;

/// Passes after which addresses are given and nothing is written any more.
const SETTLED_AFTER: usize = 6;

/// The longest message of a condition, in bytes.
const MAX_MESSAGE_BYTES: usize = 1024;

/// Kinds as the bytes number them.
const KINDS: [Kind; 4] = [
    Kind::VPCIngressPoint,
    Kind::Connector,
    Kind::ConnectorAttachment,
    Kind::VPCAccessPolicy,
];

/// Fields that are changed, of any kind.
const FIELDS: [&str; 40] = [
    "/metadata/labels/team",
    "/metadata/creationTimestamp",
    "/metadata/resourceVersion",
    "/spec/vpcRef/name",
    "/spec/vpcRef/namespace",
    "/spec/listeners/0/port",
    "/spec/listeners/0/protocol",
    "/spec/listeners/0/hostname",
    "/spec/listeners/0/pathTemplates",
    "/spec/listeners/0/tls",
    "/spec/addressPools/0/cidr",
    "/spec/addressPools/0/reserved",
    "/spec/routes",
    "/spec/fabric/provider",
    "/spec/fabric/static/localSID",
    "/spec/fabric/static/localSIDIPv4",
    "/spec/fabric/static/peers",
    "/spec/fabric/static/routes/0/prefix",
    "/spec/attachmentSelector",
    "/spec/sessions",
    "/spec/replicas",
    "/spec/autoscaling",
    "/spec/drain/deadline",
    "/spec/drain/minimum",
    "/spec/mtu",
    "/spec/service/type",
    "/spec/podTemplate/privilegedInit",
    "/spec/connectorRef/name",
    "/spec/ipAllocation",
    "/spec/allowedRoutes",
    "/spec/suspend",
    "/spec/limits",
    "/status/assignedIPs",
    "/status/connectionDetails/publicKey/id",
    "/spec/targetRefs/0/kind",
    "/spec/targetRefs/0/name",
    "/spec/rules/0/action",
    "/spec/rules/0/connectors",
    "/spec/rules/0/ports",
    "/spec/rules/0/prefixes",
];

/// What fields are set to; a chunk of the bytes itself is one more choice.
const VALUES: [&str; 44] = [
    "null",
    "0",
    "1",
    "-1",
    "65535",
    "9223372036854775807",
    "true",
    "\"\"",
    "[]",
    "{}",
    "\"a\"",
    "\"b\"",
    "\"vpc-a\"",
    "\"vpc-b\"",
    "\"other\"",
    "\"Static\"",
    "\"HTTP2\"",
    "\"QUIC\"",
    "\"Deny\"",
    "\"ConnectorAttachment\"",
    "\"NodePort\"",
    "\"30s\"",
    "\"99999h99999h99999h99999h\"",
    "\"10.0.100.0/24\"",
    "\"10.0.100.0/30\"",
    "\"10.0.100.1/24\"",
    "\"fd20::/64\"",
    "\"::/0\"",
    "\"fd00::1\"",
    "\"2020-01-01T00:00:00Z\"",
    "\"0000000000000000000000000000000000000000000000000000000000000000\"",
    "\"0505050505050505050505050505050505050505050505050505050505050505\"",
    "[\"10.0.100.9\"]",
    "[\"10.0.100.9\", \"fd20::9\", \"x\"]",
    "[\"10.0.0.0/16\", \"fd20::/64\", \"10.0.0.0/8\"]",
    "{\"mode\": \"Static\", \"addresses\": [\"10.0.100.9\"]}",
    "{\"families\": [\"IPv6\"]}",
    "{\"matchLabels\": {\"team\": \"a\"}}",
    "{\"selector\": {\"matchExpressions\": [{\"key\": \"team\", \"operator\": \"Exists\"}]}}",
    "{\"names\": [\"a\", \"b\"]}",
    "{\"maxReplicas\": 8, \"targetSessions\": 1}",
    "{\"idleTimeout\": \"0\", \"addressQuarantine\": \"1h\", \"maxTotal\": -5}",
    "{\"certificateRefs\": [{\"name\": \"a\"}, {\"name\": \"web\"}]}",
    "[{\"protocol\": \"TCP\", \"port\": 9, \"endPort\": 1}, {\"protocol\": 300}]",
];

/// Objects of one run, without an order.
#[derive(Default)]
struct World {
    points: BTreeMap<ObjectName, VPCIngressPoint>,
    connectors: BTreeMap<ObjectName, Connector>,
    attachments: BTreeMap<ObjectName, ConnectorAttachment>,
    policies: BTreeMap<ObjectName, VPCAccessPolicy>,
    unreadable: Vec<(Kind, ObjectName)>,
}

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.u8();
    let mut world = World::default();
    for _ in 0..MAX_OBJECTS {
        if input.is_empty() {
            break;
        }
        world.take(&mut input);
    }
    let mut options = match flags & 1 {
        0 => Options::default(),
        _ => Options::standalone(),
    };
    options.secrets.insert(ObjectName::new("team", "web"));
    let resources = world.resources(false);
    let compiled = compile(&resources, NOW_UNIX_S, &options, &[]);
    let other = compile(&world.resources(true), NOW_UNIX_S, &options, &[]);
    assert_eq!(compiled, other, "order");
    let again = compile(&resources, NOW_UNIX_S, &options, &compiled.snapshots);
    assert_eq!(compiled, again, "again");
    if !options.cross_namespace_vpcs {
        for previous in [&[][..], &compiled.snapshots] {
            let apart = world.apart(&options, previous);
            assert_eq!(unhinted(&compiled), unhinted(&apart), "apart");
        }
    }
    let blind = Resources {
        incomplete: true,
        ..Resources::default()
    };
    let kept = compile(&blind, NOW_UNIX_S, &options, &compiled.snapshots);
    assert_eq!(kept.snapshots, compiled.snapshots, "nothing can be read");
    assert!(compiled.snapshots.len() <= world.points.len());
    for problem in &compiled.problems {
        assert!(!problem.message.is_empty() && problem.object.is_some());
    }
    world.children();
    let given = addresses(&mut world, &compiled.snapshots);
    world.statuses(&compiled.problems, &given);
    let worth =
        |snapshot: &Snapshot| !snapshot.attachments.is_empty() && !snapshot.rules.is_empty();
    compiled.snapshots.iter().any(worth)
}

impl World {
    /// One object: kind and name, then changes.
    fn take(&mut self, input: &mut Input<'_>) {
        let kind = KINDS[usize::from(input.u8()) % KINDS.len()];
        let which = input.u8();
        let number = which % NAMES;
        let namespace = NAMESPACES[usize::from(which < 0xf0)];
        let name = ObjectName::new(namespace, char::from(b'a' + number));
        let mut object = template(kind, &name, number);
        for _ in UNCHANGED..input.u8() % (CHANGES + 1) {
            let field = FIELDS[usize::from(input.u8()) % FIELDS.len()];
            let value = match VALUES.get(usize::from(input.u8()) % (VALUES.len() + 4)) {
                Some(text) => serde_json::from_str(text).expect("a JSON text"),
                None => json!(String::from_utf8_lossy(input.chunk())),
            };
            set(&mut object, field, value);
        }
        let unreadable = match kind {
            Kind::VPCIngressPoint => put(&mut self.points, &name, object),
            Kind::Connector => put(&mut self.connectors, &name, object),
            Kind::ConnectorAttachment => put(&mut self.attachments, &name, object),
            _ => put(&mut self.policies, &name, object),
        };
        if unreadable {
            self.unreadable.push((kind, name));
        }
    }

    /// What the compiler gets, in one of two orders.
    fn resources(&self, turned: bool) -> Resources {
        fn list<T: Clone>(objects: &BTreeMap<ObjectName, T>, turned: bool) -> Vec<Sourced<T>> {
            let mut list: Vec<_> = objects.values().cloned().map(Sourced::new).collect();
            if turned {
                list.reverse();
            }
            list
        }
        Resources {
            ingress_points: list(&self.points, turned),
            attachments: list(&self.attachments, turned),
            policies: list(&self.policies, turned),
            connectors: list(&self.connectors, turned),
            unreadable: self.unreadable.iter().cloned().collect(),
            ..Resources::default()
        }
    }

    /// What the compiler makes of each namespace by itself, together.
    fn apart(&self, options: &Options, previous: &[Snapshot]) -> Compiled {
        let resources = self.resources(false);
        let points = Points::check(&resources, options, previous);
        let mut parts = points.by_namespace();
        let mut together = Compiled::default();
        for namespace in NAMESPACES {
            let resources = self.of_one(namespace).resources(false);
            let part = parts.remove(namespace).unwrap_or_default();
            let previous = previous.iter();
            let previous = previous.filter(|it| it.ingress_point.namespace == namespace);
            let compiled = part.compile(&resources, NOW_UNIX_S, options, previous);
            together.snapshots.extend(compiled.snapshots);
            together.problems.extend(compiled.problems);
        }
        assert!(parts.is_empty(), "another namespace");
        together.problems.sort();
        together
    }

    /// One namespace.
    fn of_one(&self, namespace: &str) -> Self {
        fn list<T: Clone>(
            all: &BTreeMap<ObjectName, T>,
            namespace: &str,
        ) -> BTreeMap<ObjectName, T> {
            let here = all.iter().filter(|(name, _)| name.namespace == namespace);
            here.map(|(name, object)| (name.clone(), object.clone()))
                .collect()
        }
        let unreadable = self.unreadable.iter();
        let unreadable = unreadable.filter(|(_, name)| name.namespace == namespace);
        Self {
            points: list(&self.points, namespace),
            connectors: list(&self.connectors, namespace),
            attachments: list(&self.attachments, namespace),
            policies: list(&self.policies, namespace),
            unreadable: unreadable.cloned().collect(),
        }
    }

    /// Children of every ingress point, also of those that cannot be in force.
    fn children(&self) {
        let options = ChildOptions::default();
        for (name, point) in &self.points {
            let built = children::build(point, &options);
            assert_eq!(built, children::build(point, &options), "{name}");
            let child = built.deployment.metadata.name.unwrap_or_default();
            assert!(child.len() <= 52 && !child.is_empty(), "{child}");
            assert_eq!(built.service.metadata.name.as_ref(), Some(&child));
            let grace = built.deployment.spec.and_then(|spec| spec.template.spec);
            let grace_s = grace.and_then(|pod| pod.termination_grace_period_seconds);
            assert!(grace_s.is_some_and(|seconds| seconds > 0), "{name}");
        }
    }

    /// Statuses say the same the second time, in messages that people read.
    fn statuses(&self, problems: &[Problem], snapshots: &[Snapshot]) {
        let problems = by_object(problems);
        let about = |kind: Kind, name: &ObjectName| -> &[&Problem] {
            let found = problems.get(&ObjectRef::new(kind, name.clone()));
            found.map_or(&[], Vec::as_slice)
        };
        let observed = Observed {
            pods: vec![PodReport {
                pod: "p".to_owned(),
                ready: true,
                acked_version: Some(1),
                ..PodReport::default()
            }],
            ..Observed::default()
        };
        let states: Vec<_> = snapshots
            .iter()
            .map(|snapshot| PointState {
                snapshot,
                pods: &observed.pods,
            })
            .collect();
        for (name, point) in &self.points {
            let problems = about(Kind::VPCIngressPoint, name);
            let snapshot = snapshots.iter().find(|s| s.ingress_point == *name);
            twice(point, |point, now| {
                let status = ingress_point_status(point, problems, snapshot, &observed, now);
                assert!(status.conditions.iter().all(|c| short(&c.message)));
                point.status = Some(status);
            });
        }
        for (name, attachment) in &self.attachments {
            let problems = about(Kind::ConnectorAttachment, name);
            twice(attachment, |attachment, now| {
                let status = attachment_status(attachment, problems, &[], &states, &[], now);
                assert!(status.conditions.iter().all(|c| short(&c.message)));
                attachment.status = Some(status);
            });
        }
        for (name, policy) in &self.policies {
            let problems = about(Kind::VPCAccessPolicy, name);
            twice(policy, |policy, now| {
                policy.status = Some(policy_status(policy, problems, &states, now));
            });
        }
    }
}

/// Without hints, which may speak of other namespaces.
fn unhinted(compiled: &Compiled) -> Compiled {
    let mut compiled = compiled.clone();
    for problem in &mut compiled.problems {
        problem.hint.clear();
    }
    compiled
}

/// Gives addresses until nothing is left to write; the Snapshots as they are then.
fn addresses(world: &mut World, snapshots: &[Snapshot]) -> Vec<Snapshot> {
    let mut ledgers: BTreeMap<ObjectName, Ledger> = BTreeMap::new();
    let mut before = Held::default();
    for pass in 0.. {
        let held = Held::new(world.attachments.values(), before.seen_version);
        let mut given = snapshots.to_vec();
        let assigned = ipam::assign(&mut given, &held, &before, &ledgers, NOW_UNIX_S);
        one_owner_each(&given);
        if assigned.ledgers.is_empty() && assigned.writes.is_empty() {
            return given;
        }
        assert!(pass < SETTLED_AFTER, "{assigned:#?}");
        for ledger in assigned.ledgers.values() {
            assert!(ledger.claims.len() <= ipam::MAX_CLAIMS);
            assert!(ledger.resting.len() <= ipam::MAX_RESTING);
        }
        ledgers.extend(assigned.ledgers);
        let mut version = held.seen_version;
        for (name, write) in assigned.writes {
            let attachment = world.attachments.get_mut(&name).expect("one that is there");
            version += 1;
            attachment.metadata.resource_version = Some(version.to_string());
            let texts = write.addresses.iter().map(ToString::to_string).collect();
            attachment.status.get_or_insert_default().assigned_ips = texts;
        }
        before = held;
    }
    Vec::new()
}

fn one_owner_each(snapshots: &[Snapshot]) {
    let mut owners = BTreeMap::new();
    for snapshot in snapshots {
        for attachment in &snapshot.attachments {
            for address in &attachment.addresses {
                let owner = owners.insert((&snapshot.vpc, address), &attachment.name);
                let other = owner.filter(|owner| **owner != attachment.name);
                assert!(other.is_none(), "{address}: {other:?}, {}", attachment.name);
            }
        }
    }
}

/// Writes a status into an object twice, later the second time.
fn twice<T: Clone + PartialEq + std::fmt::Debug>(object: &T, write: impl Fn(&mut T, Timestamp)) {
    let mut first = object.clone();
    // A session that was open before has ended in the first.
    write(&mut first, Timestamp::UNIX_EPOCH);
    write(&mut first, Timestamp::UNIX_EPOCH);
    let mut second = first.clone();
    write(&mut second, Timestamp::MAX);
    assert_eq!(first, second);
}

fn short(message: &str) -> bool {
    message.len() <= MAX_MESSAGE_BYTES
}

/// Whether the object does not fit its type.
fn put<T: DeserializeOwned>(
    map: &mut BTreeMap<ObjectName, T>,
    name: &ObjectName,
    object: Value,
) -> bool {
    match serde_json::from_value(object) {
        Ok(object) => {
            map.insert(name.clone(), object);
            false
        }
        Err(_) => map.remove(name).is_none(),
    }
}

/// Sets a field, and makes the objects around it; does nothing where lists are too short.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut place = object;
    for key in pointer.split('/').skip(1) {
        place = match place {
            Value::Object(map) => map.entry(key).or_insert_with(|| json!({})),
            Value::Array(list) => match key.parse().ok().and_then(|i: usize| list.get_mut(i)) {
                Some(place) => place,
                None => return,
            },
            _ => return,
        };
    }
    *place = value;
}

/// A good object.
fn template(kind: Kind, name: &ObjectName, number: u8) -> Value {
    let vpc = json!({"name": format!("vpc-{}", char::from(b'a' + number % VPCS))});
    let (spec, status) = match kind {
        Kind::VPCIngressPoint => (
            json!({
                "vpcRef": vpc,
                "listeners": [{"name": "public", "port": 4433 + u16::from(number)}],
                "addressPools": [
                    {"cidr": format!("10.{number}.100.0/{}", 28 + number % 3)},
                    {"cidr": format!("fd20:{number}::/64")},
                ],
                "routes": [format!("10.{number}.0.0/16")],
                "fabric": {"provider": "Static", "static": {
                    "localSID": format!("fd00::{number}:1"),
                    "sourceAddress": "fd00::9",
                    "routes": [{"prefix": format!("10.{number}.0.0/16"), "sid": "fd00::7"}],
                }},
            }),
            json!({}),
        ),
        Kind::Connector => (
            json!({"connectorClassName": "datum-connect"}),
            json!({"connectionDetails": {"type": "PublicKey", "publicKey": {
                "id": format!("{:02x}", number % KEYS + 5).repeat(32), "homeRelay": "",
            }}}),
        ),
        Kind::ConnectorAttachment => (
            json!({"connectorRef": {"name": name.name}, "vpcRef": vpc}),
            json!({}),
        ),
        _ => (
            json!({
                "targetRefs": [{"kind": "VPCIngressPoint", "name": name.name}],
                "rules": [{"name": "web"}],
            }),
            json!({}),
        ),
    };
    json!({
        "apiVersion": masque_api::API_VERSION,
        "kind": kind.as_str(),
        "metadata": {"name": name.name, "namespace": name.namespace, "resourceVersion": "7"},
        "spec": spec,
        "status": status,
    })
}
