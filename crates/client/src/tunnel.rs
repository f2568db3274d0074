//! One attachment as a state machine: dialling, the CONNECT-IP request, packets, reconnecting.

mod attempt;
mod control;
mod dialer;
mod event;
mod liveness;
mod open;
mod outer;
mod path;
mod path_check;
mod refusal;

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use masque_http3 as http3;
use masque_packet::segment::GsoInfo;
use masque_transport::{ConnId, EcnCodepoint, Machine, Transmit};

pub use event::{Assignment, TunnelEvent};
pub use outer::RouteMtu;
pub use path::ReceivedPacket;
pub(crate) use refusal::Asked;

use self::{
    attempt::Attempt,
    dialer::{DIALS_MAX, Dialer},
    open::Open,
    outer::{ETHERNET_UDP_PAYLOAD_BYTES, Probe},
    path::{ErrorBudget, Ping},
};
use crate::{AttachConfig, AttachError, Phase, config::Plan, drops::Tally};

/// Packets that came in capsules and wait for [`Tunnel::poll_packet`]; more are dropped.
const CAPSULE_PACKETS_MAX: usize = 64;

/// An attachment without sockets, devices, clock or resolver.
///
/// One thread drives it. [`start`](Self::start) begins; then a turn is:
///
/// 1. [`handle_udp`](Self::handle_udp) for what the socket received (or a batch through
///    [`machine`](Self::machine)), [`resolved`](Self::resolved) for what the resolver answered,
///    then [`handle_timeouts`](Self::handle_timeouts) once;
/// 2. [`poll_event`](Self::poll_event) until `None`;
/// 3. [`poll_packet`](Self::poll_packet) until `None` or the turn's budget is used;
/// 4. [`send`](Self::send) for what the device brought;
/// 5. [`poll_transmit`](Self::poll_transmit) until `None` or until the socket blocks;
/// 6. wait for a socket, the device or [`next_deadline`](Self::next_deadline).
///
/// Time never goes backwards between calls. After [`TunnelEvent::Closed`] only
/// [`poll_transmit`](Self::poll_transmit) is of use, to say goodbye.
pub struct Tunnel {
    plan: Plan,
    machine: Machine,
    http: http3::Config,
    /// Seeds machines; never the same twice.
    seed: [u8; 32],
    /// What the machine's MTU discovery looks for.
    udp_payload_max_bytes: u16,
    route_mtu: Option<RouteMtu>,
    map_v4: bool,
    dialer: Dialer,
    attempts: Vec<Attempt>,
    /// Connections beside them that tell a narrow path from a blocked one.
    probes: Vec<Probe>,
    open: Option<Open>,
    /// The tunnel before this one, and until when its last packets may arrive.
    former: Option<(Open, Instant)>,
    was_open: bool,
    over: bool,
    events: VecDeque<TunnelEvent>,
    capsule_packets: VecDeque<Bytes>,
    pings: Vec<Ping>,
    ping_sequence: u16,
    errors: ErrorBudget,
    tally: Tally,
    reconnects: u64,
    dials: u64,
    epoch: Instant,
    now: Instant,
}

impl Tunnel {
    /// Checks the configuration; nothing happens before [`start`](Self::start). `seed` is from the
    /// system's random generator, or fixed in a simulation.
    ///
    /// # Errors
    /// [`AttachError::Config`] says what cannot work.
    pub fn new(config: &AttachConfig, seed: [u8; 32], now: Instant) -> Result<Self, AttachError> {
        let plan = config.plan()?;
        let [a, b, c, d, e, f, g, h, ..] = seed;
        let small_seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let http = http3::Config {
            extended_connect: false,
            grease_seed: Some(small_seed),
            ..http3::Config::default()
        };
        Ok(Self {
            machine: Machine::client(
                plan.machine(seed, ETHERNET_UDP_PAYLOAD_BYTES),
                http.clone(),
                now,
            ),
            http,
            seed,
            udp_payload_max_bytes: ETHERNET_UDP_PAYLOAD_BYTES,
            route_mtu: None,
            dialer: Dialer::new(plan.literal, plan.keep_trying, small_seed),
            plan,
            map_v4: false,
            attempts: Vec::with_capacity(DIALS_MAX),
            probes: Vec::new(),
            open: None,
            former: None,
            was_open: false,
            over: false,
            events: VecDeque::new(),
            capsule_packets: VecDeque::new(),
            pings: Vec::new(),
            ping_sequence: 0,
            errors: ErrorBudget::new(now),
            tally: Tally::default(),
            reconnects: 0,
            dials: 0,
            epoch: now,
            now,
        })
    }

    /// Whether IPv4 gateways are dialled by their IPv4-mapped addresses (RFC 4291 §2.5.5.2), as a
    /// dual-stack socket has them.
    pub fn set_map_v4(&mut self, map_v4: bool) {
        self.map_v4 = map_v4;
    }

    /// Begins.
    pub fn start(&mut self, now: Instant) {
        self.now = now;
        self.dialer.begin(now);
        self.run_dialer();
    }

    /// Takes one received UDP datagram.
    pub fn handle_udp(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        self.machine.handle_udp(now, remote, None, ecn, data);
    }

    /// The QUIC machine, for sockets that hand whole batches over.
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The resolver's answer to [`TunnelEvent::Resolve`].
    pub fn resolved(&mut self, now: Instant, result: Result<Vec<IpAddr>, String>) {
        self.now = now;
        let port = self.plan.port;
        let host = self.plan.asked.host.clone();
        self.dialer.resolved(match result {
            Ok(addresses) if addresses.is_empty() => {
                let reason = "the resolver gave none".to_owned();
                Err(AttachError::NameResolution { host, reason })
            }
            Ok(addresses) => Ok(interleave(&addresses, port)),
            Err(reason) => Err(AttachError::NameResolution { host, reason }),
        });
        self.run_dialer();
    }

    /// The network says that `remote` cannot be reached: an ICMP error, or no local route. Anybody
    /// could forge the former, so it ends attempts but only casts doubt on an open tunnel.
    pub fn handle_unreachable(&mut self, now: Instant, remote: SocketAddr, reason: &str) {
        self.now = now;
        let same = |other: SocketAddr| canonical(other) == canonical(remote);
        if let Some(open) = self.open.as_mut().filter(|open| same(open.remote)) {
            open.liveness.doubt(now);
        }
        while let Some(at) = self
            .attempts
            .iter()
            .position(|a| a.is_unanswered() && same(a.remote))
        {
            let gateway = canonical(remote);
            self.fail(
                at,
                AttachError::Unreachable {
                    gateway,
                    reason: reason.to_owned(),
                },
            );
        }
        self.check_liveness();
        self.run_dialer();
    }

    /// Addresses or routes of this machine changed, or it woke up: what is open is tried on its new
    /// path (RFC 9000 §9), and waits are cut short.
    pub fn network_changed(&mut self, now: Instant) {
        self.now = now;
        if let Some(open) = self.open.as_mut() {
            self.machine.path_changed(open.conn, now);
            open.liveness.sent(now);
            open.path_check.moved(now);
        }
        self.dialer.hurry(now);
        self.run_dialer();
    }

    /// Runs timers and everything that was received.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.now = now;
        self.machine.handle_timeouts(now);
        while let Some(event) = self.machine.poll_event() {
            self.handle_machine(event);
        }
        self.poll_attempts();
        self.poll_probes();
        self.write_capsules();
        if self.former.as_ref().is_some_and(|(_, until)| now >= *until) {
            self.close_former();
        }
        self.check_liveness();
        self.check_path();
        self.expire_pings();
        self.run_dialer();
    }

    /// When something is to be done without anything being received; now, when there are packets
    /// to send or events to take.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.earliest(self.machine.next_deadline())
    }

    /// The earliest timer alone, for a driver whose socket does not take packets now.
    pub fn next_timer(&self) -> Option<Instant> {
        self.earliest(self.machine.next_timer())
    }

    fn earliest(&self, machine: Option<Instant>) -> Option<Instant> {
        let attempts = self
            .attempts
            .iter()
            .filter_map(|a| a.deadline(self.rtt_of(a.conn)));
        let open = self.open.as_ref().map(|open| open.liveness.deadline());
        let path_check = self
            .open
            .as_ref()
            .and_then(|open| open.path_check.deadline(self.tally.packets()));
        let former = self.former.iter().map(|(_, until)| *until);
        let pings = self.pings.iter().map(|ping| ping.expires);
        let dialer = self.dialer.deadline(self.live());
        attempts
            .chain(pings)
            .chain(former)
            .chain(open)
            .chain(path_check)
            .chain(dialer)
            .chain(machine)
            .min()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<TunnelEvent> {
        self.events.pop_front()
    }

    /// The next packets to send: `size` bytes in `buf`, in segments of `segment_size` if given.
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        self.machine.poll_transmit(now, buf)
    }

    /// Ends the attachment; the gateway is told with the next transmits.
    pub fn stop(&mut self, now: Instant) {
        self.now = now;
        self.end(None);
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        match &self.open {
            _ if self.over => Phase::Closed,
            Some(open) if !open.doubted => Phase::Connected,
            _ if self.was_open => Phase::Reconnecting,
            _ => Phase::Connecting,
        }
    }

    /// What the open tunnel is good for.
    pub fn assignment(&self) -> Option<Assignment> {
        self.open.as_ref().map(Open::assignment)
    }

    /// Smoothed round-trip time to the gateway.
    pub fn rtt(&self) -> Option<Duration> {
        self.machine.rtt(self.open.as_ref()?.conn)
    }

    /// Whether an address is assigned by the open tunnel.
    pub fn is_assigned(&self, address: IpAddr) -> bool {
        let open = self.open.as_ref();
        open.is_some_and(|open| open.guard.is_assigned(address))
    }

    /// Whether the connection could soon send a packet or super-packet of so many bytes: one that
    /// waits elsewhere until then can still be overtaken, or be told of congestion. Without a tunnel
    /// there is room: what comes is dropped and counted.
    pub fn has_room(&mut self, packet_bytes: usize, gso: &GsoInfo) -> bool {
        let Some(open) = &self.open else { return true };
        let datagrams = gso.packets_at_most(packet_bytes);
        self.machine.has_room(open.conn, packet_bytes, datagrams)
    }

    /// How many connections were begun so far.
    pub fn dials(&self) -> u64 {
        self.dials
    }

    /// Where connections are being made to that were not answered yet.
    pub fn unanswered(&self) -> Vec<SocketAddr> {
        let unanswered = self
            .attempts
            .iter()
            .filter(|attempt| attempt.is_unanswered());
        unanswered.map(|attempt| attempt.remote).collect()
    }

    /// How often the tunnel was opened again.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// What passed and what did not.
    pub fn counters(&self) -> crate::Counters {
        self.tally.counters()
    }

    pub(crate) fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
}

fn write_session(
    machine: &mut Machine,
    conn: ConnId,
    stream: http3::StreamId,
    session: &mut masque_protocol::Session,
) {
    while let Some(capsule) = session.poll_transmit() {
        // A stream that cannot be written any more shows as its own event.
        if let Some(http) = machine.http(conn) {
            let _ = http.send_data(stream, capsule, false);
        }
    }
}

/// Families by turns, the resolver's first family first (RFC 8305 §4).
fn interleave(addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
    let first_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (mut first, mut second): (VecDeque<_>, VecDeque<_>) = addresses
        .iter()
        .copied()
        .partition(|ip| ip.is_ipv4() == first_v4);
    let mut mixed = Vec::with_capacity(addresses.len());
    while !(first.is_empty() && second.is_empty()) {
        mixed.extend(first.pop_front());
        mixed.extend(second.pop_front());
    }
    mixed
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn millis(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

/// The small gateway, for tests elsewhere.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::tests::gateway::{Behaviour, Gateway, Site};
}
