//! Gives addresses to attachments: [`ipam`] decides, this writes.
//!
//! First the ledger of an ingress point, then the attachment's status; both name the version they
//! were decided on, so that a former leader that still writes cannot give an address twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::DeserializeGuard,
};
use masque_api::{API_VERSION, ConnectorAttachment, VPCIngressPoint};
use masque_controller::{
    Kind,
    children::child_metadata,
    ipam::{self, AddressWrite, AssignState, Held, Ledger, LedgerError, ledger_name},
};
use masque_model::ObjectName;
use serde_json::json;

use crate::{
    apply::outcome,
    certificates::now_unix_s,
    client::{CallError, call},
    index::name_of,
    kinds::ChildKind,
    namespaces::Work,
    view::View,
    watches::seen,
    writer::Writer,
};

/// The field manager of addresses.
pub(crate) const IPAM_MANAGER: &str = "masque-operator/ipam";

/// Writes under way at one time.
const CONCURRENT: usize = 16;

/// After a write that did not succeed: by then the watch has told why.
const RETRY: Duration = Duration::from_secs(1);

/// Gives addresses, and remembers who held which.
pub(crate) struct Addresses {
    writer: Writer,
    /// By namespace.
    before: BTreeMap<String, Held>,
    /// The newest version of any attachment that was ever seen.
    seen_version: u64,
}

/// What a round came to.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Attachments whose addresses were written now, or will be in the next rounds.
    pub(crate) fresh: BTreeSet<ObjectName>,
    /// When to try again what could not be written.
    pub(crate) again: Option<Instant>,
    /// Writes that did not succeed.
    pub(crate) failed: usize,
}

/// What was decided and is not written yet.
#[derive(Default)]
pub(crate) struct Plan {
    /// What is held, by namespace.
    held: BTreeMap<String, Held>,
    ledgers: BTreeMap<ObjectName, Ledger>,
    /// The versions at which the ledgers were read.
    versions: BTreeMap<ObjectName, String>,
    /// Ledgers that cannot be read.
    unusable: BTreeSet<ObjectName>,
    writes: BTreeMap<ObjectName, AddressWrite>,
}

impl Addresses {
    /// Nothing is known yet of who held what.
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer,
            before: BTreeMap::new(),
            seen_version: 0,
        }
    }

    /// Fills in the addresses in force, and decides which to give next.
    pub(crate) fn decide(&mut self, view: &View, works: &mut [Work]) -> Plan {
        self.before
            .retain(|namespace, _| view.namespaces.contains_key(namespace));
        // The newest attachment may be deleted by now, and a ledger be as new as it was.
        self.seen_version = self.seen_version.max(view.attachments_as_of);
        let mut plan = Plan::default();
        for work in &*works {
            let held = self.held(work);
            self.seen_version = self.seen_version.max(held.seen_version);
            plan.held.insert(work.namespace.clone(), held);
        }
        for work in works {
            self.decide_one(work, &mut plan);
        }
        plan
    }

    fn decide_one(&self, work: &mut Work, plan: &mut Plan) {
        let nothing = Held::default();
        let before = self.before.get(&work.namespace).unwrap_or(&nothing);
        let Some(held) = plan.held.get_mut(&work.namespace) else {
            return;
        };
        held.seen_version = self.seen_version;
        let mut ledgers = BTreeMap::new();
        for snapshot in &work.snapshots {
            let point = &snapshot.ingress_point;
            let Some(object) = work.objects.ledgers.get(point) else {
                continue;
            };
            plan.versions
                .extend(object.resource_version().map(|it| (point.clone(), it)));
            let ledger = read_ledger(object).unwrap_or_else(|error| {
                let config_map = ledger_name(&point.name);
                tracing::warn!(%error, namespace = point.namespace, config_map, "no addresses are given");
                plan.unusable.insert(point.clone());
                // Nobody gets an address by a ledger that cannot be read.
                Ledger {
                    as_of: u64::MAX,
                    ..Ledger::default()
                }
            });
            ledgers.insert(point.clone(), ledger);
        }
        let assigned = ipam::assign(&mut work.snapshots, held, before, &ledgers, now_unix_s());
        work.outcomes = assigned.outcomes;
        // What is written now is looked at in the next pass.
        if !assigned.ledgers.is_empty() || !assigned.writes.is_empty() || work.lacks_addresses() {
            work.settled = false;
        }
        plan.ledgers.extend(assigned.ledgers);
        plan.writes.extend(assigned.writes);
    }

    /// Writes what was decided. No write of an address begins after `budget`.
    pub(crate) async fn give(
        &mut self,
        plan: Plan,
        budget: Duration,
        view: &View,
        works: &[Work],
    ) -> Given {
        let mut given = Given::default();
        let mut written = BTreeSet::new();
        let wanted: BTreeSet<_> = plan.ledgers.keys().cloned().collect();
        for (point, ledger) in plan.ledgers {
            if !plan.unusable.contains(&point)
                && self
                    .write_ledger(&point, &ledger, plan.versions.get(&point), view)
                    .await
            {
                written.insert(point);
            }
        }
        let failed: BTreeSet<_> = wanted.difference(&written).collect();
        given.failed += failed.len();
        for (namespace, held) in plan.held {
            if !failed.iter().any(|point| point.namespace == namespace) {
                self.before.insert(namespace, held);
            }
        }
        let ready = |write: &AddressWrite| write.after.iter().all(|point| written.contains(point));
        let writes: Vec<_> = plan
            .writes
            .into_iter()
            .filter(|(_, write)| ready(write))
            .collect();
        let wanted = writes.len();
        let (done, later) = self.write_addresses(writes, budget).await;
        given.failed += wanted - done.len() - later.len();
        if given.failed > 0 {
            given.again = Some(Instant::now() + RETRY);
        }
        if !later.is_empty() {
            given.again = Some(Instant::now());
        }
        given.fresh = done;
        given.fresh.extend(later);
        // Those whose turn has not come: a ledger takes so many at one time, and was written.
        let outcomes = works.iter().flat_map(|work| &work.outcomes);
        let waiting = outcomes.filter(|outcome| {
            outcome.state == AssignState::Pending && written.contains(&outcome.ingress_point)
        });
        let waiting: Vec<_> = waiting.map(|outcome| outcome.attachment.clone()).collect();
        if !waiting.is_empty() {
            let soon = Instant::now() + RETRY;
            given.again = Some(given.again.map_or(soon, |at| at.min(soon)));
            given.fresh.extend(waiting);
        }
        given
    }

    /// What every attachment of a namespace holds, also those that are being deleted. One that
    /// cannot be read now holds what it held.
    fn held(&self, work: &Work) -> Held {
        let objects = &work.objects;
        let readable = objects.attachments.iter().chain(&objects.leaving);
        let mut held = Held::new(readable.map(|object| &**object), self.seen_version);
        let before = self.before.get(&work.namespace);
        for (kind, name) in &objects.unreadable {
            let holder = before.and_then(|before| before.holders.get(name));
            if *kind == Kind::ConnectorAttachment
                && let Some(holder) = holder
            {
                held.holders.insert(name.clone(), holder.clone());
            }
        }
        held
    }

    /// Writes a ledger as it follows the one at `version`; whether it was written.
    async fn write_ledger(
        &self,
        point: &ObjectName,
        ledger: &Ledger,
        version: Option<&String>,
        view: &View,
    ) -> bool {
        let owner = view
            .points
            .iter()
            .find(|object| name_of(&object.metadata) == *point);
        let Some(owner) = owner.filter(|_| self.writer.leadership.holds()) else {
            return false;
        };
        match self.replace_ledger(owner, ledger, version).await {
            Ok(object) => {
                let mut index = self.writer.index.lock();
                index.children_mut(ChildKind::ConfigMap).put(seen(object));
                true
            }
            Err(error) => {
                tracing::warn!(%error, %point, "the ledger of addresses could not be written");
                false
            }
        }
    }

    async fn replace_ledger(
        &self,
        owner: &VPCIngressPoint,
        ledger: &Ledger,
        version: Option<&String>,
    ) -> Result<DeserializeGuard<DynamicObject>, CallError> {
        let point = name_of(&owner.metadata);
        let name = ledger_name(&point.name);
        let mut object = ConfigMap {
            metadata: child_metadata(owner, name.clone()),
            data: Some(ledger.to_data()),
            ..ConfigMap::default()
        };
        object.metadata.resource_version = version.cloned();
        let value = serde_json::to_value(&object).and_then(serde_json::from_value);
        let object: DynamicObject = value.map_err(kube::Error::SerdeError)?;
        let api: Api<DynamicObject> = Api::namespaced_with(
            self.writer.client.clone(),
            &point.namespace,
            &ChildKind::ConfigMap.resource(),
        );
        let params = PostParams {
            field_manager: Some(IPAM_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let object = match version {
            Some(_) => call(api.replace(&name, &params, &object)).await?,
            None => call(api.create(&params, &object)).await?,
        };
        Ok(DeserializeGuard(Ok(object)))
    }

    /// Writes addresses into statuses; those that were written, and those that are left for the
    /// next round.
    async fn write_addresses(
        &self,
        writes: Vec<(ObjectName, AddressWrite)>,
        budget: Duration,
    ) -> (BTreeSet<ObjectName>, BTreeSet<ObjectName>) {
        let written = Mutex::new((BTreeSet::new(), BTreeSet::new()));
        let until = Instant::now() + budget;
        futures_util::stream::iter(writes)
            .for_each_concurrent(CONCURRENT, |(name, write)| {
                let done = &written;
                async move {
                    if !self.writer.leadership.holds() {
                        return;
                    }
                    if Instant::now() >= until {
                        let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                        done.1.insert(name);
                        return;
                    }
                    let result = self.write_address(&name, &write).await;
                    let labels = |outcome| ["ConnectorAttachment", outcome];
                    let writes = &self.writer.metrics.status_writes;
                    match result {
                        Ok(object) => {
                            writes.with_label_values(&labels("written")).inc();
                            tracing::info!(attachment = %name, addresses = ?write.addresses, "addresses given");
                            self.writer.index.lock().attachments.put(seen(object));
                            self.writer.index.ring();
                            done.lock().unwrap_or_else(PoisonError::into_inner).0.insert(name);
                        }
                        Err(error) => {
                            writes.with_label_values(&labels(outcome(&error))).inc();
                            tracing::warn!(%error, attachment = %name, "addresses could not be written");
                        }
                    }
                }
            })
            .await;
        written.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    async fn write_address(
        &self,
        name: &ObjectName,
        write: &AddressWrite,
    ) -> Result<DeserializeGuard<ConnectorAttachment>, CallError> {
        let ipv4 = write.addresses.iter().find(|address| address.is_ipv4());
        let patch = json!({
            "apiVersion": API_VERSION,
            "kind": "ConnectorAttachment",
            "metadata": {"resourceVersion": write.version.to_string()},
            "status": {
                "assignedIP": ipv4.or(write.addresses.first()),
                "assignedIPs": write.addresses,
            },
        });
        let api: Api<DeserializeGuard<ConnectorAttachment>> =
            Api::namespaced(self.writer.client.clone(), &name.namespace);
        let params = PatchParams::apply(IPAM_MANAGER).force();
        call(api.patch_status(&name.name, &params, &Patch::Apply(&patch))).await
    }
}

/// What a ConfigMap says of an ingress point's addresses.
fn read_ledger(object: &DynamicObject) -> Result<Ledger, LedgerError> {
    let data = object.data.get("data").cloned().unwrap_or_default();
    let data: Option<BTreeMap<String, String>> = serde_json::from_value(data).ok();
    Ledger::from_data(data.as_ref())
}

/// Whether this ConfigMap is a ledger, which no pruning may touch.
pub(crate) fn is_ledger(point: &ObjectName, kind: ChildKind, name: &ObjectName) -> bool {
    kind == ChildKind::ConfigMap && name.name == ledger_name(&point.name)
}
