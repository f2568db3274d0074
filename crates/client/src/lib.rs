//! The client SDK: attach to a VPC through CONNECT-IP (RFC 9484), packets in, packets out.
//!
//! [`attach`] gives two channels of IP packets and needs no privilege; [`attach_tun`] serves a TUN
//! device. Both make the tunnel anew for as long as they run: a restarted gateway is found again
//! within a second, with the same addresses. [`Tunnel`] is the state machine below them, for those
//! with an event loop of their own.
//!
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use masque_client::{AttachConfig, ConnectorIdentity, attach};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let identity = Arc::new(ConnectorIdentity::load("key.pem".as_ref())?);
//! let config = AttachConfig::new(
//!     "https://gw.example:4433".parse()?,
//!     "production-vpc".parse()?,
//!     identity,
//! );
//! let attached = attach(&config)?;
//! let assignment = attached.events.wait_up(Duration::from_secs(15))?;
//! println!("we are {:?}", assignment.addresses);
//! attached.sender.send(vec![/* an IP packet */])?;
//! let packet = attached.receiver.receive_timeout(Duration::from_secs(1))?;
//! # drop(packet);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod attach;
mod backoff;
mod config;
mod driver;
mod drops;
mod error;
mod gateway_url;
mod guard;
mod identity;
mod manifest;
mod status;
mod tunnel;
mod vpc;

pub use attach::{Attachment, EVENTS_MAX, Events, PacketAttachment, attach, attach_tun};
pub use config::{AttachConfig, Auth, KEEP_ALIVE, MTU_MAX_BYTES, MTU_MIN_BYTES};
pub use driver::{
    CHANNEL_PACKETS, Handle, OWN_ROUTE_PROTOCOL, Observer, PacketReceiver, PacketSender, PingError,
    Pong, ReceiveError, SendError,
};
pub use drops::DropReason;
pub use error::{AttachError, CertificateFault, Retry};
pub use gateway_url::{GatewayUrl, GatewayUrlError};
pub use identity::{ConnectorIdentity, KeyFileError, PublicId};
pub use manifest::{
    ManifestInput, attachment_manifest, attachment_name, connector_manifest, manifests,
    resource_name,
};
pub use masque_protocol::{Scope, Target};
pub use masque_transport::tls::ServerTrust;
pub use masque_tun::{Offloads, TunQueue};
pub use status::{Counters, Phase, Stage, Status};
pub use tunnel::{Assignment, ReceivedPacket, RouteMtu, Tunnel, TunnelEvent};
pub use vpc::{VpcName, VpcNameError};
