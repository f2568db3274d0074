//! Statuses of every object: what [`status`] says of what was seen, written where it differs.

mod unreadable;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Service},
    },
    jiff::Timestamp,
};
use kube::{Resource, api::DynamicObject};
use masque_api::{
    ConditionType, ConnectorAttachment, ConnectorAttachmentStatus, VPCAccessPolicy, VPCIngressPoint,
};
use masque_controller::{
    Kind, ObjectRef, Problem,
    children::{INGRESS_POINT_LABEL, child_name, label_value},
    ipam::AssignOutcome,
    status::{
        Observed, PodReport, PointState, SessionReport, attachment_status, by_object,
        failed_create, ingress_point_status, policy_status, sessions,
    },
};
use masque_model::{ObjectName, Snapshot};
use masque_stream::{Hub, PodState};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use unreadable::Unreadable;

use crate::{
    fingerprints::{Fingerprints, by_listener},
    index::{Index, name_of},
    kinds::ChildKind,
    lookups::Nodes,
    status_writer::{STATUS_MANAGER, StatusWriter, Wanted},
    versions::Versions,
    view::View,
    writer::Writer,
};

/// A pod whose stream is closed for so long is away; one that only dials again is not.
const REDIAL: Duration = Duration::from_secs(15);

/// What statuses are made of, besides the objects.
pub(crate) struct Facts<'a> {
    /// What is wrong.
    pub(crate) problems: &'a [Problem],
    /// What became of addresses.
    pub(crate) outcomes: &'a [AssignOutcome],
    /// The Snapshots in force.
    pub(crate) versions: &'a Versions,
    /// What pods say.
    pub(crate) hub: &'a Hub,
    /// Attachments whose addresses were written a moment ago: the next pass has more to say.
    pub(crate) fresh: &'a BTreeSet<ObjectName>,
    /// Addresses of nodes.
    pub(crate) nodes: &'a Nodes,
    /// Children that the API server refused, by ingress point.
    pub(crate) refused: &'a BTreeMap<ObjectName, String>,
    /// Fingerprints of certificates, by Secret.
    pub(crate) fingerprints: &'a Fingerprints,
    /// This leader does not know yet what pods told the one before.
    pub(crate) young: bool,
    /// Now.
    pub(crate) now: Timestamp,
}

/// Keeps statuses true.
pub(crate) struct Statuses {
    writer: Writer,
    statuses: StatusWriter,
    unreadable: Unreadable,
}

impl Statuses {
    /// Statuses of objects that nobody looked at yet; `pod` names this process in events.
    pub(crate) fn new(writer: Writer, pod: &str) -> Self {
        Self {
            statuses: StatusWriter::new(writer.clone(), pod),
            writer,
            unreadable: Unreadable::default(),
        }
    }

    /// A round of writes may take so long from now on.
    pub(crate) fn allow(&mut self, budget: Duration) {
        self.statuses.allow(budget);
    }

    /// Writes what differs; when to look again, and how many writes wait.
    pub(crate) async fn write(
        &mut self,
        view: &View,
        facts: &Facts<'_>,
    ) -> (Option<Instant>, usize) {
        let observed = self.observe(view, facts);
        let wanted = wanted(view, facts, &observed);
        let rounds = [
            self.statuses
                .round(wanted.points, STATUS_MANAGER, |index| &mut index.points)
                .await,
            self.statuses
                .round(wanted.attachments, STATUS_MANAGER, |index| {
                    &mut index.attachments
                })
                .await,
            self.statuses
                .round(wanted.policies, STATUS_MANAGER, |index| &mut index.policies)
                .await,
            self.unreadable
                .round(&self.writer, &self.statuses, facts.now)
                .await,
        ];
        self.statuses.tidy();
        self.count();
        let at = rounds.iter().filter_map(|(at, _)| *at).min();
        (at, rounds.iter().map(|(_, waiting)| waiting).sum())
    }

    /// What was seen of every ingress point besides its resources.
    fn observe(&self, view: &View, facts: &Facts<'_>) -> BTreeMap<ObjectName, Observed> {
        let index = self.writer.index.lock();
        let mut pods = pods(&index);
        let mut all = BTreeMap::new();
        for point in &view.points {
            let name = name_of(&point.metadata);
            let child = ObjectName::new(&name.namespace, child_name(&name.name));
            let deployment: Option<Deployment> = typed(&index, ChildKind::Deployment, &child);
            let status = deployment.as_ref().and_then(|it| it.status.as_ref());
            let label = ObjectName::new(&name.namespace, label_value(&name.name));
            let mut reports = pods.remove(&label).unwrap_or_default();
            merge(&mut reports, &name, facts.hub);
            let refused = facts.refused.get(&name).cloned();
            let observed = Observed {
                pods: reports,
                replicas: status.and_then(|status| status.replicas).unwrap_or(0),
                ready_replicas: status.and_then(|status| status.ready_replicas).unwrap_or(0),
                failed_create: refused.or_else(|| failed_create(deployment.as_ref()?)),
                service: typed::<Service>(&index, ChildKind::Service, &child),
                nodes: facts.nodes.clone(),
                snapshot_hash: facts.versions.hash(&name),
                certificate_sha256: by_listener(point, facts.fingerprints),
            };
            all.insert(name, observed);
        }
        all
    }

    fn count(&self) {
        let index = self.writer.index.lock();
        let points = index.points.read();
        let points = points.map(|(_, it)| it.status.as_ref().map(|it| it.conditions.as_slice()));
        self.gauge("VPCIngressPoint", points);
        let attachments = index.attachments.read();
        let attachments =
            attachments.map(|(_, it)| it.status.as_ref().map(|it| it.conditions.as_slice()));
        self.gauge("ConnectorAttachment", attachments);
        let policies = index.policies.len();
        let gauge = self
            .writer
            .metrics
            .managed
            .with_label_values(&["VPCAccessPolicy", ""]);
        gauge.set(i64::try_from(policies).unwrap_or(i64::MAX));
    }

    fn gauge<'a>(
        &self,
        kind: &str,
        conditions: impl Iterator<
            Item = Option<&'a [k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]>,
        >,
    ) {
        let (mut ready, mut not_ready) = (0, 0);
        for conditions in conditions {
            let mut conditions = conditions.unwrap_or_default().iter();
            let fine = |c: &k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
                c.type_ == ConditionType::Ready.as_str() && c.status == "True"
            };
            if conditions.any(fine) {
                ready += 1;
            } else {
                not_ready += 1;
            }
        }
        let managed = &self.writer.metrics.managed;
        managed.with_label_values(&[kind, "true"]).set(ready);
        managed.with_label_values(&[kind, "false"]).set(not_ready);
    }
}

/// Statuses as they should be.
struct AllWanted {
    points: Vec<Wanted>,
    attachments: Vec<Wanted>,
    policies: Vec<Wanted>,
}

fn wanted(view: &View, facts: &Facts<'_>, observed: &BTreeMap<ObjectName, Observed>) -> AllWanted {
    let problems = by_object(facts.problems);
    let about = |kind: Kind, name: &ObjectName| -> &[&Problem] {
        let key = ObjectRef::new(kind, name.clone());
        problems.get(&key).map_or(&[], Vec::as_slice)
    };
    let states = states(facts.versions, observed);
    let sessions = sessions(observed.values().flat_map(|observed| &observed.pods));
    let mut outcomes: BTreeMap<&ObjectName, Vec<&AssignOutcome>> = BTreeMap::new();
    for outcome in facts.outcomes {
        outcomes
            .entry(&outcome.attachment)
            .or_default()
            .push(outcome);
    }
    let nothing = Observed::default();
    let points = view.points.iter().filter_map(|point| {
        let name = name_of(&point.metadata);
        let problems = about(Kind::VPCIngressPoint, &name);
        let snapshot = facts.versions.find(&name).map(|snapshot| &**snapshot);
        let seen = observed.get(&name).unwrap_or(&nothing);
        if facts.young && same_as_before(point, snapshot) && unheard(&seen.pods) {
            return None;
        }
        let status = ingress_point_status(point, problems, snapshot, seen, facts.now);
        write(&**point, point.status.as_ref(), &status)
    });
    let settled = view
        .attachments
        .iter()
        .map(|attachment| (name_of(&attachment.metadata), attachment))
        .filter(|(name, _)| !facts.fresh.contains(name));
    let attachments = settled.filter_map(|(name, attachment)| {
        let points = of_vpc(attachment, &states);
        let had = attachment.status.as_ref();
        let had = had.is_some_and(|status| !status.sessions.is_empty());
        let lost = had && !sessions.contains_key(&name);
        if facts.young && lost && points.iter().any(|point| unheard(point.pods)) {
            return None;
        }
        let status = attachment_status(
            attachment,
            about(Kind::ConnectorAttachment, &name),
            outcomes.get(&name).map_or(&[], Vec::as_slice),
            &points,
            sessions.get(&name).map_or(&[], Vec::as_slice),
            facts.now,
        );
        // The addresses are another manager's.
        let current = attachment
            .status
            .clone()
            .map(|status| ConnectorAttachmentStatus {
                assigned_ip: None,
                assigned_ips: Vec::new(),
                ..status
            });
        write(&**attachment, current.as_ref(), &status)
    });
    let policies = view
        .policies
        .iter()
        .filter_map(|policy| policy_wanted(policy, &about, &states, facts));
    AllWanted {
        points: points.collect(),
        attachments: attachments.collect(),
        policies: policies.collect(),
    }
}

fn policy_wanted<'a>(
    policy: &VPCAccessPolicy,
    about: &impl Fn(Kind, &ObjectName) -> &'a [&'a Problem],
    states: &BTreeMap<&str, Vec<PointState<'_>>>,
    facts: &Facts<'_>,
) -> Option<Wanted> {
    let name = name_of(&policy.metadata);
    let points = states
        .get(name.namespace.as_str())
        .map_or(&[][..], Vec::as_slice);
    let problems = about(Kind::VPCAccessPolicy, &name);
    let status = policy_status(policy, problems, points, facts.now);
    let wanted = write(policy, policy.status.as_ref(), &status)?;
    Some(Wanted {
        // The list is one value, with entries of other controllers in it.
        version: policy.metadata.resource_version.clone(),
        ..wanted
    })
}

/// Whether the status is about the Snapshot in force: of another one, pods have said nothing yet
/// to anybody.
fn same_as_before(point: &VPCIngressPoint, snapshot: Option<&Snapshot>) -> bool {
    let told = point.status.as_ref();
    let told = told.and_then(|status| status.snapshot.as_ref());
    let version = snapshot.and_then(|snapshot| i64::try_from(snapshot.version).ok());
    told.is_some_and(|told| Some(told.version) == version)
}

/// Whether a pod that is ready has said nothing to this leader yet.
fn unheard(pods: &[PodReport]) -> bool {
    pods.iter().any(|pod| {
        let silent = pod.acked_version.is_none() && pod.rejected.is_none();
        pod.ready && !pod.terminating && silent
    })
}

/// The ingress points in force, by namespace.
fn states<'a>(
    versions: &'a Versions,
    observed: &'a BTreeMap<ObjectName, Observed>,
) -> BTreeMap<&'a str, Vec<PointState<'a>>> {
    let mut states: BTreeMap<&str, Vec<PointState<'_>>> = BTreeMap::new();
    for (name, observed) in observed {
        if let Some(snapshot) = versions.find(name) {
            let snapshot: &Snapshot = snapshot;
            states
                .entry(name.namespace.as_str())
                .or_default()
                .push(PointState {
                    snapshot,
                    pods: &observed.pods,
                });
        }
    }
    states
}

/// The ingress points of an attachment's VPC in its namespace.
fn of_vpc<'a>(
    attachment: &ConnectorAttachment,
    states: &BTreeMap<&str, Vec<PointState<'a>>>,
) -> Vec<PointState<'a>> {
    let namespace = attachment.metadata.namespace.as_deref().unwrap_or_default();
    let vpc = &attachment.spec.vpc_ref;
    let vpc = ObjectName::new(vpc.namespace.as_deref().unwrap_or(namespace), &vpc.name);
    let points = states.get(namespace).map_or(&[][..], Vec::as_slice);
    points
        .iter()
        .filter(|point| point.snapshot.vpc == vpc)
        .copied()
        .collect()
}

/// A status to write; `None` when it is there already, which is true of nearly all of them and
/// costs no JSON.
fn write<K: Resource, S: Serialize + PartialEq>(
    object: &K,
    current: Option<&S>,
    status: &S,
) -> Option<Wanted> {
    if current == Some(status) {
        return None;
    }
    // Statuses always have a JSON form.
    let json = |status: Result<Value, serde_json::Error>| status.unwrap_or_default();
    let wanted = Wanted {
        name: name_of(object.meta()),
        uid: object.meta().uid.clone(),
        version: None,
        current: current.map_or(Value::Null, |current| json(serde_json::to_value(current))),
        status: json(serde_json::to_value(status)),
    };
    wanted.differs().then_some(wanted)
}

/// Gateway pods by namespace and label.
fn pods(index: &Index) -> BTreeMap<ObjectName, Vec<PodReport>> {
    let mut pods: BTreeMap<ObjectName, Vec<PodReport>> = BTreeMap::new();
    let shelf = index.children.get(&ChildKind::Pod);
    for (name, object) in shelf.iter().flat_map(|shelf| shelf.read()) {
        let labels = object.metadata.labels.as_ref();
        let Some(label) = labels.and_then(|labels| labels.get(INGRESS_POINT_LABEL)) else {
            continue;
        };
        let Some(pod) = parsed::<Pod>(object) else {
            continue;
        };
        let key = ObjectName::new(&name.namespace, label);
        pods.entry(key).or_default().push(PodReport::new(&pod));
    }
    pods
}

/// Adds what pods say over the stream; what pods that are gone said is forgotten.
fn merge(reports: &mut [PodReport], point: &ObjectName, hub: &Hub) {
    for state in hub.reports(point) {
        match reports.iter_mut().find(|report| report.pod == state.pod) {
            Some(report) => say(report, state),
            None if !state.connected => hub.forget(point, &state.pod),
            None => {}
        }
    }
}

fn say(report: &mut PodReport, state: PodState) {
    report.acked_version = state.acked;
    report.rejected = state.rejected.map(|(_, reason)| reason);
    // Sessions of a pod that stays away may be over. Streams are opened anew every half an hour, and
    // that moment is no reason to say of all sessions that they ended and began.
    if state.away.is_none_or(|away| away < REDIAL) {
        let sessions = state.sessions.into_iter();
        report.sessions = sessions
            .map(|session| SessionReport {
                attachment: session.attachment,
                transport: session.transport,
                since_unix_s: session.since_unix_s,
            })
            .collect();
    }
}

fn typed<K: DeserializeOwned>(index: &Index, kind: ChildKind, name: &ObjectName) -> Option<K> {
    parsed(index.child(kind, name)?)
}

fn parsed<K: DeserializeOwned>(object: &DynamicObject) -> Option<K> {
    let value = serde_json::to_value(object).ok()?;
    serde_json::from_value(value).ok()
}

#[cfg(test)]
mod tests;
