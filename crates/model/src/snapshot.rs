//! The immutable, versioned value one VPCIngressPoint's gateways run on.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{ConnectorKey, ObjectName, Rule, Sid};

/// The largest Snapshot, in bytes of its JSON form. The compiler refuses a larger one, and both ends
/// of the stream refuse to carry it.
pub const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;

/// Everything a gateway needs to know of one VPCIngressPoint. Made by the compiler of
/// `controller`, never edited in place.
///
/// A field that this version does not know is refused, here and in everything inside: it may be
/// what keeps a rule from allowing more, and nobody can obey what they do not understand. Write a
/// new field only where it says something (`skip_serializing_if`), so that neighbouring versions
/// read each other's Snapshots as long as it is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Grows with every change; unique per ingress point.
    pub version: u64,
    /// The VPCIngressPoint it was compiled from.
    pub ingress_point: ObjectName,
    /// The VPC that it serves.
    pub vpc: ObjectName,
    /// Where clients arrive.
    pub listeners: Vec<Listener>,
    /// How a client may prove its key.
    pub auth: AuthMethods,
    /// Where client addresses come from; disjoint.
    pub pools: Vec<AddressPool>,
    /// What the VPC offers through this point.
    pub routes: Vec<IpNet>,
    /// How packets reach the VPC.
    pub fabric: Fabric,
    /// How the bridge is built.
    pub bridge: BridgeMode,
    /// The inner MTU, if the manifest fixes one (1280..=9216).
    pub mtu_bytes: Option<u16>,
    /// Bounds on sessions.
    pub sessions: SessionLimits,
    /// Who may attach; sorted by name, keys unique.
    pub attachments: Vec<Attachment>,
    /// What they may reach.
    pub rules: Vec<Rule>,
    /// How long open sessions may live on after a shutdown was announced.
    pub drain_deadline_ms: u64,
}

/// One address and port that clients dial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The listener's name inside the ingress point.
    pub name: String,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// UDP (HTTP/3) or TCP (HTTP/2) port.
    pub port: u16,
    /// The host name clients use; `None` accepts any `:authority`.
    pub hostname: Option<String>,
    /// Names of the secrets that hold certificate and key, best first.
    pub certificates: Vec<String>,
    /// URI-template paths served besides the default of RFC 9484 §3.
    pub path_templates: Vec<String>,
}

/// A listener's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ListenerProtocol {
    /// HTTP/3 over QUIC.
    Http3,
    /// HTTP/2 over TLS.
    Http2,
    /// HTTP/3 over iroh.
    Iroh,
}

/// How a client may prove that it holds its connector's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthMethods {
    /// RFC 9729 Concealed authentication.
    pub concealed_key: bool,
    /// A TLS client certificate whose key is the connector's.
    pub client_certificate: bool,
}

/// A range that client addresses are taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPool {
    /// The range; no host bits.
    pub prefix: IpNet,
    /// Parts of it that are never given out.
    pub reserved: Vec<IpNet>,
}

/// Where VPC prefixes live and how workloads reach clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fabric {
    /// SIDs are written in the manifest.
    Static(StaticFabric),
}

/// The fabric of an ingress point without an external control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticFabric {
    /// This gateway's decapsulation SID for the VPC: End.DT46, or End.DT6 where the kernel has no
    /// VRF.
    pub local_sid: Sid,
    /// The SID for IPv4 (End.DX4) where the kernel has no VRF: one seg6local route has one
    /// behaviour, so IPv4 needs a second SID there.
    pub local_sid_ipv4: Option<Sid>,
    /// The outer source address.
    pub source_address: Ipv6Addr,
    /// Where each prefix of the VPC lives.
    pub routes: Vec<FabricRoute>,
}

/// One prefix and the SID that decapsulates for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FabricRoute {
    /// The prefix inside the VPC.
    pub prefix: IpNet,
    /// The remote node's decapsulation SID.
    pub sid: Sid,
}

/// Who does the SRv6 work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BridgeMode {
    /// The kernel's seg6 and seg6local routes.
    Kernel,
}

/// Bounds on sessions of one ingress point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionLimits {
    /// A session without any packet for this long ends; 0 means never.
    pub idle_timeout_ms: u64,
    /// A session that went away may resume with its address for this long.
    pub resume_window_ms: u64,
    /// A freed address rests for this long before another attachment may get it.
    pub address_quarantine_ms: u64,
    /// Sessions of this ingress point at one time.
    pub max_total: u32,
}

/// One connector bound to the VPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The ConnectorAttachment.
    pub name: ObjectName,
    /// The connector's name, for people.
    pub connector: String,
    /// The connector's public key.
    pub key: ConnectorKey,
    /// Give it an IPv4 address.
    pub ipv4: bool,
    /// Give it an IPv6 address.
    pub ipv6: bool,
    /// Fixed addresses (`ipAllocation.mode: Static`); empty means from the pools.
    pub addresses: Vec<IpAddr>,
    /// The VPC prefixes that it may reach, already cut by `allowedRoutes`.
    pub routes: Vec<IpNet>,
    /// Suspended: no session, addresses kept.
    pub suspended: bool,
    /// Bounds.
    pub limits: AttachmentLimits,
}

/// Bounds on one attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachmentLimits {
    /// Tunnels at one time; one of them, the newest, carries traffic.
    pub sessions: u32,
    /// Rate in each direction; `None` is unlimited.
    pub bits_per_second: Option<u64>,
}
