//! Makes children as they should be: server-side apply of what differs, and nothing at rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ObjectMeta, Patch, PatchParams, Preconditions},
};
use masque_model::ObjectName;
use serde_json::Value;

use crate::{
    addresses::is_ledger,
    client::{CallError, call, is_conflict, is_not_found},
    index::{Seen, name_of},
    kinds::ChildKind,
    retry::Retry,
    writer::Writer,
};

/// The field manager of children.
pub(crate) const CHILDREN_MANAGER: &str = "masque-operator/children";

/// The field manager that keeps the number of pods while an autoscaler takes over.
const HANDOVER_MANAGER: &str = "masque-operator/handover";

/// Writes under way at one time.
const CONCURRENT: usize = 16;

/// A child that somebody changes all the time is put right so often at most.
const DRIFT_EVERY: Duration = Duration::from_secs(5);

/// One child as it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Child {
    /// Its kind.
    pub(crate) kind: ChildKind,
    /// Its name.
    pub(crate) name: ObjectName,
    /// The whole object.
    pub(crate) object: Value,
    hash: u64,
}

impl Child {
    /// A child that is `object` with `apiVersion` and `kind`.
    pub(crate) fn new(kind: ChildKind, name: ObjectName, object: Value) -> Self {
        let hash = hash(&object);
        Self {
            kind,
            name,
            object,
            hash,
        }
    }
}

/// The children of one ingress point.
#[derive(Clone, Debug)]
pub(crate) struct Family {
    /// The ingress point.
    pub(crate) point: ObjectName,
    /// Its uid.
    pub(crate) uid: String,
    /// What there should be.
    pub(crate) children: Arc<Vec<Child>>,
}

/// What a round could not do.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Refusals, by ingress point; for its status.
    pub(crate) refused: BTreeMap<ObjectName, String>,
    /// When something is to be tried again.
    pub(crate) again: Option<Instant>,
    /// Writes that were done.
    pub(crate) writes: usize,
}

impl Round {
    /// Adds the refusals to what else is wrong with each ingress point.
    pub(crate) fn join(self, wrong: &mut BTreeMap<ObjectName, String>) {
        for (point, why) in self.refused {
            let first = wrong.remove(&point).map(|first| format!("{first}. "));
            wrong.insert(point, first.unwrap_or_default() + &why);
        }
    }

    fn again_at(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

/// What is known of a child from the last write.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What was wanted.
    desired: u64,
    /// What the API server made of it, without what controllers write.
    fingerprint: u64,
    /// The version that `fingerprint` was last compared with.
    version: Option<String>,
    retry: Retry,
    refusal: Option<String>,
    /// When it was last written.
    written: Option<Instant>,
}

impl Known {
    /// Until when a child that was changed by somebody else stays as it is.
    fn tolerated(&self, child: &Child, now: Instant) -> Option<Instant> {
        let until = self.written? + DRIFT_EVERY;
        (self.desired == child.hash && self.fingerprint != 0 && until > now).then_some(until)
    }
}

/// Writes children.
pub(crate) struct Applier {
    writer: Writer,
    known: Mutex<BTreeMap<(ChildKind, ObjectName), Known>>,
}

impl Applier {
    /// An applier that knows nothing yet: its first round writes every child once.
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer,
            known: Mutex::default(),
        }
    }

    /// Brings the children of every family to what they should be.
    pub(crate) async fn round(&self, families: &[Family]) -> Round {
        self.forget(families);
        let round = Mutex::new(Round::default());
        futures_util::stream::iter(families)
            .for_each_concurrent(CONCURRENT, |family| self.family(family, &round))
            .await;
        round.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drops what is known of children that nobody wants any more, so that memory follows the
    /// number of ingress points.
    fn forget(&self, families: &[Family]) {
        let wanted: BTreeSet<_> = families
            .iter()
            .flat_map(|family| family.children.iter())
            .map(|child| (child.kind, &child.name))
            .collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(kind, name), _| wanted.contains(&(*kind, name)));
    }

    async fn family(&self, family: &Family, round: &Mutex<Round>) {
        for child in family.children.iter() {
            if !self.writer.leadership.holds() {
                return;
            }
            self.child(family, child, round).await;
        }
        for orphan in self.orphans(family) {
            if !self.writer.leadership.holds() {
                return;
            }
            self.remove(&orphan.0, &orphan.1, round).await;
        }
    }

    async fn child(&self, family: &Family, child: &Child, round: &Mutex<Round>) {
        let key = (child.kind, child.name.clone());
        let mut known = self.known(&key);
        let now = Instant::now();
        if let Some(at) = known.retry.due(now).filter(|_| known.desired == child.hash) {
            let mut round = lock(round);
            round.again_at(at);
            if let Some(refusal) = known.refusal {
                round.refused.entry(family.point.clone()).or_insert(refusal);
            }
            return;
        }
        if !self.differs(child, &mut known) {
            self.remember(key, known);
            return;
        }
        if let Some(until) = known.tolerated(child, now) {
            lock(round).again_at(until);
            return;
        }
        if known.desired != child.hash {
            known.retry = Retry::default();
        }
        known.desired = child.hash;
        match self.write(family, child).await {
            Ok(object) => {
                known.fingerprint = fingerprint(&object, &child.object);
                known.version = object.resource_version();
                known.retry = Retry::default();
                known.refusal = None;
                known.written = Some(Instant::now());
                let seen = Seen::Read(Arc::new(object));
                self.writer.index.lock().children_mut(child.kind).put(seen);
                lock(round).writes += 1;
                self.count(child.kind, "applied");
            }
            Err(error) => {
                let (kind, name) = (child.kind.as_str(), &child.name);
                tracing::warn!(%error, kind, %name, "a child could not be applied");
                known.fingerprint = 0;
                known.version = None;
                let at = known.retry.failed(&error, child.hash, Instant::now());
                let mut round = lock(round);
                round.again_at(at);
                if !error.is_transient() {
                    let refusal = format!("{kind} {}: {error}", name.name);
                    round
                        .refused
                        .entry(family.point.clone())
                        .or_insert_with(|| refusal.clone());
                    known.refusal = Some(refusal);
                }
                drop(round);
                self.count(child.kind, outcome(&error));
            }
        }
        self.remember(key, known);
    }

    /// Whether the child is not what it should be: it was never applied, is gone, or somebody
    /// changed it.
    fn differs(&self, child: &Child, known: &mut Known) -> bool {
        let index = self.writer.index.lock();
        let Some(object) = index.child(child.kind, &child.name) else {
            return true;
        };
        if known.desired != child.hash || known.fingerprint == 0 {
            return true;
        }
        if known.version == object.resource_version() {
            return false;
        }
        if fingerprint(object, &child.object) == known.fingerprint {
            known.version = object.resource_version();
            return false;
        }
        true
    }

    async fn write(&self, family: &Family, child: &Child) -> Result<DynamicObject, CallError> {
        let api = self.api(child.kind, &child.name.namespace);
        let seen = self
            .writer
            .index
            .lock()
            .child(child.kind, &child.name)
            .cloned();
        match seen {
            Some(live) => self.hand_over(&api, &live, child).await?,
            // The watch shows what has our labels; anything else of that name is not ours to take.
            None => {
                let there = call(api.get_metadata_opt(&child.name.name)).await?;
                if there.is_some_and(|there| !controlled_by(&there.metadata, &family.uid)) {
                    return Err(CallError::Taken);
                }
            }
        }
        let params = PatchParams::apply(CHILDREN_MANAGER).force();
        call(api.patch(&child.name.name, &params, &Patch::Apply(&child.object))).await
    }

    /// Before the first apply without `replicas`, another manager takes the number there is:
    /// server-side apply removes a field that its only manager leaves out, the API server would put
    /// 1 in its place, and all pods but one would go before the autoscaler looks for the first time.
    /// The autoscaler then takes the field by its own writes.
    async fn hand_over(
        &self,
        api: &Api<DynamicObject>,
        live: &DynamicObject,
        child: &Child,
    ) -> Result<(), CallError> {
        let autoscaled = child.object.pointer("/spec/replicas").is_none();
        let replicas = live.data.pointer("/spec/replicas").filter(|_| autoscaled);
        let Some(replicas) = replicas.filter(|_| child.kind == ChildKind::Deployment) else {
            return Ok(());
        };
        let resource = child.kind.resource();
        let patch = serde_json::json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            // Of a number that is not the present one, the API server says 409.
            "metadata": {"name": child.name.name, "resourceVersion": live.resource_version()},
            "spec": {"replicas": replicas},
        });
        let params = PatchParams::apply(HANDOVER_MANAGER).force();
        call(api.patch(&child.name.name, &params, &Patch::Apply(&patch))).await?;
        Ok(())
    }

    /// Children of this family's ingress point that nobody wants any more.
    fn orphans(&self, family: &Family) -> Vec<(ChildKind, Arc<DynamicObject>)> {
        let index = self.writer.index.lock();
        let mut orphans = Vec::new();
        for kind in ChildKind::ALL
            .into_iter()
            .filter(|kind| *kind != ChildKind::Pod)
        {
            let Some(shelf) = index.children.get(&kind) else {
                continue;
            };
            for (name, object) in shelf.read() {
                let wanted = family
                    .children
                    .iter()
                    .any(|child| child.kind == kind && child.name == *name);
                if !wanted
                    && !is_ledger(&family.point, kind, name)
                    && controlled_by(&object.metadata, &family.uid)
                    && object.metadata.deletion_timestamp.is_none()
                {
                    orphans.push((kind, object.clone()));
                }
            }
        }
        orphans
    }

    async fn remove(&self, kind: &ChildKind, object: &DynamicObject, round: &Mutex<Round>) {
        let name = name_of(&object.metadata);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: object.uid(),
            resource_version: None,
        });
        let api = self.api(*kind, &name.namespace);
        match call(api.delete(&name.name, &params)).await {
            Ok(_) => {
                lock(round).writes += 1;
                self.count(*kind, "deleted");
            }
            // Gone already, or another object of that name by now.
            Err(error) if is_not_found(&error) || is_conflict(&error) => {}
            Err(error) => {
                tracing::warn!(%error, kind = kind.as_str(), %name, "a child could not be deleted");
                self.count(*kind, outcome(&error));
                lock(round).again_at(Instant::now() + DRIFT_EVERY);
            }
        }
    }

    fn api(&self, kind: ChildKind, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.writer.client.clone(), namespace, &kind.resource())
    }

    fn known(&self, key: &(ChildKind, ObjectName)) -> Known {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).cloned().unwrap_or_default()
    }

    fn remember(&self, key: (ChildKind, ObjectName), value: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(key, value);
    }

    fn count(&self, kind: ChildKind, outcome: &str) {
        let labels = [kind.as_str(), outcome];
        self.writer
            .metrics
            .child_writes
            .with_label_values(&labels)
            .inc();
    }
}

fn lock(round: &Mutex<Round>) -> std::sync::MutexGuard<'_, Round> {
    round.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The label value of a failed write.
pub(crate) fn outcome(error: &CallError) -> &'static str {
    if is_conflict(error) {
        "conflict"
    } else if error.is_transient() {
        "failed"
    } else {
        "refused"
    }
}

fn controlled_by(metadata: &ObjectMeta, uid: &str) -> bool {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// A hash of what a person or we wrote: not of status, of versions, or of what controllers keep in
/// the object, such as replicas when an autoscaler has them. Never 0.
fn fingerprint(object: &DynamicObject, desired: &Value) -> u64 {
    let mut data = object.data.clone();
    if let Some(fields) = data.as_object_mut() {
        fields.remove("status");
        let ours = desired.pointer("/spec/replicas").is_some();
        if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut)
            && !ours
        {
            spec.remove("replicas");
        }
    }
    let mut annotations = object.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !key.starts_with("deployment.kubernetes.io/"));
    let owners = serde_json::to_value(&object.metadata.owner_references);
    let parts = serde_json::json!([
        data,
        object.metadata.labels,
        annotations,
        owners.unwrap_or_default(),
    ]);
    hash(&parts).max(1)
}

fn hash(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
