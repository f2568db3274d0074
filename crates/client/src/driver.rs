//! The thread of an attachment: one UDP socket, one device, one [`Tunnel`](crate::Tunnel).
//!
//! It runs to completion like a gateway's shard: what the socket has, what the device has, what is
//! to be sent, then sleep. No channel and no lock lies on a packet's way through a TUN device, and
//! nothing is allocated per packet.

mod channel;
mod device;
mod handle;
mod sleep;
mod socket;
mod uplink;
mod watch;

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use masque_transport::sockets::{BusyPoll, route_mtu_bytes};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use ring::rand::{SecureRandom, SystemRandom};

pub(crate) use channel::channel;
pub use channel::{CHANNEL_PACKETS, PacketReceiver, PacketSender, ReceiveError, SendError};
pub(crate) use device::{Device, TunPort};
pub use handle::{Handle, PingError, Pong};
pub use watch::OWN_ROUTE_PROTOCOL;

use self::{
    handle::{Command, Shared},
    sleep::{SleepWatch, WakeAlarm},
    socket::{Fault, GatewaySocket, local_reason},
    uplink::Uplink,
    watch::{Looks, NetworkWatch, source_towards},
};
use crate::{AttachConfig, AttachError, DropReason, Phase, Status, Tunnel, TunnelEvent};

/// Packets delivered in one turn: what one batch of the socket holds, and more.
const DELIVER_BUDGET: usize = 1024;
/// Turns without a sleep after which everything is looked at.
const BUSY_TURNS_MAX: u32 = 64;
/// The longest wait for something to do.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// The same where nothing wakes the thread when the machine wakes up: then it looks by itself.
const WAIT_MAX_WITHOUT_ALARM: Duration = Duration::from_secs(2);
/// Sources of readiness: the gateway's socket, commands, the alarm, the network, the device.
const FDS: usize = 5;
/// How long the goodbye may take.
const GOODBYE_MAX: Duration = Duration::from_millis(250);
/// Between two reactions to the network's notifications while there is no tunnel.
const HURRY_EVERY: Duration = Duration::from_secs(1);

/// What is told of events; called on the attachment's thread, so it must not block for long.
pub type Observer = Box<dyn FnMut(&TunnelEvent) + Send>;

/// How the address is found that this machine sends to another one from.
type Way = Box<dyn FnMut(SocketAddr) -> io::Result<IpAddr> + Send>;

/// One attachment.
pub(crate) struct Driver<D> {
    tunnel: Tunnel,
    socket: GatewaySocket,
    ready: Ready,
    /// Turns since the thread last asked what is ready.
    busy_turns: u32,
    busy: BusyPoll,
    device: D,
    uplink: Uplink,
    shared: Arc<Shared>,
    observer: Observer,
    network: Option<NetworkWatch>,
    looks: Looks,
    way: Way,
    sleep: SleepWatch,
    alarm: Option<WakeAlarm>,
    pings: Vec<Waiting>,
    next_token: u64,
    /// Where the present tunnel, or the last dial, leads.
    remote: Option<SocketAddr>,
    source: Option<IpAddr>,
    since: Option<SystemTime>,
    reason: Option<AttachError>,
    status: Status,
    dials_checked: u64,
    hurried: Instant,
    closed: Option<Option<AttachError>>,
}

/// What seldom has something to say: it is asked only when the last sleep said so.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    errors: bool,
    commands: bool,
    network: bool,
    alarm: bool,
}

impl Ready {
    const ALL: Self = Self {
        errors: true,
        commands: true,
        network: true,
        alarm: true,
    };
}

struct Waiting {
    token: u64,
    timeout: Duration,
    reply: mpsc::SyncSender<Result<Pong, PingError>>,
}

impl<D: Device> Driver<D> {
    pub(crate) fn new(
        config: &AttachConfig,
        device: D,
        observer: Observer,
    ) -> Result<Self, AttachError> {
        let now = Instant::now();
        let seed = random()?;
        let salt = u64::from_ne_bytes(random()?);
        let mut tunnel = Tunnel::new(config, seed, now)?;
        let socket = GatewaySocket::open()?;
        tunnel.set_map_v4(socket.is_dual_stack());
        tunnel.set_route_mtu(|remote| route_mtu_bytes(remote).ok());
        let network = NetworkWatch::open();
        if let Err(error) = &network {
            tracing::debug!(%error, "changes of the network will be noticed by timeouts only");
        }
        let status = Status {
            transport: "h3".to_owned(),
            gateway: config.gateway.to_string(),
            ..Status::default()
        };
        Ok(Self {
            tunnel,
            socket,
            ready: Ready::ALL,
            busy_turns: 0,
            busy: BusyPoll::new(config.busy_poll),
            device,
            uplink: Uplink::new(now, salt),
            shared: Shared::new(status.clone())?,
            observer,
            network: network.ok(),
            looks: Looks::default(),
            way: Box::new(source_towards),
            sleep: SleepWatch::default(),
            alarm: WakeAlarm::set().ok(),
            pings: Vec::new(),
            next_token: 0,
            remote: None,
            source: None,
            since: None,
            reason: None,
            status,
            dials_checked: 0,
            hurried: now,
            closed: None,
        })
    }

    pub(crate) fn handle(&self) -> Handle {
        Handle::new(&self.shared)
    }

    /// Goes on until the attachment is over; the reason unless it was stopped.
    pub(crate) fn run(mut self) -> Option<AttachError> {
        self.tunnel.start(Instant::now());
        loop {
            let more = self.turn();
            if let Some(reason) = self.closed.take() {
                self.say_goodbye();
                self.fill_status();
                self.shared.set_last(self.status.clone());
                return reason;
            }
            if !more && self.wait() {
                self.busy_turns = 0;
            } else if self.busy_turns < BUSY_TURNS_MAX {
                self.busy_turns += 1;
            } else {
                self.ready = Ready::ALL;
                self.busy_turns = 0;
            }
        }
    }

    /// One turn; whether another is due at once.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        if self.sleep.take() {
            tracing::info!("this machine slept");
            self.tunnel.network_changed(now);
            self.looks.sign(now);
        }
        let ready = std::mem::take(&mut self.ready);
        if let Some(alarm) = self.alarm.as_ref().filter(|_| ready.alarm) {
            alarm.clear();
        }
        if ready.commands {
            self.obey(now);
        }
        if ready.errors {
            self.socket.take_errors(|about, fault| match fault {
                Fault::Unreachable(reason) => self.tunnel.handle_unreachable(now, about, reason),
                Fault::TooBig { mtu_bytes } => self.tunnel.handle_too_big(now, about, mtu_bytes),
            });
        }
        let received = self.socket.receive(self.tunnel.machine(), now);
        self.tunnel.handle_timeouts(now);
        if ready.network && self.network.as_ref().is_some_and(NetworkWatch::take) {
            self.looks.sign(now);
        }
        if self.looks.take(now) {
            self.check_network(now);
        }
        self.check_dials(now);
        self.tell();
        let delivered = self.deliver();
        let read = self.read_device(now);
        let sent = self.socket.send(self.tunnel.machine(), Instant::now());
        // Behind the sending, which makes room; what goes now leaves in the next turn.
        let waiting = self.send_waiting(now);
        received.more || delivered || read || sent.more || waiting
    }

    fn obey(&mut self, now: Instant) {
        for command in self.shared.take() {
            match command {
                Command::Stop => self.tunnel.stop(now),
                Command::Status(reply) => {
                    self.fill_status();
                    // Whoever asked may have gone.
                    let _ = reply.try_send(self.status.clone());
                }
                Command::Resolved(result) => self.tunnel.resolved(now, result),
                Command::Ping {
                    address,
                    size_bytes,
                    timeout,
                    reply,
                } => {
                    self.next_token += 1;
                    let token = self.next_token;
                    match self.tunnel.ping(now, token, address, size_bytes, timeout) {
                        Ok(()) => self.pings.push(Waiting {
                            token,
                            timeout,
                            reply,
                        }),
                        Err(reason) => {
                            let _ = reply.try_send(Err(PingError::NotSent(reason)));
                        }
                    }
                }
            }
        }
    }

    /// After a sign: is the way to the gateway another one? A route through the tunnel that covers
    /// the gateway hides it until the observer has renewed the gateway's own route.
    fn check_network(&mut self, now: Instant) {
        (self.observer)(&TunnelEvent::NetworkChanged);
        let source = self.remote.and_then(|remote| (self.way)(remote).ok());
        let moved = source.is_some() && source != self.source;
        if moved && self.tunnel.assignment().is_some() {
            // An address of the tunnel itself would lead it into itself.
            if source.is_some_and(|source| self.tunnel.is_assigned(source)) {
                return;
            }
            tracing::info!(?source, "the way to the gateway changed");
            self.source = source;
            self.tunnel.network_changed(now);
        } else if self.tunnel.assignment().is_none() && now >= self.hurried + HURRY_EVERY {
            self.hurried = now;
            self.tunnel.network_changed(now);
        }
    }

    /// A dial for which this machine has no route fails at once, not after a timeout.
    fn check_dials(&mut self, now: Instant) {
        if self.tunnel.dials() == self.dials_checked {
            return;
        }
        self.dials_checked = self.tunnel.dials();
        for remote in self.tunnel.unanswered() {
            let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
            self.remote = Some(remote);
            match (self.way)(remote) {
                Ok(source) => self.source = Some(source),
                Err(error) => {
                    self.tunnel
                        .handle_unreachable(now, remote, local_reason(&error));
                }
            }
        }
    }

    /// Tells the observer, answers pings, starts look-ups.
    fn tell(&mut self) {
        while let Some(event) = self.tunnel.poll_event() {
            match &event {
                TunnelEvent::Resolve { host, port } => self.resolve(host.clone(), *port),
                TunnelEvent::Pong { token, from, rtt } => {
                    self.answer_ping(*token, |_| {
                        Ok(Pong {
                            from: *from,
                            rtt: *rtt,
                        })
                    });
                }
                TunnelEvent::PingTimeout { token } => {
                    self.answer_ping(*token, |timeout| Err(PingError::Timeout(timeout)));
                }
                TunnelEvent::Up(assignment) => {
                    self.since = Some(SystemTime::now());
                    self.remote = Some(assignment.remote);
                    self.source = (self.way)(assignment.remote).ok();
                    self.reason = None;
                }
                TunnelEvent::Down { error, retry_in } => {
                    let left = *error == AttachError::GoingAway || error.is_refused();
                    if left && !retry_in.is_zero() {
                        self.renew_socket();
                    }
                    self.reason = Some(error.clone());
                }
                TunnelEvent::Closed(reason) => {
                    self.reason.clone_from(reason);
                    self.closed = Some(reason.clone());
                }
                TunnelEvent::Stage(stage) => self.status.stage = Some(*stage),
                TunnelEvent::Changed(_)
                | TunnelEvent::Mtu(_)
                | TunnelEvent::Draining
                | TunnelEvent::NetworkChanged => {}
            }
            (self.observer)(&event);
        }
    }

    /// Takes another port while nothing is under way. A load balancer in between remembers by
    /// addresses and ports whom it leads to: from the old port every dial would meet the gateway
    /// that leaves, until it has left, and then what refuses in its place.
    fn renew_socket(&mut self) {
        match GatewaySocket::open() {
            Ok(socket) => self.socket = socket,
            Err(error) => tracing::debug!(%error, "the old socket stays"),
        }
    }

    fn answer_ping(
        &mut self,
        token: u64,
        answer: impl FnOnce(Duration) -> Result<Pong, PingError>,
    ) {
        if let Some(at) = self.pings.iter().position(|waiting| waiting.token == token) {
            let Waiting { timeout, reply, .. } = self.pings.swap_remove(at);
            let _ = reply.try_send(answer(timeout));
        }
    }

    /// The system's resolver blocks, so it has a thread of its own for each look-up; the tunnel
    /// asks for one at a time.
    fn resolve(&self, host: String, port: u16) {
        let shared = Arc::clone(&self.shared);
        let spawned = thread::Builder::new()
            .name("resolver".into())
            .spawn(move || {
                let found = (host.as_str(), port).to_socket_addrs();
                let result = found
                    .map(|addresses| addresses.map(|address| address.ip()).collect())
                    .map_err(|error| error.to_string());
                shared.push(Command::Resolved(result));
            });
        if let Err(error) = spawned {
            self.shared.push(Command::Resolved(Err(error.to_string())));
        }
    }

    /// Packets from the gateway to the device; whether there may be more.
    fn deliver(&mut self) -> bool {
        let mut more = true;
        for _ in 0..DELIVER_BUDGET {
            let Some(received) = self.tunnel.poll_packet() else {
                more = false;
                break;
            };
            let (packet, header) = (&received.packet, &received.header);
            let tunnel = &self.tunnel;
            let taken = self.device.write(packet, header, |packet| {
                tunnel.clamp_received(packet, header)
            });
            if !taken {
                self.tunnel.tally().dropped(DropReason::ReceiveDeviceFull);
            }
        }
        self.flush_device();
        more
    }

    fn flush_device(&mut self) {
        for _ in 0..self.device.flush() {
            self.tunnel.tally().dropped(DropReason::ReceiveDeviceError);
        }
    }

    /// Sleeps until something is to be done; false if that is now.
    fn wait(&mut self) -> bool {
        let now = Instant::now();
        let (due, socket_events) = if self.socket.is_blocked() {
            (
                self.tunnel.next_timer(),
                PollFlags::POLLIN | PollFlags::POLLOUT,
            )
        } else {
            (self.tunnel.next_deadline(), PollFlags::POLLIN)
        };
        let due = due.into_iter().chain(self.looks.due()).min();
        let longest = match self.alarm {
            Some(_) => WAIT_MAX,
            None => WAIT_MAX_WITHOUT_ALARM,
        };
        let sleep = due.map_or(longest, |due| {
            due.saturating_duration_since(now).min(longest)
        });
        if sleep.is_zero() {
            return false;
        }
        self.uplink.trim(now);
        let wake = self.shared.wake_fd().as_fd();
        let mut fds: [PollFd<'_>; FDS] = std::array::from_fn(|_| read_of(wake));
        fds[0] = PollFd::new(self.socket.as_fd(), socket_events);
        // Where there is none, the commands are looked at twice.
        fds[2] = read_of(self.alarm.as_ref().map_or(wake, AsFd::as_fd));
        fds[3] = read_of(self.network.as_ref().map_or(wake, AsFd::as_fd));
        fds[4] = read_of(self.device.fd());
        // Interrupted or not, the next turn looks at everything.
        self.busy.wait(Some(sleep), |sleep| {
            let sleep = sleep.map(TimeSpec::from);
            ppoll(&mut fds, sleep, None).is_ok_and(|ready| ready > 0)
        });
        self.ready = Ready {
            // The kernel says so as long as an ICMP error waits to be read.
            errors: is_set(&fds[0], PollFlags::POLLERR),
            commands: is_set(&fds[1], PollFlags::POLLIN),
            alarm: is_set(&fds[2], PollFlags::POLLIN),
            network: is_set(&fds[3], PollFlags::POLLIN),
        };
        true
    }

    /// The close goes out, so that the gateway need not wait for a timeout.
    fn say_goodbye(&mut self) {
        self.tunnel.stop(Instant::now());
        let deadline = Instant::now() + GOODBYE_MAX;
        while Instant::now() < deadline {
            let moved = self.socket.send(self.tunnel.machine(), Instant::now());
            if !moved.more && !self.socket.is_blocked() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn fill_status(&mut self) {
        let assignment = self.tunnel.assignment();
        let connected = assignment.is_some();
        let status = &mut self.status;
        status.phase = self.tunnel.phase();
        status.remote = self.remote;
        let port = self.socket.port();
        status.local = self
            .source
            .map(|ip| SocketAddr::new(ip.to_canonical(), port));
        let doubted = connected && status.phase == Phase::Reconnecting;
        let reason = self.reason.as_ref().filter(|_| !connected);
        status.reason = match reason {
            None if doubted => Some("packets go unanswered; another connection is tried".into()),
            reason => reason.map(ToString::to_string),
        };
        status.advice = reason.map(AttachError::advice);
        match assignment {
            Some(assignment) => {
                status.addresses = assignment.addresses;
                status.routes = assignment.routes;
                status.mtu_bytes = assignment.mtu_bytes;
            }
            // The addresses stay: they are what the tunnel had, and most likely will have.
            None => status.mtu_bytes = 0,
        }
        let rtt = self.tunnel.rtt().unwrap_or_default();
        status.rtt_us = u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX);
        let since = self.since.filter(|_| connected);
        let unix = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        status.since_unix_s = unix.map(|unix| unix.as_secs());
        status.reconnects = self.tunnel.reconnects();
        status.counters = self.tunnel.counters();
    }
}

fn random<const N: usize>() -> Result<[u8; N], AttachError> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| AttachError::Local {
        reason: "the system gives no random numbers".to_owned(),
    })?;
    Ok(bytes)
}

fn is_set(fd: &PollFd<'_>, flag: PollFlags) -> bool {
    fd.revents().is_some_and(|events| events.contains(flag))
}

fn read_of(fd: BorrowedFd<'_>) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::POLLIN)
}

#[cfg(test)]
mod tests;
