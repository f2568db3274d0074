//! Objects that this version cannot read: each is told so once, in its own status.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ApiResource, DynamicObject},
};
use masque_api::{ConditionType, ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_controller::{Kind, ObjectRef, Reason, status::CONTROLLER_NAME};
use masque_model::ObjectName;
use serde_json::{Value, json};

use crate::{
    client::call,
    index::{Index, Shelf},
    status_writer::{ROUND, STATUS_MANAGER, StatusWriter, Wanted},
    writer::Writer,
};

/// After a policy that could not be read as it is stored.
const RETRY: Duration = Duration::from_secs(5);

/// `status.ancestors` of a policy has at most so many entries.
const MAX_ANCESTORS: usize = 16;

/// Who was told, and what of.
#[derive(Default)]
pub(super) struct Unreadable {
    told: BTreeMap<ObjectRef, Value>,
}

/// One object that cannot be read.
struct Unread {
    kind: Kind,
    name: ObjectName,
    generation: Option<i64>,
    uid: Option<String>,
    error: String,
}

impl Unread {
    fn what(&self) -> Value {
        json!([self.generation, self.uid, self.error])
    }
}

impl Unreadable {
    /// Says what is wrong with each object that was not told yet; when to look again, and how many
    /// wait.
    pub(super) async fn round(
        &mut self,
        writer: &Writer,
        statuses: &StatusWriter,
        now: Timestamp,
    ) -> (Option<Instant>, usize) {
        let found = found(&writer.index.lock());
        self.told
            .retain(|key, what| found.get(key).is_some_and(|unread| unread.what() == *what));
        let until = Instant::now() + ROUND;
        let (mut again, mut waiting) = (None::<Instant>, 0);
        for (key, unread) in found {
            if self.told.contains_key(&key) {
                continue;
            }
            let (at, waits) = if Instant::now() < until {
                tell(&unread, writer, statuses, now).await
            } else {
                (Some(until), 1)
            };
            if waits == 0 {
                self.told.insert(key, unread.what());
            }
            again = again.into_iter().chain(at).min();
            waiting += waits;
        }
        (again, waiting)
    }
}

fn found(index: &Index) -> BTreeMap<ObjectRef, Unread> {
    let mut found = BTreeMap::new();
    add(&index.points, Kind::VPCIngressPoint, &mut found);
    add(&index.attachments, Kind::ConnectorAttachment, &mut found);
    add(&index.policies, Kind::VPCAccessPolicy, &mut found);
    found
}

fn add<K: Resource>(shelf: &Shelf<K>, kind: Kind, found: &mut BTreeMap<ObjectRef, Unread>) {
    for (name, metadata, error) in shelf.unreadable() {
        let unread = Unread {
            kind,
            name: name.clone(),
            generation: metadata.generation,
            uid: metadata.uid.clone(),
            error: error.to_owned(),
        };
        found.insert(ObjectRef::new(kind, name.clone()), unread);
    }
}

async fn tell(
    unread: &Unread,
    writer: &Writer,
    statuses: &StatusWriter,
    now: Timestamp,
) -> (Option<Instant>, usize) {
    let mut wanted = Wanted {
        name: unread.name.clone(),
        uid: unread.uid.clone(),
        version: None,
        current: Value::Null,
        status: invalid(unread.generation, &unread.error, now),
    };
    match unread.kind {
        Kind::VPCIngressPoint => {
            statuses
                .round::<VPCIngressPoint>(vec![wanted], STATUS_MANAGER, |index| &mut index.points)
                .await
        }
        Kind::ConnectorAttachment => {
            statuses
                .round::<ConnectorAttachment>(vec![wanted], STATUS_MANAGER, |index| {
                    &mut index.attachments
                })
                .await
        }
        Kind::VPCAccessPolicy => {
            let Some(stored) = stored(writer, &unread.name).await else {
                return (Some(Instant::now() + RETRY), 1);
            };
            wanted.version = stored.resource_version();
            wanted.status = policy(&stored, &wanted.status["conditions"][0]);
            statuses
                .round::<VPCAccessPolicy>(vec![wanted], STATUS_MANAGER, |index| &mut index.policies)
                .await
        }
        // Connectors are read only.
        _ => (None, 0),
    }
}

/// A policy as it is stored, whatever is in it.
async fn stored(writer: &Writer, name: &ObjectName) -> Option<DynamicObject> {
    let resource = ApiResource::erase::<VPCAccessPolicy>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(writer.client.clone(), &name.namespace, &resource);
    match call(api.get(&name.name)).await {
        Ok(policy) => Some(policy),
        Err(error) => {
            tracing::warn!(%error, %name, "a VPCAccessPolicy could not be read as it is stored");
            None
        }
    }
}

/// The status of an object that cannot be read.
fn invalid(generation: Option<i64>, error: &str, now: Timestamp) -> Value {
    let conditions = [ConditionType::Accepted, ConditionType::Ready].map(|type_| {
        json!({
            "type": type_.as_str(),
            "status": "False",
            "reason": Reason::Invalid.as_str(),
            "message": format!(
                "this version of the operator cannot read it: {error}; correct the field, or \
                 upgrade the operator with its CustomResourceDefinitions"
            ),
            "observedGeneration": generation,
            "lastTransitionTime": now.to_string(),
        })
    });
    json!({"observedGeneration": generation, "conditions": conditions})
}

/// The status of a policy that cannot be read: `accepted` for each of its targets, beside the
/// entries of other controllers, which are theirs to change.
fn policy(stored: &DynamicObject, accepted: &Value) -> Value {
    let list = |path: &str| -> Vec<Value> {
        let list = stored.data.pointer(path).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut ancestors = list("/status/ancestors");
    ancestors.retain(|entry| entry["controllerName"] != CONTROLLER_NAME);
    for target in list("/spec/targetRefs") {
        let (kind, name) = (target["kind"].as_str(), target["name"].as_str());
        let (Some(kind), Some(name)) = (kind, name) else {
            continue;
        };
        if ancestors.len() < MAX_ANCESTORS {
            let group = target["group"].as_str().unwrap_or(masque_api::GROUP);
            ancestors.push(json!({
                "ancestorRef": {"group": group, "kind": kind, "name": name},
                "controllerName": CONTROLLER_NAME,
                "conditions": [accepted],
            }));
        }
    }
    json!({"ancestors": ancestors})
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    use super::*;
    use crate::{fake::Fake, index::Seen};

    #[test]
    fn an_unreadable_object_is_told_so_in_its_conditions() {
        let status = invalid(Some(4), "unknown variant `QUIC`", Timestamp::UNIX_EPOCH);
        let status: masque_api::VPCIngressPointStatus = serde_json::from_value(status).unwrap();
        assert_eq!(status.observed_generation, Some(4));
        let invalid = |it: &&Condition| it.status == "False" && it.reason == "Invalid";
        assert_eq!(status.conditions.iter().filter(invalid).count(), 2);
        assert!(status.conditions[0].message.contains("QUIC"));
    }

    #[tokio::test]
    async fn an_unreadable_policy_is_told_once_and_others_entries_stay() {
        let theirs = json!({
            "ancestorRef": {"group": "g", "kind": "k", "name": "n"}, "controllerName": "other",
        });
        let (entry, stale) = (theirs.clone(), json!({"controllerName": CONTROLLER_NAME}));
        let fake = Fake::new(move |_| {
            let policy = json!({
                "apiVersion": masque_api::API_VERSION, "kind": "VPCAccessPolicy",
                "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "8"},
                "spec": {"targetRefs": [{"kind": "VPCIngressPoint", "name": "edge"}], "rules": 7},
                "status": {"ancestors": [entry, stale]},
            });
            (200, policy)
        });
        let writer = fake.writer();
        writer.index.lock().policies.put(Seen::Unreadable {
            metadata: Box::new(kube::core::ObjectMeta {
                name: Some("p".to_owned()),
                namespace: Some("ns".to_owned()),
                ..Default::default()
            }),
            error: "rules: a list was expected".to_owned(),
        });
        let statuses = StatusWriter::new(writer.clone(), "pod");
        let mut unreadable = Unreadable::default();
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(unreadable.round(&writer, &statuses, now).await, (None, 0));
        let calls = fake.calls();
        assert_eq!(calls[1].body["metadata"]["resourceVersion"], "8");
        let ancestors = calls[1].body["status"]["ancestors"].as_array().unwrap();
        assert_eq!(ancestors[0], theirs);
        assert_eq!(ancestors[1]["ancestorRef"]["name"], "edge");
        let accepted = &ancestors[1]["conditions"][0];
        assert_eq!(
            (&accepted["type"], &accepted["reason"]),
            (&json!("Accepted"), &json!("Invalid"))
        );
        assert_eq!((calls.len(), ancestors.len()), (2, 2));
        unreadable.round(&writer, &statuses, now).await;
        assert!(fake.calls().is_empty());
    }
}
