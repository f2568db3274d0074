//! How packets reach the VPC.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Cidr, Ip};

/// How packets reach the VPC, and how workloads reach clients.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.static) == (self.provider == 'Static')")
        .message("the block static belongs to provider Static, and is required there").field_path(".static"),
    validation = Rule::new("!has(self.galactic) || self.provider == 'Galactic'")
        .message("the block galactic belongs to provider Galactic").field_path(".galactic"),
    validation = Rule::new("!has(self.bgp) || self.provider == 'BGP'")
        .message("the block bgp belongs to provider BGP").field_path(".bgp")
)]
pub struct Fabric {
    /// Who tells where prefixes live, and announces clients.
    pub provider: FabricProvider,
    /// Settings of the provider Static.
    #[serde(default, rename = "static", skip_serializing_if = "Option::is_none")]
    pub static_: Option<StaticFabric>,
    /// Settings of the provider Galactic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub galactic: Option<GalacticFabric>,
    /// Settings of the provider BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<BgpFabric>,
}

/// Who tells where prefixes live.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum FabricProvider {
    /// This manifest.
    Static,
    /// The resources of network.datumapis.com.
    Galactic,
    /// A route reflector (EVPN type 5 with the prefix SID of RFC 9252).
    BGP,
}

/// A fabric without an external control plane.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.localSIDIPv4) || self.localSIDIPv4 != self.localSID")
        .message("localSIDIPv4 must differ from localSID: one SID has one behaviour").field_path(".localSIDIPv4")
)]
pub struct StaticFabric {
    /// The SID at which this gateway takes packets for its clients out of SRv6: End.DT46, or End.DT6
    /// when `localSIDIPv4` is set.
    #[serde(rename = "localSID")]
    #[x_kube(validation = Rule::new("isIP(self) && ip(self).family() == 6").message("localSID must be an IPv6 address"))]
    pub local_sid: Ip,
    /// A second SID for IPv4 (End.DX4), for a kernel without VRF.
    #[serde(
        default,
        rename = "localSIDIPv4",
        skip_serializing_if = "Option::is_none"
    )]
    #[x_kube(validation = Rule::new("isIP(self) && ip(self).family() == 6").message("localSIDIPv4 must be an IPv6 address"))]
    pub local_sid_ipv4: Option<Ip>,
    /// The source address of the outer IPv6 header.
    #[x_kube(validation = Rule::new("isIP(self) && ip(self).family() == 6").message("sourceAddress must be an IPv6 address"))]
    pub source_address: Ip,
    /// Where each prefix of the VPC lives.
    #[schemars(length(min = 1, max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["prefix".into()]))]
    pub routes: Vec<FabricRoute>,
    /// Underlay prefixes that other nodes send the packets of the VPC from: the NetworkPolicy of the
    /// gateway pods lets everything from there in. Any IPv6 address when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(p, !isCIDR(p) || cidr(p).ip().family() == 6)")
            .message("peers must be IPv6 prefixes")
    )]
    pub peers: Vec<Cidr>,
}

/// One prefix and the SID that it is sent to.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FabricRoute {
    /// A prefix inside the VPC.
    pub prefix: Cidr,
    /// The decapsulation SID of the node where it lives.
    #[x_kube(validation = Rule::new("isIP(self) && ip(self).family() == 6").message("sid must be an IPv6 address"))]
    pub sid: Ip,
}

/// Settings of the provider Galactic; none so far.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct GalacticFabric {}

/// Settings of the provider BGP; none so far.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct BgpFabric {}

/// Who does the SRv6 work.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Bridge {
    /// The mode.
    #[serde(default)]
    pub mode: BridgeMode,
}

/// A way to do the SRv6 work.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BridgeMode {
    /// The kernel's seg6 and seg6local routes.
    #[default]
    Kernel,
    /// Raw IPv6 sockets.
    Userspace,
    /// eBPF at the driver.
    XDP,
    /// AF_XDP sockets.
    AFXDP,
}
