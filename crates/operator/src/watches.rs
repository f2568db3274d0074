//! Watches that fill the index. One object that cannot be read never stalls the others.

use std::{collections::BTreeSet, fmt::Debug, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use kube::{
    Api, Client, Resource,
    api::DynamicObject,
    core::{DeserializeGuard, NamespaceResourceScope},
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event},
    },
};
use masque_api::API_VERSION;
use serde::de::DeserializeOwned;

use crate::{
    client::call,
    index::{Index, Seen, SharedIndex, Shelf},
    kinds::ChildKind,
    metrics::Metrics,
};

/// The kinds that must be served before anything can be done, by their plural.
pub(crate) const NEEDED: [&str; 4] = [
    "connectorattachments",
    "connectors",
    "vpcaccesspolicies",
    "vpcingresspoints",
];

/// How often the API server is asked again for kinds that are missing.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// The longest pause between two attempts of a watch.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// A watch is asked for anew after this many seconds, so that a dead connection is noticed.
const WATCH_S: u32 = 120;

/// Labels of every child.
pub(crate) const CHILD_LABELS: &str =
    "app.kubernetes.io/name=masque-gateway,app.kubernetes.io/managed-by=masque-operator";

/// The names among [`NEEDED`] that the API server does not serve, in full.
pub(crate) async fn missing_crds(client: &Client) -> Result<Vec<String>, crate::client::CallError> {
    let served: BTreeSet<String> = match call(client.list_api_group_resources(API_VERSION)).await {
        Ok(list) => list.resources.into_iter().map(|kind| kind.name).collect(),
        Err(error) if crate::client::is_not_found(&error) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    Ok(NEEDED
        .iter()
        .filter(|plural| !served.contains(**plural))
        .map(|plural| format!("{plural}.{}", masque_api::GROUP))
        .collect())
}

/// Waits until the API server serves every kind; `report` hears what is missing.
pub(crate) async fn wait_for_crds(client: &Client, report: impl Fn(&[String])) {
    let mut said = None;
    loop {
        match missing_crds(client).await {
            Ok(missing) => {
                report(&missing);
                if missing.is_empty() {
                    return;
                }
                if said.as_ref() != Some(&missing) {
                    tracing::warn!(
                        missing = missing.join(", "),
                        "waiting for CustomResourceDefinitions; install the chart masque-gateway-crds"
                    );
                    said = Some(missing);
                }
            }
            Err(error) => tracing::warn!(%error, "the API server cannot be asked for its kinds"),
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Starts every watch; they end with the returned set.
pub(crate) fn start(
    client: &Client,
    namespace: Option<&str>,
    index: &SharedIndex,
    metrics: &Arc<Metrics>,
) -> tokio::task::JoinSet<()> {
    let mut tasks = tokio::task::JoinSet::new();
    let all = watcher::Config::default().timeout(WATCH_S);
    let follower = Follower {
        index: index.clone(),
        metrics: metrics.clone(),
    };
    tasks.spawn(
        follower
            .clone()
            .follow(typed(client, namespace), all.clone(), |i| &mut i.points),
    );
    tasks.spawn(
        follower
            .clone()
            .follow(typed(client, namespace), all.clone(), |i| {
                &mut i.attachments
            }),
    );
    tasks.spawn(
        follower
            .clone()
            .follow(typed(client, namespace), all.clone(), |i| &mut i.policies),
    );
    tasks.spawn(
        follower
            .clone()
            .follow(typed(client, namespace), all.clone(), |i| &mut i.connectors),
    );
    for kind in ChildKind::ALL {
        let resource = kind.resource();
        let api: Api<DeserializeGuard<DynamicObject>> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let labelled = all.clone().labels(CHILD_LABELS);
        tasks.spawn(
            follower
                .clone()
                .follow(api, labelled, move |i| i.children_mut(kind)),
        );
    }
    tasks
}

fn typed<K>(client: &Client, namespace: Option<&str>) -> Api<DeserializeGuard<K>>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

#[derive(Clone)]
struct Follower {
    index: SharedIndex,
    metrics: Arc<Metrics>,
}

impl Follower {
    /// Keeps one shelf as the API server has it.
    async fn follow<K>(
        self,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        pick: impl for<'a> Fn(&'a mut Index) -> &'a mut Shelf<K> + Send,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
        K::DynamicType: Clone,
    {
        let resource = api.resource_url().to_owned();
        let pauses = Pauses::default();
        let mut events = watcher::watcher(api, config).backoff(pauses).boxed();
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let rings = put(pick(&mut self.index.lock()), event);
                    if rings {
                        self.index.ring();
                    }
                }
                Err(error) => {
                    self.metrics.watch_errors.inc();
                    tracing::warn!(%error, resource, "a watch failed; it starts again");
                }
            }
        }
    }
}

/// Grows with jitter up to [`MAX_PAUSE`]; begins anew after a while without a fault.
#[derive(Default)]
struct Pauses(watcher::DefaultBackoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|pause| pause.min(MAX_PAUSE))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// Applies one event; whether a pass should look.
fn put<K: Resource>(shelf: &mut Shelf<K>, event: Event<DeserializeGuard<K>>) -> bool {
    match event {
        Event::Init => {
            shelf.begin();
            false
        }
        Event::InitApply(object) => {
            shelf.put(seen(object));
            false
        }
        Event::InitDone => {
            shelf.end();
            true
        }
        Event::Apply(object) => shelf.put(seen(object)),
        Event::Delete(object) => {
            shelf.remove(object.meta());
            true
        }
    }
}

/// An object as the index keeps it.
pub(crate) fn seen<K: Resource>(object: DeserializeGuard<K>) -> Seen<K> {
    match object.0 {
        Ok(mut object) => {
            // Half of a small object's size, and nobody reads it.
            object.meta_mut().managed_fields = None;
            Seen::Read(Arc::new(object))
        }
        Err(mut invalid) => {
            invalid.metadata.managed_fields = None;
            Seen::Unreadable {
                metadata: Box::new(invalid.metadata),
                error: invalid.error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use masque_api::Connector;
    use masque_model::ObjectName;
    use serde_json::json;

    use super::*;

    #[test]
    fn one_unreadable_object_leaves_the_others_alone() {
        let mut shelf: Shelf<Connector> = Shelf::default();
        let object = |name: &str, spec: serde_json::Value| -> DeserializeGuard<Connector> {
            serde_json::from_value(json!({
                "apiVersion": API_VERSION, "kind": "Connector",
                "metadata": {"name": name, "namespace": "ns", "resourceVersion": "1"},
                "spec": spec,
            }))
            .unwrap()
        };
        put(&mut shelf, Event::Init);
        put(
            &mut shelf,
            Event::InitApply(object("bad", json!({"capabilities": 7}))),
        );
        put(&mut shelf, Event::InitApply(object("good", json!({}))));
        assert!(put(&mut shelf, Event::InitDone));
        let read: Vec<_> = shelf.read().map(|(name, _)| name.name.clone()).collect();
        assert_eq!(read, ["good"]);
        let (name, _, error) = shelf.unreadable().next().unwrap();
        assert_eq!(*name, ObjectName::new("ns", "bad"));
        assert!(!error.is_empty());
    }
}
