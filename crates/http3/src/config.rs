//! What a connection announces and bounds.

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends requests.
    Client,
    /// Answers them.
    Server,
}

/// What we announce and what we bound. Every bound is per connection unless its name says else.
#[derive(Clone, Debug)]
pub struct Config {
    /// SETTINGS_MAX_FIELD_SECTION_SIZE that we announce and enforce. The encoded section may not
    /// be longer either, so that no more than this is ever buffered for one.
    pub max_field_section_bytes: u64,
    /// Announce SETTINGS_ENABLE_CONNECT_PROTOCOL = 1 (servers).
    pub extended_connect: bool,
    /// Announce SETTINGS_H3_DATAGRAM = 1; must agree with the QUIC transport parameter.
    pub datagrams: bool,
    /// Further settings to announce (WebTransport, deprecated datagram ids).
    pub extra_settings: Vec<(u64, u64)>,
    /// Varies the GREASE setting and frame (RFC 9114 §7.2.8); `None` sends none.
    pub grease_seed: Option<u64>,
    /// HTTP Datagrams kept for a request stream whose header section has not arrived.
    pub early_datagrams_per_stream: usize,
    /// Bytes of such datagrams over the connection.
    pub early_datagram_bytes: usize,
    /// How long such datagrams are kept (about one round trip).
    pub early_datagram_ms: u64,
    /// Request streams at one time; more are rejected with H3_REQUEST_REJECTED.
    pub max_requests: usize,
    /// Frames that carry nothing for us (unknown, GREASE, empty DATA, interim responses) per
    /// control stream or request, and DATA frames of less than 16 bytes per request beyond the
    /// longer ones, before the connection ends with H3_EXCESSIVE_LOAD (RFC 9114
    /// §10.5). [`Connection::handle_timeout`](crate::Connection::handle_timeout) starts the count
    /// anew each minute.
    pub max_useless_frames: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_field_section_bytes: 16 * 1024,
            extended_connect: true,
            datagrams: true,
            extra_settings: Vec::new(),
            grease_seed: Some(0),
            early_datagrams_per_stream: 16,
            early_datagram_bytes: 64 * 1024,
            early_datagram_ms: 250,
            max_requests: 128,
            max_useless_frames: 10_000,
        }
    }
}
