//! Where clients find the gateways.

use std::{collections::BTreeSet, net::IpAddr};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use masque_api::{Endpoint, Listener, ListenerProtocol, VPCIngressPoint};

use super::{MAX_ADDRESSES, Observed};

/// The default template of RFC 9484 §3.
const DEFAULT_PATH: &str = "/.well-known/masque/ip/{target}/{ipproto}/";

/// The port of `https` (RFC 9110 §4.2.2).
const HTTPS_PORT: i32 = 443;

/// Addresses that clients dial: of the load balancer, of nodes, or inside the cluster.
pub(super) fn addresses(observed: &Observed) -> Vec<String> {
    let Some(service) = &observed.service else {
        return Vec::new();
    };
    let spec = service.spec.as_ref();
    let mut addresses: Vec<String> = match spec.and_then(|spec| spec.type_.as_deref()) {
        Some("LoadBalancer") => balancer(service),
        Some("NodePort") => nodes(observed, service),
        _ => {
            let ips = spec
                .and_then(|spec| spec.cluster_ips.as_deref())
                .unwrap_or(&[]);
            ips.iter().filter(|ip| *ip != "None").cloned().collect()
        }
    };
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
    addresses.truncate(MAX_ADDRESSES);
    addresses
}

/// One entry per listener.
pub(super) fn endpoints(
    point: &VPCIngressPoint,
    observed: &Observed,
    addresses: &[String],
) -> Vec<Endpoint> {
    let listeners = point.spec.listeners.iter();
    let endpoints = listeners.map(|listener| Endpoint {
        listener: listener.name.clone(),
        uri: uri(listener, observed.service.as_ref(), addresses),
        iroh_endpoint_id: None,
        certificate_sha256: observed.certificate_sha256.get(&listener.name).cloned(),
    });
    endpoints.collect()
}

/// Addresses of nodes that hand packets to a gateway: of all, or where `externalTrafficPolicy` is
/// `Local` of those with a gateway. While no gateway is ready, none is better than the other.
fn nodes(observed: &Observed, service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let policy = spec.and_then(|spec| spec.external_traffic_policy.as_deref());
    let pods = observed
        .pods
        .iter()
        .filter(|pod| pod.ready && !pod.terminating);
    let hosts: BTreeSet<_> = pods.filter_map(|pod| pod.node.as_deref()).collect();
    let all = policy != Some("Local") || hosts.is_empty();
    let mut nodes: Vec<_> = observed
        .nodes
        .iter()
        .filter(|(name, _)| all || hosts.contains(name.as_str()))
        .flat_map(|(_, addresses)| addresses)
        .collect();
    nodes.sort_unstable();
    nodes.into_iter().map(ToString::to_string).collect()
}

fn balancer(service: &Service) -> Vec<String> {
    let status = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref());
    let ingress = status
        .and_then(|status| status.ingress.as_deref())
        .unwrap_or(&[]);
    let address = ingress
        .iter()
        .filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone()));
    address.collect()
}

fn uri(listener: &Listener, service: Option<&Service>, addresses: &[String]) -> Option<String> {
    if listener.protocol == ListenerProtocol::Iroh {
        return None;
    }
    let host = listener.hostname.as_ref().or_else(|| addresses.first())?;
    let host = match host.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => host.clone(),
    };
    let authority = match port(listener, service) {
        HTTPS_PORT => host,
        port => format!("{host}:{port}"),
    };
    Some(format!("https://{authority}{DEFAULT_PATH}"))
}

/// The port that clients dial: on nodes it is another one.
fn port(listener: &Listener, service: Option<&Service>) -> i32 {
    let own = i32::from(listener.port);
    let spec = service.and_then(|service| service.spec.as_ref());
    let Some(spec) = spec.filter(|spec| spec.type_.as_deref() == Some("NodePort")) else {
        return own;
    };
    let protocol = match listener.protocol {
        ListenerProtocol::HTTP2 => "TCP",
        ListenerProtocol::HTTP3 | ListenerProtocol::Iroh => "UDP",
    };
    let same = |port: &&ServicePort| {
        port.port == own && port.protocol.as_deref().unwrap_or("TCP") == protocol
    };
    let found = spec.ports.iter().flatten().find(same);
    found.and_then(|port| port.node_port).unwrap_or(own)
}
