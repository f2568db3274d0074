//! What became of an ingress point.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What became of the ingress point.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VPCIngressPointStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Addresses that clients dial.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub addresses: Vec<String>,
    /// What to give to a client, per listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["listener".into()]))]
    pub endpoints: Vec<Endpoint>,
    /// Gateway pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Gateway pods that serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// The label selector of the gateway pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub selector: Option<String>,
    /// What the gateways run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// Attachments of this point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachments: Option<AttachmentCounts>,
    /// How full the pools are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["cidr".into()]))]
    pub pools: Vec<PoolUsage>,
    /// Accepted, ResolvedRefs, FabricReady, Programmed, Draining, Degraded, Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What to give to a client of one listener.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The listener's name.
    #[schemars(length(max = 63))]
    pub listener: String,
    /// The URI template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub uri: Option<String>,
    /// The iroh endpoint id of an Iroh listener.
    #[serde(
        default,
        rename = "irohEndpointID",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 64))]
    pub iroh_endpoint_id: Option<String>,
    /// SHA-256 of the certificate in hexadecimal, for clients that pin it.
    #[serde(
        default,
        rename = "certificateSHA256",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(length(max = 64))]
    pub certificate_sha256: Option<String>,
}

/// The snapshot that gateways run.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Its version.
    #[serde(default)]
    pub version: i64,
    /// A hash of its content.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub hash: String,
    /// Gateway pods that acknowledged it.
    #[serde(default)]
    pub acked: i32,
}

/// Attachments of an ingress point.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentCounts {
    /// Attachments in the snapshot.
    #[serde(default)]
    pub accepted: i32,
    /// Of these, attachments with a session.
    #[serde(default)]
    pub connected: i32,
}

/// How full a pool is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PoolUsage {
    /// The pool.
    #[schemars(length(max = 43))]
    pub cidr: String,
    /// Addresses that can be given out; the largest 64-bit number where there are more.
    #[serde(default)]
    pub total: i64,
    /// Addresses given out.
    #[serde(default)]
    pub allocated: i64,
}
