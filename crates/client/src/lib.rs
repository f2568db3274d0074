//! The client SDK: attach to a VPC through CONNECT-IP, packets in, packets out.
mod backoff;
mod error;
mod gateway_url;
mod identity;
mod manifest;
mod status;
mod vpc;

pub use error::{AttachError, CertificateFault, Retry};
pub use gateway_url::{GatewayUrl, GatewayUrlError};
pub use identity::{ConnectorIdentity, KeyFileError, PublicId};
pub use manifest::{ManifestInput, manifests, resource_name};
pub use status::{Counters, Phase, Stage, Status};
pub use vpc::{VpcName, VpcNameError};
