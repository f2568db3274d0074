//! The Snapshot stream between the operator and its gateway pods: both ends of it, the certificates
//! that protect it, and the Snapshot that a pod keeps on its disk. No Kubernetes here: who may speak
//! for which ingress point is asked of an [`Authenticator`].
//!
//! ```text
//! operator: compile ─► Hub::publish ─┐            ┌─► Client::next ─► apply ─► Client::ack: gateway
//!                                    ├── Sync ────┤                              │
//! operator: status ◄── Hub::reports ─┘  (mTLS)    └─◄ Client::report_sessions    └─► Kept (disk)
//! ```
#![forbid(unsafe_code)]

mod authority;
mod backoff;
pub mod bounds;
mod client;
mod document;
mod hub;
mod identity;
mod kept;
mod server;
mod session;
mod tls;
mod wire;

pub use authority::{Authority, AuthorityPem, CertificateError, Issued, RotationStep, Subject};
pub use client::{Client, ClientConfig, ClientError, Driver, LinkState, Received};
pub use document::{Document, DocumentError, SnapshotHash};
pub use hub::{Hub, PodState, PublishError};
pub use identity::{AuthError, Authenticator, IdentityError, PodIdentity, point_of_uri, point_uri};
pub use kept::{Kept, KeptError};
pub use server::{ServeError, serve};
pub use session::SessionInfo;
pub use tls::{ServerTls, TlsError};
pub use tonic::async_trait;
