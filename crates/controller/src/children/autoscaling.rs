//! How many pods there are, and how many may be away.

use k8s_openapi::{
    api::{
        autoscaling::v2::{
            CrossVersionObjectReference, HPAScalingPolicy, HPAScalingRules,
            HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior, HorizontalPodAutoscalerSpec,
            MetricIdentifier, MetricSpec, MetricTarget, PodsMetricSource,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{api::resource::Quantity, util::intstr::IntOrString},
};
use masque_api::VPCIngressPoint;

use super::{child_name, drain_s, metadata, names, wanted_replicas};

/// Sessions of one pod to aim for.
const DEFAULT_TARGET_SESSIONS: i32 = 5000;

/// The gauge of open sessions that gateways export.
const SESSIONS_METRIC: &str = "masque_gateway_sessions";

/// The longest period that an autoscaler's policy may have.
const MAX_PERIOD_S: i64 = 1800;

/// One pod at a time may be evicted, and a broken one always; never keeps a node from being drained.
/// `None` where there is never more than one pod.
pub(super) fn pod_disruption_budget(point: &VPCIngressPoint) -> Option<PodDisruptionBudget> {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let most = match &point.spec.autoscaling {
        Some(autoscaling) => autoscaling.max_replicas,
        None => wanted_replicas(point),
    };
    (most > 1).then(|| PodDisruptionBudget {
        metadata: metadata(point),
        spec: Some(PodDisruptionBudgetSpec {
            selector: Some(names::selector(name)),
            max_unavailable: Some(IntOrString::Int(1)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            min_available: None,
        }),
        status: None,
    })
}

/// Follows the number of sessions. It takes away one pod per drain: a budget does not bind an
/// autoscaler.
pub(super) fn autoscaler(point: &VPCIngressPoint) -> Option<HorizontalPodAutoscaler> {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let wanted = point.spec.autoscaling.as_ref()?;
    let target = wanted.target_sessions.unwrap_or(DEFAULT_TARGET_SESSIONS);
    let sessions = MetricSpec {
        type_: "Pods".to_owned(),
        pods: Some(PodsMetricSource {
            metric: MetricIdentifier {
                name: SESSIONS_METRIC.to_owned(),
                selector: None,
            },
            target: MetricTarget {
                type_: "AverageValue".to_owned(),
                average_value: Some(Quantity(target.to_string())),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    let (minimum_s, deadline_s) = drain_s(point);
    let period_s = (minimum_s + deadline_s).clamp(1, MAX_PERIOD_S);
    let scale_down = HPAScalingRules {
        policies: Some(vec![HPAScalingPolicy {
            type_: "Pods".to_owned(),
            value: 1,
            period_seconds: i32::try_from(period_s).unwrap_or(1),
        }]),
        ..HPAScalingRules::default()
    };
    Some(HorizontalPodAutoscaler {
        metadata: metadata(point),
        spec: Some(HorizontalPodAutoscalerSpec {
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: child_name(name),
            },
            min_replicas: Some(wanted_replicas(point)),
            max_replicas: wanted.max_replicas,
            metrics: Some(vec![sessions]),
            behavior: Some(HorizontalPodAutoscalerBehavior {
                scale_down: Some(scale_down),
                scale_up: None,
            }),
        }),
        status: None,
    })
}
