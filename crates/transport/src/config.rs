//! Bounds and secrets of one machine.

use std::sync::Arc;

use quinn_proto::EndpointConfig;
use ring::{hkdf, hmac};

use crate::{
    Admission, ShardId, TransportTuning, cid::ShardIdGenerator, tuning::MIN_QUIC_UDP_PAYLOAD_BYTES,
};

/// What one machine runs with. All shards of a listener share it, but for `seed`.
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Seeds connection ids and everything else that must be unpredictable. From the system's
    /// random generator, and different for every machine; fixed in a simulation only.
    pub seed: [u8; 32],
    /// Keys stateless resets (RFC 9000 §10.3.2). If a restarted gateway has the same secret, its
    /// clients learn at once that their connections are gone.
    pub reset_secret: [u8; 32],
    /// QUIC transport parameters and timers.
    pub tuning: TransportTuning,
    /// Who may begin a handshake (servers).
    pub admission: Admission,
    /// A handshake that takes longer is given up.
    pub handshake_timeout_ms: u32,
    /// Bytes that may wait to be written on one stream; a request that needs more is abandoned
    /// with H3_INTERNAL_ERROR. See [`Machine::stream_backlog`](crate::Machine::stream_backlog).
    pub stream_backlog_bytes: usize,
    /// Segments of one GSO batch at most; what the socket can
    /// ([`UdpSocket::max_gso_segments`](crate::sockets::UdpSocket::max_gso_segments)).
    pub max_gso_segments: usize,
    /// Datagrams taken from one connection before the next has its turn.
    pub datagram_quantum: u32,
}

impl MachineConfig {
    /// Defaults with these secrets.
    pub fn new(seed: [u8; 32], reset_secret: [u8; 32]) -> Self {
        Self {
            seed,
            reset_secret,
            tuning: TransportTuning::default(),
            admission: Admission::default(),
            handshake_timeout_ms: 10_000,
            stream_backlog_bytes: 1024 * 1024,
            max_gso_segments: 1,
            datagram_quantum: 64,
        }
    }

    pub(crate) fn endpoint(&self, shard: ShardId) -> EndpointConfig {
        let reset_key = hmac::Key::new(hmac::HMAC_SHA256, &self.reset_secret);
        let mut config = EndpointConfig::new(Arc::new(reset_key));
        let seed = self.seed;
        config.cid_generator(move || Box::new(ShardIdGenerator::new(shard, &seed)));
        config.rng_seed(Some(self.seed));
        // Receive buffers hold 64 KiB whatever the peer sends; the limit is about the path.
        let accept = self
            .tuning
            .accept_udp_payload_bytes
            .max(MIN_QUIC_UDP_PAYLOAD_BYTES);
        let accepted = config.max_udp_payload_size(accept).is_ok();
        debug_assert!(accepted);
        config
    }
}

/// The server side of QUIC from a TLS configuration. All shards and all replicas share
/// `token_secret`, so that a Retry of one is understood by the others.
///
/// # Errors
/// The TLS configuration lacks TLS_AES_128_GCM_SHA256, which QUIC's Initial packets need.
pub fn server_config(
    tls: Arc<rustls::ServerConfig>,
    token_secret: &[u8; 32],
) -> Result<Arc<quinn_proto::ServerConfig>, quinn_proto::crypto::rustls::NoInitialCipherSuite> {
    let crypto = quinn_proto::crypto::rustls::QuicServerConfig::try_from(tls)?;
    let token_key = hkdf::Salt::new(hkdf::HKDF_SHA256, b"retry token").extract(token_secret);
    Ok(Arc::new(quinn_proto::ServerConfig::new(
        Arc::new(crypto),
        Arc::new(token_key),
    )))
}

/// The client side of QUIC from a TLS configuration.
///
/// # Errors
/// The TLS configuration lacks TLS_AES_128_GCM_SHA256, which QUIC's Initial packets need.
pub fn client_config(
    tls: Arc<rustls::ClientConfig>,
) -> Result<quinn_proto::ClientConfig, quinn_proto::crypto::rustls::NoInitialCipherSuite> {
    let crypto = quinn_proto::crypto::rustls::QuicClientConfig::try_from(tls)?;
    Ok(quinn_proto::ClientConfig::new(Arc::new(crypto)))
}
