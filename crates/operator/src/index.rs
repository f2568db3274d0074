//! What the API server has, as last seen: one shelf per kind, filled by watches, read by passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use kube::{Resource, api::DynamicObject, core::ObjectMeta};
use masque_api::{Connector, ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_model::ObjectName;
use tokio::sync::Notify;

use crate::kinds::ChildKind;

/// An object as it was last seen.
#[derive(Clone, Debug)]
pub(crate) enum Seen<T> {
    /// It could be read.
    Read(Arc<T>),
    /// It is there, but is not what this version understands.
    Unreadable {
        /// Its metadata.
        metadata: Box<ObjectMeta>,
        /// What is wrong with it.
        error: String,
    },
}

/// Objects of one kind.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    objects: BTreeMap<ObjectName, Seen<T>>,
    /// Names seen since a list began; what is not among them is gone when the list ends.
    listing: Option<BTreeSet<ObjectName>>,
    synced: bool,
}

impl<T> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listing: None,
            synced: false,
        }
    }
}

impl<T: Resource> Shelf<T> {
    /// Objects that could be read.
    pub(crate) fn read(&self) -> impl Iterator<Item = (&ObjectName, &Arc<T>)> {
        self.objects.iter().filter_map(|(name, seen)| match seen {
            Seen::Read(object) => Some((name, object)),
            Seen::Unreadable { .. } => None,
        })
    }

    /// Objects that could not be read, with the reason.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (&ObjectName, &ObjectMeta, &str)> {
        self.objects.iter().filter_map(|(name, seen)| match seen {
            Seen::Read(_) => None,
            Seen::Unreadable { metadata, error } => Some((name, &**metadata, error.as_str())),
        })
    }

    /// One object, if it is there and could be read.
    pub(crate) fn find(&self, name: &ObjectName) -> Option<&Arc<T>> {
        match self.objects.get(name)? {
            Seen::Read(object) => Some(object),
            Seen::Unreadable { .. } => None,
        }
    }

    /// Whether there is such an object, readable or not.
    pub(crate) fn contains(&self, name: &ObjectName) -> bool {
        self.objects.contains_key(name)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether the first list has ended.
    pub(crate) fn synced(&self) -> bool {
        self.synced
    }

    /// A list begins.
    pub(crate) fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// A list ended: what it did not name is gone.
    pub(crate) fn end(&mut self) {
        if let Some(listed) = self.listing.take() {
            self.objects.retain(|name, _| listed.contains(name));
        }
        self.synced = true;
    }

    /// An object as an event, a list or an own write gave it. An older state than the one known is
    /// dropped, so that a write and the watch may race.
    pub(crate) fn put(&mut self, seen: Seen<T>) -> bool {
        let name = name_of(metadata(&seen));
        if let Some(listed) = &mut self.listing {
            listed.insert(name.clone());
        }
        let newer = self
            .objects
            .get(&name)
            .is_none_or(|old| supersedes(metadata(&seen), metadata(old)));
        if newer {
            self.objects.insert(name, seen);
        }
        newer
    }

    /// An object is gone.
    pub(crate) fn remove(&mut self, gone: &ObjectMeta) {
        let name = name_of(gone);
        let other = self.objects.get(&name).is_some_and(|seen| {
            // A new object of the same name may be known already.
            metadata(seen).uid != gone.uid
        });
        if !other {
            self.objects.remove(&name);
        }
    }
}

fn metadata<T: Resource>(seen: &Seen<T>) -> &ObjectMeta {
    match seen {
        Seen::Read(object) => object.meta(),
        Seen::Unreadable { metadata, .. } => metadata,
    }
}

/// Whether `new` is a later state than `old`. Resource versions of one kind are numbers that grow
/// (KEP-5504); anything else counts as newer.
fn supersedes(new: &ObjectMeta, old: &ObjectMeta) -> bool {
    let number =
        |meta: &ObjectMeta| -> Option<u64> { meta.resource_version.as_ref()?.parse().ok() };
    match (number(new), number(old)) {
        (Some(new), Some(old)) => new > old,
        _ => new.resource_version != old.resource_version,
    }
}

/// Namespace and name out of metadata.
pub(crate) fn name_of(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

/// Everything the operator watches.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// VPCIngressPoints.
    pub(crate) points: Shelf<VPCIngressPoint>,
    /// ConnectorAttachments.
    pub(crate) attachments: Shelf<ConnectorAttachment>,
    /// The `resourceVersion` of a list of all attachments that is part of these: what was deleted
    /// before it was seen to be gone.
    pub(crate) attachments_as_of: u64,
    /// VPCAccessPolicies.
    pub(crate) policies: Shelf<VPCAccessPolicy>,
    /// Connectors.
    pub(crate) connectors: Shelf<Connector>,
    /// What was made for ingress points, by kind.
    pub(crate) children: BTreeMap<ChildKind, Shelf<DynamicObject>>,
}

impl Index {
    /// The kinds whose first list has not ended.
    pub(crate) fn unsynced(&self) -> Vec<&'static str> {
        let ours = [
            ("VPCIngressPoint", self.points.synced()),
            ("ConnectorAttachment", self.attachments.synced()),
            ("VPCAccessPolicy", self.policies.synced()),
            ("Connector", self.connectors.synced()),
        ];
        let children = ChildKind::ALL.into_iter().map(|kind| {
            let synced = self.children.get(&kind).is_some_and(Shelf::synced);
            (kind.as_str(), synced)
        });
        ours.into_iter()
            .chain(children)
            .filter_map(|(kind, synced)| (!synced).then_some(kind))
            .collect()
    }

    /// Children of one kind.
    pub(crate) fn children_mut(&mut self, kind: ChildKind) -> &mut Shelf<DynamicObject> {
        self.children.entry(kind).or_default()
    }

    /// One child.
    pub(crate) fn child(&self, kind: ChildKind, name: &ObjectName) -> Option<&Arc<DynamicObject>> {
        self.children.get(&kind)?.find(name)
    }
}

/// The index, shared by watches and passes, and a bell that rings when it changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedIndex {
    index: Arc<Mutex<Index>>,
    changed: Arc<Notify>,
}

impl SharedIndex {
    /// Reads or writes; never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something changed.
    pub(crate) fn ring(&self) {
        self.changed.notify_one();
    }

    /// Waits for a change since the last wait.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(name: &str, version: &str, uid: &str) -> Seen<Connector> {
        let mut connector = Connector::new(name, Default::default());
        connector.metadata.namespace = Some("ns".to_owned());
        connector.metadata.resource_version = Some(version.to_owned());
        connector.metadata.uid = Some(uid.to_owned());
        Seen::Read(Arc::new(connector))
    }

    fn version(shelf: &Shelf<Connector>, name: &str) -> Option<String> {
        let object = shelf.find(&ObjectName::new("ns", name))?;
        object.metadata.resource_version.clone()
    }

    #[test]
    fn a_list_removes_what_it_does_not_name() {
        let mut shelf = Shelf::default();
        shelf.put(connector("a", "1", "u"));
        shelf.put(connector("b", "2", "u"));
        shelf.begin();
        shelf.put(connector("b", "2", "u"));
        assert!(shelf.contains(&ObjectName::new("ns", "a")) && !shelf.synced());
        shelf.end();
        assert!(!shelf.contains(&ObjectName::new("ns", "a")) && shelf.synced());
        assert_eq!(shelf.len(), 1);
    }

    #[test]
    fn an_older_state_never_replaces_a_newer_one() {
        let mut shelf = Shelf::default();
        assert!(shelf.put(connector("a", "10", "u")));
        assert!(!shelf.put(connector("a", "9", "u")));
        assert_eq!(version(&shelf, "a").as_deref(), Some("10"));
        assert!(shelf.put(connector("a", "11", "u")));
    }

    #[test]
    fn a_late_deletion_leaves_the_new_object_of_that_name() {
        let mut shelf = Shelf::default();
        shelf.put(connector("a", "10", "new"));
        let Seen::Read(old) = connector("a", "5", "old") else {
            unreachable!()
        };
        shelf.remove(&old.metadata);
        assert_eq!(version(&shelf, "a").as_deref(), Some("10"));
        let mut gone = old.metadata.clone();
        gone.uid = Some("new".to_owned());
        shelf.remove(&gone);
        assert_eq!(shelf.len(), 0);
    }

    #[test]
    fn lists_that_have_not_ended_are_named() {
        let mut index = Index::default();
        assert_eq!(index.unsynced().len(), 4 + ChildKind::ALL.len());
        index.points.end();
        index.attachments.end();
        index.policies.end();
        index.connectors.end();
        for kind in ChildKind::ALL {
            if kind != ChildKind::Pod {
                index.children_mut(kind).end();
            }
        }
        assert_eq!(index.unsynced(), ["Pod"]);
        index.children_mut(ChildKind::Pod).end();
        assert!(index.unsynced().is_empty());
    }
}
