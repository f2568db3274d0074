//! Which Snapshot of each ingress point is in force, and which number the next one gets.

use std::{collections::BTreeMap, sync::Arc};

use masque_api::VPCIngressPoint;
use masque_model::{ObjectName, Snapshot};
use masque_stream::Document;

use crate::index::name_of;

/// Snapshots by ingress point. A version never goes back, also over a restart: the status of the
/// ingress point says where to go on.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    current: BTreeMap<ObjectName, Arc<Snapshot>>,
    last: BTreeMap<ObjectName, u64>,
    hashes: BTreeMap<ObjectName, String>,
}

impl Versions {
    /// The Snapshots in force.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Snapshot> {
        self.current.values().map(|snapshot| &**snapshot)
    }

    /// The Snapshots in force in one namespace.
    pub(crate) fn of<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Snapshot> {
        self.current
            .range(ObjectName::new(namespace, "")..)
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, snapshot)| &**snapshot)
    }

    /// The Snapshot of one ingress point.
    pub(crate) fn find(&self, point: &ObjectName) -> Option<&Arc<Snapshot>> {
        self.current.get(point)
    }

    /// Numbers a compiled Snapshot: as before when nothing changed. `None` when nothing changed.
    pub(crate) fn next(
        &self,
        mut snapshot: Snapshot,
        point: Option<&VPCIngressPoint>,
    ) -> Option<Snapshot> {
        let name = &snapshot.ingress_point;
        if let Some(current) = self.current.get(name) {
            snapshot.version = current.version;
            if **current == snapshot {
                return None;
            }
        }
        let told = point.and_then(told);
        let known = self.last.get(name).copied();
        snapshot.version = match (known, told) {
            // After a restart: the pods hold this very content under this number.
            (None, Some((version, hash))) if hash_of(&snapshot).as_ref() == Some(&hash) => version,
            (known, told) => {
                let told = told.map_or(0, |(version, _)| version);
                known.unwrap_or(0).max(told).saturating_add(1)
            }
        };
        Some(snapshot)
    }

    /// The hash of the Snapshot of one ingress point.
    pub(crate) fn hash(&self, point: &ObjectName) -> Option<String> {
        self.hashes.get(point).cloned()
    }

    /// A Snapshot came into force, published as `document`.
    pub(crate) fn put(&mut self, snapshot: Arc<Snapshot>, document: &Document) {
        let name = snapshot.ingress_point.clone();
        self.hashes
            .insert(name.clone(), document.hash().to_string());
        self.last.insert(name.clone(), snapshot.version);
        self.current.insert(name, snapshot);
    }

    /// Forgets the Snapshots that are not in `keep`, and the numbers of ingress points that are not
    /// there any more. Returns the names forgotten.
    pub(crate) fn retain(
        &mut self,
        keep: impl Fn(&ObjectName) -> bool,
        there: impl Fn(&ObjectName) -> bool,
    ) -> Vec<ObjectName> {
        let gone: Vec<_> = self
            .current
            .keys()
            .filter(|name| !keep(name))
            .cloned()
            .collect();
        for name in &gone {
            self.current.remove(name);
            self.hashes.remove(name);
        }
        self.last.retain(|name, _| there(name));
        gone
    }
}

/// The hash of a Snapshot as status has it.
fn hash_of(snapshot: &Snapshot) -> Option<String> {
    Document::encode(snapshot)
        .ok()
        .map(|document| document.hash().to_string())
}

/// Version and hash in the status of an ingress point.
pub(crate) fn told(point: &VPCIngressPoint) -> Option<(u64, String)> {
    let status = point.status.as_ref()?.snapshot.as_ref()?;
    let version = u64::try_from(status.version)
        .ok()
        .filter(|version| *version > 0)?;
    tracing::debug!(point = %name_of(&point.metadata), version, "version in status");
    Some((version, status.hash.clone()))
}

#[cfg(test)]
mod tests;
