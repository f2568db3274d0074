//! One consistent look at the index: what a pass works on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{Resource, api::DynamicObject};
use masque_api::{Connector, ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_controller::{
    Kind, ObjectRef, Problem, Reason, Resources, Severity, Sourced, ipam::ledger_name,
};
use masque_model::ObjectName;

use crate::{
    index::{Index, Shelf, name_of},
    kinds::ChildKind,
};

/// Objects as they were at one moment.
#[derive(Default)]
pub(crate) struct View {
    /// VPCIngressPoints, without those that are being deleted.
    pub(crate) points: Vec<Arc<VPCIngressPoint>>,
    /// Everything, by namespace: no reference leaves one.
    pub(crate) namespaces: BTreeMap<String, Objects>,
    /// What is wrong with objects that could not be read.
    pub(crate) unreadable: Vec<Problem>,
    /// See [`Index::attachments_as_of`].
    pub(crate) attachments_as_of: u64,
}

/// The objects of one namespace. What is being deleted is not among them, but for `leaving`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    /// VPCIngressPoints.
    pub(crate) points: Vec<Arc<VPCIngressPoint>>,
    /// ConnectorAttachments.
    pub(crate) attachments: Vec<Arc<ConnectorAttachment>>,
    /// ConnectorAttachments that are being deleted: they hold their addresses until they are gone.
    pub(crate) leaving: Vec<Arc<ConnectorAttachment>>,
    /// VPCAccessPolicies.
    pub(crate) policies: Vec<Arc<VPCAccessPolicy>>,
    /// Connectors.
    pub(crate) connectors: Vec<Arc<Connector>>,
    /// Objects that could not be read.
    pub(crate) unreadable: BTreeSet<(Kind, ObjectName)>,
    /// ConfigMaps with the ledgers of ingress points.
    pub(crate) ledgers: BTreeMap<ObjectName, Arc<DynamicObject>>,
}

impl View {
    /// Takes the look. Copies no object, and the index is not locked while the compiler works.
    pub(crate) fn of(index: &Index) -> Self {
        let mut view = Self {
            attachments_as_of: index.attachments_as_of,
            ..Self::default()
        };
        let alive = |leaving: bool| !leaving;
        view.put(&index.points, alive, |it| &mut it.points);
        view.put(&index.attachments, alive, |it| &mut it.attachments);
        view.put(&index.attachments, |leaving| leaving, |it| &mut it.leaving);
        view.put(&index.policies, alive, |it| &mut it.policies);
        view.put(&index.connectors, alive, |it| &mut it.connectors);
        view.note(&index.points, Kind::VPCIngressPoint);
        view.note(&index.attachments, Kind::ConnectorAttachment);
        view.note(&index.policies, Kind::VPCAccessPolicy);
        view.note(&index.connectors, Kind::Connector);
        for objects in view.namespaces.values_mut() {
            view.points.extend(objects.points.iter().cloned());
            let readable = objects.points.iter().map(|point| name_of(&point.metadata));
            // What cannot be read may stay in force as it was, with its addresses.
            let unreadable = objects.unreadable.iter();
            let unreadable = unreadable.filter(|(kind, _)| *kind == Kind::VPCIngressPoint);
            let unreadable = unreadable.map(|(_, name)| name.clone());
            for point in readable.chain(unreadable).collect::<Vec<_>>() {
                let ledger = ObjectName::new(&point.namespace, ledger_name(&point.name));
                if let Some(object) = index.child(ChildKind::ConfigMap, &ledger) {
                    objects.ledgers.insert(point, object.clone());
                }
            }
        }
        view
    }

    /// Adds the objects of one kind that could be read; `wanted` is told whether one is being
    /// deleted.
    fn put<K: Resource>(
        &mut self,
        shelf: &Shelf<K>,
        wanted: impl Fn(bool) -> bool,
        place: impl Fn(&mut Objects) -> &mut Vec<Arc<K>>,
    ) {
        let wanted = |object: &Arc<K>| wanted(object.meta().deletion_timestamp.is_some());
        let objects: Vec<_> = shelf.read().filter(|(_, it)| wanted(it)).collect();
        // A shelf is sorted by namespace first.
        for of_one in objects.chunk_by(|(a, _), (b, _)| a.namespace == b.namespace) {
            let Some((name, _)) = of_one.first() else {
                continue;
            };
            let there = self.namespaces.entry(name.namespace.clone()).or_default();
            let of_one = of_one.iter().map(|(_, object)| Arc::clone(object));
            place(there).extend(of_one);
        }
    }

    fn note<K: Resource>(&mut self, shelf: &Shelf<K>, kind: Kind) {
        for (name, _, error) in shelf.unreadable() {
            let there = self.namespaces.entry(name.namespace.clone()).or_default();
            there.unreadable.insert((kind, name.clone()));
            self.unreadable.push(problem(kind, name, error));
        }
    }
}

impl Objects {
    /// Whether these are the very objects of `other`. A change of an object makes it another one.
    pub(crate) fn same(&self, other: &Self) -> bool {
        same(&self.points, &other.points)
            && same(&self.attachments, &other.attachments)
            && same(&self.leaving, &other.leaving)
            && same(&self.policies, &other.policies)
            && same(&self.connectors, &other.connectors)
            && self.unreadable == other.unreadable
            && self.ledgers.len() == other.ledgers.len()
            && self
                .ledgers
                .iter()
                .zip(&other.ledgers)
                .all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
    }

    /// The same for the compiler.
    pub(crate) fn resources(&self) -> Resources {
        Resources {
            ingress_points: sourced(&self.points),
            attachments: sourced(&self.attachments),
            policies: sourced(&self.policies),
            connectors: sourced(&self.connectors),
            unreadable: self.unreadable.clone(),
            ..Resources::default()
        }
    }
}

fn same<K>(these: &[Arc<K>], others: &[Arc<K>]) -> bool {
    these.len() == others.len() && these.iter().zip(others).all(|(a, b)| Arc::ptr_eq(a, b))
}

fn sourced<K>(objects: &[Arc<K>]) -> Vec<Sourced<K>> {
    objects.iter().cloned().map(Sourced::new).collect()
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
