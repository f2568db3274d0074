//! What a session is: asked for, given, taken back.

use std::net::IpAddr;

use ipnet::IpNet;
use masque_model::{ConnectorKey, ListenerProtocol, ObjectName};

use crate::id::{AttachmentId, SessionId, SessionRef, VpcIndex};

/// The target and protocol that a CONNECT-IP request names (RFC 9484 §4.6): what the tunnel is for,
/// whatever else the attachment might reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The target prefixes; a host name is resolved to host prefixes. `None` is `*`.
    pub targets: Option<Vec<IpNet>>,
    /// The upper-layer protocol. ICMP passes whatever it says. `None` is `*`.
    pub protocol: Option<u8>,
}

/// A client that has proven its key asks for a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct AdmitRequest<'a> {
    /// The key.
    pub key: ConnectorKey,
    /// The VPC or ingress point that the path names, as `name` or `namespace/name`.
    pub vpc: Option<&'a str>,
    /// The listener that it came by; the port does not count for [`ListenerProtocol::Iroh`].
    pub listener: Option<(ListenerProtocol, u16)>,
    /// What the tunnel is for.
    pub scope: &'a Scope,
    /// The shard that will carry it.
    pub shard: u16,
    /// The client can use an IPv4 address.
    pub ipv4: bool,
    /// The client can use an IPv6 address.
    pub ipv6: bool,
}

/// A session: what the client is told, and what the shard judges its packets by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: SessionId,
    /// The shard that carries it.
    pub shard: u16,
    /// The ingress point, as the packet half names it.
    pub index: VpcIndex,
    /// The attachment, as the packet half names it.
    pub attachment: AttachmentId,
    /// The VPCIngressPoint.
    pub ingress_point: ObjectName,
    /// The VPC.
    pub vpc: ObjectName,
    /// The ConnectorAttachment.
    pub name: ObjectName,
    /// The Connector, for people.
    pub connector: String,
    /// The client's addresses as `/32` and `/128`, IPv4 first, for ADDRESS_ASSIGN. All sessions of
    /// an attachment have the same ones.
    pub addresses: Vec<IpNet>,
    /// What the client may reach, for ROUTE_ADVERTISEMENT: the attachment's routes inside the
    /// scope; disjoint and sorted, IPv4 first.
    pub routes: Vec<IpNet>,
    /// What the tunnel is for.
    pub scope: Scope,
    /// It carries the attachment's traffic: it is the newest one.
    pub active: bool,
    /// The rate of the attachment in each direction.
    pub bits_per_second: Option<u64>,
    /// The inner MTU, if the manifest fixes one, in bytes.
    pub mtu_bytes: Option<u16>,
    /// Grows whenever the grant changes.
    pub generation: u64,
}

impl Grant {
    /// The session and its shard.
    #[must_use]
    pub fn reference(&self) -> SessionRef {
        SessionRef {
            session: self.session,
            shard: self.shard,
        }
    }

    /// The client's addresses.
    pub fn client_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }
}

/// A session was admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The new session, active. Give it to [`attach`](crate::Dataplane::attach) on its shard and to
    /// [`attach_elsewhere`](crate::Dataplane::attach_elsewhere) on all others.
    pub grant: Grant,
    /// The session that carried the attachment's traffic until now: it stays, but is inactive.
    pub deactivated: Option<SessionRef>,
    /// Sessions that must end because the attachment has too many; the oldest. They are released
    /// already.
    pub ended: Vec<Ended>,
}

/// A session was released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Released {
    /// What was released and why.
    pub ended: Ended,
    /// An older session of the attachment that carries its traffic from now on.
    pub activated: Option<Grant>,
}

/// A session that has ended or must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The session.
    pub session: SessionRef,
    /// Its ConnectorAttachment.
    pub attachment: ObjectName,
    /// Why.
    pub reason: EndReason,
}

/// A session, for status.
#[derive(Clone, Copy, Debug)]
pub struct SessionInfo<'a> {
    /// The session.
    pub grant: &'a Grant,
    /// Since when, in seconds since the Unix epoch.
    pub since_unix_s: u64,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndReason {
    /// The client closed it.
    ClientClosed,
    /// The connection under it was lost.
    ConnectionLost,
    /// No packet for the idle timeout.
    IdleTimeout,
    /// The peer broke the protocol.
    ProtocolError,
    /// The path does not carry the smallest IPv6 packet (RFC 9484 §7.2).
    MtuTooLow,
    /// The client's SETTINGS came after its request, and take no HTTP Datagrams (RFC 9297 §2.1.1).
    NoDatagrams,
    /// Newer sessions of the attachment took its place.
    Replaced,
    /// The attachment was removed, or has another key.
    AttachmentRemoved,
    /// The attachment was suspended.
    Suspended,
    /// The ingress point was removed from this gateway.
    IngressPointRemoved,
    /// Its listener was removed, or has another hostname now.
    ListenerRemoved,
    /// The ingress point does not take the authentication method any more by which it came.
    MethodRefused,
    /// Its address was taken away and there is no other one.
    AddressUnavailable,
    /// The gateway shuts down.
    Draining,
}

impl EndReason {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 14] = [
        Self::ClientClosed,
        Self::ConnectionLost,
        Self::IdleTimeout,
        Self::ProtocolError,
        Self::MtuTooLow,
        Self::NoDatagrams,
        Self::Replaced,
        Self::AttachmentRemoved,
        Self::Suspended,
        Self::IngressPointRemoved,
        Self::ListenerRemoved,
        Self::MethodRefused,
        Self::AddressUnavailable,
        Self::Draining,
    ];

    /// The stable name for a metric label and for status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::ConnectionLost => "connection_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::ProtocolError => "protocol_error",
            Self::MtuTooLow => "mtu_too_low",
            Self::NoDatagrams => "no_datagrams",
            Self::Replaced => "replaced",
            Self::AttachmentRemoved => "attachment_removed",
            Self::Suspended => "suspended",
            Self::IngressPointRemoved => "ingress_point_removed",
            Self::ListenerRemoved => "listener_removed",
            Self::MethodRefused => "method_refused",
            Self::AddressUnavailable => "address_unavailable",
            Self::Draining => "draining",
        }
    }
}
