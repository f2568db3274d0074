//! QUIC transport parameters and timers, set for a tunnel.

use std::{sync::Arc, time::Duration};

use masque_http3::Role;
use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::Congestion;

/// The smallest UDP payload that carries an inner IPv6 packet of 1280 bytes in one QUIC packet:
/// 1280 + flags 1 + connection id 20 + packet number 4 + AEAD tag 16 + DATAGRAM type 1 + Quarter
/// Stream ID 8 + Context ID 1. RFC 9484 §7.2: "If both endpoints know … that no HTTP
/// intermediaries are on the path, they can pad Initial packets to at least 1331 bytes".
pub const MIN_TUNNEL_UDP_PAYLOAD_BYTES: u16 = 1331;

/// The smallest UDP payload QUIC itself runs on (RFC 9000 §14).
pub const MIN_QUIC_UDP_PAYLOAD_BYTES: u16 = 1200;

/// The largest UDP payload of a path of jumbo frames (9000 bytes): less 40 for IPv6 and 8 for UDP.
pub const JUMBO_UDP_PAYLOAD_BYTES: u16 = 8952;

/// The largest UDP payload there is (RFC 9000 §18.2), and what we accept from peers.
pub const MAX_UDP_PAYLOAD_BYTES: u16 = 65_527;

/// How much later than a client a server keeps a connection alive.
pub const SERVER_KEEP_ALIVE_GRACE_MS: u32 = 10_000;

/// What a path must carry for a connection to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathFloor {
    /// [`TransportTuning::min_udp_payload_bytes`]: Initials are padded to it, so that a handshake
    /// that succeeds has shown the path fit for IPv6, and losses never push the packet size below.
    #[default]
    Tunnel,
    /// [`MIN_QUIC_UDP_PAYLOAD_BYTES`]: a connection at any price. Whether it can carry a tunnel
    /// shows later ([`Event::PathTooSmall`](crate::Event::PathTooSmall)).
    Quic,
}

/// So much may wait in a connection's own queue on the slowest path: six packets, which are 7 ms at
/// 10 Mbit/s. A caller that gives it a longer super-packet whole, which it may when nothing waits
/// ([`may_wait_whole`](crate::Machine::may_wait_whole)), lets 64 kB wait: 52 ms there.
const ROOM_FLOOR_BYTES: usize = 8 * 1024;

/// How many bytes of HTTP Datagrams may wait for the congestion window.
///
/// The bound is the time target at the connection's present rate (congestion window over round
/// trip time), kept between floor and ceiling. What exceeds it is dropped at the tail: an inner
/// congestion controller is better told at once than after a second in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBound {
    /// How long a datagram may wait.
    pub target_ms: u32,
    /// At least so much may wait, lest a slow connection drops the half of one super-packet.
    pub floor_bytes: usize,
    /// At most so much may wait.
    pub ceiling_bytes: usize,
}

impl Default for QueueBound {
    fn default() -> Self {
        Self {
            target_ms: 5,
            floor_bytes: 96 * 1024,
            ceiling_bytes: 4 * 1024 * 1024,
        }
    }
}

impl QueueBound {
    /// The bound for a connection that has `window_bytes` in flight each `rtt`.
    pub fn bytes(&self, window_bytes: u64, rtt: Duration) -> usize {
        self.clamped(self.floor_bytes, window_bytes, rtt)
    }

    /// How much a caller with a queue of its own in front lets wait here: the same time, with a
    /// floor of a few packets, since nothing that it keeps to itself is lost.
    pub fn room_bytes(&self, window_bytes: u64, rtt: Duration) -> usize {
        self.clamped(ROOM_FLOOR_BYTES, window_bytes, rtt)
    }

    fn clamped(&self, floor_bytes: usize, window_bytes: u64, rtt: Duration) -> usize {
        let rtt_micros = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX).max(1);
        let target_micros = u64::from(self.target_ms) * 1000;
        let bytes = window_bytes.saturating_mul(target_micros) / rtt_micros;
        usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .clamp(floor_bytes.min(self.ceiling_bytes), self.ceiling_bytes)
    }
}

/// QUIC transport configuration of a tunnel's connection, either end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportTuning {
    /// UDP payload we start with; losses bring it down to the minimum.
    pub initial_udp_payload_bytes: u16,
    /// What the path must carry; see [`PathFloor::Tunnel`].
    pub min_udp_payload_bytes: u16,
    /// Largest UDP payload that MTU discovery looks for: 1452 fits Ethernet with IPv6,
    /// [`JUMBO_UDP_PAYLOAD_BYTES`] jumbo frames, [`MAX_UDP_PAYLOAD_BYTES`] loopback.
    pub max_udp_payload_bytes: u16,
    /// Largest UDP payload that peers may send (`max_udp_payload_size`, RFC 9000 §18.2); their MTU
    /// discovery ends there. A client that knows its link spares a server the probes beyond.
    pub accept_udp_payload_bytes: u16,
    /// How often a finished MTU search is repeated, in case the path became wider
    /// (PMTU_RAISE_TIMER, RFC 8899 §5.1.1, which has 600 s).
    pub mtu_search_interval_ms: u32,
    /// How long after a black hole the next MTU search begins.
    pub black_hole_cooldown_ms: u32,
    /// A connection silent for so long is over (`max_idle_timeout`).
    pub idle_timeout_ms: u32,
    /// A silent connection is kept alive (NAT bindings live 30 s and more); 0 turns it off. A
    /// server waits [`SERVER_KEEP_ALIVE_GRACE_MS`] longer, so that a client that does it by itself
    /// spares the server the work, and one that does not keeps its tunnel.
    pub keep_alive_ms: u32,
    /// Received datagrams that may wait for the next turn; the oldest go first. Must hold what one
    /// turn receives.
    pub datagram_receive_bytes: usize,
    /// Datagrams that may wait to be sent.
    pub send_queue: QueueBound,
    /// Acknowledge every so many packets (draft-ietf-quic-ack-frequency), where the peer can; 0
    /// leaves the default of two.
    pub ack_every_packets: u32,
    /// Congestion controller.
    pub congestion: Congestion,
    /// Initial congestion window. RFC 9002 §7.2 asks for ten packets; more is for known networks.
    pub initial_window_packets: u32,
    /// Request streams the peer may have open (RFC 9114 §6.1: "SHOULD … permit at least 100").
    pub max_request_streams: u32,
    /// Unidirectional streams the peer may have open: control, two of QPACK, GREASE, WebTransport.
    pub max_uni_streams: u32,
    /// Flow-control window of a stream; streams carry control messages.
    pub stream_window_bytes: u32,
    /// Flow-control window of a connection's streams together, and what we keep unacknowledged.
    pub connection_window_bytes: u32,
}

impl Default for TransportTuning {
    fn default() -> Self {
        Self {
            // 1420 (the usual WireGuard or overlay MTU) less 40 for IPv6 and 8 for UDP.
            initial_udp_payload_bytes: 1372,
            min_udp_payload_bytes: MIN_TUNNEL_UDP_PAYLOAD_BYTES,
            max_udp_payload_bytes: 1452,
            accept_udp_payload_bytes: MAX_UDP_PAYLOAD_BYTES,
            mtu_search_interval_ms: 600_000,
            black_hole_cooldown_ms: 5_000,
            idle_timeout_ms: 60_000,
            keep_alive_ms: 15_000,
            datagram_receive_bytes: 8 * 1024 * 1024,
            send_queue: QueueBound::default(),
            ack_every_packets: 8,
            congestion: Congestion::Cubic,
            initial_window_packets: 10,
            // quinn-proto keeps a table entry for every stream it permits: 100 and 8 fit tables of
            // 128, a few more would cost every idle connection 5 kB.
            max_request_streams: 100,
            max_uni_streams: 8,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
        }
    }
}

impl TransportTuning {
    /// The values quinn-proto runs, for a connection over a path of at least `floor`.
    pub(crate) fn build(&self, role: Role, floor: PathFloor) -> Arc<TransportConfig> {
        let (initial, min) = self.payload_bounds(floor);
        let mut config = TransportConfig::default();
        let mut search = MtuDiscoveryConfig::default();
        search
            .upper_bound(self.max_udp_payload_bytes.max(min))
            .interval(Duration::from_millis(self.mtu_search_interval_ms.into()))
            .black_hole_cooldown(Duration::from_millis(self.black_hole_cooldown_ms.into()));
        let grace_ms = if role == Role::Server {
            SERVER_KEEP_ALIVE_GRACE_MS
        } else {
            0
        };
        let keep_alive = Duration::from_millis(self.keep_alive_ms.saturating_add(grace_ms).into());
        let window = u64::from(self.initial_window_packets.max(2)) * u64::from(initial);
        config
            .initial_mtu(initial)
            .min_mtu(min)
            .mtu_discovery_config(Some(search))
            .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(
                self.idle_timeout_ms,
            ))))
            .keep_alive_interval((self.keep_alive_ms > 0).then_some(keep_alive))
            .datagram_receive_buffer_size(Some(self.datagram_receive_bytes))
            // Our own bound is below and drops at the tail; quinn-proto must never drop.
            .datagram_send_buffer_size(self.datagram_send_buffer_bytes())
            .ack_frequency_config(self.ack_frequency())
            // Pacing is quinn-proto's: 1.25 windows a round trip in bursts of 10 to 256 packets
            // (RFC 9002 §7.7). On a LAN a window of a round trip of 0.2 ms passes the link's rate
            // within a few milliseconds of slow start, so it needs no exception; what it needs is
            // timers finer than a millisecond, which the shard's poll must give.
            .congestion_controller_factory(self.congestion.factory(window))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_request_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(self.max_uni_streams))
            .stream_receive_window(VarInt::from_u32(self.stream_window_bytes))
            .receive_window(VarInt::from_u32(self.connection_window_bytes))
            .send_window(self.connection_window_bytes.into());
        Arc::new(config)
    }

    /// quinn-proto's own bound on waiting datagrams, above ours by one of the largest datagrams.
    pub(crate) const fn datagram_send_buffer_bytes(&self) -> usize {
        self.send_queue.ceiling_bytes + 2 * MAX_UDP_PAYLOAD_BYTES as usize
    }

    fn payload_bounds(&self, floor: PathFloor) -> (u16, u16) {
        let min = match floor {
            PathFloor::Tunnel => self.min_udp_payload_bytes.max(MIN_QUIC_UDP_PAYLOAD_BYTES),
            PathFloor::Quic => MIN_QUIC_UDP_PAYLOAD_BYTES,
        };
        let initial = match floor {
            PathFloor::Tunnel => self.initial_udp_payload_bytes.max(min),
            PathFloor::Quic => min,
        };
        (initial, min)
    }

    fn ack_frequency(&self) -> Option<AckFrequencyConfig> {
        // Fewer acknowledgements cost the peer fewer packets. They must still come several times a
        // window, or the sender stalls until the peer's delay passes: the initial window is ten.
        let threshold = self
            .ack_every_packets
            .checked_sub(1)
            .filter(|threshold| *threshold > 0)?;
        let mut config = AckFrequencyConfig::default();
        config.ack_eliciting_threshold(VarInt::from_u32(threshold));
        Some(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_bound_is_a_time() {
        let bound = QueueBound {
            target_ms: 5,
            floor_bytes: 1000,
            ceiling_bytes: 1_000_000,
        };
        // 100 kB in flight each 10 ms are 10 MB/s: 5 ms of that are 50 kB.
        assert_eq!(bound.bytes(100_000, Duration::from_millis(10)), 50_000);
        assert_eq!(bound.bytes(100, Duration::from_secs(1)), 1000, "floor");
        assert_eq!(bound.bytes(u64::MAX, Duration::ZERO), 1_000_000, "ceiling");
        let odd = QueueBound {
            target_ms: 5,
            floor_bytes: 9,
            ceiling_bytes: 5,
        };
        assert_eq!(odd.bytes(1, Duration::from_secs(1)), 5, "the ceiling wins");
        let default = QueueBound::default();
        let second = Duration::from_secs(1);
        assert_eq!(default.room_bytes(100_000, second), ROOM_FLOOR_BYTES);
        assert_eq!(default.room_bytes(10_000_000, second), 50_000);
        assert!(
            default.bytes(10_000_000, second) > 50_000,
            "its floor is for super-packets"
        );
    }

    #[test]
    fn the_floor_of_the_path_bounds_the_packets() {
        let tuning = TransportTuning::default();
        assert_eq!(tuning.payload_bounds(PathFloor::Tunnel), (1372, 1331));
        assert_eq!(tuning.payload_bounds(PathFloor::Quic), (1200, 1200));
        let low = TransportTuning {
            min_udp_payload_bytes: 100,
            ..tuning
        };
        assert_eq!(low.payload_bounds(PathFloor::Tunnel).1, 1200);
    }
}
