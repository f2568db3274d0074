//! The operator's half: which Snapshot each ingress point has, and what its pods say.
//!
//! Nothing here waits or speaks: a stream attaches its pod, watches for Snapshots, and hands in what
//! the pod says. So that every order of events can be tested without a network.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use masque_model::{ObjectName, Snapshot};
use tokio::sync::watch;

use crate::{
    bounds::{MAX_PODS_PER_POINT, MAX_TEXT_BYTES},
    document::{Document, DocumentError, SnapshotHash},
    identity::PodIdentity,
    session::{self, ReportError, SessionInfo, Sessions},
    wire,
};

/// What every stream of the operator shares; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<u64>>,
}

/// What is known of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// `metadata.name` of the Pod.
    pub pod: String,
    /// The version of the gateway, as the pod tells it.
    pub gateway_version: String,
    /// The version of the Snapshot that it runs; 0 when it runs none.
    pub held_version: u64,
    /// The version it runs, if that is the very content this operator published: only then it
    /// counts for `Programmed`.
    pub acked: Option<u64>,
    /// The newest version that it could not run, and why; gone with its next acknowledgement.
    pub rejected: Option<(u64, String)>,
    /// Its sessions, oldest first; as it last said, if it is not connected.
    pub sessions: Vec<SessionInfo>,
    /// Whether its stream is open.
    pub connected: bool,
    /// For how long its stream has been closed; nothing while it is open.
    pub away: Option<Duration>,
}

/// Why a Snapshot is not published; what was published before stays.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It cannot travel; [`DocumentError::TooLarge`] is the reason `SnapshotTooLarge`.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// Versions of one ingress point never go back, nor does one version get another content.
    #[error("version {offered} of {ingress_point} does not follow version {current}")]
    NotNewer {
        /// Whose Snapshot.
        ingress_point: ObjectName,
        /// The version in force.
        current: u64,
        /// The version offered.
        offered: u64,
    },
}

/// Why a pod cannot attach.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_PODS_PER_POINT} pods of this VPCIngressPoint are connected already")]
pub(crate) struct TooManyPods;

#[derive(Debug, Default)]
struct State {
    points: BTreeMap<ObjectName, Point>,
    /// Numbers streams, and orders the pods that left.
    next: u64,
}

#[derive(Debug, Default)]
struct Point {
    current: watch::Sender<Option<Arc<Document>>>,
    pods: BTreeMap<String, Pod>,
}

/// A version and the content it stands for.
type Held = Option<(u64, SnapshotHash)>;

#[derive(Debug)]
struct Pod {
    stream: u64,
    /// Dropped when another stream of the same pod takes over.
    connected: Option<watch::Sender<()>>,
    /// When its last stream ended.
    left: Option<Instant>,
    gateway_version: String,
    held: Held,
    rejected: Option<(u64, String)>,
    sessions: Sessions,
}

impl Hub {
    /// A hub without any Snapshot.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes this the Snapshot of its ingress point, and sends it to every pod that runs another.
    /// Publishing what is published already does nothing. Returns what was published: its hash is
    /// for the status.
    ///
    /// # Errors
    /// [`PublishError`]; the former Snapshot stays.
    pub fn publish(&self, snapshot: &Snapshot) -> Result<Arc<Document>, PublishError> {
        let document = Arc::new(Document::encode(snapshot)?);
        let mut state = self.state();
        let name = &snapshot.ingress_point;
        let point = state.points.entry(name.clone()).or_default();
        let current = point.current.borrow().clone();
        if let Some(current) = current {
            if *current == *document {
                return Ok(current);
            }
            if current.version() >= document.version() {
                return Err(PublishError::NotNewer {
                    ingress_point: name.clone(),
                    current: current.version(),
                    offered: document.version(),
                });
            }
        }
        point.current.send_replace(Some(Arc::clone(&document)));
        drop(state);
        self.tell();
        Ok(document)
    }

    /// The ingress point is gone: its Snapshot is sent to nobody any more, and what its pods had
    /// said is forgotten. Its numbering may begin anew.
    pub fn withdraw(&self, ingress_point: &ObjectName) {
        let mut state = self.state();
        let Some(point) = state.points.get_mut(ingress_point) else {
            return;
        };
        point.current.send_replace(None);
        point.pods.retain(|_, pod| pod.connected.is_some());
        for pod in point.pods.values_mut() {
            pod.rejected = None;
        }
        state.tidy(ingress_point);
        drop(state);
        self.tell();
    }

    /// What the pods of an ingress point say, by name.
    pub fn reports(&self, ingress_point: &ObjectName) -> Vec<PodState> {
        let state = self.state();
        let Some(point) = state.points.get(ingress_point) else {
            return Vec::new();
        };
        let current = point.current.borrow().clone();
        let published = current.map(|document| (document.version(), document.hash()));
        let pods = point.pods.iter();
        pods.map(|(name, pod)| pod.state(name, published)).collect()
    }

    /// A Pod was deleted: what it said is forgotten. A stream that it has still stays open.
    pub fn forget(&self, ingress_point: &ObjectName, pod: &str) {
        let mut state = self.state();
        let Some(point) = state.points.get_mut(ingress_point) else {
            return;
        };
        if point.pods.get(pod).is_some_and(|p| p.connected.is_none()) {
            point.pods.remove(pod);
            state.tidy(ingress_point);
            drop(state);
            self.tell();
        }
    }

    /// Grows with everything that [`reports`](Self::reports) would say anew.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A pod's stream has begun. A former stream of the same pod ends.
    pub(crate) fn attach(
        &self,
        identity: &PodIdentity,
        hello: &wire::Hello,
    ) -> Result<Attached, TooManyPods> {
        let mut state = self.state();
        state.next += 1;
        let stream = state.next;
        let point = state
            .points
            .entry(identity.ingress_point.clone())
            .or_default();
        let known = point.pods.contains_key(&identity.pod);
        if !known && point.pods.len() >= MAX_PODS_PER_POINT {
            point.make_room()?;
        }
        let (connected, replaced) = watch::channel(());
        let held = SnapshotHash::read(&hello.held_hash).map(|hash| (hello.held_version, hash));
        let pod = point.pods.entry(identity.pod.clone()).or_insert(Pod {
            stream,
            connected: None,
            left: None,
            gateway_version: String::new(),
            held,
            rejected: None,
            sessions: Sessions::new(),
        });
        pod.stream = stream;
        pod.connected = Some(connected);
        pod.left = None;
        pod.gateway_version = clipped(&hello.gateway_version);
        pod.held = held;
        pod.rejected = None;
        let snapshots = point.current.subscribe();
        drop(state);
        self.tell();
        Ok(Attached {
            hub: self.clone(),
            identity: identity.clone(),
            stream,
            replaced,
            snapshots,
            sent: held,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before anything in it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl State {
    /// Forgets an ingress point of which nothing is left.
    fn tidy(&mut self, name: &ObjectName) {
        let empty = |point: &Point| point.pods.is_empty() && point.current.borrow().is_none();
        if self.points.get(name).is_some_and(empty) {
            self.points.remove(name);
        }
    }
}

impl Point {
    /// Forgets the pod that has been away longest.
    fn make_room(&mut self) -> Result<(), TooManyPods> {
        let away = self.pods.iter().filter(|(_, pod)| pod.connected.is_none());
        let oldest = away.min_by_key(|(_, pod)| pod.stream);
        let name = oldest.map(|(name, _)| name.clone()).ok_or(TooManyPods)?;
        self.pods.remove(&name);
        Ok(())
    }
}

impl Pod {
    fn state(&self, name: &str, published: Held) -> PodState {
        let runs_published = self.held.is_some() && self.held == published;
        let held_version = self.held.map_or(0, |(version, _)| version);
        PodState {
            pod: name.to_owned(),
            gateway_version: self.gateway_version.clone(),
            held_version,
            acked: runs_published.then_some(held_version),
            rejected: self.rejected.clone(),
            sessions: self.sessions.values().cloned().collect(),
            connected: self.connected.is_some(),
            away: self.left.map(|left| left.elapsed()),
        }
    }
}

/// A pod's open stream, as the hub knows it. Dropping it says that the stream has ended.
#[derive(Debug)]
pub(crate) struct Attached {
    hub: Hub,
    identity: PodIdentity,
    stream: u64,
    replaced: watch::Receiver<()>,
    snapshots: watch::Receiver<Option<Arc<Document>>>,
    /// What the pod was last sent, or said it has.
    sent: Held,
}

impl Attached {
    /// Says when another stream of the same pod took over: by being closed.
    pub(crate) fn replaced(&self) -> watch::Receiver<()> {
        self.replaced.clone()
    }

    /// Waits until there is a Snapshot that the pod does not have. May be cancelled.
    pub(crate) async fn wait_due(&mut self) {
        while self.due().is_none() {
            // The sender lives as long as this pod is known, and a stream of a pod that is not
            // has been replaced.
            if self.snapshots.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The Snapshot that the pod does not have, if there is one.
    pub(crate) fn due(&mut self) -> Option<Arc<Document>> {
        let current = self.snapshots.borrow_and_update().clone()?;
        let held = Some((current.version(), current.hash()));
        (self.sent != held).then_some(current)
    }

    /// It was handed to the stream.
    pub(crate) fn sent(&mut self, document: &Document) {
        self.sent = Some((document.version(), document.hash()));
    }

    /// The pod runs this.
    pub(crate) fn acked(&self, ack: &wire::Ack) {
        self.with_pod(|pod| {
            let held = SnapshotHash::read(&ack.hash).map(|hash| (ack.version, hash));
            let changed = pod.held != held || pod.rejected.is_some();
            pod.held = held;
            pod.rejected = None;
            changed
        });
    }

    /// The pod cannot run this.
    pub(crate) fn rejected(&self, reject: &wire::Reject) {
        self.with_pod(|pod| {
            let rejected = Some((reject.version, clipped(&reject.reason)));
            let changed = pod.rejected != rejected;
            pod.rejected = rejected;
            changed
        });
    }

    /// The pod's sessions changed.
    ///
    /// # Errors
    /// [`ReportError`]; the stream must end.
    pub(crate) fn sessions(&self, report: wire::Sessions) -> Result<(), ReportError> {
        let mut result = Ok(());
        self.with_pod(|pod| match session::take(&mut pod.sessions, report) {
            Ok(changed) => changed,
            Err(error) => {
                result = Err(error);
                false
            }
        });
        result
    }

    /// Changes the pod's entry, unless another stream of the pod has it now.
    fn with_pod(&self, change: impl FnOnce(&mut Pod) -> bool) {
        let mut state = self.hub.state();
        let pod = state
            .points
            .get_mut(&self.identity.ingress_point)
            .and_then(|point| point.pods.get_mut(&self.identity.pod))
            .filter(|pod| pod.stream == self.stream);
        let changed = pod.is_some_and(change);
        drop(state);
        if changed {
            self.hub.tell();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.with_pod(|pod| {
            pod.connected = None;
            pod.left = Some(Instant::now());
            true
        });
        let mut state = self.hub.state();
        let point = state.points.get_mut(&self.identity.ingress_point);
        // Of a withdrawn ingress point nothing is kept.
        if let Some(point) = point
            && point.current.borrow().is_none()
        {
            let (pod, stream) = (&self.identity.pod, self.stream);
            if point.pods.get(pod).is_some_and(|p| p.stream == stream) {
                point.pods.remove(pod);
            }
            state.tidy(&self.identity.ingress_point);
        }
    }
}

/// A pod's text, cut at a bound.
fn clipped(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
