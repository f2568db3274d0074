//! A namespace of one test, and the objects in it.

use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Client,
    api::{
        ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
    },
};
use serde_json::{Value, json};

use crate::eventually;

/// The kind of a connector.
pub const CONNECTOR: &str = "Connector";
/// The kind that lets a connector in.
pub const ATTACHMENT: &str = "ConnectorAttachment";
/// The kind of a VPC's gateways.
pub const POINT: &str = "VPCIngressPoint";
/// The kind of a policy.
pub const POLICY: &str = "VPCAccessPolicy";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A namespace of one test. It goes with the cluster; [`Space::close`] removes it before.
#[derive(Clone)]
pub struct Space {
    /// An administrator's client.
    pub client: Client,
    /// The namespace.
    pub name: String,
}

impl Space {
    pub(crate) async fn create(client: Client, prefix: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}}));
        let namespace: Namespace = namespace.expect("a namespace");
        let api: Api<Namespace> = Api::all(client.clone());
        let created = api.create(&PostParams::default(), &namespace).await;
        created.expect("a new namespace");
        Self { client, name }
    }

    /// Removes the namespace and waits until nothing of it is left.
    pub async fn close(self) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let deleted = api.delete(&self.name, &DeleteParams::background()).await;
        deleted.expect("the namespace is deleted");
        eventually("the namespace is gone", async || {
            matches!(api.get_opt(&self.name).await, Ok(None))
        })
        .await;
    }

    /// A built-in kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// One of our kinds.
    pub fn ours(&self, kind: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(masque_api::GROUP, masque_api::VERSION, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural(kind));
        Api::namespaced_with(self.client.clone(), &self.name, &resource)
    }

    /// Applies an object of ours as `manager`, taking nothing from other managers.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn try_apply(
        &self,
        manager: &str,
        kind: &str,
        name: &str,
        spec: &Value,
    ) -> kube::Result<Value> {
        let object = manifest(kind, name, spec);
        let mut params = PatchParams::apply(manager);
        params.field_validation = Some(kube::api::ValidationDirective::Strict);
        let api = self.ours(kind);
        let applied = api.patch(name, &params, &Patch::Apply(&object)).await?;
        Ok(serde_json::to_value(applied).expect("an object is JSON"))
    }

    /// Applies an object of ours; fails when it is refused.
    pub async fn apply(&self, kind: &str, name: &str, spec: &Value) -> Value {
        let applied = self.try_apply("person", kind, name, spec).await;
        applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"))
    }

    /// An object of ours.
    pub async fn get(&self, kind: &str, name: &str) -> Value {
        let object = self.ours(kind).get(name).await;
        let object = object.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
        serde_json::to_value(object).expect("an object is JSON")
    }

    /// A connector with the key `key` and an attachment of the same name to the VPC `prod`.
    pub async fn attach(&self, name: &str, key: u8) {
        self.attach_key(name, &format!("{key:064x}")).await;
    }

    /// [`Space::attach`] with a public key in hexadecimal digits.
    pub async fn attach_key(&self, name: &str, key: &str) {
        let class = json!({"connectorClassName": "datum-connect"});
        self.apply(CONNECTOR, name, &class).await;
        let status = json!({"status": {"connectionDetails": {
            "type": "PublicKey",
            "publicKey": {"id": key, "homeRelay": "https://relay.example"},
        }}});
        let params = PatchParams::default();
        let api = self.ours(CONNECTOR);
        let patched = api
            .patch_status(name, &params, &Patch::Merge(&status))
            .await;
        patched.unwrap_or_else(|error| panic!("status of {name}: {error}"));
        let spec = json!({"connectorRef": {"name": name}, "vpcRef": {"name": "prod"}});
        self.apply(ATTACHMENT, name, &spec).await;
    }

    /// The address given to an attachment, once there is one.
    pub async fn address(&self, attachment: &str) -> Option<String> {
        let object = self.get(ATTACHMENT, attachment).await;
        object["status"]["assignedIP"].as_str().map(str::to_owned)
    }

    /// One condition as `STATUS/Reason`, empty while it is absent or about an older generation.
    pub async fn condition(&self, kind: &str, name: &str, type_: &str) -> String {
        let object = self.get(kind, name).await;
        let path = match kind {
            POLICY => "/status/ancestors/0/conditions",
            _ => "/status/conditions",
        };
        let conditions = object.pointer(path).and_then(Value::as_array);
        let found = conditions.and_then(|all| all.iter().find(|one| one["type"] == type_));
        match found {
            Some(one) if one["observedGeneration"] == object["metadata"]["generation"] => {
                let text = |key: &str| one[key].as_str().unwrap_or_default();
                format!("{}/{}", text("status"), text("reason"))
            }
            _ => String::new(),
        }
    }
}

fn manifest(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": masque_api::API_VERSION, "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

fn plural(kind: &str) -> &'static str {
    match kind {
        CONNECTOR => "connectors",
        ATTACHMENT => "connectorattachments",
        POINT => "vpcingresspoints",
        POLICY => "vpcaccesspolicies",
        other => panic!("no kind of ours: {other}"),
    }
}
