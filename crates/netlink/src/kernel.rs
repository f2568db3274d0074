//! The handle on one network namespace.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::{Mutex, PoisonError},
};

use masque_srv6::{Decapsulation, KernelPlan};
use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;

use crate::{
    Change, NetlinkError, Refusals,
    change::diff,
    generic::Seg6Family,
    settings::Settings,
    socket::{Reply, RequestError, Socket},
};

/// The routing protocol number (`rtm_protocol`, `FRA_PROTOCOL`) of everything that a gateway makes:
/// how it knows its own after a crash. Not assigned in rtnetlink.h or iproute2's `rt_protos`, and
/// outside 186–199, where routing daemons number themselves. ("M")
pub const ROUTE_PROTOCOL: u8 = 0x4d;
/// The same for the routes of a client, so that a gateway on the same host leaves them alone.
pub const CLIENT_ROUTE_PROTOCOL: u8 = 0x4e;

/// Name of the socket by which a gateway claims a namespace: abstract Unix sockets belong to one
/// network namespace and vanish with the process.
const CLAIM_NAME: &[u8] = b"masque-gateway/netlink";

/// A handle on the links, rules, routes and seg6 state of one network namespace. Calls block; they
/// may come from any thread of the same namespace.
#[derive(Debug)]
pub struct Kernel {
    route: Socket,
    seg6: Seg6Family,
    claim: Mutex<Option<UnixListener>>,
    pub(crate) settings: Mutex<Settings>,
}

impl Kernel {
    /// Opens a handle on the network namespace of the calling thread. Needs no privilege by itself.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let broken = |e: io::Error| NetlinkError::Socket(format!("cannot open a socket: {e}"));
        Ok(Self {
            route: Socket::open(libc::NETLINK_ROUTE).map_err(broken)?,
            seg6: Seg6Family::open().map_err(broken)?,
            claim: Mutex::new(None),
            settings: Mutex::default(),
        })
    }

    /// Removes everything that a gateway, this one or one that crashed, made in this namespace, and
    /// restores the settings that this process changed, and those that it took over by
    /// [`remember_settings`](Self::remember_settings). TUN interfaces vanish with their process, not
    /// here. Goes on after an error and returns the first.
    ///
    /// # Errors
    /// [`NetlinkError::Busy`] if another gateway lives here, else what the kernel refused.
    pub fn clear(&self) -> Result<(), NetlinkError> {
        match self.sweep() {
            Err(NetlinkError::Busy) => Err(NetlinkError::Busy),
            removed => removed.and(self.restore_settings()),
        }
    }

    /// [`clear`](Self::clear) before a start: the settings stay, which are wanted again in a moment.
    ///
    /// # Errors
    /// Those of [`clear`](Self::clear).
    pub fn sweep(&self) -> Result<(), NetlinkError> {
        // How the gateway decapsulated makes no difference to what is left.
        let nothing = KernelPlan::empty(Decapsulation::EndDt46);
        let observed = self.observe(&nothing)?;
        let mut changes = diff(&observed, &nothing);
        if self.remembers_tunnel_source() {
            changes.retain(|change| !matches!(change, Change::SetTunnelSource(_)));
        }
        let removed = self.apply(&changes, &nothing);
        removed.map_err(Refusals::into_first)
    }

    /// Makes this process the one gateway of the namespace, until the handle is dropped.
    pub(crate) fn claim(&self) -> Result<(), NetlinkError> {
        let mut claim = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        if claim.is_none() {
            let address = SocketAddr::from_abstract_name(CLAIM_NAME);
            let listener = address.and_then(|address| UnixListener::bind_addr(&address));
            *claim = Some(listener.map_err(|e| match e.kind() {
                io::ErrorKind::AddrInUse => NetlinkError::Busy,
                _ => NetlinkError::Socket(format!("cannot claim the network namespace: {e}")),
            })?);
        }
        Ok(())
    }

    /// Sends a request on the route socket and reads what it understands of the answer.
    pub(crate) fn request(
        &self,
        message: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, RequestError> {
        let replies = self.request_raw(message, flags)?;
        Ok(replies.iter().filter_map(parse).collect())
    }

    /// [`Kernel::request`] without reading the answer.
    pub(crate) fn request_raw(
        &self,
        message: &RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<Reply>, RequestError> {
        let mut body = vec![0; NetlinkSerializable::buffer_len(message)];
        message.serialize(&mut body);
        self.route
            .request(NetlinkSerializable::message_type(message), flags, &body)
    }

    /// The seg6 part of generic netlink.
    pub(crate) fn seg6(&self) -> &Seg6Family {
        &self.seg6
    }
}

/// Other programs' rules and routes may have what the parser does not know; they are passed over.
fn parse(reply: &Reply) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = reply.kind;
    RouteNetlinkMessage::deserialize(&header, &reply.body)
        .inspect_err(|error| tracing::debug!(%error, kind = reply.kind, "netlink message"))
        .ok()
}
