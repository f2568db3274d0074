//! One packet thread: it owns its sockets, its QUIC machines, its TUN queues and its tunnels, and
//! runs every packet to completion (decision 0002).
//!
//! A turn takes what is there, in this order: commands and handed packets, UDP, timers, requests,
//! datagrams, TUN, sends, and what waits. Each step that takes packets or commands has a budget, so
//! that no peer keeps the others waiting; timers and events are what these and the clock brought.

mod audit;
mod datapath;
mod figures;
mod fragmented;
mod held;
mod lifecycle;
mod port;
mod requests;
mod resolving;
#[cfg(test)]
mod tests;
mod tunnels;
mod vpc_port;
mod wait;
mod waiting;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use masque_gateway_core::{Dataplane, DataplaneConfig, EndReason, Now, VpcIndex};
use masque_http3::Code;
use masque_transport::sockets::BusyPoll;

pub(crate) use figures::ShardFigures;
pub(crate) use resolving::RESOLVE_TIMEOUT;
pub(crate) use tunnels::TunnelKey;

use crate::{
    command::{Command, ShardReport},
    control::Control,
    mailbox::Mailbox,
};
use port::Port;
use tunnels::Tunnels;
use vpc_port::VpcPort;
use wait::{Poller, Source};
use waiting::Waiting;

/// How often idle sessions are looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(250);
/// Commands taken in one turn, and as many again between the packets of each VPC.
const COMMANDS_A_TURN: usize = 64;

/// How far a graceful shutdown is (RFC 9114 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    /// Serving.
    No,
    /// GOAWAY with the largest id was sent: clients stop sending requests.
    Announced,
    /// GOAWAY with the last id was sent: what comes now is rejected.
    Final,
}

/// One packet thread's state.
pub(crate) struct Shard {
    id: u16,
    control: Arc<Control>,
    mailbox: Arc<Mailbox>,
    /// Something may be in the mailbox.
    mail: bool,
    peers: Vec<Arc<Mailbox>>,
    poller: Poller,
    busy: BusyPoll,
    ports: Vec<Port>,
    vpcs: BTreeMap<VpcIndex, VpcPort>,
    plane: Dataplane,
    tunnels: Tunnels,
    scratch: datapath::Scratch,
    waiting: Waiting,
    figures: ShardFigures,
    epoch: Instant,
    next_housekeeping: Instant,
    /// Idle sessions of one look; kept for its memory.
    expired: Vec<masque_gateway_core::SlotId>,
    drain: Drain,
    stopping: bool,
    /// Requests whose target name is being resolved.
    resolving: BTreeMap<TunnelKey, resolving::Resolving>,
    /// Requests whose path is being measured.
    held: held::HeldRequests,
}

impl Shard {
    /// A shard that listens to nothing yet.
    ///
    /// # Errors
    /// What the operating system says of the poller.
    pub(crate) fn new(
        id: u16,
        control: Arc<Control>,
        mailboxes: &[Arc<Mailbox>],
        config: DataplaneConfig,
        busy: BusyPoll,
        epoch: Instant,
    ) -> std::io::Result<Self> {
        let mailbox = Arc::clone(&mailboxes[usize::from(id)]);
        let mut poller = Poller::new()?;
        poller.add(Source::Mailbox, &*mailbox)?;
        let waiting = Waiting::new(epoch, config.hash_seed);
        let plane = Dataplane::new(config, Now::default(), control.tables());
        Ok(Self {
            id,
            control,
            mailbox,
            mail: true,
            peers: mailboxes.to_vec(),
            poller,
            busy,
            ports: Vec::new(),
            vpcs: BTreeMap::new(),
            plane,
            tunnels: Tunnels::default(),
            scratch: datapath::Scratch::new(),
            waiting,
            figures: ShardFigures::default(),
            epoch,
            next_housekeeping: epoch,
            expired: Vec::new(),
            drain: Drain::No,
            stopping: false,
            resolving: BTreeMap::new(),
            held: held::HeldRequests::default(),
        })
    }

    /// Runs until [`Command::Stop`].
    pub(crate) fn run(mut self) {
        let mut more = false;
        while !self.stopping {
            let timeout = if more {
                Some(Duration::ZERO)
            } else {
                self.deadline()
            };
            self.wait(timeout);
            more = self.turn();
        }
        self.close_everything();
    }

    /// Sleeps, and marks what is ready; what the last turn left over stays marked.
    fn wait(&mut self, timeout: Option<Duration>) {
        let (ports, vpcs, mail) = (&mut self.ports, &mut self.vpcs, &mut self.mail);
        let poller = &self.poller;
        let mut mark = |source| match source {
            Source::Mailbox => *mail = true,
            Source::Port(number) => {
                if let Some(port) = ports.iter_mut().find(|port| port.number() == number) {
                    port.ready = true;
                }
            }
            Source::Vpc(index) => {
                if let Some(vpc) = vpcs.get_mut(&index) {
                    vpc.ready = true;
                }
            }
        };
        self.busy
            .wait(timeout, |timeout| poller.wait(timeout, &mut mark));
    }

    /// One turn; `true` when a budget ended it and work is left.
    fn turn(&mut self) -> bool {
        let at = Instant::now();
        let now = self.now(at);
        let mut more = self.mail && self.take_mail(at, now);
        for port in &mut self.ports {
            more |= port.receive(at, &mut self.figures);
            port.machine.handle_timeouts(at);
        }
        self.handle_events(at, now);
        more |= self.datagrams_to_vpcs(now);
        more |= self.vpcs_to_datagrams(at, now);
        if at >= self.next_housekeeping {
            self.housekeeping(now);
            self.waiting.trim(at);
            self.refuse_held(at);
            self.next_housekeeping = at + HOUSEKEEPING;
        }
        for port in &mut self.ports {
            more |= port.send(Instant::now(), &mut self.figures);
            self.poller
                .want_write(port.source(), port.socket(), port.socket().is_blocked());
        }
        // Behind the sending, which makes room; what goes now leaves in the next turn.
        self.send_waiting(at) || more
    }

    fn now(&self, at: Instant) -> Now {
        let mono_ms = at.saturating_duration_since(self.epoch).as_millis();
        let unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        Now {
            mono_ms: u64::try_from(mono_ms).unwrap_or(u64::MAX),
            unix_s,
        }
    }

    /// How long the thread may sleep.
    fn deadline(&self) -> Option<Duration> {
        let next = self
            .ports
            .iter()
            .filter_map(Port::next_deadline)
            .chain([self.next_housekeeping])
            .min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Commands and handed packets; `true` when a budget ended it.
    fn take_mail(&mut self, at: Instant, now: Now) -> bool {
        self.mailbox.acknowledge();
        let commands = self.take_commands(at, now);
        self.mail = self.handed_packets(at, now) || commands == COMMANDS_A_TURN;
        self.mail
    }

    /// Obeys [`COMMANDS_A_TURN`] at most; how many there were.
    fn take_commands(&mut self, at: Instant, now: Now) -> usize {
        for taken in 0..COMMANDS_A_TURN {
            match self.mailbox.command() {
                Some(command) => self.obey(command, at, now),
                None => return taken,
            }
        }
        COMMANDS_A_TURN
    }

    fn obey(&mut self, command: Command, at: Instant, now: Now) {
        match command {
            Command::Tables(tables) => self.plane.set_tables(now, tables),
            Command::FabricMtu(bytes) => self.set_fabric_mtu(bytes),
            Command::Recheck => self.recheck(now),
            Command::OpenVpc {
                vpc,
                queue,
                merge_udp,
            } => self.open_vpc(vpc, queue, merge_udp),
            Command::CloseVpc { vpc, closing } => self.close_vpc(vpc, Some(closing)),
            Command::OpenPort(setup) => self.open_port(*setup, at),
            Command::ClosePort(port) => self.close_port(port, at),
            Command::Elsewhere(grant) => {
                let moved = self.plane.attach_elsewhere(&grant);
                self.send_flows(moved);
            }
            Command::ElsewhereEnded(attachment, session) => {
                let moved = self.plane.forget(attachment, session);
                self.send_flows(moved);
            }
            Command::ElsewhereUpdated(grant) => self.plane.update(now, &grant),
            Command::Flows(moved) => {
                let onwards = self.plane.accept_flows(now, *moved);
                self.send_flows(onwards);
            }
            Command::End(session, reason) => self.end_session(session, reason, now),
            Command::Update(grant) => self.update(grant, now),
            Command::Resolved { key, addresses } => self.resolved(key, addresses, at, now),
            Command::Drain => {
                self.drain = Drain::Announced;
                // The last id comes a round trip later (RFC 9114 §5.2).
                self.next_housekeeping = at + HOUSEKEEPING;
                self.ports.iter_mut().for_each(Port::announce_shutdown);
                self.wrap_up_tunnels(now);
            }
            Command::Stop => self.stopping = true,
            Command::Report { sessions, reply } => {
                // Whoever asked may have stopped waiting.
                let _asker_gone = reply.send(self.report(at, sessions));
            }
        }
    }

    /// Serves a device; a former one of the same VPC is gone.
    fn open_vpc(&mut self, vpc: VpcIndex, queue: masque_tun::TunQueue, merge_udp: bool) {
        self.close_vpc(vpc, None);
        if let Err(error) = self.poller.add(Source::Vpc(vpc), &queue) {
            tracing::error!(shard = self.id, %error, "cannot watch a TUN queue");
            return;
        }
        self.vpcs.insert(vpc, VpcPort::new(queue, merge_udp));
    }

    /// The queue is closed by the control thread.
    fn close_vpc(&mut self, vpc: VpcIndex, closing: Option<Arc<()>>) {
        if let Some(port) = self.vpcs.remove(&vpc) {
            self.figures.tun_refused += port.flushed.refused;
            self.poller.remove(Source::Vpc(vpc), &port.queue);
            self.control.give_back(port.queue, closing);
        }
    }

    fn open_port(&mut self, setup: crate::command::PortSetup, at: Instant) {
        let number = setup.port;
        let port = Port::new(setup, at);
        if let Err(error) = self.poller.add(port.source(), port.socket()) {
            tracing::error!(shard = self.id, port = number, %error, "cannot watch a socket");
            return;
        }
        self.ports.push(port);
    }

    fn close_port(&mut self, number: u16, at: Instant) {
        let keys: Vec<TunnelKey> = self
            .tunnels
            .keys()
            .into_iter()
            .filter(|key| key.port == number)
            .collect();
        let now = self.now(at);
        for key in keys {
            self.drop_tunnel(key, EndReason::IngressPointRemoved, now);
        }
        // A port of the same number may come again, and count its connections from the beginning.
        self.resolving.retain(|key, _| key.port != number);
        self.held.remove_port(number);
        if let Some(index) = self.ports.iter().position(|port| port.number() == number) {
            let mut port = self.ports.swap_remove(index);
            self.figures.add_machine(port.machine.stats());
            port.close(
                at,
                Code::H3_NO_ERROR,
                "the listener was removed",
                &mut self.figures,
            );
            self.poller.remove(port.source(), port.socket());
        }
    }

    /// Looks for idle sessions and for an end of the drain, and tells what Audit would deny.
    fn housekeeping(&mut self, now: Now) {
        audit::tell(self.id, &mut self.plane);
        let mut expired = std::mem::take(&mut self.expired);
        expired.clear();
        self.plane.expired(now, &mut expired);
        for slot in &expired {
            let found = self
                .tunnels
                .by_slot(*slot)
                .map(|t| (t.key, t.grant.session));
            if let Some((key, session)) = found {
                tracing::info!(shard = self.id, %session, "session idle for too long");
                self.abort_tunnel(key, EndReason::IdleTimeout, now);
            }
        }
        self.expired = expired;
        if self.drain == Drain::Announced {
            // A round trip has passed: what was on its way when we announced has arrived.
            self.drain = Drain::Final;
            self.ports.iter_mut().for_each(Port::announce_shutdown);
        }
    }

    /// The figures of the moment.
    fn figures_now(&self) -> ShardFigures {
        let mut figures = self.figures.clone();
        figures.busy_poll = self.busy.looked();
        for table in self.plane.tables().vpcs() {
            if let Some(counters) = self.plane.vpc_counters(table.index()) {
                figures.vpcs.push((table.index(), *counters));
            }
        }
        for port in &self.ports {
            figures.add_machine(port.machine.stats());
        }
        for vpc in self.vpcs.values() {
            figures.tun_refused += vpc.flushed.refused;
        }
        figures
    }

    fn report(&self, at: Instant, sessions: bool) -> ShardReport {
        ShardReport {
            shard: self.id,
            sessions: self
                .tunnels
                .iter()
                .filter(|_| sessions)
                .filter_map(|t| self.session_report(t, at))
                .collect(),
            figures: self.figures_now(),
        }
    }

    fn close_everything(&mut self) {
        let at = Instant::now();
        for port in &mut self.ports {
            port.close(
                at,
                Code::H3_NO_ERROR,
                "the gateway is shutting down",
                &mut self.figures,
            );
        }
    }
}
