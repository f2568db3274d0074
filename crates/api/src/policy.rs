//! VPCAccessPolicy: who may reach what.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, LABEL_PATTERN, NAME_PATTERN};

mod protocol;

pub use protocol::{PROTOCOL_PATTERN, PortProtocol, ProtocolName};

/// Allows and denies flows between connectors and a VPC. Policies add up; what none allows is denied.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "networking.datumapis.com",
    version = "v1alpha1",
    kind = "VPCAccessPolicy",
    plural = "vpcaccesspolicies",
    shortname = "vpcap",
    category = "vpcaccess",
    namespaced,
    doc = "Allows and denies flows between connectors and a VPC. Policies add up; what none allows is denied.",
    status = "VPCAccessPolicyStatus",
    derive = "PartialEq",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.ancestors[0].conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.ancestors[0].conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = r#".status.ancestors[0].conditions[?(@.type=="Accepted")].message"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VPCAccessPolicySpec {
    /// What the policy is about: ingress points (all their attachments) or single attachments.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["kind".into(), "name".into()]))]
    pub target_refs: Vec<PolicyTargetRef>,
    /// Whether the rules act.
    #[serde(default)]
    pub mode: PolicyMode,
    /// The rules; their order has no meaning.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<PolicyRule>,
}

/// An object that a policy is about, in the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetRef {
    /// The target's API group.
    #[serde(default = "PolicyTargetRef::default_group")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// The target's kind.
    pub kind: PolicyTargetKind,
    /// The target's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    pub name: String,
}

impl PolicyTargetRef {
    fn default_group() -> String {
        crate::GROUP.to_owned()
    }
}

/// The kinds that a policy can be about.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum PolicyTargetKind {
    /// Every attachment of the ingress point.
    VPCIngressPoint,
    /// One attachment.
    ConnectorAttachment,
}

/// Whether rules act.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyMode {
    /// The rules decide.
    #[default]
    Enforce,
    /// The rules count and log what they would have denied, and allow nothing by themselves.
    Audit,
}

/// One rule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyRule {
    /// Names the rule in metrics and explanations.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// What happens to a flow that matches; Deny beats Allow.
    #[serde(default)]
    pub action: RuleAction,
    /// Who opens the flow; replies of an allowed flow pass.
    #[serde(default)]
    pub direction: RuleDirection,
    /// The client side; absent means every attachment of the targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectors: Option<ConnectorMatch>,
    /// The VPC side; empty means all routes of the ingress point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cidr".into()]))]
    pub prefixes: Vec<PolicyPrefix>,
    /// Protocols and ports; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ports: Vec<PolicyPort>,
    /// The rule ends by itself at this time (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
}

/// What a rule says.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleAction {
    /// The flow may pass.
    #[default]
    Allow,
    /// The flow may not pass, whatever else allows it.
    Deny,
}

/// Who opens a flow.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RuleDirection {
    /// The client.
    #[default]
    ToVPC,
    /// A workload.
    FromVPC,
}

/// Connectors, by name, by label, or both (either matches).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorMatch {
    /// Names of Connectors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 253), regex(pattern = NAME_PATTERN)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub names: Vec<String>,
    /// Labels of Connectors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
}

/// A prefix with holes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.except) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || cidr(self.cidr).containsCIDR(e))")
        .message("every prefix in except must lie inside cidr")
)]
pub struct PolicyPrefix {
    /// What is matched.
    pub cidr: Cidr,
    /// Parts of it that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub except: Vec<Cidr>,
}

/// A protocol and the destination ports of the flow's first packet.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.endPort) || (has(self.port) && self.endPort >= self.port)")
        .message("endPort needs port, and must not be less than it").field_path(".endPort"),
    validation = Rule::new("!has(self.port) || self.protocol in ['TCP', 'UDP', 'SCTP']")
        .message("only TCP, UDP and SCTP have ports").field_path(".port")
)]
pub struct PolicyPort {
    /// `TCP`, `UDP`, `SCTP`, `ICMP` (ICMPv6 too), `Any`, or an IANA protocol number.
    pub protocol: PortProtocol,
    /// The port, or the first port; all ports when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The last port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
}

/// What became of the policy, per target.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VPCAccessPolicyStatus {
    /// One entry per target and controller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ancestors: Vec<PolicyAncestorStatus>,
}

/// What one controller says of the policy on one target (as in Gateway API).
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorStatus {
    /// The target.
    pub ancestor_ref: PolicyAncestorRef,
    /// Who wrote this entry.
    #[schemars(length(min = 1, max = 253))]
    pub controller_name: String,
    /// Accepted, ResolvedRefs, Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The target of a status entry.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PolicyAncestorRef {
    /// The target's API group.
    #[schemars(length(max = 253))]
    pub group: String,
    /// The target's kind.
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The target's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}
