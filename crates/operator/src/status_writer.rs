//! Writes status: only what changed, only while leading, and never more often than a bound.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Api, Resource,
    api::{Patch, PatchParams},
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use masque_api::{ConditionType, Reason};
use masque_model::ObjectName;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    apply::outcome,
    args::OPERATOR_NAME,
    client::{CallError, call, is_not_found},
    index::{Index, Seen, Shelf},
    retry::Retry,
    writer::Writer,
};

/// The field manager of status.
pub(crate) const STATUS_MANAGER: &str = "masque-operator/status";

/// Writes under way at one time.
const CONCURRENT: usize = 16;

/// No write begins later in a round: a policy edit must not wait until ten thousand statuses are
/// written. What is left comes in the next pass.
pub(crate) const ROUND: Duration = Duration::from_millis(300);

/// A round may take so many times as long as its pass computed, if that is longer: with many
/// objects most of the time goes to writes nonetheless.
const ROUND_SHARE: u32 = 3;

/// How long a round of writes may take in a pass that computed for `thought`.
pub(crate) fn budget(thought: Duration) -> Duration {
    ROUND.max(thought * ROUND_SHARE)
}

/// Writes of one object's status that may follow each other at once.
pub(crate) const BURST: u32 = 6;

/// After a burst, one write of an object's status in this time: what a client that comes and goes
/// all the time can cause.
pub(crate) const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Events that may follow each other at once, of all objects together.
pub(crate) const EVENT_BURST: u32 = 50;

/// After a burst, one event in this time; what is not told stays in the conditions.
pub(crate) const EVENT_EVERY: Duration = Duration::from_millis(200);

/// The longest note of an event, in bytes (events.k8s.io allows 1 kB).
const MAX_NOTE_BYTES: usize = 1000;

/// A status as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The object.
    pub(crate) name: ObjectName,
    /// Its uid, so that a new object of the same name does not get the old one's status.
    pub(crate) uid: Option<String>,
    /// Set when the status holds a list that other controllers write to: the version it was read
    /// at, so that none of their entries is lost.
    pub(crate) version: Option<String>,
    /// The status that is there.
    pub(crate) current: Value,
    /// The status that should be there.
    pub(crate) status: Value,
}

impl Wanted {
    /// Whether anything has to be written.
    pub(crate) fn differs(&self) -> bool {
        self.current != self.status
    }

    /// Metadata that make the API server refuse the write when the object is another one by now.
    /// An empty version means 0 to it, so that what is not known is left out.
    fn conditions_of_write(&self) -> Value {
        let mut metadata = serde_json::Map::new();
        for (key, value) in [("uid", &self.uid), ("resourceVersion", &self.version)] {
            if let Some(value) = value {
                metadata.insert(key.to_owned(), Value::String(value.clone()));
            }
        }
        Value::Object(metadata)
    }
}

/// Something that may be done `burst` times at once, and then every `every`.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    burst: u32,
    every: Duration,
    tokens: u32,
    since: Instant,
}

impl Allowance {
    fn new(burst: u32, every: Duration, now: Instant) -> Self {
        Self {
            burst,
            every,
            tokens: burst,
            since: now,
        }
    }

    /// Takes one; else when there is one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let passed = now.saturating_duration_since(self.since).as_millis();
        let passed = passed / self.every.as_millis().max(1);
        if passed > 0 {
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(passed).min(self.burst);
            self.since += self.every.saturating_mul(passed);
        }
        if self.tokens == 0 {
            return Err(self.since + self.every);
        }
        self.tokens -= 1;
        Ok(())
    }

    /// Whether it is as good as new.
    fn full_again(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > self.every * self.burst
    }
}

/// How much of an object's allowance is left.
#[derive(Clone, Copy, Debug)]
struct Pace {
    writes: Allowance,
    retry: Retry,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            writes: Allowance::new(BURST, WRITE_EVERY, now),
            retry: Retry::default(),
        }
    }

    /// Takes one write; else when there is one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        if let Some(at) = self.retry.due(now) {
            return Err(at);
        }
        self.writes.take(now)
    }

    /// Whether nothing is lost when it is forgotten.
    fn idle(&self, now: Instant) -> bool {
        self.writes.full_again(now) && self.retry.due(now).is_none()
    }
}

/// Writes status of every kind.
pub(crate) struct StatusWriter {
    writer: Writer,
    recorder: Recorder,
    budget: Duration,
    paces: Mutex<BTreeMap<(String, ObjectName), Pace>>,
    events: Mutex<Allowance>,
}

impl StatusWriter {
    /// A writer; `pod` names this process in events.
    pub(crate) fn new(writer: Writer, pod: &str) -> Self {
        let reporter = Reporter {
            controller: OPERATOR_NAME.to_owned(),
            instance: Some(pod.to_owned()),
        };
        Self {
            recorder: Recorder::new(writer.client.clone(), reporter),
            budget: ROUND,
            writer,
            paces: Mutex::default(),
            events: Mutex::new(Allowance::new(EVENT_BURST, EVENT_EVERY, Instant::now())),
        }
    }

    /// Writes what differs; returns when something that had to wait may be written, and how many
    /// writes wait.
    pub(crate) async fn round<K>(
        &self,
        wanted: Vec<Wanted>,
        manager: &str,
        pick: impl Fn(&mut Index) -> &mut Shelf<K> + Sync,
    ) -> (Option<Instant>, usize)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync,
    {
        let waiting = Mutex::new((None::<Instant>, 0_usize));
        let wait = |at: Instant| {
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.0 = Some(waiting.0.map_or(at, |old| old.min(at)));
            waiting.1 += 1;
        };
        let (wait, pick) = (&wait, &pick);
        let until = Instant::now() + self.budget;
        futures_util::stream::iter(wanted.into_iter().filter(Wanted::differs))
            .for_each_concurrent(CONCURRENT, |wanted| async move {
                if Instant::now() >= until {
                    wait(until);
                } else if let Err(at) = self.one::<K>(&wanted, manager, pick).await {
                    wait(at);
                }
            })
            .await;
        waiting.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rounds may take so long from now on.
    pub(crate) fn allow(&mut self, budget: Duration) {
        self.budget = budget;
    }

    /// Forgets objects that were quiet for long.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        paces.retain(|_, pace| !pace.idle(now));
    }

    async fn one<K>(
        &self,
        wanted: &Wanted,
        manager: &str,
        pick: &(impl Fn(&mut Index) -> &mut Shelf<K> + Sync),
    ) -> Result<(), Instant>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync,
    {
        let kind = K::kind(&()).into_owned();
        let key = (kind.clone(), wanted.name.clone());
        self.take(&key)?;
        if !self.writer.leadership.holds() {
            return Ok(());
        }
        let count = |outcome: &str| {
            let labels = [kind.as_str(), outcome];
            self.writer
                .metrics
                .status_writes
                .with_label_values(&labels)
                .inc();
        };
        match self.write::<K>(wanted, manager).await {
            Ok(object) => {
                count("written");
                let reference = object.as_ref().ok().map(|object| object.object_ref(&()));
                if let Ok(mut object) = object {
                    object.meta_mut().managed_fields = None;
                    pick(&mut self.writer.index.lock()).put(Seen::Read(Arc::new(object)));
                }
                if let Some(reference) = reference {
                    self.tell(wanted, &reference).await;
                }
                self.forgive(&key);
                Ok(())
            }
            // Deleted meanwhile.
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => {
                count(outcome(&error));
                tracing::warn!(%error, kind, name = %wanted.name, "a status could not be written");
                Err(self.failed(&key, &error))
            }
        }
    }

    async fn write<K>(
        &self,
        wanted: &Wanted,
        manager: &str,
    ) -> Result<Result<K, kube::core::error_boundary::InvalidObject>, CallError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": wanted.conditions_of_write(),
            "status": wanted.status,
        });
        let api: Api<DeserializeGuard<K>> =
            Api::namespaced(self.writer.client.clone(), &wanted.name.namespace);
        let params = PatchParams::apply(manager).force();
        let patch = Patch::Apply(&patch);
        let object = call(api.patch_status(&wanted.name.name, &params, &patch)).await?;
        Ok(object.0)
    }

    /// Events for conditions that changed.
    async fn tell(&self, wanted: &Wanted, reference: &ObjectReference) {
        for event in events(&conditions(&wanted.current), &conditions(&wanted.status)) {
            // A fleet that waits for its first pod is one ingress point's news, not everybody's.
            let point = reference.kind.as_deref() == Some("VPCIngressPoint");
            if waits(&event.reason) && !point || !self.may_tell() {
                continue;
            }
            if let Err(error) = call(self.recorder.publish(&event, reference)).await {
                tracing::debug!(%error, name = %wanted.name, "an event was lost");
            }
        }
    }

    fn may_tell(&self) -> bool {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.take(Instant::now()).is_ok()
    }

    fn take(&self, key: &(String, ObjectName)) -> Result<(), Instant> {
        let now = Instant::now();
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.entry(key.clone()).or_insert_with(|| Pace::new(now));
        pace.take(now)
    }

    fn forgive(&self, key: &(String, ObjectName)) {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pace) = paces.get_mut(key) {
            pace.retry = Retry::default();
        }
    }

    fn failed(&self, key: &(String, ObjectName), error: &CallError) -> Instant {
        let now = Instant::now();
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        let pace = paces.entry(key.clone()).or_insert_with(|| Pace::new(now));
        let seed = key.1.name.bytes().fold(0, |seed: u64, byte| {
            seed.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        pace.retry.failed(error, seed, now)
    }
}

/// The conditions of a status, of every ancestor when it is a policy's.
fn conditions(status: &Value) -> Vec<Condition> {
    let read = |value: &Value| -> Vec<Condition> {
        let conditions = value.get("conditions").cloned().unwrap_or_default();
        serde_json::from_value(conditions).unwrap_or_default()
    };
    let ancestors = status.get("ancestors").and_then(Value::as_array);
    match ancestors {
        Some(ancestors) => ancestors.iter().flat_map(read).collect(),
        None => read(status),
    }
}

/// What people should hear of: a condition that turned False or gives another reason for it, and
/// Ready that turned True.
fn events(old: &[Condition], new: &[Condition]) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for condition in new {
        let same = old.iter().any(|old| {
            old.type_ == condition.type_
                && old.status == condition.status
                && (old.reason == condition.reason || condition.status == "True")
        });
        let ready = condition.type_ == ConditionType::Ready.as_str();
        let connected = condition.type_ == ConditionType::Connected.as_str();
        let worth = condition.status == "False" && !connected && !ready
            || ready && condition.status == "True";
        if same || !worth || events.iter().any(|event| event.reason == condition.reason) {
            continue;
        }
        events.push(Event {
            type_: if condition.status == "True" || waits(&condition.reason) {
                EventType::Normal
            } else {
                EventType::Warning
            },
            reason: condition.reason.clone(),
            note: Some(cut(&condition.message)),
            action: condition.type_.clone(),
            secondary: None,
        });
    }
    events
}

/// Reasons that pass by themselves.
fn waits(reason: &str) -> bool {
    [
        Reason::WaitingForPods,
        Reason::WaitingForAck,
        Reason::Pending,
    ]
    .iter()
    .any(|waits| waits.as_str() == reason)
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_NOTE_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;
