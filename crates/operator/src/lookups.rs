//! What is asked for now and then instead of being watched: VPCs, whose kind is not ours and may not
//! be there, and addresses of nodes, which only a Service of type NodePort needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
    discovery::{self, Scope},
};
use masque_api::{ServiceType, VPCIngressPoint};
use masque_model::ObjectName;

use crate::{
    client::{CallError, call},
    index::name_of,
};

/// How long an answer is taken as true.
const FRESH: Duration = Duration::from_secs(60);

/// How long an answer that leaves a reference unresolved is taken as true.
const ANXIOUS: Duration = Duration::from_secs(5);

/// Objects in one page of a list.
const PAGE: u32 = 500;

/// VPCs of one kind that are remembered; of more, none is known.
const MAX_VPCS: usize = 50_000;

/// Nodes that are looked at: what Kubernetes says it is made for.
const MAX_NODES: usize = 5_000;

/// Addresses of nodes, by their names.
pub(crate) type Nodes = Arc<BTreeMap<String, Vec<IpAddr>>>;

/// The VPCs there are; nothing when that is not known.
pub(crate) type Vpcs = Option<Arc<BTreeSet<ObjectName>>>;

/// Answers, and until when they are taken as true.
pub(crate) struct Lookups {
    client: Client,
    namespace: Option<String>,
    vpcs: Vpcs,
    vpcs_until: Option<Instant>,
    nodes: Nodes,
    nodes_until: Option<Instant>,
}

impl Lookups {
    /// Lookups in one namespace, or in all.
    pub(crate) fn new(client: Client, namespace: Option<String>) -> Self {
        Self {
            client,
            namespace,
            vpcs: None,
            vpcs_until: None,
            nodes: Nodes::default(),
            nodes_until: None,
        }
    }

    /// The VPCs there are; nothing when that is not known, because the kind is not served or may not
    /// be read.
    pub(crate) async fn vpcs(&mut self, points: &[Arc<VPCIngressPoint>]) -> &Vpcs {
        let kinds: BTreeSet<_> = points
            .iter()
            .map(|point| (&point.spec.vpc_ref.group, &point.spec.vpc_ref.kind))
            .collect();
        let mut kinds = kinds.into_iter();
        // With two kinds of VPC a name alone does not say whether it is there.
        let (Some((group, kind)), None) = (kinds.next(), kinds.next()) else {
            // Nothing is asked for, so nothing is due either.
            (self.vpcs, self.vpcs_until) = (None, None);
            return &self.vpcs;
        };
        if due(self.vpcs_until) {
            self.vpcs = match self.list_vpcs(group, kind).await {
                Ok(vpcs) => vpcs,
                Err(error) => {
                    tracing::debug!(%error, group, kind, "VPCs cannot be listed: every name is taken as good");
                    None
                }
            };
            let anxious = self.vpcs.as_ref().is_some_and(|vpcs| {
                let mut names = points.iter().map(|point| vpc_of(point));
                names.any(|name| !vpcs.contains(&name))
            });
            self.vpcs_until = Some(Instant::now() + if anxious { ANXIOUS } else { FRESH });
        }
        &self.vpcs
    }

    /// Addresses of the nodes, when an ingress point needs them.
    pub(crate) async fn nodes(&mut self, points: &[Arc<VPCIngressPoint>]) -> &Nodes {
        if !points.iter().any(|point| has_node_port(point)) {
            self.nodes_until = None;
            self.nodes = Nodes::default();
        } else if due(self.nodes_until) {
            match self.list_nodes().await {
                // The same answer is the same map: what is made of it is compared at once.
                Ok(nodes) if nodes != *self.nodes => self.nodes = Arc::new(nodes),
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "nodes cannot be listed"),
            }
            self.nodes_until = Some(Instant::now() + FRESH);
        }
        &self.nodes
    }

    /// When to ask again.
    pub(crate) fn again(&self) -> Option<Instant> {
        self.vpcs_until.into_iter().chain(self.nodes_until).min()
    }

    async fn list_vpcs(&self, group: &str, kind: &str) -> Result<Vpcs, CallError> {
        let group = call(discovery::group(&self.client, group)).await?;
        let mut vpcs = BTreeSet::new();
        let Some((resource, capabilities)) = group.recommended_kind(kind) else {
            return Ok(None);
        };
        if capabilities.scope == Scope::Cluster {
            return Ok(None);
        }
        let api: Api<DynamicObject> = match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = call(api.list_metadata(&params)).await?;
            vpcs.extend(page.items.iter().map(|vpc| name_of(&vpc.metadata)));
            if vpcs.len() > MAX_VPCS {
                return Ok(None);
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(Some(Arc::new(vpcs))),
            }
        }
    }

    /// Addresses of the first [`MAX_NODES`] nodes. A page is dropped before the next is read: a node
    /// says tens of kilobytes of itself.
    async fn list_nodes(&self) -> Result<BTreeMap<String, Vec<IpAddr>>, CallError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut params = ListParams::default().limit(PAGE);
        let mut addresses = NodeAddresses::default();
        loop {
            let page = call(api.list(&params)).await?;
            let room = page.items.iter().take(MAX_NODES - addresses.nodes);
            room.for_each(|node| addresses.add(node));
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) if addresses.nodes < MAX_NODES => {
                    params = params.continue_token(&token);
                }
                Some(_) => {
                    tracing::warn!(
                        nodes = addresses.nodes,
                        "more nodes than are looked at: some that run a gateway may be missing in status.addresses"
                    );
                    break;
                }
                None => break,
            }
        }
        Ok(addresses.dialled())
    }
}

/// Whether clients dial nodes.
pub(crate) fn has_node_port(point: &VPCIngressPoint) -> bool {
    let service = point.spec.service.as_ref();
    service.is_some_and(|service| service.type_ == ServiceType::NodePort)
}

fn due(until: Option<Instant>) -> bool {
    until.is_none_or(|until| until <= Instant::now())
}

fn vpc_of(point: &VPCIngressPoint) -> ObjectName {
    let namespace = point.metadata.namespace.clone().unwrap_or_default();
    let vpc = &point.spec.vpc_ref;
    ObjectName::new(vpc.namespace.clone().unwrap_or(namespace), &vpc.name)
}

/// Addresses of nodes that are ready, by node.
#[derive(Default)]
struct NodeAddresses {
    /// How many nodes were looked at.
    nodes: usize,
    external: BTreeMap<String, Vec<IpAddr>>,
    internal: BTreeMap<String, Vec<IpAddr>>,
}

impl NodeAddresses {
    fn add(&mut self, node: &Node) {
        self.nodes += 1;
        let status = node.status.as_ref();
        let conditions = status.and_then(|status| status.conditions.as_ref());
        let mut conditions = conditions.into_iter().flatten();
        if !conditions.any(|it| it.type_ == "Ready" && it.status == "True") {
            return;
        }
        for address in status.iter().flat_map(|it| &it.addresses).flatten() {
            let of_type = match address.type_.as_str() {
                "ExternalIP" => &mut self.external,
                "InternalIP" => &mut self.internal,
                _ => continue,
            };
            if let Ok(ip) = address.address.parse() {
                let name = node.metadata.name.clone().unwrap_or_default();
                of_type.entry(name).or_default().push(ip);
            }
        }
    }

    /// What clients dial: external addresses where any node has one, else internal ones.
    fn dialled(self) -> BTreeMap<String, Vec<IpAddr>> {
        if self.external.is_empty() {
            self.internal
        } else {
            self.external
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(ready: &str, type_: &str, address: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": address},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [{"type": type_, "address": address}],
            },
        }))
        .unwrap()
    }

    /// An API server of `pages` pages with one node each.
    fn paged(pages: usize, per_page: usize) -> crate::fake::Fake {
        crate::fake::Fake::new(move |call| {
            let page: usize = call.query("continue").map_or(0, |it| it.parse().unwrap());
            let node = |i: usize| {
                let node = node("True", "InternalIP", "10.0.0.1");
                let mut node = serde_json::to_value(node).unwrap();
                node["metadata"]["name"] = json!(format!("{page}-{i}"));
                node
            };
            let next = (page + 1 < pages).then(|| (page + 1).to_string());
            let nodes: Vec<_> = (0..per_page).map(node).collect();
            (
                200,
                json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"continue": next}, "items": nodes}),
            )
        })
    }

    fn point(kind: &str, service: &str) -> Arc<VPCIngressPoint> {
        let point = json!({
            "apiVersion": "networking.datumapis.com/v1alpha1", "kind": "VPCIngressPoint",
            "metadata": {"name": kind, "namespace": "ns"},
            "spec": {
                "vpcRef": {"group": "galactic.datumapis.com", "kind": kind, "name": "prod"},
                "addressPools": [], "listeners": [], "fabric": {"provider": "Static"},
                "service": {"type": service},
            },
        });
        Arc::new(serde_json::from_value(point).unwrap())
    }

    /// What is not asked for is not due either, or passes would follow each other without a pause.
    #[tokio::test]
    async fn nothing_is_due_that_is_not_asked_for() {
        let fake = crate::fake::Fake::new(|_| crate::fake::refusal(404));
        let mut lookups = Lookups::new(fake.client.clone(), None);
        let one = [point("VPC", "NodePort")];
        let two = [point("VPC", "ClusterIP"), point("Network", "ClusterIP")];
        for points in [&two[..], &[]] {
            lookups.vpcs(&one).await;
            lookups.nodes(&one).await;
            assert!(lookups.again().is_some());
            lookups.vpcs(points).await;
            lookups.nodes(points).await;
            assert_eq!(lookups.again(), None);
        }
    }

    #[tokio::test]
    async fn the_same_nodes_are_the_same_map() {
        let fake = paged(2, 2);
        let mut lookups = Lookups::new(fake.client.clone(), None);
        let points = [point("VPC", "NodePort")];
        let first = lookups.nodes(&points).await.clone();
        lookups.nodes_until = None;
        fake.calls();
        let second = lookups.nodes(&points).await.clone();
        assert!(!fake.calls().is_empty() && Arc::ptr_eq(&first, &second));
    }

    #[tokio::test]
    async fn every_page_of_nodes_is_read_up_to_a_bound() {
        for (pages, per_page, read) in [(3, 2, 6), (12, 500, MAX_NODES), (2, 4_000, MAX_NODES)] {
            let fake = paged(pages, per_page);
            let lookups = Lookups::new(fake.client.clone(), None);
            assert_eq!(lookups.list_nodes().await.unwrap().len(), read);
        }
    }

    #[test]
    fn external_addresses_of_ready_nodes_come_first() {
        let inside = node("True", "InternalIP", "10.0.0.1");
        let outside = node("True", "ExternalIP", "192.0.2.1");
        let down = node("Unknown", "ExternalIP", "192.0.2.2");
        let text = |nodes: &[Node]| -> Vec<String> {
            let mut addresses = NodeAddresses::default();
            nodes.iter().for_each(|node| addresses.add(node));
            let nodes = addresses.dialled();
            let line = |(name, list): (&String, &Vec<IpAddr>)| format!("{name} {list:?}");
            nodes.iter().map(line).collect()
        };
        assert_eq!(
            text(&[inside.clone(), outside, down.clone()]),
            ["192.0.2.1 [192.0.2.1]"]
        );
        assert_eq!(text(&[inside, down]), ["10.0.0.1 [10.0.0.1]"]);
    }
}
