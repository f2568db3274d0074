//! What other threads ask of a shard.

use std::{fmt, net::IpAddr, sync::Arc};

use masque_gateway_core::{
    AttachmentId, EndReason, Grant, MovedFlows, SessionId, Tables, VpcIndex,
};
use masque_packet::segment::GsoInfo;
use masque_protocol::ProxyError;
use masque_transport::{MachineConfig, ShardId, quinn_proto::ServerConfig, sockets::UdpSocket};
use masque_tun::TunQueue;
use tokio::sync::oneshot;

use crate::{
    report::SessionReport,
    shard::{ShardFigures, TunnelKey},
};

/// One request to a shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// Judge by these from now on.
    Tables(Arc<Tables>),
    /// A VPC's TUN queue for this shard.
    OpenVpc {
        /// The VPC.
        vpc: VpcIndex,
        /// This shard's queue of its device.
        queue: TunQueue,
        /// Whether the device segments UDP.
        merge_udp: bool,
    },
    /// The VPC's device is not served any more.
    CloseVpc {
        /// The VPC.
        vpc: VpcIndex,
        /// Goes with the queue to the thread that closes it: the device's name is free once all are.
        closing: Arc<()>,
    },
    /// The longest IP packet, in bytes, that fits into the fabric.
    FabricMtu(usize),
    /// Listeners or what they ask of clients changed: end the sessions that could not begin now.
    Recheck,
    /// Listen on a port.
    OpenPort(Box<PortSetup>),
    /// Stop listening; connections on the port end.
    ClosePort(u16),
    /// A session began on another shard: its packets are handed over.
    Elsewhere(Arc<Grant>),
    /// A session ended on another shard.
    ElsewhereEnded(AttachmentId, SessionId),
    /// The grant of a session on another shard changed.
    ElsewhereUpdated(Arc<Grant>),
    /// This shard carries an attachment's traffic now, which had flows on another one.
    Flows(Box<MovedFlows>),
    /// End a session of this shard.
    End(SessionId, EndReason),
    /// A session of this shard carries traffic no more, or again, or its addresses or routes are
    /// others: judge by this, and tell its client.
    Update(Arc<Grant>),
    /// The addresses of a request's target.
    Resolved {
        /// The request.
        key: TunnelKey,
        /// Its addresses, or why there are none.
        addresses: Result<Vec<IpAddr>, ProxyError>,
    },
    /// Announce GOAWAY and take no new requests.
    Drain,
    /// Close everything and end the thread.
    Stop,
    /// Say what you do.
    Report {
        /// Also of each session, which takes time with the number of sessions.
        sessions: bool,
        /// Where to.
        reply: oneshot::Sender<ShardReport>,
    },
}

/// Everything a shard needs to listen on a port.
pub(crate) struct PortSetup {
    /// The UDP port.
    pub(crate) port: u16,
    /// Which shard of how many.
    pub(crate) shard: ShardId,
    /// This shard's socket of the group.
    pub(crate) socket: UdpSocket,
    /// TLS and QUIC for new handshakes.
    pub(crate) server: Arc<ServerConfig>,
    /// Bounds and secrets.
    pub(crate) machine: MachineConfig,
}

impl fmt::Debug for PortSetup {
    /// Without the machine's secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortSetup")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// A packet whose session is on another shard.
#[derive(Debug)]
pub(crate) struct HandedPacket {
    /// The VPC it came from.
    pub(crate) vpc: VpcIndex,
    /// How the kernel left it.
    pub(crate) gso: GsoInfo,
    /// The packet or super-packet.
    pub(crate) bytes: Vec<u8>,
}

/// What a shard tells.
#[derive(Debug)]
pub(crate) struct ShardReport {
    /// Its number.
    pub(crate) shard: u16,
    /// Its sessions, if asked for.
    pub(crate) sessions: Vec<SessionReport>,
    /// Its figures.
    pub(crate) figures: ShardFigures,
}
