//! What a flow has seen, and how long it lives without a packet.

use masque_model::Direction;
use masque_packet::ip::IpHeader;
use masque_packet::protocol;

/// A TCP connection where both sides have spoken: RFC 5382 REQ-5, "MUST NOT be less than 2 hours 4
/// minutes".
const TCP_ESTABLISHED_MS: u64 = 7_440_000;

/// A TCP connection whose opener got no answer yet. Linux sends its last SYN after 63 seconds.
const TCP_OPENING_MS: u64 = 75_000;

/// A TCP connection that was reset or closed by both sides; time for the last segments.
const TCP_CLOSED_MS: u64 = 10_000;

/// UDP that was answered: RFC 4787 REQ-5 recommends five minutes or more.
const UDP_MS: u64 = 300_000;

/// UDP without an answer: RFC 4787 REQ-5, "MUST NOT expire in less than two minutes".
const UDP_UNANSWERED_MS: u64 = 120_000;

/// An echo: RFC 5508 REQ-2, "MUST NOT expire in less than 60 seconds".
const ICMP_MS: u64 = 60_000;

/// Everything else.
const OTHER_MS: u64 = 300_000;

/// The flags of a TCP header.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TcpFlags(u8);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl TcpFlags {
    /// The flags of a packet; none if it has no TCP header.
    #[inline]
    pub(crate) fn of(header: &IpHeader, packet: &[u8]) -> Self {
        if header.protocol != protocol::TCP {
            return Self::default();
        }
        Self(
            packet
                .get(header.upper_offset + 13)
                .copied()
                .unwrap_or_default(),
        )
    }

    /// The first segment of a connection.
    #[inline]
    pub(crate) fn opens(self) -> bool {
        self.0 & (SYN | ACK | RST) == SYN
    }
}

/// What a flow has seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowState {
    protocol: u8,
    opener: Direction,
    answered: bool,
    reset: bool,
    fin_from_opener: bool,
    fin_from_other: bool,
}

impl FlowState {
    pub(crate) const fn new(protocol: u8, opener: Direction) -> Self {
        Self {
            protocol,
            opener,
            answered: false,
            reset: false,
            fin_from_opener: false,
            fin_from_other: false,
        }
    }

    /// Who opened the flow.
    #[inline]
    pub(crate) const fn opener(&self) -> Direction {
        self.opener
    }

    /// Takes note of a packet that passed.
    #[inline]
    pub(crate) fn see(&mut self, direction: Direction, flags: TcpFlags) {
        let from_opener = direction == self.opener;
        self.answered |= !from_opener;
        if flags.0 & (FIN | SYN | RST) != 0 {
            self.see_flags(from_opener, flags);
        }
    }

    fn see_flags(&mut self, from_opener: bool, flags: TcpFlags) {
        if flags.opens() && from_opener {
            // The same ports again: a new connection.
            *self = Self::new(self.protocol, self.opener);
        }
        self.reset |= flags.0 & RST != 0;
        let fin = flags.0 & FIN != 0;
        self.fin_from_opener |= fin && from_opener;
        self.fin_from_other |= fin && !from_opener;
    }

    /// How long the flow lives without a packet.
    #[inline]
    pub(crate) const fn timeout_ms(&self) -> u64 {
        match self.protocol {
            protocol::TCP if self.reset || self.fin_from_opener && self.fin_from_other => {
                TCP_CLOSED_MS
            }
            protocol::TCP if self.answered => TCP_ESTABLISHED_MS,
            protocol::TCP => TCP_OPENING_MS,
            protocol::UDP if self.answered => UDP_MS,
            protocol::UDP => UDP_UNANSWERED_MS,
            protocol::ICMP | protocol::ICMPV6 => ICMP_MS,
            _ => OTHER_MS,
        }
    }

    /// How much a flow is worth when one must go; the least goes first.
    pub(crate) const fn worth(&self) -> u8 {
        match (self.timeout_ms(), self.answered) {
            (TCP_CLOSED_MS, _) => 0,
            (_, false) => 1,
            (_, true) => 2,
        }
    }
}
