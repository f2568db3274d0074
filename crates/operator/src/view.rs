//! One consistent look at the index: what a pass works on.

use std::sync::Arc;

use kube::Resource;
use masque_api::{ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_controller::{Kind, ObjectRef, Problem, Reason, Resources, Severity, Sourced};
use masque_model::ObjectName;

use crate::index::{Index, Shelf};

/// Objects as they were at one moment. What is being deleted is not among them.
pub(crate) struct View {
    /// VPCIngressPoints.
    pub(crate) points: Vec<Arc<VPCIngressPoint>>,
    /// ConnectorAttachments.
    pub(crate) attachments: Vec<Arc<ConnectorAttachment>>,
    /// VPCAccessPolicies.
    pub(crate) policies: Vec<Arc<VPCAccessPolicy>>,
    /// Objects that could not be read.
    pub(crate) unreadable: Vec<Problem>,
    /// The same for the compiler.
    pub(crate) resources: Resources,
}

impl View {
    /// Takes the look. Copies no object, and the index is not locked while the compiler works.
    pub(crate) fn of(index: &Index) -> Self {
        let points = living(&index.points);
        let attachments = living(&index.attachments);
        let policies = living(&index.policies);
        let connectors = living(&index.connectors);
        let mut resources = Resources {
            ingress_points: sourced(&points),
            attachments: sourced(&attachments),
            policies: sourced(&policies),
            connectors: sourced(&connectors),
            ..Resources::default()
        };
        let mut unreadable = Vec::new();
        let mut note = |kind: Kind, name: &ObjectName, error: &str| {
            resources.unreadable.insert((kind, name.clone()));
            unreadable.push(problem(kind, name, error));
        };
        each_unreadable(&index.points, Kind::VPCIngressPoint, &mut note);
        each_unreadable(&index.attachments, Kind::ConnectorAttachment, &mut note);
        each_unreadable(&index.policies, Kind::VPCAccessPolicy, &mut note);
        each_unreadable(&index.connectors, Kind::Connector, &mut note);
        Self {
            points,
            attachments,
            policies,
            unreadable,
            resources,
        }
    }
}

fn living<K: Resource>(shelf: &Shelf<K>) -> Vec<Arc<K>> {
    let alive = |object: &&Arc<K>| object.meta().deletion_timestamp.is_none();
    shelf
        .read()
        .map(|(_, object)| object)
        .filter(alive)
        .cloned()
        .collect()
}

fn sourced<K>(objects: &[Arc<K>]) -> Vec<Sourced<K>> {
    objects.iter().cloned().map(Sourced::new).collect()
}

fn each_unreadable<K: Resource>(
    shelf: &Shelf<K>,
    kind: Kind,
    note: &mut impl FnMut(Kind, &ObjectName, &str),
) {
    for (name, _, error) in shelf.unreadable() {
        note(kind, name, error);
    }
}

fn problem(kind: Kind, name: &ObjectName, error: &str) -> Problem {
    Problem {
        location: None,
        object: Some(ObjectRef::new(kind, name.clone())),
        field: String::new(),
        severity: Severity::Error,
        condition: Reason::Invalid.condition(),
        reason: Reason::Invalid,
        message: format!("this version of the operator cannot read it: {error}"),
        hint: "correct the field, or upgrade the operator with its CustomResourceDefinitions"
            .to_owned(),
    }
}
