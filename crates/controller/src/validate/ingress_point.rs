//! VPCIngressPoint by itself.

use std::collections::BTreeSet;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use masque_api::{
    AuthMethod, BridgeMode as ApiBridgeMode, Reason, ServiceType, VPCIngressPoint,
    VPCIngressPointSpec,
};
use masque_model::{AddressPool, AuthMethods, BridgeMode, ObjectName, SessionLimits, Snapshot};

use super::{Report, fabric, listener, net, vpc_name};
use crate::{Options, Sourced, compile::defaults, labels, prefixes};

/// An ingress point that makes sense by itself: its snapshot without attachments and rules.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Draft {
    pub(crate) snapshot: Snapshot,
    pub(crate) selection: Selection,
}

/// Which attachments of the VPC an ingress point takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Selection {
    /// All of them.
    All,
    /// By label.
    Labels(LabelSelector),
    /// Those of a former snapshot, because the selector cannot be read at present.
    Names(BTreeSet<ObjectName>),
}

/// Checks an ingress point by itself. `None` when it cannot be in force.
pub(crate) fn ingress_point(
    sourced: &Sourced<VPCIngressPoint>,
    options: &Options,
    report: &mut Report<'_>,
) -> Option<Draft> {
    let name = sourced.name();
    let spec = &sourced.object.spec;
    let listeners = listener::listeners(spec, &name, options, report);
    let routes = net::prefixes(&spec.routes, "spec.routes", report);
    let pools = pools(spec, report);
    let fabric = fabric::fabric(&spec.fabric, &routes, report);
    bridge(spec, report);
    pods(spec, report);
    service(spec, report);
    let mtu_bytes = spec.mtu;
    if mtu_bytes.is_some_and(|mtu| !(1280..=9216).contains(&mtu)) {
        report.invalid(
            "spec.mtu",
            "outside 1280..9216",
            "IPv6 needs 1280 (RFC 8200 §5)",
        );
    }
    let drain = spec.drain.clone().unwrap_or_default();
    let drain_deadline_ms = net::duration_ms(
        drain.deadline.as_ref(),
        defaults::DRAIN_DEADLINE_MS,
        "spec.drain.deadline",
        report,
    );
    net::duration_ms(drain.minimum.as_ref(), 0, "spec.drain.minimum", report);
    let sessions = sessions(spec, report);
    let auth = auth(spec, report);
    let selection = selection(spec, report);
    let vpc = vpc_name(&spec.vpc_ref, &name.namespace);
    if vpc.namespace != name.namespace && !options.cross_namespace_vpcs {
        let message = format_args!("{vpc} is in another namespace");
        let hint = format!("put the ingress point into the namespace {}", vpc.namespace);
        report.error(
            "spec.vpcRef.namespace",
            Reason::RefNotPermitted,
            message,
            hint,
        );
    }
    if report.failed() {
        return None;
    }
    let snapshot = Snapshot {
        version: 0,
        ingress_point: name,
        vpc,
        listeners,
        auth,
        pools,
        routes: prefixes::normalize(&routes),
        fabric: fabric?,
        bridge: BridgeMode::Kernel,
        mtu_bytes,
        sessions,
        attachments: Vec::new(),
        rules: Vec::new(),
        drain_deadline_ms,
    };
    Some(Draft {
        snapshot,
        selection,
    })
}

fn pools(spec: &VPCIngressPointSpec, report: &mut Report<'_>) -> Vec<AddressPool> {
    let mut pools: Vec<AddressPool> = Vec::new();
    if spec.address_pools.is_empty() {
        let hint = "add a range that clients get their addresses from";
        report.invalid("spec.addressPools", "there is no pool", hint);
    }
    for (i, pool) in spec.address_pools.iter().enumerate() {
        let field = format!("spec.addressPools[{i}]");
        let cidr = format!("{field}.cidr");
        let reserved = net::prefixes(&pool.reserved, &format!("{field}.reserved"), report);
        let Some(prefix) = net::prefix(&pool.cidr, &cidr, report) else {
            continue;
        };
        if let Some(what) = net::not_unicast(&prefix.addr()) {
            report.invalid(
                &cidr,
                format_args!("{prefix} begins with {what}"),
                "use another range",
            );
        }
        if let Some(other) = pools
            .iter()
            .find(|other| prefixes::overlap(&other.prefix, &prefix))
        {
            let message = format_args!("{prefix} overlaps the pool {}", other.prefix);
            report.invalid(&cidr, message, "pools must be disjoint");
        }
        for (j, part) in reserved.iter().enumerate() {
            if !prefixes::contains(&prefix, part) {
                let field = format!("{field}.reserved[{j}]");
                report.invalid(
                    &field,
                    format_args!("{part} is not inside {prefix}"),
                    "remove it",
                );
            }
        }
        pools.push(AddressPool {
            prefix,
            reserved: prefixes::normalize(&reserved),
        });
    }
    pools.sort_by_key(|pool| pool.prefix);
    pools
}

/// Whether a pool has addresses of the family of `like`.
pub(crate) fn has_family(pools: &[AddressPool], ipv4: bool) -> bool {
    pools
        .iter()
        .any(|pool| matches!(pool.prefix, IpNet::V4(_)) == ipv4)
}

fn bridge(spec: &VPCIngressPointSpec, report: &mut Report<'_>) {
    let name = match spec.bridge.mode {
        ApiBridgeMode::Kernel => return,
        ApiBridgeMode::Userspace => "Userspace",
        ApiBridgeMode::XDP => "XDP",
        ApiBridgeMode::AFXDP => "AFXDP",
    };
    let message = format_args!("the bridge mode {name} is not built into this version");
    report.invalid("spec.bridge.mode", message, "write Kernel");
}

/// What only the operator uses; the same rules as in the schema.
fn pods(spec: &VPCIngressPointSpec, report: &mut Report<'_>) {
    if spec.replicas.is_some() && spec.autoscaling.is_some() {
        let message = "replicas and autoscaling exclude each other";
        report.invalid("spec.replicas", message, "remove one of them");
    }
    if let Some(autoscaling) = &spec.autoscaling
        && autoscaling
            .min_replicas
            .is_some_and(|least| least > autoscaling.max_replicas)
    {
        let message = "minReplicas is more than maxReplicas";
        report.invalid("spec.autoscaling.minReplicas", message, "swap them");
    }
}

fn service(spec: &VPCIngressPointSpec, report: &mut Report<'_>) {
    let Some(service) = &spec.service else { return };
    if service.load_balancer_class.is_some() && service.type_ != ServiceType::LoadBalancer {
        let message = "loadBalancerClass belongs to type LoadBalancer";
        report.invalid("spec.service.loadBalancerClass", message, "remove it");
    }
}

fn sessions(spec: &VPCIngressPointSpec, report: &mut Report<'_>) -> SessionLimits {
    let sessions = spec.sessions.clone().unwrap_or_default();
    let mut ms = |text: Option<&masque_api::Duration>, default_ms, field: &str| {
        net::duration_ms(text, default_ms, &format!("spec.sessions.{field}"), report)
    };
    let idle_timeout_ms = ms(
        sessions.idle_timeout.as_ref(),
        defaults::IDLE_TIMEOUT_MS,
        "idleTimeout",
    );
    let resume_window_ms = ms(
        sessions.resume_window.as_ref(),
        defaults::RESUME_WINDOW_MS,
        "resumeWindow",
    );
    let address_quarantine_ms = ms(
        sessions.address_quarantine.as_ref(),
        defaults::ADDRESS_QUARANTINE_MS,
        "addressQuarantine",
    );
    let max_total = match sessions.max_total {
        None => defaults::MAX_TOTAL,
        Some(most) => match u32::try_from(most) {
            Ok(most) if most > 0 => most,
            _ => {
                let message = format_args!("{most} is not a number of sessions");
                report.invalid("spec.sessions.maxTotal", message, "write at least 1");
                defaults::MAX_TOTAL
            }
        },
    };
    SessionLimits {
        idle_timeout_ms,
        resume_window_ms,
        address_quarantine_ms,
        max_total,
    }
}

fn auth(spec: &VPCIngressPointSpec, report: &mut Report<'_>) -> AuthMethods {
    let methods = spec
        .authentication
        .as_ref()
        .map_or(&[][..], |auth| &auth.methods);
    if let Some(i) = methods
        .iter()
        .position(|method| *method == AuthMethod::Bearer)
    {
        let message = "Bearer is not built into this version";
        let hint = "write ConcealedKey or ClientCertificate";
        report.invalid(&format!("spec.authentication.methods[{i}]"), message, hint);
    }
    let on = |method| methods.is_empty() || methods.contains(&method);
    AuthMethods {
        concealed_key: on(AuthMethod::ConcealedKey),
        client_certificate: on(AuthMethod::ClientCertificate),
    }
}

fn selection(spec: &VPCIngressPointSpec, report: &mut Report<'_>) -> Selection {
    let Some(selector) = &spec.attachment_selector else {
        return Selection::All;
    };
    if let Err((field, message)) = labels::check(selector) {
        let hint = "operators are In and NotIn with values, Exists and DoesNotExist without";
        report.invalid(&format!("spec.attachmentSelector.{field}"), message, hint);
    }
    Selection::Labels(selector.clone())
}
