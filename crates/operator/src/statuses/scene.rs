//! The statuses of one namespace as they should be, where they differ.

use std::collections::BTreeMap;

use kube::Resource;
use masque_api::{
    ConnectorAttachment, ConnectorAttachmentStatus, VPCAccessPolicy, VPCIngressPoint,
};
use masque_controller::{
    Kind, ObjectRef, Problem,
    ipam::AssignOutcome,
    status::{
        Observed, PodReport, PointState, attachment_status, by_object, ingress_point_status,
        policy_status, sessions,
    },
};
use masque_model::{ObjectName, Snapshot};
use serde::Serialize;
use serde_json::Value;

use super::{Facts, Told};
use crate::{index::name_of, namespaces::Work, status_writer::Wanted, versions::Versions};

/// Statuses as they should be.
#[derive(Default)]
pub(super) struct AllWanted {
    /// Of VPCIngressPoints.
    pub(super) points: Vec<Wanted>,
    /// Of ConnectorAttachments.
    pub(super) attachments: Vec<Wanted>,
    /// Of VPCAccessPolicies.
    pub(super) policies: Vec<Wanted>,
}

/// What the statuses of one namespace are made of.
struct Scene<'a> {
    work: &'a Work,
    facts: &'a Facts<'a>,
    observed: &'a BTreeMap<ObjectName, Observed>,
    problems: BTreeMap<ObjectRef, Vec<&'a Problem>>,
    states: Vec<PointState<'a>>,
}

impl AllWanted {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.points.len() + self.attachments.len() + self.policies.len()
    }

    /// Adds what differs in one namespace.
    pub(super) fn add(&mut self, work: &Work, told: &Told, facts: &Facts<'_>) {
        let problems = work.problems.iter().chain(&told.problems);
        let observed = &told.observed;
        let scene = Scene {
            work,
            facts,
            observed,
            problems: by_object(problems),
            states: states(facts.versions, observed),
        };
        self.points.extend(scene.points());
        self.attachments.extend(scene.attachments());
        let policies = work.objects.policies.iter();
        self.policies
            .extend(policies.filter_map(|policy| scene.policy(policy)));
    }
}

impl<'a> Scene<'a> {
    fn about(&self, kind: Kind, name: &ObjectName) -> &[&'a Problem] {
        let key = ObjectRef::new(kind, name.clone());
        self.problems.get(&key).map_or(&[], Vec::as_slice)
    }

    fn points(&self) -> Vec<Wanted> {
        let facts = self.facts;
        let nothing = Observed::default();
        let points = self.work.objects.points.iter().filter_map(|point| {
            let name = name_of(&point.metadata);
            let problems = self.about(Kind::VPCIngressPoint, &name);
            let snapshot = facts.versions.find(&name).map(|snapshot| &**snapshot);
            let seen = self.observed.get(&name).unwrap_or(&nothing);
            if facts.young && same_as_before(point, snapshot) && unheard(&seen.pods) {
                return None;
            }
            let status = ingress_point_status(point, problems, snapshot, seen, facts.now);
            write(&**point, point.status.as_ref(), &status)
        });
        points.collect()
    }

    fn attachments(&self) -> Vec<Wanted> {
        let facts = self.facts;
        let sessions = sessions(self.observed.values().flat_map(|observed| &observed.pods));
        let mut outcomes: BTreeMap<&ObjectName, Vec<&AssignOutcome>> = BTreeMap::new();
        for outcome in &self.work.outcomes {
            let of_one = outcomes.entry(&outcome.attachment).or_default();
            of_one.push(outcome);
        }
        let attachments = self.work.objects.attachments.iter();
        let settled = attachments
            .map(|attachment| (name_of(&attachment.metadata), attachment))
            .filter(|(name, _)| !facts.fresh.contains(name));
        let wanted = settled.filter_map(|(name, attachment)| {
            let points = of_vpc(attachment, &self.states);
            let had = attachment.status.as_ref();
            let had = had.is_some_and(|status| !status.sessions.is_empty());
            let lost = had && !sessions.contains_key(&name);
            if facts.young && lost && points.iter().any(|point| unheard(point.pods)) {
                return None;
            }
            let status = attachment_status(
                attachment,
                self.about(Kind::ConnectorAttachment, &name),
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
        wanted.collect()
    }

    fn policy(&self, policy: &VPCAccessPolicy) -> Option<Wanted> {
        let name = name_of(&policy.metadata);
        let problems = self.about(Kind::VPCAccessPolicy, &name);
        let status = policy_status(policy, problems, &self.states, self.facts.now);
        let wanted = write(policy, policy.status.as_ref(), &status)?;
        Some(Wanted {
            // The list is one value, with entries of other controllers in it.
            version: policy.metadata.resource_version.clone(),
            ..wanted
        })
    }
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
pub(super) fn unheard(pods: &[PodReport]) -> bool {
    pods.iter().any(|pod| {
        let silent = pod.acked_version.is_none() && pod.rejected.is_none();
        pod.ready && !pod.terminating && silent
    })
}

/// The ingress points in force.
fn states<'a>(
    versions: &'a Versions,
    observed: &'a BTreeMap<ObjectName, Observed>,
) -> Vec<PointState<'a>> {
    let in_force = observed.iter().filter_map(|(name, observed)| {
        let snapshot: &Snapshot = versions.find(name)?;
        let pods = &observed.pods;
        Some(PointState { snapshot, pods })
    });
    in_force.collect()
}

/// The ingress points of an attachment's VPC.
fn of_vpc<'a>(attachment: &ConnectorAttachment, states: &[PointState<'a>]) -> Vec<PointState<'a>> {
    let namespace = attachment.metadata.namespace.as_deref().unwrap_or_default();
    let vpc = &attachment.spec.vpc_ref;
    let vpc = ObjectName::new(vpc.namespace.as_deref().unwrap_or(namespace), &vpc.name);
    let points = states.iter();
    points
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
