//! Access rules as the dataplane reads them; all policies of one VPCIngressPoint, flattened.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ObjectName;

/// One rule of one VPCAccessPolicy. Rules add up: a matching Deny beats every Allow, and what no
/// Allow matches is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The policy it comes from; names the rule in metrics and in `explain`.
    pub policy: ObjectName,
    /// The rule's name inside the policy.
    pub name: String,
    /// Whether it acts or only counts.
    pub mode: Mode,
    /// Allow or Deny.
    pub action: Action,
    /// Who opens the flow; replies of an allowed flow pass.
    pub direction: Direction,
    /// The client side.
    pub attachments: AttachmentSet,
    /// The VPC side; empty means all routes of the ingress point.
    pub prefixes: Vec<PrefixMatch>,
    /// Protocols and ports; empty means all.
    pub ports: Vec<PortMatch>,
    /// The rule ends by itself at this time (seconds since the Unix epoch).
    pub not_after_unix_s: Option<u64>,
}

/// Whether a rule acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The rule decides.
    Enforce,
    /// The rule counts and logs what it would have denied, and allows nothing by itself.
    Audit,
}

/// What a matching rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// The flow may pass.
    Allow,
    /// The flow may not pass, whatever else allows it.
    Deny,
}

/// Who opens the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Direction {
    /// The client opens it.
    ToVpc,
    /// A workload opens it.
    FromVpc,
}

/// Which attachments a rule concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentSet {
    /// Every attachment of the ingress point.
    All,
    /// These attachments, sorted.
    Some(Vec<ObjectName>),
}

/// A prefix with holes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefixMatch {
    /// What is matched.
    pub prefix: IpNet,
    /// Parts of `prefix` that are not.
    pub except: Vec<IpNet>,
}

/// A protocol and, for protocols with ports, a port range of the VPC side (`ToVpc`) or of the
/// client (`FromVpc`): always the destination port of the flow's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortMatch {
    /// The upper-layer protocol.
    pub protocol: ProtocolMatch,
    /// First and last port, inclusive; `None` means all.
    pub ports: Option<(u16, u16)>,
}

/// An upper-layer protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProtocolMatch {
    /// Every protocol.
    Any,
    /// ICMP for IPv4 (1) and ICMPv6 for IPv6 (58).
    Icmp,
    /// An IANA protocol number.
    Number(u8),
}
