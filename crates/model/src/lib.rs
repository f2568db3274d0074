//! The domain vocabulary: keys, SIDs, prefixes, attachments, policy, and the immutable [`Snapshot`]
//! a gateway runs on. Pure: no sockets, no clock, no Kubernetes.
#![forbid(unsafe_code)]

mod key;
mod name;
mod policy;
mod sid;
mod snapshot;

pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use key::{ConnectorKey, KeyError};
pub use name::ObjectName;
pub use policy::{
    Action, AttachmentSet, Direction, Mode, PortMatch, PrefixMatch, ProtocolMatch, Rule,
};
pub use sid::Sid;
pub use snapshot::{
    AddressPool, Attachment, AttachmentLimits, AuthMethods, BridgeMode, Fabric, FabricRoute,
    Listener, ListenerProtocol, MAX_SNAPSHOT_BYTES, SessionLimits, Snapshot, StaticFabric,
};
