//! Statuses of every object: what [`status`] says of what was seen, written where it differs.

mod scene;
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
use kube::api::DynamicObject;
use masque_api::ConditionType;
use masque_controller::{
    Problem,
    children::{INGRESS_POINT_LABEL, child_name, label_value},
    status::{Observed, PodReport, SessionReport, failed_create},
};
use masque_model::ObjectName;
use masque_stream::{Hub, PodState};
use scene::AllWanted;
use serde::de::DeserializeOwned;
use unreadable::Unreadable;

use crate::{
    fingerprints::{Fingerprints, by_listener},
    index::{Index, name_of},
    kinds::ChildKind,
    lookups::{Nodes, has_node_port},
    namespaces::Namespaces,
    status_writer::{STATUS_MANAGER, StatusWriter},
    versions::Versions,
    view::View,
    writer::Writer,
};

/// A pod whose stream is closed for so long is away; one that only dials again is not.
const REDIAL: Duration = Duration::from_secs(15);

/// What statuses are made of, besides the objects.
pub(crate) struct Facts<'a> {
    /// What every namespace came to.
    pub(crate) namespaces: &'a Namespaces,
    /// What else is wrong, by namespace.
    pub(crate) problems: BTreeMap<String, Vec<Problem>>,
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
    /// What the statuses of a namespace were made of, where nothing was left to be written.
    told: BTreeMap<String, Told>,
}

/// All that the statuses of one namespace are made of.
#[derive(Debug, PartialEq)]
struct Told {
    /// The number of its work.
    work: u64,
    problems: Vec<Problem>,
    observed: BTreeMap<ObjectName, Observed>,
    young: bool,
}

impl Statuses {
    /// Statuses of objects that nobody looked at yet; `pod` names this process in events.
    pub(crate) fn new(writer: Writer, pod: &str) -> Self {
        Self {
            statuses: StatusWriter::new(writer.clone(), pod),
            writer,
            unreadable: Unreadable::default(),
            told: BTreeMap::new(),
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
        mut facts: Facts<'_>,
    ) -> (Option<Instant>, usize) {
        let wanted = self.wanted(view, &mut facts);
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

    /// What differs, of the namespaces where anything is not as it was told.
    fn wanted(&mut self, view: &View, facts: &mut Facts<'_>) -> AllWanted {
        self.told
            .retain(|namespace, _| view.namespaces.contains_key(namespace));
        let mut observed = self.observe(view, facts);
        let mut all = AllWanted::default();
        for namespace in view.namespaces.keys() {
            let Some(work) = facts.namespaces.find(namespace) else {
                continue;
            };
            let now = Told {
                work: work.number,
                problems: facts.problems.remove(namespace).unwrap_or_default(),
                observed: observed.remove(namespace).unwrap_or_default(),
                young: facts.young,
            };
            if self.told.get(namespace) == Some(&now) {
                continue;
            }
            let before = all.len();
            all.add(work, &now, facts);
            if all.len() == before {
                self.told.insert(namespace.clone(), now);
            } else {
                self.told.remove(namespace);
            }
        }
        all
    }

    /// What was seen of every ingress point besides its resources, by namespace.
    fn observe(
        &self,
        view: &View,
        facts: &Facts<'_>,
    ) -> BTreeMap<String, BTreeMap<ObjectName, Observed>> {
        let index = self.writer.index.lock();
        let mut pods = pods(&index);
        let mut all: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for point in &view.points {
            let name = name_of(&point.metadata);
            let child = ObjectName::new(&name.namespace, child_name(&name.name));
            let deployment: Option<Deployment> = typed(&index, ChildKind::Deployment, &child);
            let status = deployment.as_ref().and_then(|it| it.status.as_ref());
            let label = ObjectName::new(&name.namespace, label_value(&name.name));
            let mut reports = pods.remove(&label).unwrap_or_default();
            merge(&mut reports, &name, facts.hub);
            let refused = facts.refused.get(&name).cloned();
            let nodes = has_node_port(point).then_some(facts.nodes);
            let observed = Observed {
                pods: reports,
                replicas: status.and_then(|status| status.replicas).unwrap_or(0),
                ready_replicas: status.and_then(|status| status.ready_replicas).unwrap_or(0),
                failed_create: refused.or_else(|| failed_create(deployment.as_ref()?)),
                service: typed::<Service>(&index, ChildKind::Service, &child),
                nodes: nodes.cloned().unwrap_or_default(),
                snapshot_hash: facts.versions.hash(&name),
                certificate_sha256: by_listener(point, facts.fingerprints),
            };
            let of_one = all.entry(name.namespace.clone()).or_default();
            of_one.insert(name, observed);
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

/// What is wrong, by namespace.
pub(crate) fn by_namespace<'a>(
    problems: impl Iterator<Item = &'a Problem>,
) -> BTreeMap<String, Vec<Problem>> {
    let mut all: BTreeMap<String, Vec<Problem>> = BTreeMap::new();
    for problem in problems {
        if let Some(object) = &problem.object {
            let namespace = object.name.namespace.clone();
            all.entry(namespace).or_default().push(problem.clone());
        }
    }
    all
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
