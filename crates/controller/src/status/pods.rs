//! What is known of gateway pods.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerStateWaiting, ContainerStatus, Pod},
    },
    jiff::Timestamp,
};
use masque_api::Reason;
use masque_model::{ObjectName, Snapshot};

use super::conditions::Verdict;

/// What is known of one gateway pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodReport {
    /// The pod's name.
    pub pod: String,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its Ready condition.
    pub ready: bool,
    /// It was told to stop.
    pub terminating: bool,
    /// It ran to its end or was refused by its node, and is only left to be looked at.
    pub ended: bool,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Why it does not run.
    pub trouble: Option<PodTrouble>,
    /// The version of the Snapshot that it acknowledged.
    pub acked_version: Option<u64>,
    /// Why it refused the newest Snapshot.
    pub rejected: Option<String>,
    /// Its sessions.
    pub sessions: Vec<SessionReport>,
}

/// One session, as a pod reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionReport {
    /// The attachment.
    pub attachment: ObjectName,
    /// `h3`, `h2` or `iroh`.
    pub transport: String,
    /// When it began, in seconds since the Unix epoch.
    pub since_unix_s: u64,
}

/// Why a pod does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrouble {
    /// What kind of trouble it is.
    pub reason: Reason,
    /// What is wrong and what helps.
    pub message: String,
}

impl PodReport {
    /// Reads the status of a pod. What the pod itself tells over the stream is added by the caller.
    pub fn new(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or(&[]);
        let ready = conditions
            .iter()
            .any(|c| c.type_ == "Ready" && c.status == "True");
        Self {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            ready,
            terminating: pod.metadata.deletion_timestamp.is_some(),
            ended: matches!(
                status.and_then(|status| status.phase.as_deref()),
                Some("Failed" | "Succeeded")
            ),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            trouble: trouble(pod),
            ..Self::default()
        }
    }

    /// Whether it counts: a pod that stops has other things to do than to acknowledge.
    fn counts(&self) -> bool {
        !self.terminating
    }
}

/// What is wrong with pods that are not ready; of several troubles that of the newest pod. Pods that
/// a node refused stay where they are: once a pod made after them is ready, they are history.
pub(super) fn trouble_of(pods: &[PodReport]) -> Option<&PodTrouble> {
    let pods = || pods.iter().filter(|pod| pod.counts());
    let ready = pods().filter(|pod| pod.ready).map(|pod| pod.created).max();
    let troubled = pods()
        .filter(|pod| !pod.ready)
        .filter(|pod| !pod.ended || ready.is_none_or(|ready| pod.created > ready))
        .filter_map(|pod| Some((pod.created, &pod.pod, pod.trouble.as_ref()?)));
    let newest = troubled.max_by_key(|(created, name, _)| (*created, *name));
    newest.map(|(_, _, trouble)| trouble)
}

/// Why the pods of a Deployment cannot be made, when its status says so.
pub fn failed_create(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_deref()?;
    let failure = conditions
        .iter()
        .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let message = failure.message.clone().or_else(|| failure.reason.clone());
    message.filter(|message| !message.is_empty())
}

/// What a refusal to make pods means.
pub(super) fn refused(message: &str) -> Verdict {
    if message.contains("PodSecurity") || message.contains("forbidden: violates") {
        let help = format!(
            "{message}; gateways need the capability NET_ADMIN and /dev/net/tun: label the \
             namespace pod-security.kubernetes.io/enforce=privileged"
        );
        return Verdict::bad(Reason::PodSecurityForbidden, help);
    }
    Verdict::bad(Reason::FailedCreate, message)
}

/// Whether every ready pod runs a Snapshot, and if not, what is in the way.
pub(super) fn programmed(snapshot: &Snapshot, all: &[PodReport]) -> Verdict {
    let version = snapshot.version;
    let pods: Vec<_> = all.iter().filter(|pod| pod.counts()).collect();
    let rejected = pods
        .iter()
        .find_map(|pod| Some((&pod.pod, pod.rejected.as_ref()?)));
    if let Some((pod, why)) = rejected {
        let message = format!("{pod} refused the Snapshot and goes on with the one before: {why}");
        return Verdict::bad(Reason::RejectedByGateway, message);
    }
    let ready: Vec<_> = pods.iter().filter(|pod| pod.ready).collect();
    if ready.is_empty() {
        let message = "no gateway pod is ready";
        return match trouble_of(all) {
            Some(trouble) if trouble.reason == Reason::PodSecurityForbidden => {
                Verdict::bad(trouble.reason, &*trouble.message)
            }
            Some(trouble) => {
                let message = format!("{message}: {}", trouble.message);
                Verdict::bad(Reason::WaitingForPods, message)
            }
            None => Verdict::bad(Reason::WaitingForPods, message),
        };
    }
    if ready.iter().any(|pod| pod.acked_version != Some(version)) {
        let message = "not every ready gateway pod acknowledged it yet";
        return Verdict::bad(Reason::WaitingForAck, message);
    }
    Verdict::good(Reason::Programmed, "every ready gateway pod runs it")
}

fn trouble(pod: &Pod) -> Option<PodTrouble> {
    let status = pod.status.as_ref()?;
    let text = status.message.as_deref().unwrap_or_default();
    if status.reason.as_deref() == Some("SysctlForbidden") {
        let message = format!(
            "{text}; start the kubelet with --allowed-unsafe-sysctls=net.ipv4.ip_forward,\
             net.ipv4.conf.*,net.ipv6.conf.*,net.vrf.*, or set spec.podTemplate.privilegedInit"
        );
        return Some(PodTrouble {
            reason: Reason::PodSecurityForbidden,
            message,
        });
    }
    let conditions = status.conditions.as_deref().unwrap_or(&[]);
    let unschedulable = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"));
    if let Some(condition) = unschedulable {
        let text = condition.message.as_deref().unwrap_or_default();
        return Some(PodTrouble {
            reason: Reason::PodUnschedulable,
            message: format!("no node takes a pod: {text}"),
        });
    }
    let init = status.init_container_statuses.as_deref().unwrap_or(&[]);
    let containers = status.container_statuses.as_deref().unwrap_or(&[]);
    init.iter().chain(containers).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        waiting_trouble(container, waiting)
    })
}

fn waiting_trouble(
    container: &ContainerStatus,
    waiting: &ContainerStateWaiting,
) -> Option<PodTrouble> {
    let (name, image) = (&container.name, &container.image);
    let text = waiting.message.as_deref().unwrap_or_default();
    let (reason, message) = match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => (
            Reason::ImagePullFailed,
            format!(
                "the image {image} cannot be pulled; look at its name, the registry and spec.podTemplate.imagePullSecrets"
            ),
        ),
        "CrashLoopBackOff" => (
            Reason::PodCrashing,
            format!(
                "the container {name} ends again and again; its log says why (kubectl logs -c \
                 {name} --previous)"
            ),
        ),
        word @ ("CreateContainerConfigError" | "CreateContainerError" | "RunContainerError") => {
            (Reason::PodsNotReady, format!("{word}: {text}"))
        }
        _ => return None,
    };
    Some(PodTrouble { reason, message })
}
