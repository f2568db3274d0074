//! What happens to connections: attempts, the open tunnel, and the change from one to the next.

use std::{net::SocketAddr, time::Duration};

use masque_http3::{self as http3, Code};
use masque_transport::ConnId;

use super::{
    CAPSULE_PACKETS_MAX, Tunnel, TunnelEvent,
    attempt::{self, Attempt, Progress},
    canonical,
    dialer::{Action, DIALS_MAX, Live},
    liveness::Verdict,
    millis,
    open::{Changes, Open},
    refusal, write_session,
};
use crate::{AttachError, Stage};

/// A tunnel that was replaced stays open for three round trips: what is under way still arrives.
const LINGER_MIN: Duration = Duration::from_millis(100);
const LINGER_MAX: Duration = Duration::from_secs(1);

impl Tunnel {
    pub(super) fn handle_machine(&mut self, event: masque_transport::Event) {
        use masque_transport::Event;
        match event {
            Event::Connected { conn } => {
                let Some(at) = self.attempt(conn) else {
                    return self.probe_answered(conn);
                };
                self.attempts[at].connected(self.now);
                self.reached(Stage::Authenticate);
            }
            Event::Http { conn, event } => match self.attempt(conn) {
                Some(at) => {
                    if let Err(error) = self.handle_attempt(at, event) {
                        self.fail(at, error);
                    }
                }
                None if self.is_open(conn) => self.handle_open(event),
                None => {}
            },
            Event::DatagramSize { conn, .. } if self.is_open(conn) => self.resize(),
            Event::PathTooSmall {
                conn,
                udp_payload_bytes,
            } => {
                if self.probe_measured(conn, udp_payload_bytes) {
                    return;
                }
                let error = attempt::inner_mtu_bytes(None, 0).err();
                self.end_connection(conn, error.unwrap_or(AttachError::GoingAway));
            }
            Event::Closed { conn, reason } => {
                let (remote, started) = match (self.attempt(conn), &self.open) {
                    (Some(at), _) => (self.attempts[at].remote, self.attempts[at].started),
                    (None, Some(open)) => (open.remote, self.now),
                    (None, None) => return self.probe_closed(conn, reason),
                };
                let waited = self.now.saturating_duration_since(started);
                let error = refusal::close(reason, canonical(remote), waited, &self.plan.asked);
                self.end_connection(conn, error);
            }
            Event::DatagramSize { .. } | Event::Migrated { .. } | Event::StreamWritable { .. } => {}
        }
    }

    pub(super) fn handle_attempt(
        &mut self,
        at: usize,
        event: http3::Event,
    ) -> Result<(), AttachError> {
        let (attempt, machine) = (&mut self.attempts[at], &mut self.machine);
        let progress = match event {
            http3::Event::Settings(_) => attempt.settings(machine, &self.plan, self.now)?,
            http3::Event::Response { stream, head } => {
                attempt.response(stream, &head, &self.plan, self.now)?
            }
            http3::Event::Data { stream, data } => {
                let now_ms = millis(self.epoch, self.now);
                attempt.data(stream, data, now_ms)?;
                Progress::None
            }
            http3::Event::Finished { stream } => {
                attempt.finished(stream).map_or(Ok(Progress::None), Err)?
            }
            http3::Event::Reset { stream, .. } => {
                attempt.ended(stream).map_or(Ok(Progress::None), Err)?
            }
            http3::Event::GoAway { .. } => return Err(AttachError::GoingAway),
            http3::Event::Request { .. } => Progress::None,
        };
        if let Progress::Stage(stage) = progress {
            self.reached(stage);
        }
        Ok(())
    }

    pub(super) fn handle_open(&mut self, event: http3::Event) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        match event {
            http3::Event::Data { stream, data } if stream == open.stream => {
                let now_ms = millis(self.epoch, self.now);
                match open.data(data, now_ms) {
                    Ok(changes) => self.changed(changes),
                    Err(error) => self.lose(error),
                }
            }
            http3::Event::Finished { stream } if stream == open.stream => {
                let error = attempt::finished(&mut open.session);
                self.lose(error);
            }
            http3::Event::Reset { stream, .. } if stream == open.stream => {
                self.lose(attempt::ended());
            }
            http3::Event::GoAway { .. } => self.drain(),
            _ => {}
        }
    }

    pub(super) fn changed(&mut self, changes: Changes) {
        let room = CAPSULE_PACKETS_MAX.saturating_sub(self.capsule_packets.len());
        self.capsule_packets
            .extend(changes.packets.into_iter().take(room));
        if changes.draining {
            self.drain();
        }
        if !changes.configuration {
            return;
        }
        let Some(open) = self.open.as_mut() else {
            return;
        };
        match open.reconfigure(&self.machine) {
            Ok(()) => self
                .events
                .push_back(TunnelEvent::Changed(open.assignment())),
            Err(error) => self.lose(error),
        }
    }

    pub(super) fn resize(&mut self) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let before = open.mtu_bytes();
        match open.reconfigure(&self.machine) {
            Ok(()) if open.mtu_bytes() != before => {
                self.events.push_back(TunnelEvent::Mtu(open.mtu_bytes()));
            }
            Ok(()) => {}
            Err(error) => self.lose(error),
        }
    }

    /// Opens another tunnel beside the one that is about to end.
    pub(super) fn drain(&mut self) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if !std::mem::replace(&mut open.draining, true) {
            self.events.push_back(TunnelEvent::Draining);
            self.dialer.begin_soon(self.now);
        }
    }

    /// Takes the attempts further that wait for time or for addresses.
    pub(super) fn poll_attempts(&mut self) {
        let mut at = 0;
        while at < self.attempts.len() {
            let rtt = self.rtt_of(self.attempts[at].conn);
            match self.attempts[at].poll_ready(self.now, rtt) {
                Ok(false) => at += 1,
                Ok(true) => return self.promote(at),
                Err(error) => self.fail(at, error),
            }
        }
    }

    /// An attempt has all it needs: it becomes the tunnel, and the others end.
    pub(super) fn promote(&mut self, at: usize) {
        let attempt = self.attempts.swap_remove(at);
        let (conn, remote) = (attempt.conn, attempt.remote);
        let Some(configured) = attempt.into_configured() else {
            return;
        };
        let machine = &self.machine;
        let open = match Open::new(conn, remote, *configured, &self.plan, machine, self.now) {
            Ok(open) => open,
            Err(error) => {
                self.machine
                    .close(conn, Code::H3_REQUEST_CANCELLED, "the path is too narrow");
                self.dialer.failed(error);
                return;
            }
        };
        self.close_attempts("another connection was faster");
        self.close_former();
        self.former = self.open.replace(open).map(|former| {
            let rtt = self.rtt_of(former.conn);
            (former, self.now + (rtt * 3).clamp(LINGER_MIN, LINGER_MAX))
        });
        self.dialer.succeeded(canonical(remote), self.now);
        self.reconnects += u64::from(std::mem::replace(&mut self.was_open, true));
        self.reached(Stage::Up);
        if let Some(assignment) = self.assignment() {
            self.events.push_back(TunnelEvent::Up(assignment));
        }
    }

    /// Capsules that sessions have to say.
    pub(super) fn write_capsules(&mut self) {
        for attempt in &mut self.attempts {
            let conn = attempt.conn;
            if let Some((stream, session)) = attempt.session() {
                write_session(&mut self.machine, conn, stream, session);
            }
        }
        if let Some(open) = &mut self.open {
            write_session(&mut self.machine, open.conn, open.stream, &mut open.session);
        }
    }

    pub(super) fn check_liveness(&mut self) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        if self.now < open.liveness.deadline() {
            return;
        }
        let stats = self.machine.connection_stats(open.conn).unwrap_or_default();
        open.path_check.losses(self.now, &stats);
        match open
            .liveness
            .check(self.now, stats.bytes_received, stats.rtt)
        {
            Verdict::Alive => {
                if std::mem::take(&mut open.doubted) && !open.draining {
                    self.dialer.stop();
                    self.close_attempts("the former connection works");
                }
            }
            Verdict::Suspect => {
                open.doubted = true;
                self.dialer.suspect(self.now);
            }
            Verdict::Dead { silent } => self.lose(AttachError::PeerLost { silent }),
        }
    }

    pub(super) fn run_dialer(&mut self) {
        if self.over {
            return;
        }
        while let Some(action) = self.dialer.poll(self.now, self.live()) {
            match action {
                Action::Resolve => {
                    self.reached(Stage::Resolve);
                    let (host, port) = (self.plan.asked.host.clone(), self.plan.port);
                    self.events.push_back(TunnelEvent::Resolve { host, port });
                }
                Action::Dial(remote) => self.dial(remote),
                Action::GiveUp(error) => return self.end(Some(error)),
                // As long as the former tunnel works, that no other can be had is no news.
                Action::Failed { .. } if self.open.as_ref().is_some_and(|o| !o.doubted) => {}
                Action::Failed { error, retry_in } => {
                    self.events.push_back(TunnelEvent::Down { error, retry_in });
                }
            }
        }
    }

    pub(super) fn dial(&mut self, remote: SocketAddr) {
        let mut given_up = None;
        if self.attempts.len() >= DIALS_MAX
            && let Some(oldest) = self.attempts.iter().position(Attempt::is_unanswered)
        {
            let waited = self
                .now
                .saturating_duration_since(self.attempts[oldest].started);
            given_up = Some((self.attempts[oldest].remote, self.attempts[oldest].probe_at));
            self.fail(
                oldest,
                AttachError::NoAnswer {
                    gateway: remote,
                    waited,
                },
            );
        }
        let to = match remote {
            SocketAddr::V4(v4) if self.map_v4 => {
                SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
            }
            other => other,
        };
        self.reached(Stage::Connect);
        self.fit_machine(to);
        let (host, quic) = (&self.plan.asked.host, self.plan.quic.clone());
        match self.machine.connect(self.now, to, host, quic) {
            Ok(conn) => {
                self.dials += 1;
                let mut attempt = Attempt::new(conn, to, self.now);
                // Dials of one address are one silence, however often they are repeated.
                if let Some((_, probe_at)) = given_up.filter(|(remote, _)| *remote == to) {
                    attempt.probe_at = probe_at;
                }
                self.attempts.push(attempt);
            }
            Err(error) => self.dialer.failed(AttachError::Config {
                reason: error.to_string(),
            }),
        }
    }

    /// Tells of progress unless a tunnel is open already; ends where the caller wanted to stop.
    pub(super) fn reached(&mut self, stage: Stage) {
        if self.open.is_none() || stage == Stage::Up {
            self.events.push_back(TunnelEvent::Stage(stage));
        }
        if self.plan.stop_at.is_some_and(|stop| stage >= stop) {
            self.end(None);
        }
    }

    pub(super) fn end_connection(&mut self, conn: ConnId, error: AttachError) {
        match self.attempt(conn) {
            Some(at) => self.fail(at, error),
            None if self.is_open(conn) => self.lose(error),
            None => self.former = self.former.take().filter(|(former, _)| former.conn != conn),
        }
    }

    pub(super) fn fail(&mut self, at: usize, error: AttachError) {
        let attempt = self.attempts.remove(at);
        let code = close_code(&error, Code::H3_REQUEST_CANCELLED);
        self.machine.close(attempt.conn, code, error.code());
        self.dialer.failed(error);
    }

    /// The open tunnel is gone.
    pub(super) fn lose(&mut self, error: AttachError) {
        let Some(open) = self.open.take() else { return };
        let code = close_code(&error, Code::H3_NO_ERROR);
        self.machine.close(open.conn, code, error.code());
        self.capsule_packets.clear();
        let retry_in = self.dialer.lost(error.retry(), self.now);
        self.events.push_back(TunnelEvent::Down { error, retry_in });
    }

    pub(super) fn end(&mut self, error: Option<AttachError>) {
        if std::mem::replace(&mut self.over, true) {
            return;
        }
        self.close_attempts("the client leaves");
        self.close_former();
        if let Some(open) = self.open.take() {
            self.machine
                .close(open.conn, Code::H3_NO_ERROR, "the client leaves");
        }
        self.events.push_back(TunnelEvent::Closed(error));
    }

    pub(super) fn close_former(&mut self) {
        if let Some((former, _)) = self.former.take() {
            let reason = "moved to another connection";
            self.machine.close(former.conn, Code::H3_NO_ERROR, reason);
        }
    }

    pub(super) fn close_attempts(&mut self, reason: &str) {
        for attempt in self.attempts.drain(..) {
            self.machine.close(attempt.conn, Code::H3_NO_ERROR, reason);
        }
        self.poll_probes();
    }

    pub(super) fn attempt(&self, conn: ConnId) -> Option<usize> {
        self.attempts
            .iter()
            .position(|attempt| attempt.conn == conn)
    }

    pub(super) fn is_open(&self, conn: ConnId) -> bool {
        self.open.as_ref().is_some_and(|open| open.conn == conn)
    }

    pub(super) fn live(&self) -> Live {
        let unanswered = self.attempts.iter().filter(|a| a.is_unanswered()).count();
        Live {
            unanswered,
            answered: self.attempts.len() - unanswered,
            has_tunnel: self.open.as_ref().is_some_and(|open| !open.doubted),
        }
    }

    pub(super) fn rtt_of(&self, conn: ConnId) -> Duration {
        self.machine.rtt(conn).unwrap_or_default()
    }
}

/// RFC 9297 §3.3: a message with malformed capsules is malformed, which RFC 9114 §4.1.2 makes
/// H3_MESSAGE_ERROR. The connection carries nothing else, so all of it ends.
fn close_code(error: &AttachError, usual: Code) -> Code {
    match error {
        AttachError::Protocol { .. } => Code::H3_MESSAGE_ERROR,
        _ => usual,
    }
}
