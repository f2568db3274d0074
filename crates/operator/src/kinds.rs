//! The kinds of children, and how to talk about them to the API server.

use k8s_openapi::api::{
    apps::v1::Deployment,
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::api::ApiResource;

/// Kinds that carry our labels and are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ChildKind {
    /// The gateway pods' identity.
    ServiceAccount,
    /// Static configuration, and the CA for clients.
    ConfigMap,
    /// Who may talk to the pods.
    NetworkPolicy,
    /// Where clients arrive.
    Service,
    /// How many pods may be away.
    PodDisruptionBudget,
    /// The gateway pods' owner.
    Deployment,
    /// How many pods there are.
    HorizontalPodAutoscaler,
    /// Gateway pods; made by the Deployment.
    Pod,
}

impl ChildKind {
    /// Every kind, in the order of making.
    pub(crate) const ALL: [Self; 8] = [
        Self::ServiceAccount,
        Self::ConfigMap,
        Self::NetworkPolicy,
        Self::Service,
        Self::PodDisruptionBudget,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::Pod,
    ];

    /// Group, version and plural.
    pub(crate) fn resource(self) -> ApiResource {
        match self {
            Self::ServiceAccount => ApiResource::erase::<ServiceAccount>(&()),
            Self::ConfigMap => ApiResource::erase::<ConfigMap>(&()),
            Self::NetworkPolicy => ApiResource::erase::<NetworkPolicy>(&()),
            Self::Service => ApiResource::erase::<Service>(&()),
            Self::PodDisruptionBudget => ApiResource::erase::<PodDisruptionBudget>(&()),
            Self::Deployment => ApiResource::erase::<Deployment>(&()),
            Self::HorizontalPodAutoscaler => ApiResource::erase::<HorizontalPodAutoscaler>(&()),
            Self::Pod => ApiResource::erase::<Pod>(&()),
        }
    }

    /// The kind as written in a manifest.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::ConfigMap => "ConfigMap",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::Deployment => "Deployment",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::Pod => "Pod",
        }
    }
}
