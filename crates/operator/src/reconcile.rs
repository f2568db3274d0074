//! The pass: everything in the index becomes Snapshots, children and statuses.
//!
//! A pass looks at the whole index, is the same however it came about, works on the namespaces where
//! something changed, and writes only what differs. It runs when something changed (after a short pause, so that a burst costs one pass),
//! when something that had to wait is due, and every few minutes.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use masque_api::VPCIngressPoint;
use masque_controller::{
    Problem,
    children::{self, ChildOptions},
};
use masque_model::{ObjectName, Snapshot};
use masque_stream::Hub;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

use crate::{
    addresses::Addresses,
    apply::{Applier, Child, Family},
    certificates::{Certificates, hosts, now_unix_s, own_certificates},
    holdback::{held_back, unpublished},
    index::{SharedIndex, name_of},
    kinds::ChildKind,
    lease::Leadership,
    lookups::{Lookups, Nodes},
    metrics::Metrics,
    namespaces::{Known, Namespaces, Work},
    secrets::Secrets,
    status_writer::budget,
    statuses::{Facts, Statuses, by_namespace},
    versions::Versions,
    view::View,
    writer::Writer,
};

/// From the first change to the pass.
const SETTLE: Duration = Duration::from_millis(25);

/// Between the beginnings of two passes, at least.
const PASS_EVERY: Duration = Duration::from_millis(100);

/// What was just published is given so long to be acknowledged before statuses are written: most
/// pods do it in milliseconds, and one status says the end of it instead of two the way there.
const ACK_GRACE: Duration = Duration::from_millis(150);

/// After a change of leader pods dial again within the longest pause of their client. So long, what
/// pods said to the leader before stays in statuses.
const TAKEOVER: Duration = Duration::from_secs(20);

/// A pass without any reason, for what no watch tells.
const RESYNC: Duration = Duration::from_secs(300);

/// The CA is looked at so often.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// A renewal of the CA that failed is tried again after this.
const RENEW_RETRY: Duration = Duration::from_secs(60);

/// What one leader does.
pub(crate) struct Reconciler {
    index: SharedIndex,
    metrics: Arc<Metrics>,
    leadership: Leadership,
    hub: Hub,
    options: ChildOptions,
    applier: Applier,
    statuses: Statuses,
    addresses: Addresses,
    certificates: Certificates,
    secrets: Secrets,
    lookups: Lookups,
    versions: Versions,
    namespaces: Namespaces,
    built: BTreeMap<ObjectName, Built>,
    spreading: BTreeMap<ObjectName, Instant>,
    renew_at: Instant,
    /// When this leader knows its pods.
    settled_at: Instant,
}

/// What a leader works with.
pub(crate) struct Parts {
    /// The API server.
    pub(crate) client: Client,
    /// What it has.
    pub(crate) index: SharedIndex,
    /// Where the work is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Whether writing is allowed.
    pub(crate) leadership: Leadership,
    /// Where gateway pods get Snapshots.
    pub(crate) hub: Hub,
    /// The CA.
    pub(crate) certificates: Certificates,
    /// What children are made of.
    pub(crate) options: ChildOptions,
    /// Names this process in events.
    pub(crate) pod: String,
    /// The only namespace that is served, if there is only one.
    pub(crate) namespace: Option<String>,
}

/// Children of an ingress point, kept while it does not change.
struct Built {
    generation: Option<i64>,
    uid: Option<String>,
    bundle: Option<BTreeMap<String, String>>,
    children: Arc<Vec<Child>>,
}

/// What is left to do after a pass.
#[derive(Debug, Default)]
struct Left {
    at: Option<Instant>,
    waiting: usize,
}

impl Left {
    fn again(&mut self, at: Option<Instant>) {
        if let Some(at) = at {
            self.at = Some(self.at.map_or(at, |old| old.min(at)));
        }
    }
}

impl Reconciler {
    /// A leader that has done nothing yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            client,
            index,
            metrics,
            leadership,
            hub,
            certificates,
            options,
            pod,
            namespace,
        } = parts;
        let writer = Writer {
            client: client.clone(),
            index: index.clone(),
            metrics: metrics.clone(),
            leadership: leadership.clone(),
        };
        let applier = Applier::new(writer.clone());
        let statuses = Statuses::new(writer.clone(), &pod);
        Self {
            addresses: Addresses::new(writer.clone()),
            lookups: Lookups::new(client.clone(), namespace),
            secrets: Secrets::new(client),
            versions: Versions::default(),
            namespaces: Namespaces::new(),
            built: BTreeMap::new(),
            spreading: BTreeMap::new(),
            renew_at: Instant::now() + RENEW_EVERY,
            settled_at: Instant::now() + TAKEOVER,
            index,
            metrics,
            leadership,
            hub,
            options,
            applier,
            statuses,
            certificates,
        }
    }

    /// Runs passes for ever; dropped when this process does not lead any more.
    pub(crate) async fn run(mut self) {
        let mut reports = self.hub.changed();
        loop {
            let begun = Instant::now();
            let left = self.pass(&mut reports).await;
            self.metrics
                .reconcile_seconds
                .observe(begun.elapsed().as_secs_f64());
            let outcome = if left.waiting > 0 {
                "waiting"
            } else {
                "applied"
            };
            self.metrics.reconciles.with_label_values(&[outcome]).inc();
            self.metrics
                .workqueue_depth
                .set(i64::try_from(left.waiting).unwrap_or(i64::MAX));
            let resync = begun + RESYNC;
            let until = left.at.map_or(resync, |at| at.min(resync));
            tokio::select! {
                () = self.index.changed() => tokio::time::sleep(SETTLE).await,
                // The hub lives as long as this.
                _ = reports.changed() => tokio::time::sleep(SETTLE).await,
                () = tokio::time::sleep_until(until.into()) => {}
            }
            tokio::time::sleep_until((begun + PASS_EVERY).into()).await;
        }
    }

    async fn pass(&mut self, reports: &mut watch::Receiver<u64>) -> Left {
        let mut left = Left::default();
        let began = Instant::now();
        left.again(self.renew().await);
        let view = View::of(&self.index.lock());
        let begun = Instant::now();
        let looked_up = self.secrets.look(&view.points).await;
        let mut fingerprints = looked_up.fingerprints;
        let vpcs = self.lookups.vpcs(&view.points).await.clone();
        let nodes = self.lookups.nodes(&view.points).await.clone();
        left.again(looked_up.again);
        left.again(self.lookups.again());
        self.step("lookups", begun);

        let begun = Instant::now();
        let known = Known {
            secrets: &looked_up.present,
            vpcs: &vpcs,
            versions: &self.versions,
            now_unix_s: now_unix_s(),
        };
        let mut works = self.namespaces.changed(&view, &known);
        self.step("compile", begun);

        let begun = Instant::now();
        let plan = self.addresses.decide(&view, &mut works);
        self.publish(&mut works);
        self.step("publish", begun);
        let budget = budget(began.elapsed());
        self.statuses.allow(budget);

        let begun = Instant::now();
        let refused = self.children(&view, &nodes, &mut left).await;
        fingerprints.extend(self.certificates.fingerprints().clone());
        self.step("children", begun);

        // What is given now is in force in the next pass, so that an edit need not wait for it.
        let begun = Instant::now();
        let given = self.addresses.give(plan, budget, &view, &works).await;
        self.namespaces.keep(works);
        left.again(self.rule_ends());
        left.again(given.again);
        left.waiting += given.failed;
        self.step("addresses", begun);

        let begun = Instant::now();
        self.acks(began, reports).await;
        self.step("acks", begun);

        let begun = Instant::now();
        let young = begun < self.settled_at;
        left.again(young.then_some(self.settled_at));
        let others = view.unreadable.iter().chain(&looked_up.problems);
        let facts = Facts {
            namespaces: &self.namespaces,
            problems: by_namespace(others),
            fresh: &given.fresh,
            nodes: &nodes,
            versions: &self.versions,
            hub: &self.hub,
            refused: &refused,
            fingerprints: &fingerprints,
            young,
            now: Timestamp::now(),
        };
        let (again, waiting) = self.statuses.write(&view, facts).await;
        left.again(again);
        left.waiting += waiting;
        self.step("status", begun);
        left
    }

    /// When the next rule ends, unless that is far away.
    fn rule_ends(&self) -> Option<Instant> {
        let pause_s = self
            .namespaces
            .next_end_unix_s()?
            .saturating_sub(now_unix_s());
        Some(Instant::now() + Duration::from_secs(pause_s).min(RESYNC))
    }

    /// Looks after the CA; when to do so again.
    async fn renew(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if now >= self.renew_at {
            self.renew_at = match self.certificates.renew().await {
                Ok(()) => now + RENEW_EVERY,
                Err(error) => {
                    tracing::warn!(%error, "the CA could not be renewed");
                    now + RENEW_RETRY
                }
            };
            self.metrics.ca_expiry.set(self.certificates.expires_s());
        }
        Some(self.renew_at)
    }

    /// Puts changed Snapshots into force. What this meets is added to what is wrong.
    fn publish(&mut self, works: &mut [Work]) {
        for work in &mut *works {
            for mut snapshot in mem::take(&mut work.snapshots) {
                own_certificates(&mut snapshot);
                if let Err(problem) = self.publish_one(snapshot, work) {
                    work.problems.push(*problem);
                    work.settled = false;
                }
            }
        }
        let changed: BTreeSet<&ObjectName> = works.iter().flat_map(|it| &it.points).collect();
        let (namespaces, index) = (&self.namespaces, self.index.lock());
        let served = |name: &ObjectName| changed.contains(name) || namespaces.serves(name);
        let gone = self
            .versions
            .retain(served, |name| index.points.contains(name));
        drop(index);
        for name in gone {
            self.hub.withdraw(&name);
            self.spreading.remove(&name);
        }
        self.measure();
    }

    fn publish_one(&mut self, snapshot: Snapshot, work: &Work) -> Result<(), Box<Problem>> {
        let name = snapshot.ingress_point.clone();
        let mut points = work.objects.points.iter().map(|point| &**point);
        let point = points.find(|point| name_of(&point.metadata) == name);
        let Some(snapshot) = self.versions.next(snapshot, point) else {
            return Ok(());
        };
        let first = self.versions.find(&name).is_none();
        let held = point
            .filter(|_| first)
            .and_then(|point| held_back(point, snapshot.version, &work.objects, &work.problems));
        if let Some(problem) = held {
            tracing::debug!(point = %name, "{}", problem.message);
            return Err(Box::new(problem));
        }
        let snapshot = Arc::new(snapshot);
        let document = self.hub.publish(&snapshot).map_err(|error| {
            tracing::warn!(point = %name, %error, "a Snapshot cannot be published");
            Box::new(unpublished(&name, &error.to_string()))
        })?;
        tracing::info!(
            point = %name, version = document.version(), bytes = document.size_bytes(),
            "a new Snapshot is in force"
        );
        self.spreading.insert(name, Instant::now());
        self.versions.put(snapshot, &document);
        Ok(())
    }

    /// Waits, [`ACK_GRACE`] at most, until connected pods run what was published since `began`.
    /// Marks what they say as seen.
    async fn acks(&mut self, began: Instant, reports: &mut watch::Receiver<u64>) {
        let until = Instant::now() + ACK_GRACE;
        loop {
            reports.borrow_and_update();
            self.measure();
            let published = self.spreading.iter().filter(|(_, since)| **since >= began);
            let waits = published.map(|(name, _)| self.hub.reports(name));
            let mut waits = waits.flatten().filter(|pod| pod.rejected.is_none());
            if !waits.any(|pod| pod.connected) {
                return;
            }
            let changed = tokio::time::timeout_at(until.into(), reports.changed());
            // The hub lives as long as this.
            if changed.await.is_err() {
                return;
            }
        }
    }

    /// Notes how long Snapshots took to reach every connected pod.
    fn measure(&mut self) {
        let hub = &self.hub;
        let versions = &self.versions;
        let histogram = &self.metrics.propagation_seconds;
        self.spreading.retain(|name, since| {
            let Some(snapshot) = versions.find(name) else {
                return false;
            };
            let pods = hub.reports(name);
            let mut connected = pods.iter().filter(|pod| pod.connected).peekable();
            let all = connected.peek().is_some()
                && connected.all(|pod| pod.acked == Some(snapshot.version));
            if all {
                histogram.observe(since.elapsed().as_secs_f64());
            }
            !all
        });
    }

    /// Makes certificates and children of every ingress point that has a Snapshot. What was
    /// refused, by ingress point.
    async fn children(
        &mut self,
        view: &View,
        nodes: &Nodes,
        left: &mut Left,
    ) -> BTreeMap<ObjectName, String> {
        self.certificates.retain(&view.points);
        let (mut families, mut unissued) = (Vec::new(), BTreeMap::new());
        for point in &view.points {
            let name = name_of(&point.metadata);
            // Nothing runs for a spec that was never in force.
            if self.versions.find(&name).is_none() || !self.leadership.holds() {
                continue;
            }
            let told = point.status.as_ref().map(|status| status.addresses.clone());
            let hosts = hosts(point, &told.unwrap_or_default(), nodes);
            let (failure, again) = self.certificates.ensure(point, &hosts).await;
            left.again(Some(again));
            if let Some(why) = failure {
                left.waiting += 1;
                unissued.insert(name.clone(), why);
            }
            families.push(Family {
                uid: point.metadata.uid.clone().unwrap_or_default(),
                children: self.built(point),
                point: name,
            });
        }
        let names: BTreeSet<_> = families.iter().map(|family| &family.point).collect();
        self.built.retain(|name, _| names.contains(name));
        let round = self.applier.round(&families).await;
        left.again(round.again);
        left.waiting += usize::from(round.again.is_some());
        round.join(&mut unissued);
        unissued
    }

    /// The children of an ingress point, built again only when its spec or the CA changed.
    fn built(&mut self, point: &VPCIngressPoint) -> Arc<Vec<Child>> {
        let name = name_of(&point.metadata);
        let (generation, uid) = (point.metadata.generation, point.metadata.uid.clone());
        let ca = self.certificates.client_ca(point);
        if let Some(built) = self.built.get(&name)
            && built.generation == generation
            && built.uid == uid
            && built.bundle == ca.data
        {
            return built.children.clone();
        }
        let bundle = ca.data.clone();
        let made = children::build(point, &self.options);
        let mut children = vec![
            child(ChildKind::ServiceAccount, &made.service_account),
            child(ChildKind::ConfigMap, &made.config_map),
            child(ChildKind::ConfigMap, &ca),
            child(ChildKind::NetworkPolicy, &made.network_policy),
            child(ChildKind::Service, &made.service),
            child(ChildKind::Deployment, &made.deployment),
        ];
        let budget = made.pod_disruption_budget.as_ref();
        children.extend(budget.map(|budget| child(ChildKind::PodDisruptionBudget, budget)));
        let autoscaler = made.autoscaler.as_ref();
        children.extend(autoscaler.map(|it| child(ChildKind::HorizontalPodAutoscaler, it)));
        let children = Arc::new(children);
        let built = Built {
            generation,
            uid,
            bundle,
            children: children.clone(),
        };
        self.built.insert(name, built);
        children
    }

    fn step(&self, step: &str, begun: Instant) {
        let seconds = begun.elapsed().as_secs_f64();
        self.metrics
            .step_seconds
            .with_label_values(&[step])
            .observe(seconds);
    }
}

/// A typed object as a child. Objects of our own making always have a JSON form.
fn child<K>(kind: ChildKind, object: &K) -> Child
where
    K: kube::Resource<DynamicType = ()> + Serialize,
{
    let value = serde_json::to_value(object).unwrap_or(Value::Null);
    Child::new(kind, name_of(object.meta()), value)
}
