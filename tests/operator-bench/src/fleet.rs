//! The resources of one run: namespaces with an ingress point each, connectors and their
//! attachments, policies.

use std::collections::BTreeMap;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Namespace, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
        PostParams,
    },
};
use serde_json::{Value, json};

use crate::failure::Failure;

/// The kinds.
pub(crate) const POINT: &str = "VPCIngressPoint";
pub(crate) const ATTACHMENT: &str = "ConnectorAttachment";
const CONNECTOR: &str = "Connector";
const POLICY: &str = "VPCAccessPolicy";
/// The name of every ingress point.
pub(crate) const EDGE: &str = "edge";
/// Requests under way at one time.
const CONCURRENT: usize = 32;
/// One policy of so many chooses by the labels of connectors, the others are for everybody.
const BY_LABEL: u32 = 10;
/// Connectors have one of so many labels.
const TEAMS: u32 = 10;
/// The port of a policy as it is made; edits take the ports above.
const FIRST_PORT: u32 = 1024;
const EDITED_PORT: u32 = 20_000;
const PAGE: u32 = 1_000;

/// What there is, or will be.
#[derive(Clone)]
pub(crate) struct Fleet {
    client: Client,
    /// Ingress points; as many namespaces and VPCs.
    pub(crate) points: u32,
    /// Attachments, all together.
    pub(crate) attachments: u32,
    /// Policies, all together.
    pub(crate) policies: u32,
}

/// One policy edit.
#[derive(Clone, Debug)]
pub(crate) struct Edit {
    /// The ingress point that it concerns, by number.
    pub(crate) point: u32,
    /// The policy.
    pub(crate) policy: String,
    /// The port that its rule has afterwards.
    pub(crate) port: u16,
}

impl Fleet {
    pub(crate) fn new(client: Client, points: u32, attachments: u32, policies: u32) -> Self {
        Self {
            client,
            points,
            attachments,
            policies,
        }
    }

    /// The namespace of an ingress point.
    pub(crate) fn namespace(point: u32) -> String {
        format!("bench-{point:02}")
    }

    /// Makes a namespace.
    pub(crate) async fn create_namespace(&self, name: &str) -> Result<(), Failure> {
        let object = json!({"metadata": {"name": name}});
        let object: Namespace = serde_json::from_value(object)
            .map_err(|error| Failure::Wrong(format!("a namespace: {error}")))?;
        let api: Api<Namespace> = Api::all(self.client.clone());
        let created = api.create(&PostParams::default(), &object).await;
        created.map_err(Failure::api(format!("namespace {name}")))?;
        Ok(())
    }

    /// Makes the namespaces and the ingress points.
    pub(crate) async fn create_points(&self) -> Result<(), Failure> {
        for point in 0..self.points {
            let namespace = Self::namespace(point);
            self.create_namespace(&namespace).await?;
            self.create(POINT, &namespace, EDGE, json!({}), point_spec(point))
                .await?;
        }
        Ok(())
    }

    /// Makes the policies.
    pub(crate) async fn create_policies(&self) -> Result<(), Failure> {
        self.each(self.policies, async |number| {
            let namespace = Self::namespace(number % self.points);
            let spec = policy_spec(number, self.points, port(FIRST_PORT + number));
            let name = policy_name(number);
            self.create(POLICY, &namespace, &name, json!({}), spec)
                .await
        })
        .await
    }

    /// Makes the connectors, each with a key, as their agents would.
    pub(crate) async fn create_connectors(&self) -> Result<(), Failure> {
        self.each(self.attachments, async |number| {
            let namespace = Self::namespace(number % self.points);
            let name = connector_name(number);
            let labels = json!({"team": team(number / self.points)});
            let spec = json!({"connectorClassName": "datum-connect"});
            self.create(CONNECTOR, &namespace, &name, labels, spec)
                .await?;
            let status = json!({"status": {"connectionDetails": {
                "type": "PublicKey",
                "publicKey": {"id": key(number), "homeRelay": "https://relay.example"},
            }}});
            let api = self.api(CONNECTOR, &namespace);
            let params = PatchParams::default();
            let patched = api
                .patch_status(&name, &params, &Patch::Merge(&status))
                .await;
            patched.map_err(Failure::api(format!("status of {name}")))?;
            Ok(())
        })
        .await
    }

    /// Makes the attachments.
    pub(crate) async fn create_attachments(&self) -> Result<(), Failure> {
        self.each(self.attachments, async |number| {
            let namespace = Self::namespace(number % self.points);
            let name = connector_name(number);
            let spec = json!({"connectorRef": {"name": name}, "vpcRef": {"name": "prod"}});
            self.create(ATTACHMENT, &namespace, &name, json!({}), spec)
                .await
        })
        .await
    }

    /// How many attachments the API server has whose `Programmed` is true for their generation.
    pub(crate) async fn programmed(&self) -> Result<u32, Failure> {
        let mut count = 0;
        for point in 0..self.points {
            let all = list(&self.api(ATTACHMENT, &Self::namespace(point))).await?;
            let good = all.iter().filter(|object| is_programmed(object));
            count += u32::try_from(good.count()).unwrap_or(u32::MAX);
        }
        Ok(count)
    }

    /// The `resourceVersion` of everything that the operator writes, by kind and name.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, String>, Failure> {
        let mut versions = BTreeMap::new();
        for point in 0..self.points {
            let namespace = Self::namespace(point);
            let ours = [POINT, ATTACHMENT, POLICY].map(|kind| (kind, self.api(kind, &namespace)));
            let children = child_kinds().map(|resource| {
                let client = self.client.clone();
                let api = Api::namespaced_with(client, &namespace, &resource);
                (resource.kind, api)
            });
            let ours = ours.map(|(kind, api)| (kind.to_owned(), api));
            for (kind, api) in ours.into_iter().chain(children) {
                for object in list(&api).await? {
                    let name = format!("{kind} {namespace}/{}", object.name_any());
                    let version = object.resource_version().unwrap_or_default();
                    versions.insert(name, version);
                }
            }
        }
        Ok(versions)
    }

    /// The edit with this number: another policy and another port than those before it.
    pub(crate) fn edit_of(&self, number: u32) -> Edit {
        let policy = number % self.policies;
        Edit {
            point: policy % self.points,
            policy: policy_name(policy),
            port: port(EDITED_PORT + number),
        }
    }

    /// Changes the port in a policy's rule.
    pub(crate) async fn edit(&self, number: u32) -> Result<(), Failure> {
        let edit = self.edit_of(number);
        let spec = policy_spec(number % self.policies, self.points, edit.port);
        let patch = json!({"spec": {"rules": spec["rules"]}});
        let api = self.api(POLICY, &Self::namespace(edit.point));
        let params = PatchParams::default();
        let patched = api
            .patch(&edit.policy, &params, &Patch::Merge(&patch))
            .await;
        patched.map_err(Failure::api(format!("edit of {}", edit.policy)))?;
        Ok(())
    }

    /// Deletes everything but the namespaces.
    pub(crate) async fn delete_all(&self) -> Result<(), Failure> {
        for kind in [ATTACHMENT, CONNECTOR, POLICY, POINT] {
            for point in 0..self.points {
                let api = self.api(kind, &Self::namespace(point));
                let (how, which) = (DeleteParams::background(), ListParams::default());
                let deleted = api.delete_collection(&how, &which).await;
                deleted.map_err(Failure::api(format!("deletion of {kind}")))?;
            }
        }
        Ok(())
    }

    async fn each(
        &self,
        count: u32,
        work: impl AsyncFn(u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let work = &work;
        stream::iter(0..count)
            .map(|number| work(number))
            .buffer_unordered(CONCURRENT)
            .try_collect::<()>()
            .await
    }

    async fn create(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        labels: Value,
        spec: Value,
    ) -> Result<(), Failure> {
        let object = json!({
            "apiVersion": masque_api::API_VERSION, "kind": kind,
            "metadata": {"name": name, "labels": labels}, "spec": spec,
        });
        let object: DynamicObject = serde_json::from_value(object)
            .map_err(|error| Failure::Wrong(format!("{kind} {name}: {error}")))?;
        let api = self.api(kind, namespace);
        let created = api.create(&PostParams::default(), &object).await;
        created.map_err(Failure::api(format!("{kind} {namespace}/{name}")))?;
        Ok(())
    }

    fn api(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(masque_api::GROUP, masque_api::VERSION, kind);
        let plural = match kind {
            POLICY => "vpcaccesspolicies".to_owned(),
            kind => format!("{}s", kind.to_lowercase()),
        };
        let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }
}

/// The kinds that the operator makes for an ingress point.
fn child_kinds() -> [ApiResource; 6] {
    [
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<Secret>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<Deployment>(&()),
    ]
}

/// Every object, page by page.
async fn list(api: &Api<DynamicObject>) -> Result<Vec<DynamicObject>, Failure> {
    let mut objects = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(Failure::api(api.resource_url().to_owned()))?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

fn is_programmed(object: &DynamicObject) -> bool {
    let conditions = object.data.pointer("/status/conditions");
    let conditions = conditions.and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition["type"] == "Programmed"
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == object.metadata.generation
    })
}

fn point_spec(point: u32) -> Value {
    json!({
        "vpcRef": {"name": "prod"},
        "listeners": [{"name": "h3", "port": 443}],
        "addressPools": [{"cidr": format!("10.{point}.0.0/16")}],
        "routes": ["10.200.0.0/16"],
        "replicas": 1,
        "service": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster"},
        "fabric": {"provider": "Static", "static": {
            "localSID": format!("fd00:{:x}::", point + 1),
            "sourceAddress": format!("fd00::{:x}", point + 1),
            "routes": [{"prefix": "10.200.0.0/16", "sid": "fd00:ffff::"}],
        }},
    })
}

fn policy_spec(number: u32, points: u32, port: u16) -> Value {
    let mut rule = json!({
        "name": "rule",
        "prefixes": [{"cidr": format!("10.200.{}.0/24", number % 256)}],
        "ports": [{"protocol": "TCP", "port": port}],
    });
    let in_point = number / points;
    if in_point.is_multiple_of(BY_LABEL) {
        let labels = json!({"team": team(in_point / BY_LABEL)});
        rule["connectors"] = json!({"selector": {"matchLabels": labels}});
    }
    json!({"targetRefs": [{"kind": POINT, "name": EDGE}], "rules": [rule]})
}

fn connector_name(number: u32) -> String {
    format!("laptop-{number:06}")
}

fn policy_name(number: u32) -> String {
    format!("policy-{number:04}")
}

/// A key that nobody has, in hexadecimal.
fn key(number: u32) -> String {
    format!("{number:08x}{}", "5a".repeat(28))
}

fn team(number: u32) -> String {
    format!("team-{}", number % TEAMS)
}

/// A number below 65,536: the options bound what goes in.
fn port(number: u32) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_edit_gives_its_policy_another_port() {
        let spec = |number, port| policy_spec(number, 10, port)["rules"][0].clone();
        let (old, new) = (spec(7, port(FIRST_PORT + 7)), spec(7, port(EDITED_PORT)));
        assert_ne!(old["ports"], new["ports"]);
        assert_eq!(old["prefixes"], new["prefixes"]);
        // The first policy of each ingress point chooses by label, the second does not.
        assert!(spec(9, 1)["connectors"].is_object() && spec(10, 1)["connectors"].is_null());
    }

    #[test]
    fn only_the_present_generation_counts_as_programmed() {
        let object = |generation: i64| -> DynamicObject {
            serde_json::from_value(json!({
                "metadata": {"name": "a", "generation": generation},
                "status": {"conditions": [
                    {"type": "Programmed", "status": "True", "observedGeneration": 1},
                ]},
            }))
            .unwrap()
        };
        assert!(is_programmed(&object(1)) && !is_programmed(&object(2)));
    }
}
