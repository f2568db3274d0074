//! The objects that make the gateways of one VPCIngressPoint run: built from the ingress point and
//! the operator's options alone, so that the same input always gives the same objects.
//!
//! A child's pod template changes only when pods have to start anew: listeners, pools, routes,
//! sessions and policies travel in the Snapshot and are not part of it.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        autoscaling::v2::HorizontalPodAutoscaler,
        core::v1::{ConfigMap, ResourceRequirements, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use masque_api::{API_VERSION, VPCIngressPoint};

use crate::compile::defaults;

mod autoscaling;
mod names;
mod network;
mod pod;
mod sysctls;

pub(crate) use masque_api::stable_hash as hash;
pub use names::{
    INGRESS_POINT_LABEL, LABELS, child_name, client_ca_name, label_value, labels,
    listener_secret_name, selector, selector_text, stream_secret_name, stream_uri,
};
pub use sysctls::sysctls;

/// Gateway pods of an ingress point that says nothing about their number.
pub const DEFAULT_REPLICAS: i32 = 2;

/// The TCP port of a gateway's `/metrics`, `/healthz` and `/readyz`.
pub const ADMIN_PORT: i32 = 9464;

/// The audience of the ServiceAccount token that a pod shows to the operator.
pub const TOKEN_AUDIENCE: &str = "masque-operator";

/// What the operator knows and an ingress point does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChildOptions {
    /// The gateway's image.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; the API server's default when absent.
    pub image_pull_policy: Option<String>,
    /// Where pods get their Snapshots, such as `https://masque-operator.masque-system.svc:9443`.
    pub operator_url: String,
    /// The name in the operator's certificate.
    pub operator_server_name: String,
    /// Which log lines gateways write; `info` when empty.
    pub log_filter: String,
    /// CPU and memory of a gateway whose `podTemplate.resources` is absent.
    pub default_resources: Option<ResourceRequirements>,
}

/// The children of one ingress point.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// Who the pods are; without any permission.
    pub service_account: ServiceAccount,
    /// Environment of the pods.
    pub config_map: ConfigMap,
    /// The pods.
    pub deployment: Deployment,
    /// Where clients arrive.
    pub service: Service,
    /// How many pods may be away; only where there can be more than one.
    pub pod_disruption_budget: Option<PodDisruptionBudget>,
    /// How many pods there are; only with `spec.autoscaling`.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// Who may talk to the pods.
    pub network_policy: NetworkPolicy,
}

/// Builds the children of an ingress point. Deterministic; the owner reference is made of the
/// point's name and `metadata.uid`.
pub fn build(point: &VPCIngressPoint, options: &ChildOptions) -> Children {
    let config_map = config_map(point, options);
    Children {
        service_account: ServiceAccount {
            metadata: metadata(point),
            // Pods mount a token for one audience only, see `pod`.
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        deployment: pod::deployment(point, options, &config_map),
        config_map,
        service: network::service(point),
        pod_disruption_budget: autoscaling::pod_disruption_budget(point),
        autoscaler: autoscaling::autoscaler(point),
        network_policy: network::network_policy(point),
    }
}

/// The fewest gateway pods that an ingress point wants.
pub fn wanted_replicas(point: &VPCIngressPoint) -> i32 {
    let spec = &point.spec;
    match &spec.autoscaling {
        Some(autoscaling) => autoscaling
            .min_replicas
            .unwrap_or(DEFAULT_REPLICAS.min(autoscaling.max_replicas)),
        None => spec.replicas.unwrap_or(DEFAULT_REPLICAS),
    }
}

/// Metadata of a child named [`child_name`].
fn metadata(point: &VPCIngressPoint) -> ObjectMeta {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    child_metadata(point, child_name(name))
}

/// Metadata of a child of an ingress point with a name of its own (Secrets and the client CA).
pub fn child_metadata(point: &VPCIngressPoint, name: String) -> ObjectMeta {
    let point_name = point.metadata.name.clone().unwrap_or_default();
    let labels = labels(&point_name);
    let owner = OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: "VPCIngressPoint".to_owned(),
        name: point_name,
        uid: point.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    ObjectMeta {
        name: Some(name),
        namespace: point.metadata.namespace.clone(),
        labels: Some(labels),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    }
}

fn config_map(point: &VPCIngressPoint, options: &ChildOptions) -> ConfigMap {
    let filter = match options.log_filter.as_str() {
        "" => "info",
        filter => filter,
    };
    ConfigMap {
        metadata: metadata(point),
        data: Some([("RUST_LOG".to_owned(), filter.to_owned())].into()),
        ..ConfigMap::default()
    }
}

/// How long a gateway serves on before it is told to stop, and then until its sessions have moved,
/// in whole seconds.
fn drain_s(point: &VPCIngressPoint) -> (i64, i64) {
    let drain = point.spec.drain.clone().unwrap_or_default();
    let seconds = |text: Option<&masque_api::Duration>, default_ms: u64| {
        let ms = text.and_then(|text| text.as_millis().ok());
        i64::try_from(ms.unwrap_or(default_ms).div_ceil(1000)).unwrap_or(i64::MAX / 4)
    };
    (
        seconds(drain.minimum.as_ref(), defaults::DRAIN_MINIMUM_MS),
        seconds(drain.deadline.as_ref(), defaults::DRAIN_DEADLINE_MS),
    )
}

/// Annotations or labels as the API wants them: absent when there are none.
fn some_map(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}

#[cfg(test)]
mod tests;
