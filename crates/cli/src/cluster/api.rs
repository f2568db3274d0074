//! The API server, as far as this command talks to it: lists, single objects, three kinds to write.

use std::fmt::Debug;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::{DynamicResourceScope, GroupVersionKind},
};
use masque_api::{API_VERSION, CLIENT_CA_KEY, Connector, client_ca_name};
use masque_client::{PublicId, VpcName};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    choose::reference,
    objects::{Admission, Point, key_text},
    plan::Plan,
    refusal::{Asked, CALL_TIMEOUT, Refusal},
};
use crate::failure::Failure;

/// Objects of one answer.
const PAGE_OBJECTS: u32 = 500;
/// Pages of one list; what is beyond is not looked at.
const PAGES_MAX: usize = 40;
/// Who wrote a field (server-side apply).
const MANAGER: &str = "datum-connect";
/// The ConnectorClass of this command.
const CLASS: &str = "datum-connect";

/// Resources, as a Role names them.
pub(crate) const POINTS: &str = "vpcingresspoints";
pub(crate) const ADMISSIONS: &str = "connectorattachments";
pub(crate) const CONNECTORS: &str = "connectors";
pub(crate) const CONNECTORS_STATUS: &str = "connectors/status";
pub(crate) const CONFIG_MAPS: &str = "configmaps";

/// A namespace of a cluster.
pub(crate) struct Cluster {
    client: Client,
    pub(crate) namespace: String,
    pub(crate) server: String,
}

impl Cluster {
    /// Prepares calls; nothing is sent.
    pub(crate) fn new(config: Config, namespace: Option<&str>) -> Result<Self, Failure> {
        // The one TLS provider of the process; a second call would only find the first.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let namespace = namespace.unwrap_or(&config.default_namespace).to_owned();
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/').to_owned();
        // Runs the kubeconfig's login program, if it has one.
        let client = Client::try_from(config).map_err(|error| {
            Refusal::from(error).failure(&Asked {
                verb: "list",
                resource: POINTS,
                namespace: &namespace,
                server: &server,
            })
        })?;
        Ok(Self {
            client,
            namespace,
            server,
        })
    }

    /// The ingress points of the namespace.
    pub(crate) async fn points(&self) -> Result<Vec<Point>, Failure> {
        let listed = list(&self.of("VPCIngressPoint", POINTS), &ListParams::default()).await;
        listed.map_err(|refusal| self.failure("list", POINTS, &refusal))
    }

    /// The ingress points of every namespace; none where that is not permitted.
    pub(crate) async fn points_anywhere(&self) -> Vec<Point> {
        let api = Api::all_with(self.client.clone(), &resource("VPCIngressPoint", POINTS));
        list(&api, &ListParams::default()).await.unwrap_or_default()
    }

    /// The Connectors of the namespace.
    pub(crate) async fn connectors(&self) -> Result<Vec<Connector>, Failure> {
        let api: Api<Connector> = Api::namespaced(self.client.clone(), &self.namespace);
        let listed = list(&api, &ListParams::default()).await;
        listed.map_err(|refusal| self.failure("list", CONNECTORS, &refusal))
    }

    /// The attachments of the namespace to VPCs of this name.
    pub(crate) async fn admissions(&self, vpc: &VpcName) -> Result<Vec<Admission>, Failure> {
        let params = ListParams::default().fields(&format!("spec.vpcRef.name={}", vpc.name()));
        let listed = list(&self.of("ConnectorAttachment", ADMISSIONS), &params).await;
        listed.map_err(|refusal| self.failure("list", ADMISSIONS, &refusal))
    }

    /// One ingress point.
    pub(crate) async fn point(&self, name: &str) -> Result<Point, Refusal> {
        call(self.of("VPCIngressPoint", POINTS).get(name)).await
    }

    /// One attachment.
    pub(crate) async fn admission(&self, name: &str) -> Result<Admission, Refusal> {
        call(self.of("ConnectorAttachment", ADMISSIONS).get(name)).await
    }

    /// The CA of a point's gateways; none while the operator has not written it.
    pub(crate) async fn client_ca(&self, point: &str) -> Result<Option<String>, Refusal> {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        match call(api.get(&client_ca_name(point))).await {
            Ok(map) => Ok(map.data.and_then(|mut data| data.remove(CLIENT_CA_KEY))),
            Err(refusal) if refusal.is_not_found() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    /// One Connector.
    pub(crate) async fn connector(&self, name: &str) -> Result<Connector, Refusal> {
        let api: Api<Connector> = Api::namespaced(self.client.clone(), &self.namespace);
        call(api.get(name)).await
    }

    /// Makes the Connector. Gives back its version when its key has to be published yet: where the
    /// kind has a status subresource, a create leaves the status out.
    pub(crate) async fn make_connector(
        &self,
        name: &str,
        id: PublicId,
        home_relay: &str,
    ) -> Result<Option<String>, Refusal> {
        let object = self.object("Connector", name, json!({"connectorClassName": CLASS}))?;
        let object = DynamicObject {
            data: merged(object.data, status(id, home_relay)),
            ..object
        };
        let api = self.of::<DynamicObject>("Connector", CONNECTORS);
        let made = call(api.create(&manager(), &object)).await?;
        let version = made.metadata.resource_version.clone();
        let published = serde_json::to_value(made)
            .and_then(serde_json::from_value::<Connector>)
            .is_ok_and(|made| key_text(&made).is_some());
        Ok(version.filter(|_| !published))
    }

    /// Publishes the key of a Connector, unless it changed since `version`.
    pub(crate) async fn publish_key(
        &self,
        name: &str,
        version: Option<&str>,
        id: PublicId,
        home_relay: &str,
    ) -> Result<(), Refusal> {
        let metadata = json!({"metadata": {"resourceVersion": version}});
        let patch = Patch::Merge(merged(status(id, home_relay), metadata));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.of::<DynamicObject>("Connector", CONNECTORS);
        call(api.patch_status(name, &params, &patch)).await?;
        Ok(())
    }

    /// Makes the attachment of a plan.
    pub(crate) async fn make_admission(&self, plan: &Plan, vpc: &VpcName) -> Result<(), Refusal> {
        let spec = json!({
            "connectorRef": {"name": plan.connector},
            "vpcRef": reference(vpc, &self.namespace),
        });
        let object = self.object("ConnectorAttachment", &plan.attachment, spec)?;
        let api = self.of::<DynamicObject>("ConnectorAttachment", ADMISSIONS);
        call(api.create(&manager(), &object)).await?;
        Ok(())
    }

    /// A refusal as the end of the command.
    pub(crate) fn failure(
        &self,
        verb: &'static str,
        resource: &'static str,
        refusal: &Refusal,
    ) -> Failure {
        refusal.failure(&Asked {
            verb,
            resource,
            namespace: &self.namespace,
            server: &self.server,
        })
    }

    fn of<K>(&self, kind: &str, plural: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = ApiResource, Scope = DynamicResourceScope>,
    {
        let resource = resource(kind, plural);
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    fn object(&self, kind: &str, name: &str, spec: Value) -> Result<DynamicObject, Refusal> {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": spec,
        });
        serde_json::from_value(object).map_err(|error| Refusal::Unintelligible(error.to_string()))
    }
}

/// Makes one call, at most [`CALL_TIMEOUT`] long.
async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Refusal> {
    match tokio::time::timeout(CALL_TIMEOUT, request).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(Refusal::Timeout),
    }
}

/// Every object, a page at a time.
async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, Refusal>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut params = params.clone().limit(PAGE_OBJECTS);
    let mut all = Vec::new();
    for _ in 0..PAGES_MAX {
        let page = call(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => break,
        }
    }
    Ok(all)
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    let gvk = GroupVersionKind::gvk(masque_api::GROUP, masque_api::VERSION, kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}

fn manager() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

/// The status by which a connector is known; `addresses` is required upstream.
fn status(id: PublicId, home_relay: &str) -> Value {
    json!({"status": {"connectionDetails": {
        "type": "PublicKey",
        "publicKey": {"id": id.hex(), "homeRelay": home_relay, "addresses": []},
    }}})
}

/// The fields of both objects.
fn merged(mut one: Value, other: Value) -> Value {
    if let (Value::Object(one), Value::Object(other)) = (&mut one, other) {
        one.extend(other);
    }
    one
}
