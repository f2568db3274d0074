//! CONNECT-IP (RFC 9484) without IO: capsules (RFC 9297), address and route configuration, request
//! scopes and URI templates, the state machine of one request stream, `Proxy-Status` (RFC 9209) and
//! Concealed authentication (RFC 9729).
//!
//! - [`Session`] is one tunnel: bytes and datagrams in, [`Event`]s and capsules out.
//! - [`Template`] (client) and [`PathTemplate`] (proxy) are the two ends of a request's path; what
//!   they carry is a [`Scope`].
//! - [`request`] builds and checks the header sections around it.
//!
//! Nothing here reads a clock, a socket or a random source. Bytes of a peer never make a function
//! panic, and what they can make it keep is bounded by the constants of each module.
#![forbid(unsafe_code)]

mod address;
mod capsule;
pub mod concealed;
pub mod context;
mod error;
mod proxy_status;
pub mod request;
mod route;
mod scope;
mod session;
mod structured;
mod template;

pub use address::{AssignedAddress, RequestedAddress};
pub use capsule::{
    Capsule, CapsuleDecoder, MAX_CONTROL_CAPSULE_BYTES, MAX_DATAGRAM_CAPSULE_BYTES, capsule_type,
};
pub use context::DatagramPrefix;
pub use error::CapsuleError;
pub use proxy_status::{ProxyError, ProxyStatus};
pub use route::{IpRange, RangeError, covers, from_prefixes, normalize};
pub use scope::{Scope, ScopeError, Target};
pub use session::{
    CommandError, DatagramDrop, Event, Role, Session, SessionError, SessionStats, bounds,
};
pub use template::{Expanded, PathTemplate, Template, TemplateError, WELL_KNOWN_PATH};
