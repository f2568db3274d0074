//! Whether the path of an open tunnel still carries 1280 bytes.
//!
//! Padded Initials show it once. QUIC's own search never goes below what they showed, so a path that
//! narrows later swallows every large packet while acknowledgements and keep-alives pass. RFC 9484
//! §7.2 has endpoints then "send ICMPv6 echo requests with 1232 bytes of data to ascertain the link
//! MTU and tear down the tunnel if they do not receive a response". Small echoes go beside, each in a
//! packet of its own: a gateway that answers these and none of the others is behind a narrow path,
//! one that answers neither says nothing.

use std::time::{Duration, Instant};

use masque_transport::ConnectionStats;

/// Data of the echo that makes an IPv6 packet of 1280 bytes (RFC 9484 §7.2).
pub(crate) const FULL_DATA_BYTES: usize = 1232;
/// Data of the echo that passes wherever QUIC does.
pub(crate) const SMALL_DATA_BYTES: usize = 8;
/// Echoes of each size in one check.
const TRIES_MAX: u16 = 6;
/// So many small ones must be answered, with every large one lost, for a path to be called narrow:
/// of one that loses a fifth of its packets either way, that is one check in a thousand.
const SMALL_ANSWERS_MIN: u32 = 3;
/// Between an echo and the next of the other size: two round trips, within these bounds.
const ECHO_AFTER_MIN: Duration = Duration::from_millis(250);
const ECHO_AFTER_MAX: Duration = Duration::from_secs(1);
/// Between a check and the next, unless this machine's network changed: whoever forges ICMP errors,
/// and a path that loses much, must not keep us busy.
const PAUSE: Duration = Duration::from_secs(10);
/// How often a path that carries packets is checked without a sign that it changed: what the gateway
/// sends may be lost without our knowing.
const CONFIRM_AFTER_MIN: Duration = Duration::from_secs(30);
/// A gateway that answers no echo is asked ever less, but at least so often.
const CONFIRM_AFTER_MAX: Duration = Duration::from_secs(480);
/// Lost packets of at least this size, on average, may have been too large.
const LARGE_BYTES: u64 = 1200;
/// Fewer of them are ordinary loss.
const LARGE_LOSSES_MIN: u64 = 3;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send an echo with so many bytes of data.
    Send { sequence: u16, data_bytes: usize },
    /// Small echoes pass and those of 1280 bytes do not. A router or link said that its MTU is this.
    TooNarrow { told_mtu_bytes: Option<u32> },
}

/// The check of one open tunnel; time and counters are arguments.
#[derive(Debug)]
pub(crate) struct PathCheck {
    begin_at: Option<Instant>,
    running: Option<Running>,
    quiet_until: Instant,
    confirm_at: Instant,
    confirm_after: Duration,
    told_mtu_bytes: Option<u32>,
    /// Packets through the tunnel when it was last checked.
    packets: u64,
    lost_packets: u64,
    lost_bytes: u64,
    next_sequence: u16,
}

#[derive(Debug)]
struct Running {
    /// Even echoes are small, odd ones full.
    first: u16,
    sent: u16,
    next_at: Instant,
    small_answers: u32,
}

impl PathCheck {
    /// A tunnel opened at `now`: its handshake has just shown that the path carries it.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            begin_at: None,
            running: None,
            quiet_until: now,
            confirm_at: now + CONFIRM_AFTER_MIN,
            confirm_after: CONFIRM_AFTER_MIN,
            told_mtu_bytes: None,
            packets: 0,
            lost_packets: 0,
            lost_bytes: 0,
            next_sequence: 0,
        }
    }

    /// This machine is in another network, perhaps: what was found before counts no more.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.running = None;
        self.told_mtu_bytes = None;
        self.confirm_after = CONFIRM_AFTER_MIN;
        self.begin_at = Some(now);
    }

    /// Somebody says that the path has an MTU below what a tunnel needs.
    pub(crate) fn told(&mut self, now: Instant, mtu_bytes: u32) {
        self.told_mtu_bytes = Some(mtu_bytes);
        self.suspect(now);
    }

    /// What the connection lost so far.
    pub(crate) fn losses(&mut self, now: Instant, stats: &ConnectionStats) {
        if self.running.is_some() || stats.packets_lost < self.lost_packets {
            // A check's own losses are no sign, and another path counts anew.
            (self.lost_packets, self.lost_bytes) = (stats.packets_lost, stats.bytes_lost);
            return;
        }
        let packets = stats.packets_lost - self.lost_packets;
        let bytes = stats.bytes_lost.saturating_sub(self.lost_bytes);
        if packets < LARGE_LOSSES_MIN {
            return;
        }
        (self.lost_packets, self.lost_bytes) = (stats.packets_lost, stats.bytes_lost);
        if bytes >= packets * LARGE_BYTES {
            self.suspect(now);
        }
    }

    fn suspect(&mut self, now: Instant) {
        if self.running.is_none() && self.begin_at.is_none() {
            self.begin_at = Some(now.max(self.quiet_until));
        }
    }

    /// An echo of ours was answered.
    pub(crate) fn answered(&mut self, now: Instant, sequence: u16) {
        let Some(running) = &mut self.running else {
            return;
        };
        let number = sequence.wrapping_sub(running.first);
        if number >= running.sent {
            return;
        }
        if number % 2 == 0 {
            running.small_answers += 1;
            return;
        }
        self.running = None;
        self.told_mtu_bytes = None;
        self.over(now, CONFIRM_AFTER_MIN);
    }

    /// The next thing to do; `packets` counts those that passed through the tunnel.
    pub(crate) fn poll(&mut self, now: Instant, rtt: Duration, packets: u64) -> Option<Step> {
        if self.running.is_none() {
            let confirm = packets != self.packets && now >= self.confirm_at;
            if !confirm && self.begin_at.is_none_or(|at| now < at) {
                return None;
            }
            self.begin_at = None;
            self.packets = packets;
            self.running = Some(Running {
                first: self.next_sequence,
                sent: 0,
                next_at: now,
                small_answers: 0,
            });
        }
        let running = self.running.as_mut().filter(|r| now >= r.next_at)?;
        if running.sent < 2 * TRIES_MAX {
            let sequence = self.next_sequence;
            let is_small = running.sent.is_multiple_of(2);
            running.sent += 1;
            running.next_at = now + (rtt * 2).clamp(ECHO_AFTER_MIN, ECHO_AFTER_MAX);
            self.next_sequence = sequence.wrapping_add(1);
            let data_bytes = if is_small {
                SMALL_DATA_BYTES
            } else {
                FULL_DATA_BYTES
            };
            return Some(Step::Send {
                sequence,
                data_bytes,
            });
        }
        let small_answers = running.small_answers;
        self.running = None;
        self.over(now, (self.confirm_after * 2).min(CONFIRM_AFTER_MAX));
        let told_mtu_bytes = self.told_mtu_bytes.take();
        (small_answers >= SMALL_ANSWERS_MIN).then_some(Step::TooNarrow { told_mtu_bytes })
    }

    fn over(&mut self, now: Instant, confirm_after: Duration) {
        self.quiet_until = now + PAUSE;
        self.confirm_after = confirm_after;
        self.confirm_at = now + confirm_after;
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn deadline(&self, packets: u64) -> Option<Instant> {
        if let Some(running) = &self.running {
            return Some(running.next_at);
        }
        let confirm = (packets != self.packets).then_some(self.confirm_at);
        self.begin_at.into_iter().chain(confirm).min()
    }
}

#[cfg(test)]
mod tests;
