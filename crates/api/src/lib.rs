//! The resources of `networking.datumapis.com/v1alpha1`: [`ConnectorAttachment`],
//! [`VPCIngressPoint`] and [`VPCAccessPolicy`], and a read-only view of the upstream [`Connector`].
//!
//! Every rule on a field is a part of its schema: a bound, a pattern or a CEL rule, so that the API
//! server refuses what a gateway could not run. Nothing here talks to an API server.
#![forbid(unsafe_code)]
#![expect(
    unreachable_pub,
    reason = "derive(KubeSchema) copies each type, with its visibility, into a function"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "several printer columns of one type are no duplicates"
)]

mod attachment;
mod child;
mod condition;
mod connector;
mod crds;
mod ingress_point;
mod policy;
mod reference;
mod text;

pub use attachment::{
    AllocationMode, AttachmentLimits, AttachmentPhase, AttachmentSession, ConnectorAttachment,
    ConnectorAttachmentSpec, ConnectorAttachmentStatus, IpAllocation, IpFamily, SessionTransport,
};
pub use child::{CLIENT_CA_KEY, child_name, client_ca_name, label_value, stable_hash};
pub use condition::{ConditionType, Reason};
pub use connector::{
    Capability, ConnectionDetails, Connector, ConnectorSpec, ConnectorStatus, PublicKeyDetails,
};
pub use crds::crds;
pub use ingress_point::{
    AddressPool, AttachmentCounts, AuthMethod, Authentication, Autoscaling, BgpFabric, Bridge,
    BridgeMode, Drain, Endpoint, ExternalTrafficPolicy, Fabric, FabricProvider, FabricRoute,
    GalacticFabric, Listener, ListenerProtocol, ListenerTls, PodTemplate, PoolUsage, Service,
    ServiceType, Sessions, SnapshotStatus, StaticFabric, VPCIngressPoint, VPCIngressPointSpec,
    VPCIngressPointStatus,
};
pub use policy::{
    ConnectorMatch, PROTOCOL_PATTERN, PolicyAncestorRef, PolicyAncestorStatus, PolicyMode,
    PolicyPort, PolicyPrefix, PolicyRule, PolicyTargetKind, PolicyTargetRef, PortProtocol,
    ProtocolName, RuleAction, RuleDirection, VPCAccessPolicy, VPCAccessPolicySpec,
    VPCAccessPolicyStatus,
};
pub use reference::{ConnectorRef, SecretRef, VpcRef};
pub use text::{
    Cidr, DURATION_PATTERN, Duration, DurationError, HOSTNAME_PATTERN, Ip, LABEL_PATTERN,
    NAME_PATTERN, PATH_TEMPLATE_PATTERN,
};

/// The API group of every resource here.
pub const GROUP: &str = "networking.datumapis.com";

/// The only version there is so far.
pub const VERSION: &str = "v1alpha1";

/// Group and version as `apiVersion` has them.
pub const API_VERSION: &str = "networking.datumapis.com/v1alpha1";
