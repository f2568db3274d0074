//! What the shards judge packets by: immutable, compiled from Snapshots, shared by all shards.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use ipnet::{IpNet, Ipv6Net};
use masque_model::{Direction, Fabric, ObjectName, Snapshot};

use crate::address::gateway_addresses;
use crate::id::{AttachmentId, VpcIndex};
use crate::policy::{Explanation, FlowQuestion, Policy};
use crate::prefix::PrefixSet;
use crate::reason::DropReason;

/// The compiled state of every ingress point that the gateway runs.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    vpcs: Vec<Option<Arc<VpcTables>>>,
    generation: u64,
}

/// The compiled state of one ingress point.
#[derive(Debug)]
pub struct VpcTables {
    index: VpcIndex,
    epoch: u64,
    snapshot_version: u64,
    ingress_point: ObjectName,
    vpc: ObjectName,
    attachments: HashMap<AttachmentId, AttachmentTable, FixedState>,
    ids: Arc<BTreeMap<ObjectName, AttachmentId>>,
    policy: Policy,
    /// The nodes of the fabric: no packet of a client may go there.
    fabric: PrefixSet,
    pools: PrefixSet,
    gateway_addresses: Vec<IpAddr>,
    idle_timeout_ms: u64,
    mtu_bytes: Option<u16>,
}

/// The compiled state of one attachment.
#[derive(Debug)]
pub struct AttachmentTable {
    name: ObjectName,
    routes: PrefixSet,
    suspended: bool,
}

/// Length of the prefix that names a node of the fabric. A SID is Block (48 bits), Node-ID (16
/// bits), function and argument, so its first 64 bits are the locator of its node.
pub const LOCATOR_PREFIX_BITS: u8 = 64;

/// Source of ICMPv4 errors of a gateway without an IPv4 pool: the dummy address of RFC 7600 §4.8.
const DUMMY_IPV4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);

/// The gateway's link-local address on every tunnel, which is a point-to-point link of its own.
pub(crate) const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Why there is no [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No ingress point or VPC of this name.
    #[error("this gateway runs no VPCIngressPoint or VPC `{0}`; see `masque-gateway status`")]
    UnknownVpc(String),
    /// No attachment of this name there.
    #[error("`{0}` is no ConnectorAttachment that this gateway serves")]
    UnknownAttachment(String),
}

/// What becomes of a flow at one ingress point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The VPCIngressPoint.
    pub ingress_point: ObjectName,
    /// The VPC.
    pub vpc: ObjectName,
    /// The ConnectorAttachment.
    pub attachment: ObjectName,
    /// What becomes of the flow, and why.
    pub explanation: Explanation,
}

impl Tables {
    pub(crate) fn new(vpcs: Vec<Option<Arc<VpcTables>>>, generation: u64) -> Self {
        Self { vpcs, generation }
    }

    /// Grows whenever the registry publishes other tables.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The tables of one ingress point; `None` if the gateway does not run it any more.
    #[must_use]
    #[inline]
    pub fn vpc(&self, index: VpcIndex) -> Option<&Arc<VpcTables>> {
        self.vpcs.get(index.0 as usize)?.as_ref()
    }

    /// Every ingress point, in the order of their indexes.
    pub fn vpcs(&self) -> impl Iterator<Item = &Arc<VpcTables>> {
        self.vpcs.iter().flatten()
    }

    /// The ingress point called `name`, or the one that serves a VPC called so: `name` or
    /// `namespace/name`. The first in the order of their indexes.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<VpcTables>> {
        let by_point = self.vpcs().find(|vpc| is_called(&vpc.ingress_point, name));
        by_point.or_else(|| self.vpcs().find(|vpc| is_called(&vpc.vpc, name)))
    }

    /// What becomes of a flow and which rule decides, at each ingress point that serves an attachment
    /// called `attachment` (`name` or `namespace/name`). With `vpc`, the name of an ingress point or
    /// VPC as for [`find`](Self::find), at that one only.
    ///
    /// The scope that a session asked for (RFC 9484 §4.6) is not in it: it narrows further.
    ///
    /// # Errors
    /// The VPC or the attachment is not known.
    pub fn explain(
        &self,
        vpc: Option<&str>,
        attachment: &str,
        flow: &FlowQuestion,
    ) -> Result<Vec<Explained>, ExplainError> {
        let points: Vec<_> = match vpc {
            None => self.vpcs().collect(),
            Some(name) => {
                let unknown = || ExplainError::UnknownVpc(name.into());
                vec![self.find(name).ok_or_else(unknown)?]
            }
        };
        let explained: Vec<Explained> = points
            .into_iter()
            .flat_map(|vpc| vpc.explain(attachment, flow))
            .collect();
        if explained.is_empty() {
            return Err(ExplainError::UnknownAttachment(attachment.into()));
        }
        Ok(explained)
    }
}

impl VpcTables {
    pub(crate) fn new(
        index: VpcIndex,
        epoch: u64,
        snapshot: &Snapshot,
        ids: Arc<BTreeMap<ObjectName, AttachmentId>>,
    ) -> Self {
        let attachments = snapshot.attachments.iter().filter_map(|attachment| {
            let table = AttachmentTable {
                name: attachment.name.clone(),
                routes: PrefixSet::new(&attachment.routes),
                suspended: attachment.suspended,
            };
            Some((*ids.get(&attachment.name)?, table))
        });
        Self {
            index,
            epoch,
            snapshot_version: snapshot.version,
            ingress_point: snapshot.ingress_point.clone(),
            vpc: snapshot.vpc.clone(),
            attachments: attachments.collect(),
            policy: Policy::new(&snapshot.rules, &ids),
            ids,
            fabric: fabric_prefixes(&snapshot.fabric),
            pools: PrefixSet::new(snapshot.pools.iter().map(|pool| &pool.prefix)),
            gateway_addresses: gateway_addresses(&snapshot.pools),
            idle_timeout_ms: snapshot.sessions.idle_timeout_ms,
            mtu_bytes: snapshot.mtu_bytes,
        }
    }

    /// The index of the ingress point.
    #[must_use]
    pub fn index(&self) -> VpcIndex {
        self.index
    }

    /// Differs between any two tables; flows judged by another epoch are judged again.
    #[must_use]
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The version of the Snapshot that these tables were compiled from.
    #[must_use]
    pub fn snapshot_version(&self) -> u64 {
        self.snapshot_version
    }

    /// The VPCIngressPoint.
    #[must_use]
    pub fn ingress_point(&self) -> &ObjectName {
        &self.ingress_point
    }

    /// The VPC.
    #[must_use]
    pub fn vpc(&self) -> &ObjectName {
        &self.vpc
    }

    /// The addresses that the gateway answers on, one a pool.
    #[must_use]
    pub fn gateway_addresses(&self) -> &[IpAddr] {
        &self.gateway_addresses
    }

    /// The inner MTU, if the manifest fixes one, in bytes.
    #[must_use]
    pub fn mtu_bytes(&self) -> Option<u16> {
        self.mtu_bytes
    }

    /// What becomes of a flow of every attachment that is called so.
    fn explain(&self, attachment: &str, flow: &FlowQuestion) -> Vec<Explained> {
        let called = self
            .ids
            .iter()
            .filter(|(name, _)| is_called(name, attachment));
        let explained = called.filter_map(|(name, id)| {
            Some(Explained {
                ingress_point: self.ingress_point.clone(),
                vpc: self.vpc.clone(),
                attachment: name.clone(),
                explanation: self.explanation(*id, flow)?,
            })
        });
        explained.collect()
    }

    fn explanation(&self, id: AttachmentId, flow: &FlowQuestion) -> Option<Explanation> {
        let table = self.attachment(id)?;
        let to_vpc = flow.direction == Direction::ToVpc;
        let dropped = if table.suspended {
            DropReason::AttachmentGone
        } else if to_vpc && self.is_fabric(flow.remote) {
            DropReason::LocatorDestination
        } else if to_vpc && self.is_gateway_address(flow.remote) {
            DropReason::GatewayAddress
        } else if !table.routes(flow.remote) && to_vpc {
            DropReason::NoRoute
        } else if !table.routes(flow.remote) {
            DropReason::SourceOutsideRoutes
        } else {
            return Some(self.policy.explain(id, flow));
        };
        Some(Explanation::dropped(dropped))
    }

    #[inline]
    pub(crate) fn attachment(&self, id: AttachmentId) -> Option<&AttachmentTable> {
        self.attachments.get(&id)
    }

    #[inline]
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    #[inline]
    pub(crate) fn is_fabric(&self, address: IpAddr) -> bool {
        self.fabric.contains(address)
    }

    #[inline]
    pub(crate) fn is_pool_address(&self, address: IpAddr) -> bool {
        self.pools.contains(address)
    }

    #[inline]
    pub(crate) fn is_gateway_address(&self, address: IpAddr) -> bool {
        self.gateway_addresses.contains(&address)
    }

    /// The source of ICMP messages of the gateway to a sender of this family: the address of its
    /// first pool of the family, which the VPC routes to the gateway.
    pub(crate) fn icmp_source(&self, ipv4: bool) -> IpAddr {
        let own = self
            .gateway_addresses
            .iter()
            .find(|address| address.is_ipv4() == ipv4);
        own.copied().unwrap_or(if ipv4 {
            DUMMY_IPV4.into()
        } else {
            LINK_LOCAL.into()
        })
    }

    pub(crate) fn idle_timeout_ms(&self) -> Option<u64> {
        (self.idle_timeout_ms > 0).then_some(self.idle_timeout_ms)
    }
}

impl AttachmentTable {
    /// The ConnectorAttachment.
    #[must_use]
    pub fn name(&self) -> &ObjectName {
        &self.name
    }

    /// Whether a route of the attachment leads to `address`.
    #[must_use]
    #[inline]
    pub fn routes(&self, address: IpAddr) -> bool {
        self.routes.contains(address)
    }

    /// Suspended: its sessions are about to end.
    #[must_use]
    pub fn suspended(&self) -> bool {
        self.suspended
    }
}

/// Whether `name` (`name` or `namespace/name`) names `object`.
pub(crate) fn is_called(object: &ObjectName, name: &str) -> bool {
    match name.split_once('/') {
        Some((namespace, name)) => object.namespace == namespace && object.name == name,
        None => object.name == name,
    }
}

/// Every node of the fabric that the Snapshot names. A client that reached a SID itself could have
/// a node decapsulate into any VPC.
fn fabric_prefixes(fabric: &Fabric) -> PrefixSet {
    let Fabric::Static(fabric) = fabric;
    let sids = [Some(fabric.local_sid), fabric.local_sid_ipv4]
        .into_iter()
        .flatten();
    let addresses = sids
        .chain(fabric.routes.iter().map(|route| route.sid))
        .map(|sid| sid.0)
        .chain([fabric.source_address]);
    let locators: Vec<IpNet> = addresses
        .filter_map(|sid| Ipv6Net::new(sid, LOCATOR_PREFIX_BITS).ok())
        .map(|net| IpNet::V6(net.trunc()))
        .collect();
    PrefixSet::new(&locators)
}
