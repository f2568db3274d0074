//! The Service and the NetworkPolicy.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::{Service, ServicePort, ServiceSpec},
        networking::v1::{
            IPBlock, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
            NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use masque_api::{ExternalTrafficPolicy, ListenerProtocol, ServiceType, VPCIngressPoint};

use super::{ADMIN_PORT, metadata, names, some_map};

/// The Service in front of the gateways of an ingress point.
pub(super) fn service(point: &VPCIngressPoint) -> Service {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let wanted = point.spec.service.clone().unwrap_or_default();
    let mut metadata = metadata(point);
    metadata.annotations = some_map(wanted.annotations);
    let type_ = match wanted.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let external = wanted.type_ != ServiceType::ClusterIP;
    let policy = match wanted.external_traffic_policy {
        ExternalTrafficPolicy::Cluster => "Cluster",
        ExternalTrafficPolicy::Local => "Local",
    };
    let ports = ports(point)
        .into_iter()
        .map(|((port, protocol), name)| ServicePort {
            name: Some(name),
            port,
            protocol: Some(protocol.to_owned()),
            target_port: Some(IntOrString::Int(port)),
            ..ServicePort::default()
        });
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(names::selected(name)),
            ports: Some(ports.collect()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            external_traffic_policy: external.then(|| policy.to_owned()),
            load_balancer_class: wanted.load_balancer_class,
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Where the fabric's packets come from when nobody says it more closely.
const ANY_IPV6: &str = "::/0";

/// Clients reach the listeners from anywhere, pods of the cluster the admin port (metrics; the
/// kubelet's probes need no rule), and nodes of the fabric everything: what they send is IP in IPv6
/// (protocols 4 and 41), and a rule that names ports would let TCP, UDP and SCTP through only.
/// Nothing is said about what gateways send, for the same reason.
pub(super) fn network_policy(point: &VPCIngressPoint) -> NetworkPolicy {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let open = |port: i32, protocol: &str| NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    };
    let listeners = ports(point).into_keys();
    let clients = NetworkPolicyIngressRule {
        from: None,
        ports: Some(
            listeners
                .map(|(port, protocol)| open(port, protocol))
                .collect(),
        ),
    };
    let cluster = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    };
    let admin = NetworkPolicyIngressRule {
        from: Some(vec![cluster]),
        ports: Some(vec![open(ADMIN_PORT, "TCP")]),
    };
    NetworkPolicy {
        metadata: metadata(point),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(names::selector(name)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![clients, admin, fabric(point)]),
            egress: None,
        }),
    }
}

/// Every protocol from the nodes of the fabric.
fn fabric(point: &VPCIngressPoint) -> NetworkPolicyIngressRule {
    let settings = point.spec.fabric.static_.as_ref();
    let mut peers: Vec<String> = settings
        .into_iter()
        .flat_map(|settings| &settings.peers)
        .map(ToString::to_string)
        .collect();
    if peers.is_empty() {
        peers.push(ANY_IPV6.to_owned());
    }
    let peers = peers.into_iter().map(|cidr| NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr, except: None }),
        ..NetworkPolicyPeer::default()
    });
    NetworkPolicyIngressRule {
        from: Some(peers.collect()),
        ports: None,
    }
}

/// Port and protocol of the listeners, and the name of the first one there: listeners that differ
/// in their host name only share a port.
fn ports(point: &VPCIngressPoint) -> BTreeMap<(i32, &'static str), String> {
    let mut ports = BTreeMap::new();
    for listener in &point.spec.listeners {
        let protocol = match listener.protocol {
            ListenerProtocol::HTTP2 => "TCP",
            ListenerProtocol::HTTP3 | ListenerProtocol::Iroh => "UDP",
        };
        ports
            .entry((i32::from(listener.port), protocol))
            .or_insert_with(|| listener.name.clone());
    }
    ports
}
