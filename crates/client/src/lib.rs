//! The client SDK: attach to a VPC through CONNECT-IP, packets in, packets out.
#![allow(dead_code)]
mod backoff;
mod config;
mod drops;
mod error;
mod gateway_url;
mod guard;
mod identity;
mod manifest;
mod status;
mod tunnel;
mod vpc;

pub use config::{AttachConfig, Auth, KEEP_ALIVE, MTU_MAX_BYTES, MTU_MIN_BYTES};
pub use drops::DropReason;
pub use error::{AttachError, CertificateFault, Retry};
pub use gateway_url::{GatewayUrl, GatewayUrlError};
pub use identity::{ConnectorIdentity, KeyFileError, PublicId};
pub use manifest::{ManifestInput, manifests, resource_name};
pub use masque_protocol::{Scope, Target};
pub use masque_transport::{PathFloor, tls::ServerTrust};
pub use status::{Counters, Phase, Stage, Status};
pub use tunnel::{Assignment, ReceivedPacket, Tunnel, TunnelEvent};
pub use vpc::{VpcName, VpcNameError};
