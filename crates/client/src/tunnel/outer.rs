//! What the path to the gateway carries: how far MTU discovery looks, and how a path that is too
//! narrow is told from one that is blocked.
//!
//! A tunnel's Initials are padded to what the tunnel needs, so a narrow path swallows them like a
//! firewall does. When a router or the link says "too big", or after [`PROBE_AFTER`] of silence,
//! another connection asks with the smallest packets QUIC has; an answer to it is the difference.
//! The path of an open tunnel is tried by echoes inside it ([`path_check`](super::path_check)).

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use masque_http3::Code;
use masque_transport::{
    CloseReason, ConnId, JUMBO_UDP_PAYLOAD_BYTES, MIN_TUNNEL_UDP_PAYLOAD_BYTES, Machine, PathFloor,
};

use super::{
    Tunnel, attempt::Attempt, canonical, dialer::DIALS_MAX, path, path_check::Step, refusal,
};
use crate::AttachError;

/// The MTU in bytes of this machine's route to an address; `None` if it is not known.
pub type RouteMtu = fn(SocketAddr) -> Option<u32>;

/// How far MTU discovery looks at least, and where the link is not known: 1500 less 40 for IPv6 and
/// 8 for UDP.
pub(super) const ETHERNET_UDP_PAYLOAD_BYTES: u16 = 1452;
/// By then the first Initial was repeated twice (RFC 9002 §6.2.2: after one second and two more),
/// so it is hardly the loss of single packets.
pub(super) const PROBE_AFTER: Duration = Duration::from_secs(3);
/// Probes at one time: one for each connection that may wait.
const PROBES_MAX: usize = DIALS_MAX;

/// A connection of small packets.
#[derive(Debug)]
pub(super) struct Probe {
    conn: ConnId,
    remote: SocketAddr,
    /// The MTU that a router or the link told.
    told_mtu_bytes: Option<u32>,
    answered: bool,
}

impl Tunnel {
    /// Lets MTU discovery look beyond Ethernet's frames where this machine's link has larger ones.
    pub fn set_route_mtu(&mut self, route_mtu: RouteMtu) {
        self.route_mtu = Some(route_mtu);
    }

    /// A packet to `remote` was longer than an MTU on its way, or than the link's. Down to what a
    /// tunnel needs, an open one finds its size by itself (RFC 9000 §14.3); below, it is tried
    /// whether it still carries 1280 bytes, and a connection that was not answered yet, whether it
    /// ever will be. The word alone ends nothing: anybody could forge it. Port 0 means every port of
    /// the address.
    pub fn handle_too_big(&mut self, now: Instant, remote: SocketAddr, mtu_bytes: u32) {
        self.now = now;
        let (ip, port) = (remote.ip().to_canonical(), remote.port());
        // Linux leaves the port out when this machine's own link is too narrow.
        let same = |other: SocketAddr| {
            other.ip().to_canonical() == ip && (port == 0 || other.port() == port)
        };
        let waits = |attempt: &&Attempt| attempt.is_unanswered() && same(attempt.remote);
        if mtu_bytes >= needed_mtu_bytes(remote) {
            return;
        }
        if let Some(open) = self.open.as_mut().filter(|open| same(open.remote)) {
            open.path_check.told(now, mtu_bytes);
        }
        if let Some(attempt) = self.attempts.iter().find(waits) {
            self.probe(attempt.remote, Some(mtu_bytes));
        }
        self.run_dialer();
    }

    /// Takes the check of the open tunnel's path further, and ends the tunnel when its path turned
    /// too narrow (RFC 9484 §7.2: it "MUST" be aborted).
    pub(super) fn check_path(&mut self) {
        let (now, packets) = (self.now, self.tally.packets());
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let rtt = self.machine.rtt(open.conn).unwrap_or_default();
        match open.path_check.poll(now, rtt, packets) {
            None => {}
            Some(Step::Send {
                sequence,
                data_bytes,
            }) => path::send_check(&mut self.machine, open, sequence, data_bytes, now),
            Some(Step::TooNarrow { told_mtu_bytes }) => {
                let remote = open.remote;
                self.lose(AttachError::PathTooNarrow {
                    gateway: canonical(remote),
                    mtu_bytes: told_mtu_bytes,
                    is_exact: told_mtu_bytes.is_some(),
                    needed_bytes: needed_mtu_bytes(remote),
                });
            }
        }
    }

    /// Begins probes that are due, and ends those whose question is answered.
    pub(super) fn poll_probes(&mut self) {
        for at in 0..self.attempts.len() {
            let attempt = &mut self.attempts[at];
            if attempt.is_unanswered() && attempt.probe_at.is_some_and(|due| self.now >= due) {
                attempt.probe_at = None;
                let remote = attempt.remote;
                self.probe(remote, None);
            }
        }
        let (attempts, machine) = (&self.attempts, &mut self.machine);
        self.probes.retain(|probe| {
            let waits = |a: &Attempt| a.is_unanswered() && a.remote == probe.remote;
            let needed = attempts.iter().any(waits);
            if !needed {
                machine.close(probe.conn, Code::H3_NO_ERROR, "the path is known");
            }
            needed
        });
    }

    fn probe(&mut self, remote: SocketAddr, told_mtu_bytes: Option<u32>) {
        if let Some(at) = self.probes.iter().position(|probe| probe.remote == remote) {
            let probe = &mut self.probes[at];
            probe.told_mtu_bytes = told_mtu_bytes.or(probe.told_mtu_bytes);
            if let (true, Some(mtu_bytes)) = (probe.answered, probe.told_mtu_bytes) {
                self.too_narrow(at, mtu_bytes, true);
            }
            return;
        }
        if self.probes.len() >= PROBES_MAX {
            return;
        }
        let (host, quic) = (&self.plan.asked.host, self.plan.quic.clone());
        let begun = self
            .machine
            .connect_over(self.now, remote, host, quic, PathFloor::Quic);
        // What keeps it from being begun keeps the attempt from it, and is told there.
        if let Ok(conn) = begun {
            self.probes.push(Probe {
                conn,
                remote,
                told_mtu_bytes,
                answered: false,
            });
        }
    }

    /// Small packets pass: with an MTU that was told all is known, else it is measured.
    pub(super) fn probe_answered(&mut self, conn: ConnId) {
        let Some(at) = self.probes.iter().position(|probe| probe.conn == conn) else {
            return;
        };
        let probe = &mut self.probes[at];
        probe.answered = true;
        if let Some(mtu_bytes) = probe.told_mtu_bytes {
            self.too_narrow(at, mtu_bytes, true);
        }
    }

    /// MTU discovery settled below what a tunnel needs. Whether `conn` is a probe's.
    pub(super) fn probe_measured(&mut self, conn: ConnId, udp_payload_bytes: u16) -> bool {
        let Some(at) = self.probes.iter().position(|probe| probe.conn == conn) else {
            return false;
        };
        let headers_bytes = headers_bytes(self.probes[at].remote);
        self.too_narrow(at, u32::from(udp_payload_bytes) + headers_bytes, false);
        true
    }

    /// A probe ended. What the gateway said to it, it would have said to the attempt.
    pub(super) fn probe_closed(&mut self, conn: ConnId, reason: CloseReason) {
        let Some(at) = self.probes.iter().position(|probe| probe.conn == conn) else {
            return;
        };
        let probe = self.probes.swap_remove(at);
        if let CloseReason::Certificate(_) | CloseReason::PeerTransport { .. } = reason {
            let gateway = canonical(probe.remote);
            let error = refusal::close(reason, gateway, Duration::ZERO, &self.plan.asked);
            self.fail_unanswered(probe.remote, &error);
        }
    }

    fn too_narrow(&mut self, at: usize, mtu_bytes: u32, is_exact: bool) {
        let probe = self.probes.swap_remove(at);
        let reason = "the path is too narrow for a tunnel";
        self.machine.close(probe.conn, Code::H3_NO_ERROR, reason);
        let error = AttachError::PathTooNarrow {
            gateway: canonical(probe.remote),
            mtu_bytes: Some(mtu_bytes),
            is_exact,
            needed_bytes: needed_mtu_bytes(probe.remote),
        };
        self.fail_unanswered(probe.remote, &error);
    }

    fn fail_unanswered(&mut self, remote: SocketAddr, error: &AttachError) {
        let waits = |attempt: &Attempt| attempt.is_unanswered() && attempt.remote == remote;
        while let Some(at) = self.attempts.iter().position(waits) {
            self.fail(at, error.clone());
        }
    }

    /// Makes the machine anew when the way to `remote` leaves by a link of another kind, as long as
    /// nothing is connected.
    pub(super) fn fit_machine(&mut self, remote: SocketAddr) {
        let mtu_bytes = self.route_mtu.and_then(|route_mtu| route_mtu(remote));
        let max_bytes = udp_payload_max_bytes(mtu_bytes, remote);
        let idle = self.attempts.is_empty()
            && self.probes.is_empty()
            && self.open.is_none()
            && self.former.is_none();
        if max_bytes == self.udp_payload_max_bytes || !idle {
            return;
        }
        self.udp_payload_max_bytes = max_bytes;
        // Connection ids must not be those of the machine before.
        self.seed[0] = self.seed[0].wrapping_add(1);
        let config = self.plan.machine(self.seed, max_bytes);
        self.machine = Machine::client(config, self.http.clone(), self.now);
    }
}

/// How far MTU discovery looks.
fn udp_payload_max_bytes(route_mtu_bytes: Option<u32>, remote: SocketAddr) -> u16 {
    match route_mtu_bytes {
        Some(mtu_bytes) => {
            let bytes = mtu_bytes.saturating_sub(headers_bytes(remote));
            let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
            bytes.clamp(ETHERNET_UDP_PAYLOAD_BYTES, JUMBO_UDP_PAYLOAD_BYTES)
        }
        None => ETHERNET_UDP_PAYLOAD_BYTES,
    }
}

/// The smallest MTU of a path that carries a tunnel.
fn needed_mtu_bytes(remote: SocketAddr) -> u32 {
    u32::from(MIN_TUNNEL_UDP_PAYLOAD_BYTES) + headers_bytes(remote)
}

/// IP and UDP headers of packets to `remote`.
fn headers_bytes(remote: SocketAddr) -> u32 {
    if remote.ip().to_canonical().is_ipv4() {
        20 + 8
    } else {
        40 + 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_search_goes_as_far_as_the_link() {
        let v4: SocketAddr = "[::ffff:192.0.2.1]:4433".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::1]:4433".parse().unwrap();
        for (mtu_bytes, remote, wanted) in [
            (None, v6, 1452),
            (Some(1280), v6, 1452),
            (Some(1500), v6, 1452),
            (Some(1500), v4, 1472),
            (Some(4000), v4, 3972),
            (Some(4000), v6, 3952),
            (Some(9000), v6, 8952),
            (Some(9000), v4, 8952),
            (Some(65_536), v4, 8952),
        ] {
            assert_eq!(udp_payload_max_bytes(mtu_bytes, remote), wanted);
        }
        assert_eq!((needed_mtu_bytes(v4), needed_mtu_bytes(v6)), (1359, 1379));
    }
}
