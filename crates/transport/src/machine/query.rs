//! What can be asked of a connection.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use quinn_proto::crypto::rustls::HandshakeData;

use super::{Machine, MachineStats, conn::Conn};
use crate::{ConnId, pool::PoolStats};

/// Why no keying material was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExportError {
    /// The connection is closed or still in its handshake.
    #[error("the connection is closed or still in its handshake")]
    NotConnected,
    /// More was asked for than HKDF gives.
    #[error("too much keying material was asked for")]
    TooLong,
}

/// What a path's UDP payload holds beside a datagram, as quinn-proto reckons, at most: flags 1,
/// connection id 20, packet number 4, tag 16, type and length of the DATAGRAM frame 9.
const DATAGRAM_OVERHEAD_MAX_BYTES: usize = 50;

/// Counters and gauges of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionStats {
    /// Smoothed round trip time.
    pub rtt: Duration,
    /// Smallest round trip time seen on this path.
    pub min_rtt: Duration,
    /// Congestion window.
    pub congestion_window_bytes: u64,
    /// UDP payload the path carries now.
    pub udp_payload_bytes: u16,
    /// Packets sent.
    pub packets_sent: u64,
    /// Packets sent and lost.
    pub packets_lost: u64,
    /// UDP payload bytes of the packets lost.
    pub bytes_lost: u64,
    /// Times the congestion controller reduced its window.
    pub congestion_events: u64,
    /// Times the path was found to carry less than before.
    pub black_holes: u64,
    /// UDP payload bytes sent.
    pub bytes_sent: u64,
    /// UDP payload bytes received.
    pub bytes_received: u64,
    /// DATAGRAM frames sent.
    pub datagrams_sent: u64,
    /// DATAGRAM frames received.
    pub datagrams_received: u64,
    /// Datagrams dropped because the queue was full.
    pub datagrams_queue_full: u64,
}

impl Machine {
    /// The peer's address now; an IPv4 address as such, whatever the socket's family.
    pub fn remote_address(&self, conn: ConnId) -> Option<SocketAddr> {
        Some(canonical(self.conn(conn)?.quic.remote_address()))
    }

    /// Our address that the peer connected to (servers, when the socket told).
    pub fn local_ip(&self, conn: ConnId) -> Option<IpAddr> {
        self.conn(conn)?.quic.local_ip().map(|ip| ip.to_canonical())
    }

    /// Smoothed round trip time.
    pub fn rtt(&self, conn: ConnId) -> Option<Duration> {
        Some(self.conn(conn)?.quic.rtt())
    }

    /// UDP payload that the path carries now.
    pub fn path_mtu(&self, conn: ConnId) -> Option<u16> {
        Some(self.conn(conn)?.udp_payload)
    }

    /// Whether it is the peer's `max_datagram_frame_size` (RFC 9221 §3) that datagrams must be short
    /// for, and not the path, as far as it is known: then no longer ones will fit, however wide the
    /// path turns out to be.
    pub fn peer_limits_datagrams(&self, conn: ConnId) -> bool {
        let found = self.conn(conn);
        found.is_some_and(|conn| {
            conn.max_datagram + DATAGRAM_OVERHEAD_MAX_BYTES < usize::from(conn.udp_payload)
        })
    }

    /// Whether a connection counts as used; see [`set_in_use`](Self::set_in_use).
    pub fn is_in_use(&self, conn: ConnId) -> bool {
        self.conn(conn).is_some_and(Conn::is_in_use)
    }

    /// Counters and gauges.
    pub fn connection_stats(&self, conn: ConnId) -> Option<ConnectionStats> {
        let conn = self.conn(conn)?;
        let stats = conn.quic.stats();
        Some(ConnectionStats {
            rtt: stats.path.rtt,
            min_rtt: stats.path.min_rtt,
            congestion_window_bytes: stats.path.cwnd,
            udp_payload_bytes: stats.path.current_mtu,
            packets_sent: stats.path.sent_packets,
            packets_lost: stats.path.lost_packets,
            bytes_lost: stats.path.lost_bytes,
            congestion_events: stats.path.congestion_events,
            black_holes: stats.path.black_holes_detected,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            datagrams_sent: stats.frame_tx.datagram,
            datagrams_received: stats.frame_rx.datagram,
            datagrams_queue_full: conn.dropped_queue_full,
        })
    }

    /// The server name the client asked for (SNI, RFC 6066 §3); servers only.
    pub fn server_name(&self, conn: ConnId) -> Option<String> {
        let data = self.conn(conn)?.quic.crypto_session().handshake_data()?;
        data.downcast::<HandshakeData>().ok()?.server_name
    }

    /// The Ed25519 public key of the client's certificate; `None` without one. The client showed
    /// that it has the private key (CertificateVerify, RFC 8446 §4.4.3).
    pub fn peer_certificate_key(&self, conn: ConnId) -> Option<[u8; 32]> {
        self.conn(conn)?.peer_key
    }

    /// Exports keying material of the TLS session (RFC 8446 §7.5).
    ///
    /// # Errors
    /// [`ExportError`]: `out` was not filled.
    pub fn export_keying_material(
        &self,
        conn: ConnId,
        label: &[u8],
        context: &[u8],
        out: &mut [u8],
    ) -> Result<(), ExportError> {
        let conn = self.conn(conn).filter(|conn| conn.is_open());
        let conn = conn.ok_or(ExportError::NotConnected)?;
        let session = conn.quic.crypto_session();
        session
            .export_keying_material(out, label, context)
            .map_err(|_| ExportError::TooLong)
    }

    /// Forgets what is known of the path after the local address changed (client), so that MTU,
    /// round trip time and congestion window are found anew.
    pub fn path_changed(&mut self, conn: ConnId, now: Instant) {
        self.now = now;
        if let Some(found) = super::live(&mut self.slots, conn) {
            found.quic.path_changed(now);
            // The peer learns the new address from the next packet.
            found.quic.ping();
            super::schedule(&mut self.service, &mut found.in_service, conn.index);
        }
    }

    /// Connections that are not forgotten yet, closing ones included.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Handshakes that are running (servers).
    pub fn handshakes(&self) -> usize {
        self.register.handshakes()
    }

    /// Counters.
    pub fn stats(&self) -> MachineStats {
        let PoolStats { fresh, reused, .. } = self.pieces.stats();
        MachineStats {
            send_chunks_fresh: fresh,
            send_chunks_reused: reused,
            ..self.stats
        }
    }
}

/// An IPv4 peer of a dual-stack socket by its own address, not the mapped one (RFC 4291 §2.5.5.2).
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}
