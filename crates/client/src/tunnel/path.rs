//! The way of a packet through an open tunnel. Nothing here allocates per packet.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_packet::{
    build::build_icmp_echo,
    edit::{self, ChecksumState},
    icmp::{self, IcmpError},
    ip::{self, IpHeader},
    protocol,
    segment::{GsoInfo, segments},
};
use masque_transport::{ConnId, DatagramSendError, Machine};

use super::{Tunnel, TunnelEvent, attempt::CONTEXT_BYTES, open::Open};
use crate::{
    DropReason,
    guard::{ALL_NODES, Incoming, LINK_LOCAL, Outgoing},
};

/// ICMP errors to the local machine: this many at once, and [`ERRORS_PER_SECOND`] on.
const ERRORS_BURST: f64 = 32.0;
/// A stack that ignores errors must not turn each packet into another.
const ERRORS_PER_SECOND: f64 = 100.0;
/// Echoes that wait for an answer at one time.
pub(super) const PINGS_MAX: usize = 64;
/// Echo identifiers that we use; the kernel's own echoes with the same are delivered as well.
const PING_IDENTIFIER: u16 = 0xdc1d;
/// The identifier of the echoes that check the path.
pub(super) const CHECK_IDENTIFIER: u16 = 0xdc1e;

/// A packet from the gateway that passed every check.
#[derive(Debug)]
pub struct ReceivedPacket {
    /// The packet, a slice of what was received.
    pub packet: Bytes,
    /// What it is.
    pub header: IpHeader,
}

/// An echo under way.
#[derive(Debug)]
pub(super) struct Ping {
    token: u64,
    sequence: u16,
    sent: Instant,
    pub(super) expires: Instant,
}

/// Bounds the errors we send (RFC 4443 §2.4(f): "MUST limit the rate").
#[derive(Debug)]
pub(super) struct ErrorBudget {
    tokens: f64,
    at: Instant,
}

impl ErrorBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: ERRORS_BURST,
            at: now,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * ERRORS_PER_SECOND).min(ERRORS_BURST);
        self.at = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }
}

impl Tunnel {
    /// Sends one packet, or the packets of one super-packet, to the gateway. `packet` is changed:
    /// the MSS of a SYN is clamped to the tunnel.
    ///
    /// When the sender is to be told of an error, the answer is written to `reply`, which has
    /// [`MAX_ERROR_BYTES`](masque_packet::icmp::MAX_ERROR_BYTES), and its length returned.
    pub fn send(&mut self, packet: &mut [u8], gso: &GsoInfo, reply: &mut [u8]) -> Option<usize> {
        self.send_parts(packet, gso, reply, false)
    }

    /// The same for a packet whose flow keeps waiting for too long: it is marked where its sender
    /// understands that (RFC 3168 §5), else the first packet of it is lost (RFC 8289).
    pub fn send_congested(
        &mut self,
        packet: &mut [u8],
        gso: &GsoInfo,
        reply: &mut [u8],
    ) -> Option<usize> {
        let lose_one = !edit::mark_congested(packet);
        self.send_parts(packet, gso, reply, lose_one)
    }

    fn send_parts(
        &mut self,
        packet: &mut [u8],
        gso: &GsoInfo,
        reply: &mut [u8],
        lose_one: bool,
    ) -> Option<usize> {
        let (now, tally) = (self.now, &mut self.tally);
        let Some(open) = self.open.as_mut() else {
            tally.dropped(DropReason::SendNotConnected);
            return None;
        };
        let Ok(header) = ip::parse(packet) else {
            tally.dropped(DropReason::SendMalformed);
            return None;
        };
        if header.protocol == protocol::TCP {
            let max_mss = edit::mss_for_mtu(header.version, open.guard.mtu_bytes());
            let state = match gso.checksum {
                Some(_) => ChecksumState::Partial,
                None => ChecksumState::Complete,
            };
            edit::clamp_mss(packet, &header, max_mss, state);
        }
        let Ok(mut parts) = segments(packet, gso) else {
            tally.dropped(DropReason::SendMalformed);
            return None;
        };
        let longest_bytes = parts.max_packet_bytes();
        match open.guard.outgoing(&header, longest_bytes) {
            Outgoing::Send => {}
            Outgoing::Drop(reason) => {
                tally.dropped(reason);
                return None;
            }
            Outgoing::Answer(reason, error) => {
                tally.dropped(reason);
                return self
                    .errors
                    .take(now)
                    .then(|| answer(reply, packet, &header, error))?;
            }
        }
        if lose_one {
            parts.skip_next();
            tally.dropped(DropReason::SendCongested);
        }
        while let Some(length) = parts.next_packet_bytes() {
            let sent = self.machine.send_datagram(
                open.conn,
                open.stream,
                CONTEXT_BYTES + length,
                |payload| {
                    payload[0] = 0;
                    parts.write_next(&mut payload[CONTEXT_BYTES..]);
                },
            );
            match sent {
                Ok(()) => {
                    tally.sent_packets += 1;
                    tally.sent_bytes += length as u64;
                }
                Err(error) => {
                    tally.dropped_many(unsent(error), parts.remaining());
                    break;
                }
            }
        }
        open.liveness.sent(now);
        None
    }

    /// The next packet from the gateway that may be delivered.
    pub fn poll_packet(&mut self) -> Option<ReceivedPacket> {
        while let Some(packet) = self.capsule_packets.pop_front() {
            if let Some(received) = self.receive(packet) {
                return Some(received);
            }
        }
        while let Some((conn, stream, payload)) = self.machine.poll_datagram() {
            // An attempt that is not ready yet has nothing to deliver.
            let mut tunnels = self
                .open
                .iter()
                .chain(self.former.iter().map(|(open, _)| open));
            let Some(open) = tunnels.find(|open| open.conn == conn && open.stream == stream) else {
                continue;
            };
            let Ok(packet) = open.session.handle_datagram(payload) else {
                self.tally.dropped(DropReason::ReceiveUnknownContext);
                continue;
            };
            if let Some(received) = self.receive(packet) {
                return Some(received);
            }
        }
        None
    }

    fn receive(&mut self, packet: Bytes) -> Option<ReceivedPacket> {
        let open = self.open.as_mut()?;
        let (header, verdict) = match open.guard.incoming(&packet) {
            Ok(checked) => checked,
            Err(reason) => {
                self.tally.dropped(reason);
                return None;
            }
        };
        match verdict {
            Incoming::Deliver => {}
            Incoming::Drop(reason) => {
                self.tally.dropped(reason);
                return None;
            }
            Incoming::Echo => {
                answer_echo(&mut self.machine, open, &packet, &header);
                return None;
            }
            Incoming::EchoReply {
                identifier,
                sequence,
                deliver,
            } => {
                if identifier == CHECK_IDENTIFIER {
                    open.path_check.answered(self.now, sequence);
                    return None;
                }
                if identifier == PING_IDENTIFIER && self.pong(sequence, header.source) {
                    return None;
                }
                if !deliver {
                    self.tally.dropped(DropReason::ReceiveSourceNotRouted);
                    return None;
                }
            }
        }
        self.tally.received_packets += 1;
        self.tally.received_bytes += packet.len() as u64;
        Some(ReceivedPacket { packet, header })
    }

    /// The MSS that fits the tunnel, to clamp SYNs that were received.
    pub fn clamp_received(&self, packet: &mut [u8], header: &IpHeader) {
        let Some(open) = self
            .open
            .as_ref()
            .filter(|_| header.protocol == protocol::TCP)
        else {
            return;
        };
        let max_mss = edit::mss_for_mtu(header.version, open.guard.mtu_bytes());
        edit::clamp_mss(packet, header, max_mss, ChecksumState::Complete);
    }

    /// Sends an echo request with `size_bytes` of data; none: to the gateway's end of the tunnel,
    /// the link-local group of all nodes (RFC 9484 §7.2). [`TunnelEvent::Pong`] or
    /// [`TunnelEvent::PingTimeout`] follows with `token`.
    ///
    /// # Errors
    /// Why it could not be sent.
    pub fn ping(
        &mut self,
        now: Instant,
        token: u64,
        address: Option<IpAddr>,
        size_bytes: usize,
        timeout: Duration,
    ) -> Result<(), &'static str> {
        self.now = now;
        let open = self.open.as_mut().ok_or("there is no tunnel now")?;
        if self.pings.len() >= PINGS_MAX {
            return Err("too many echoes are under way");
        }
        let destination = address.unwrap_or(IpAddr::V6(ALL_NODES));
        let source = open
            .guard
            .address_like(destination)
            .ok_or(match destination {
                IpAddr::V4(_) => "no IPv4 address is assigned",
                IpAddr::V6(_) => "no IPv6 address is assigned",
            })?;
        self.ping_sequence = self.ping_sequence.wrapping_add(1);
        let sequence = self.ping_sequence;
        let data = vec![0xdc; size_bytes];
        let packet = build_icmp_echo(source, destination, PING_IDENTIFIER, sequence, &data);
        if packet.len() > open.guard.mtu_bytes() {
            return Err("it is larger than the tunnel's MTU");
        }
        send_whole(&mut self.machine, open, &packet)?;
        open.liveness.sent(self.now);
        self.tally.sent_packets += 1;
        self.tally.sent_bytes += packet.len() as u64;
        let expires = self.now + timeout;
        self.pings.push(Ping {
            token,
            sequence,
            sent: self.now,
            expires,
        });
        Ok(())
    }

    fn pong(&mut self, sequence: u16, from: IpAddr) -> bool {
        let Some(at) = self.pings.iter().position(|ping| ping.sequence == sequence) else {
            return false;
        };
        let Ping { token, sent, .. } = self.pings.swap_remove(at);
        let rtt = self.now.saturating_duration_since(sent);
        self.events
            .push_back(TunnelEvent::Pong { token, from, rtt });
        true
    }

    pub(super) fn expire_pings(&mut self) {
        let (now, events) = (self.now, &mut self.events);
        self.pings.retain(|ping| {
            let waiting = now < ping.expires;
            if !waiting {
                events.push_back(TunnelEvent::PingTimeout { token: ping.token });
            }
            waiting
        });
    }
}

fn unsent(error: DatagramSendError) -> DropReason {
    match error {
        DatagramSendError::QueueFull => DropReason::SendQueueFull,
        // The path shrank and its event has not been seen yet.
        DatagramSendError::TooLarge { .. } => DropReason::SendTooBig,
        DatagramSendError::Blocked | DatagramSendError::Closed => DropReason::SendNotConnected,
    }
}

/// The error comes from where the packet was to go: one from an address of this machine would be
/// dropped by its own stack as a martian.
fn answer(reply: &mut [u8], packet: &[u8], header: &IpHeader, error: IcmpError) -> Option<usize> {
    icmp::build_error(reply, packet, header.destination, error)
}

/// RFC 9484 §7.2: packets to link-local multicast must be answered properly, echoes at least.
fn answer_echo(machine: &mut Machine, open: &mut Open, request: &[u8], header: &IpHeader) {
    let Some(source) = open.guard.address_like(header.source) else {
        return;
    };
    let mut reply = [0; 2048];
    let Some(length) = icmp::build_echo_reply_from(&mut reply, request, source) else {
        return;
    };
    // Nobody waits for it if it does not fit.
    let _ = send_whole(machine, open, &reply[..length]);
}

/// Sends an echo to every node on the link, which the gateway's end answers (RFC 9484 §7.2).
pub(super) fn send_check(
    machine: &mut Machine,
    open: &mut Open,
    sequence: u16,
    data_bytes: usize,
    now: Instant,
) {
    let destination = IpAddr::V6(ALL_NODES);
    let source = open.guard.address_like(destination);
    let source = source.unwrap_or(IpAddr::V6(LINK_LOCAL));
    let data = vec![0xdc; data_bytes];
    let packet = build_icmp_echo(source, destination, CHECK_IDENTIFIER, sequence, &data);
    // One that the queue has no room for counts as lost.
    if send_whole(machine, open, &packet).is_ok() {
        open.liveness.sent(now);
    }
}

fn send_whole(machine: &mut Machine, open: &Open, packet: &[u8]) -> Result<(), &'static str> {
    let (conn, stream): (ConnId, _) = (open.conn, open.stream);
    let length = CONTEXT_BYTES + packet.len();
    let sent = machine.send_datagram(conn, stream, length, |payload| {
        payload[0] = 0;
        payload[CONTEXT_BYTES..].copy_from_slice(packet);
    });
    sent.map_err(|error| match error {
        DatagramSendError::TooLarge { .. } => "it does not fit the path",
        DatagramSendError::QueueFull => "the connection's queue is full",
        DatagramSendError::Blocked | DatagramSendError::Closed => "the tunnel is closing",
    })
}

#[cfg(test)]
mod tests;
