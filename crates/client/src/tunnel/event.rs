//! What a tunnel tells its driver.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use crate::{AttachError, Stage};

/// Prefixes that routes are shown as; ranges that need more are cut.
pub(crate) const ROUTE_PREFIXES_MAX: usize = 4096;

/// What an open tunnel is good for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Prefixes that are ours (RFC 9484 §4.7.1).
    pub addresses: Vec<IpNet>,
    /// Prefixes that the gateway routes (RFC 9484 §4.7.3).
    pub routes: Vec<IpNet>,
    /// Largest inner packet now.
    pub mtu_bytes: u16,
    /// The gateway's address.
    pub remote: SocketAddr,
}

/// What happened; taken with [`Tunnel::poll_event`](crate::Tunnel::poll_event).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelEvent {
    /// Look the gateway's name up and call [`Tunnel::resolved`](crate::Tunnel::resolved).
    Resolve {
        /// The name.
        host: String,
        /// The port that belongs to its addresses.
        port: u16,
    },
    /// An attempt got further.
    Stage(Stage),
    /// A tunnel is open: packets pass. After a reconnect the addresses are usually the same.
    Up(Assignment),
    /// Addresses or routes of the open tunnel are now these.
    Changed(Assignment),
    /// The largest inner packet of the open tunnel is now this.
    Mtu(u16),
    /// The gateway will end the tunnel (GOAWAY); another is being opened beside it.
    Draining,
    /// There is no tunnel; the next attempt begins after the wait.
    Down {
        /// Why.
        error: AttachError,
        /// The wait; zero when an attempt is under way already.
        retry_in: Duration,
    },
    /// The driver saw that addresses or routes of this machine changed, or that it slept, and looks
    /// for the way to the gateway when the observer returns. Whoever keeps a route to the gateway
    /// renews it now; what that changes is told again at most once.
    NetworkChanged,
    /// An echo was answered.
    Pong {
        /// What [`Tunnel::ping`](crate::Tunnel::ping) was given.
        token: u64,
        /// Who answered.
        from: IpAddr,
        /// After how long.
        rtt: Duration,
    },
    /// An echo was not answered in time.
    PingTimeout {
        /// What [`Tunnel::ping`](crate::Tunnel::ping) was given.
        token: u64,
    },
    /// Over, with the reason unless we ended it. Nothing follows.
    Closed(Option<AttachError>),
}
