//! ConnectorAttachment: binds one connector to one VPC, inbound.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, ConnectorRef, Ip, VpcRef};

/// Lets one connector into one VPC.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "networking.datumapis.com",
    version = "v1alpha1",
    kind = "ConnectorAttachment",
    plural = "connectorattachments",
    shortname = "cna",
    category = "vpcaccess",
    namespaced,
    doc = "Lets one connector into one VPC.",
    status = "ConnectorAttachmentStatus",
    derive = "PartialEq",
    selectable = ".spec.connectorRef.name",
    selectable = ".spec.vpcRef.name",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Connector",
        type_ = "string",
        json_path = ".spec.connectorRef.name"
    ),
    printcolumn(name = "VPC", type_ = "string", json_path = ".spec.vpcRef.name"),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.assignedIP"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorAttachmentSpec {
    /// The connector, in the same namespace. Immutable.
    pub connector_ref: ConnectorRef,
    /// The VPC. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("vpcRef is immutable: make a new attachment instead"))]
    pub vpc_ref: VpcRef,
    /// Which addresses the connector gets.
    #[serde(default)]
    pub ip_allocation: IpAllocation,
    /// The VPC prefixes that this connector may reach; empty means all routes of the ingress point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub allowed_routes: Vec<Cidr>,
    /// Ends its sessions at once and refuses new ones; its addresses stay its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Bounds on this attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<AttachmentLimits>,
}

/// Which addresses an attachment gets.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'Static' ? has(self.addresses) && size(self.addresses) > 0 : !has(self.addresses) || size(self.addresses) == 0")
        .message("addresses are required when mode is Static, and only then")
)]
pub struct IpAllocation {
    /// From the pools, or fixed.
    #[serde(default)]
    pub mode: AllocationMode,
    /// Fixed addresses inside a pool of the ingress point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<Ip>,
    /// Address families; those of the pools when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub families: Vec<IpFamily>,
}

/// How addresses are chosen.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AllocationMode {
    /// From the pools of the ingress point.
    #[default]
    Dynamic,
    /// Those in `addresses`.
    Static,
}

/// An address family.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

/// Bounds on one attachment.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentLimits {
    /// Tunnels at one time, 4 when absent; the newest carries the traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub sessions: Option<i32>,
    /// Rate in each direction; unlimited when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64_000, max = 1_000_000_000_000_i64))]
    pub bits_per_second: Option<i64>,
}

/// What became of the attachment.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorAttachmentStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The first IPv4 address, else the first IPv6 address.
    #[serde(
        default,
        rename = "assignedIP",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 39))]
    pub assigned_ip: Option<String>,
    /// All addresses.
    #[serde(default, rename = "assignedIPs", skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 39)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub assigned_ips: Vec<String>,
    /// The conditions in one word, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<AttachmentPhase>,
    /// Open sessions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub sessions: Vec<AttachmentSession>,
    /// When a session was last open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_connected_time: Option<Time>,
    /// Accepted, ResolvedRefs, Programmed, Connected, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// The conditions of an attachment in one word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentPhase {
    /// Not looked at yet, or not acknowledged by the gateways.
    Pending,
    /// The gateways expect the connector.
    Ready,
    /// A session is open.
    Connected,
    /// It had a session.
    Disconnected,
    /// Suspended by its owner.
    Suspended,
    /// Not accepted, or a reference leads nowhere.
    Rejected,
}

/// One open session.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentSession {
    /// The gateway pod that serves it.
    #[schemars(length(max = 253))]
    pub gateway: String,
    /// How the client came.
    pub transport: SessionTransport,
    /// Since when.
    pub since: Time,
}

/// What carries a session.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SessionTransport {
    /// HTTP/3 over QUIC.
    H3,
    /// HTTP/3 over iroh.
    Iroh,
    /// HTTP/2 over TLS.
    H2,
}
