//! Connections begin.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{ConnectionHandle, Incoming, ServerConfig, TransportConfig};

use super::{Machine, Slot, conn::Conn, schedule};
use crate::{
    ConnId, PathFloor,
    admission::{Admitted, Verdict},
};

/// Why a connection could not be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The server name is neither a DNS name nor an address.
    #[error("\"{0}\" is not a server name: give the host of the gateway's URL")]
    InvalidServerName(String),
    /// Nothing can be sent there.
    #[error("{0} cannot be connected to: give an address and a port other than 0")]
    InvalidRemoteAddress(SocketAddr),
    /// QUIC refused for another reason.
    #[error("the connection could not be begun: {0}")]
    Other(String),
}

impl From<quinn_proto::ConnectError> for ConnectError {
    fn from(error: quinn_proto::ConnectError) -> Self {
        use quinn_proto::ConnectError as E;
        match error {
            E::InvalidServerName(name) => Self::InvalidServerName(name),
            E::InvalidRemoteAddress(address) => Self::InvalidRemoteAddress(address),
            other => Self::Other(other.to_string()),
        }
    }
}

/// The server configuration, once for each [`PathFloor`].
pub(super) struct ServerConfigs {
    pub(super) tunnel: Arc<ServerConfig>,
    pub(super) quic: Arc<ServerConfig>,
}

impl ServerConfigs {
    pub(super) fn new(
        server: &ServerConfig,
        tunnel: &Arc<TransportConfig>,
        quic: &Arc<TransportConfig>,
    ) -> Self {
        let with = |transport: &Arc<TransportConfig>| {
            let mut server = server.clone();
            server.transport_config(transport.clone());
            Arc::new(server)
        };
        Self {
            tunnel: with(tunnel),
            quic: with(quic),
        }
    }

    fn of(&self, floor: PathFloor) -> Arc<ServerConfig> {
        match floor {
            PathFloor::Tunnel => self.tunnel.clone(),
            PathFloor::Quic => self.quic.clone(),
        }
    }
}

impl Machine {
    /// Begins a connection over a path that must carry a tunnel.
    ///
    /// # Errors
    /// [`ConnectError`]: nothing was begun.
    pub fn connect(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        server_name: &str,
        client: quinn_proto::ClientConfig,
    ) -> Result<ConnId, ConnectError> {
        self.connect_over(now, remote, server_name, client, PathFloor::Tunnel)
    }

    /// Begins a connection over a path of at least `floor`.
    ///
    /// # Errors
    /// [`ConnectError`]: nothing was begun.
    pub fn connect_over(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        server_name: &str,
        mut client: quinn_proto::ClientConfig,
        floor: PathFloor,
    ) -> Result<ConnId, ConnectError> {
        self.now = now;
        client.transport_config(match floor {
            PathFloor::Tunnel => self.transport_tunnel.clone(),
            PathFloor::Quic => self.transport_quic.clone(),
        });
        let (handle, quic) = self.endpoint.connect(now, client, remote, server_name)?;
        Ok(self.insert(handle, quic, None))
    }

    /// Judges a new Initial that came in a UDP datagram of `size` bytes.
    pub(super) fn admit(&mut self, incoming: Incoming, size: usize) {
        let remote = incoming.remote_address();
        let validated = incoming.remote_address_validated();
        let bounds = self.config.admission;
        let mut verdict = self.register.judge(&bounds, &remote, validated);
        if verdict == Verdict::Refuse && self.make_room(&remote) {
            verdict = self.register.judge(&bounds, &remote, validated);
        }
        self.scratch.clear();
        match verdict {
            Verdict::Accept => self.accept(incoming, size, &remote, validated),
            Verdict::Retry => match self.endpoint.retry(incoming, &mut self.scratch) {
                Ok(transmit) => {
                    self.stats.handshakes_retried += 1;
                    self.respond(transmit);
                }
                // It bears a Retry token already and is not validated: nothing to do for it.
                Err(error) => {
                    self.stats.handshakes_ignored += 1;
                    self.endpoint.ignore(error.into_incoming());
                }
            },
            Verdict::Refuse => {
                self.stats.handshakes_refused += 1;
                let transmit = self.endpoint.refuse(incoming, &mut self.scratch);
                self.respond(transmit);
            }
            Verdict::Ignore => {
                self.stats.handshakes_ignored += 1;
                self.endpoint.ignore(incoming);
            }
        }
    }

    /// Closes the oldest connection out of use in favour of one from `remote`; false if none is.
    fn make_room(&mut self, remote: &SocketAddr) -> bool {
        let bounds = self.config.admission;
        let Some(slot) = self.register.oldest_unused(&bounds, remote) else {
            return false;
        };
        self.stats.connections_evicted += 1;
        self.close_unused(slot, "not in use, and others ask for its place");
        true
    }

    fn accept(&mut self, incoming: Incoming, size: usize, remote: &SocketAddr, validated: bool) {
        let config = self
            .server
            .as_ref()
            .map(|server| server.of(PathFloor::of_initial(size)));
        match self
            .endpoint
            .accept(incoming, self.now, &mut self.scratch, config)
        {
            Ok((handle, quic)) => {
                let admitted = self.register.admit(remote, validated);
                self.insert(handle, quic, Some(admitted));
            }
            Err(error) => {
                tracing::debug!(%remote, cause = %error.cause, "handshake failed at once");
                if let Some(transmit) = error.response {
                    self.respond(transmit);
                }
            }
        }
    }

    fn insert(
        &mut self,
        handle: ConnectionHandle,
        quic: quinn_proto::Connection,
        admitted: Option<Admitted>,
    ) -> ConnId {
        self.stats.handshakes_begun += 1;
        if handle.0 >= self.slots.len() {
            self.slots.resize_with(handle.0 + 1, Slot::default);
        }
        let slot = &mut self.slots[handle.0];
        let id = ConnId {
            index: handle.0 as u32,
            generation: slot.generation,
        };
        let patience = Duration::from_millis(self.config.handshake_timeout_ms.into());
        let mut conn = Conn::new(id, quic, admitted, self.now + patience);
        conn.heard = admitted.is_some();
        schedule(&mut self.service, &mut conn.in_service, id.index);
        slot.conn = Some(Box::new(conn));
        id
    }
}
