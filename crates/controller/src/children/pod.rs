//! The Deployment and its pods.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Capabilities, ConfigMapEnvSource, Container, ContainerPort, EmptyDirVolumeSource,
            EnvFromSource, EnvVar, EnvVarSource, HTTPGetAction, HostPathVolumeSource, KeyToPath,
            Lifecycle, LifecycleHandler, ObjectFieldSelector, PodSecurityContext, PodSpec,
            PodTemplateSpec, Probe, ProjectedVolumeSource, SeccompProfile, SecretProjection,
            SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection, SleepAction,
            Sysctl, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
        },
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};
use masque_api::{PodTemplate, VPCIngressPoint};

use super::{
    ADMIN_PORT, ChildOptions, DEFAULT_REPLICAS, TOKEN_AUDIENCE, child_name, drain_s,
    listener_secret_name, metadata, names, stream_secret_name, sysctls,
};

const TOKEN_DIR: &str = "/var/run/secrets/masque";
const STREAM_DIR: &str = "/etc/masque-gateway/stream";
const LISTENERS_DIR: &str = "/etc/masque-gateway/listeners";
const STATE_DIR: &str = "/var/lib/masque-gateway";
const TUN: &str = "/dev/net/tun";

/// A token is renewed by the kubelet well before it ends.
const TOKEN_LIFETIME_S: i64 = 3600;

/// What a pod may keep: the Snapshot with its predecessor, and the addresses of sessions.
const STATE_SIZE: &str = "256Mi";

/// From the drain's deadline until the pod is killed: closing connections, taking down routes.
const GRACE_MARGIN_S: i64 = 10;

/// The annotation that changes when pods must start anew because their environment did.
const CONFIG_ANNOTATION: &str = "networking.datumapis.com/config";

/// The Deployment of an ingress point.
pub(super) fn deployment(
    point: &VPCIngressPoint,
    options: &ChildOptions,
    config_map: &k8s_openapi::api::core::v1::ConfigMap,
) -> Deployment {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let spec = &point.spec;
    // With an autoscaler the number of pods is its own.
    let replicas = match spec.autoscaling {
        Some(_) => None,
        None => Some(spec.replicas.unwrap_or(DEFAULT_REPLICAS)),
    };
    let default = PodTemplate::default();
    let wanted = spec.pod_template.as_ref().unwrap_or(&default);
    let mut labels = wanted.labels.clone();
    labels.extend(names::labels(name));
    let mut annotations = wanted.annotations.clone();
    let data = serde_json::to_vec(&config_map.data).unwrap_or_default();
    annotations.insert(
        CONFIG_ANNOTATION.to_owned(),
        format!("{:016x}", super::hash(&data)),
    );
    Deployment {
        metadata: metadata(point),
        spec: Some(DeploymentSpec {
            replicas,
            selector: names::selector(name),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::String("25%".to_owned())),
                }),
            }),
            revision_history_limit: Some(3),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(point, wanted, options)),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod(point: &VPCIngressPoint, wanted: &PodTemplate, options: &ChildOptions) -> PodSpec {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let (minimum_s, deadline_s) = drain_s(point);
    let settings = sysctls(point);
    let pod_sysctls: Vec<_> = settings
        .iter()
        .map(|(name, value)| Sysctl {
            name: (*name).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    let init = wanted
        .privileged_init
        .then(|| vec![init_container(&settings, options)]);
    let spread = match wanted.topology_spread_constraints.as_slice() {
        [] => default_spread(name),
        spread => spread.to_vec(),
    };
    let mut node_selector = wanted.node_selector.clone();
    node_selector
        .entry("kubernetes.io/os".to_owned())
        .or_insert_with(|| "linux".to_owned());
    PodSpec {
        service_account_name: Some(child_name(name)),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        termination_grace_period_seconds: Some(minimum_s + deadline_s + GRACE_MARGIN_S),
        security_context: Some(PodSecurityContext {
            // See `container_security`: root without capabilities but one.
            run_as_user: Some(0),
            run_as_group: Some(0),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            sysctls: (!wanted.privileged_init).then_some(pod_sysctls),
            ..PodSecurityContext::default()
        }),
        init_containers: init,
        containers: vec![container(point, wanted, options, minimum_s)],
        volumes: Some(volumes(point)),
        node_selector: Some(node_selector),
        tolerations: (!wanted.tolerations.is_empty()).then(|| wanted.tolerations.clone()),
        affinity: wanted.affinity.clone(),
        topology_spread_constraints: Some(spread),
        priority_class_name: wanted.priority_class_name.clone(),
        image_pull_secrets: (!wanted.image_pull_secrets.is_empty())
            .then(|| wanted.image_pull_secrets.clone()),
        ..PodSpec::default()
    }
}

/// Sets in a privileged container what the kubelet would refuse as sysctls of the pod. The gateway
/// itself stays without privileges.
fn init_container(settings: &[(&str, &str)], options: &ChildOptions) -> Container {
    let pairs = settings
        .iter()
        .map(|(name, value)| format!("{name}={value}"));
    Container {
        name: "sysctls".to_owned(),
        image: Some(options.image.clone()),
        image_pull_policy: options.image_pull_policy.clone(),
        command: Some(vec!["masque-gateway".to_owned(), "sysctls".to_owned()]),
        args: Some(pairs.collect()),
        resources: options.default_resources.clone(),
        security_context: Some(SecurityContext {
            privileged: Some(true),
            read_only_root_filesystem: Some(true),
            run_as_user: Some(0),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

fn container(
    point: &VPCIngressPoint,
    wanted: &PodTemplate,
    options: &ChildOptions,
    minimum_s: i64,
) -> Container {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let resources = wanted
        .resources
        .clone()
        .or_else(|| options.default_resources.clone());
    // Terminating pods leave the Service at once, but not every load balancer knows at once.
    let pre_stop = (minimum_s > 0).then(|| Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: minimum_s }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
    Container {
        name: "gateway".to_owned(),
        image: Some(options.image.clone()),
        image_pull_policy: options.image_pull_policy.clone(),
        command: Some(vec!["masque-gateway".to_owned()]),
        args: Some(arguments(options)),
        env: Some(vec![pod_name()]),
        env_from: Some(vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource {
                name: child_name(name),
                optional: None,
            }),
            ..EnvFromSource::default()
        }]),
        ports: Some(vec![ContainerPort {
            name: Some("admin".to_owned()),
            container_port: ADMIN_PORT,
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        startup_probe: Some(probe("/healthz", 1, 60)),
        readiness_probe: Some(probe("/readyz", 2, 2)),
        liveness_probe: Some(probe("/healthz", 10, 3)),
        lifecycle: pre_stop,
        resources,
        security_context: Some(container_security()),
        volume_mounts: Some(mounts()),
        ..Container::default()
    }
}

/// Root with the one capability NET_ADMIN. The other way, a user with a file capability on the
/// binary, needs `allowPrivilegeEscalation: true`, since no_new_privs switches file capabilities
/// off; so this is the one that gives away less.
fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: Some(vec!["NET_ADMIN".to_owned()]),
        }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn arguments(options: &ChildOptions) -> Vec<String> {
    let pairs = [
        ("--operator", options.operator_url.clone()),
        (
            "--operator-server-name",
            options.operator_server_name.clone(),
        ),
        ("--operator-ca", format!("{STREAM_DIR}/ca.crt")),
        ("--operator-cert", format!("{STREAM_DIR}/tls.crt")),
        ("--operator-key", format!("{STREAM_DIR}/tls.key")),
        ("--operator-token", format!("{TOKEN_DIR}/token")),
        ("--pod-name", "$(POD_NAME)".to_owned()),
        ("--tls-dir", LISTENERS_DIR.to_owned()),
        ("--state-dir", STATE_DIR.to_owned()),
        ("--admin", format!("[::]:{ADMIN_PORT}")),
        ("--log", "json".to_owned()),
    ];
    pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

fn pod_name() -> EnvVar {
    EnvVar {
        name: "POD_NAME".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: "metadata.name".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

fn probe(path: &str, period_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(1),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn mounts() -> Vec<VolumeMount> {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    };
    vec![
        mount("token", TOKEN_DIR, true),
        mount("stream", STREAM_DIR, true),
        mount("listeners", LISTENERS_DIR, true),
        mount("state", STATE_DIR, false),
        mount("tun", TUN, false),
    ]
}

fn volumes(point: &VPCIngressPoint) -> Vec<Volume> {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let volume = |name: &str| Volume {
        name: name.to_owned(),
        ..Volume::default()
    };
    vec![
        Volume {
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![token()]),
                ..ProjectedVolumeSource::default()
            }),
            ..volume("token")
        },
        Volume {
            secret: Some(SecretVolumeSource {
                secret_name: Some(stream_secret_name(name)),
                ..SecretVolumeSource::default()
            }),
            ..volume("stream")
        },
        Volume {
            projected: Some(ProjectedVolumeSource {
                sources: Some(listener_secrets(point)),
                ..ProjectedVolumeSource::default()
            }),
            ..volume("listeners")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity(STATE_SIZE.to_owned())),
                medium: None,
            }),
            ..volume("state")
        },
        Volume {
            host_path: Some(HostPathVolumeSource {
                path: TUN.to_owned(),
                type_: Some("CharDevice".to_owned()),
            }),
            ..volume("tun")
        },
    ]
}

fn token() -> VolumeProjection {
    VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: Some(TOKEN_AUDIENCE.to_owned()),
            expiration_seconds: Some(TOKEN_LIFETIME_S),
            path: "token".to_owned(),
        }),
        ..VolumeProjection::default()
    }
}

/// Every certificate that a listener may use, each in a folder of its Secret's name. All are
/// optional: one that is deleted must not keep the pods of all other listeners from starting. The
/// operator's own is always there, so that a listener without `certificateRefs` restarts nothing.
fn listener_secrets(point: &VPCIngressPoint) -> Vec<VolumeProjection> {
    let own = listener_secret_name(point.metadata.name.as_deref().unwrap_or_default());
    let tls = point.spec.listeners.iter().filter_map(|l| l.tls.as_ref());
    let mut secrets: BTreeSet<_> = tls
        .flat_map(|tls| &tls.certificate_refs)
        .map(|secret| secret.name.clone())
        .collect();
    secrets.insert(own);
    let secrets = secrets.into_iter().map(|secret| {
        let item = |key: &str| KeyToPath {
            key: key.to_owned(),
            path: format!("{secret}/{key}"),
            mode: None,
        };
        VolumeProjection {
            secret: Some(SecretProjection {
                items: Some(vec![item("tls.crt"), item("tls.key")]),
                name: secret.clone(),
                optional: Some(true),
            }),
            ..VolumeProjection::default()
        }
    });
    secrets.collect()
}

/// Over zones and nodes as far as it goes. Never `DoNotSchedule`: with a surge and no unavailable
/// pod, a rollout would wait for ever on a cluster that has as many nodes as pods.
fn default_spread(name: &str) -> Vec<TopologySpreadConstraint> {
    ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(names::selector(name)),
            match_label_keys: Some(vec!["pod-template-hash".to_owned()]),
            ..TopologySpreadConstraint::default()
        })
        .into()
}
