//! VPCIngressPoint: the gateways of one VPC.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, Duration, VpcRef};

mod fabric;
mod listener;
mod pods;
mod status;

pub use fabric::{
    BgpFabric, Bridge, BridgeMode, Fabric, FabricProvider, FabricRoute, GalacticFabric,
    StaticFabric,
};
pub use listener::{AuthMethod, Authentication, Listener, ListenerProtocol, ListenerTls};
pub use pods::{Autoscaling, Drain, ExternalTrafficPolicy, PodTemplate, Service, ServiceType};
pub use status::{AttachmentCounts, Endpoint, PoolUsage, SnapshotStatus, VPCIngressPointStatus};

/// The gateways of one VPC.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "networking.datumapis.com",
    version = "v1alpha1",
    kind = "VPCIngressPoint",
    plural = "vpcingresspoints",
    shortname = "vpcip",
    category = "vpcaccess",
    namespaced,
    doc = "The gateways of one VPC: where clients arrive, which addresses they get, and how their packets reach the VPC.",
    status = "VPCIngressPointStatus",
    derive = "PartialEq",
    selectable = ".spec.vpcRef.name",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "VPC", type_ = "string", json_path = ".spec.vpcRef.name"),
    printcolumn(
        name = "Replicas",
        type_ = "integer",
        json_path = ".status.readyReplicas"
    ),
    printcolumn(
        name = "Attached",
        type_ = "integer",
        json_path = ".status.attachments.accepted"
    ),
    printcolumn(
        name = "Connected",
        type_ = "integer",
        json_path = ".status.attachments.connected"
    ),
    printcolumn(name = "Address", type_ = "string", json_path = ".status.addresses[0]"),
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
#[x_kube(
    validation = Rule::new("!(has(self.replicas) && has(self.autoscaling))")
        .message("replicas and autoscaling exclude each other").field_path(".replicas")
)]
pub struct VPCIngressPointSpec {
    /// The VPC. Immutable.
    #[x_kube(validation = Rule::new("self == oldSelf").message("vpcRef is immutable: make a new ingress point instead"))]
    pub vpc_ref: VpcRef,
    /// Where clients arrive.
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub listeners: Vec<Listener>,
    /// How a client may prove its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
    /// Where client addresses come from, both families.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(
        merge_strategy = ListMerge::Map(vec!["cidr".into()]),
        validation = Rule::new("self.all(a, self.all(b, a.cidr == b.cidr || !isCIDR(a.cidr) || !isCIDR(b.cidr) || !cidr(a.cidr).containsCIDR(b.cidr)))")
            .message("address pools must not overlap")
    )]
    pub address_pools: Vec<AddressPool>,
    /// What the VPC offers through this point; advertised to clients.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub routes: Vec<Cidr>,
    /// How packets reach the VPC, and how workloads reach clients.
    pub fabric: Fabric,
    /// Who does the SRv6 work.
    #[serde(default)]
    pub bridge: Bridge,
    /// The MTU inside the tunnel; what the path and the fabric allow when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>", range(min = 1280, max = 9216))]
    pub mtu: Option<u16>,
    /// Labels of the ConnectorAttachments that may use this point; all of the VPC in this namespace
    /// when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment_selector: Option<LabelSelector>,
    /// Bounds on sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<Sessions>,
    /// Gateway pods; 2 when neither this nor `autoscaling` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: Option<i32>,
    /// Gateway pods by load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// How gateways shut down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// The Service in front of the gateways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// What to add to the gateway pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// A range that client addresses are taken from.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.reserved) || !isCIDR(self.cidr) || self.reserved.all(r, !isCIDR(r) || cidr(self.cidr).containsCIDR(r))")
        .message("every reserved prefix must lie inside cidr")
)]
pub struct AddressPool {
    /// The range.
    pub cidr: Cidr,
    /// Parts of it that are never given to a client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub reserved: Vec<Cidr>,
}

/// Bounds on sessions.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Sessions {
    /// A session without any packet for this long ends; `10m` when absent, `0` never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// A session that went away may come back to its address for this long; `1h` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_window: Option<Duration>,
    /// A freed address rests for this long before another attachment may get it; `10m` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_quarantine: Option<Duration>,
    /// Sessions of one gateway at one time; 10000 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_total: Option<i32>,
}
