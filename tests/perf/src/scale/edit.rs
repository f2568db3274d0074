//! Edits of the policy: how soon they act, and what many rules cost.

use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use super::REPEATS;
use crate::{
    cpu,
    failure::Failure,
    figure::{
        echo::{self, PAYLOAD_BYTES},
        tcp::{self, TcpRun},
    },
    interrupt,
    options::Options,
    rig::Rig,
    sheet::Sheet,
    stats::{Samples, quantile},
    tunnel::masque::{Gateway, Manifests, TARGET},
};

/// One probe each.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// An edit that has not acted by then has not acted.
const WATCH: Duration = Duration::from_secs(20);
/// An edit to deny has acted when no probe of so long has passed.
const QUIET: Duration = Duration::from_secs(1);
/// Rules take this long to act at most; waited for after an edit that no probe shows.
const EDIT_SETTLE: Duration = Duration::from_secs(5);
/// First packets of new flows, one socket each.
const NEW_FLOWS: usize = 500;

/// Denies the echo and allows it again: milliseconds until the last probe that passed, and until
/// the first. `suffix` is what the figures' names say beside the rules.
pub(super) fn edits(
    rig: &Rig,
    gateway: &Gateway,
    rules: u32,
    suffix: &str,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    gateway.manifests.set_rules(rules)?;
    interrupt::sleep(EDIT_SETTLE)?;
    let (mut denied, mut allowed) = (Samples::default(), Samples::default());
    for _ in 0..REPEATS {
        denied.push(watch(rig, &gateway.manifests, Edit::Deny)?);
        allowed.push(watch(rig, &gateway.manifests, Edit::Allow)?);
    }
    for (name, samples) in [("deny", denied), ("allow", allowed)] {
        let (median, max) = (
            samples.median().unwrap_or_default(),
            samples.max().unwrap_or_default(),
        );
        sheet.add(
            &format!("edit_{name}_ms_{rules}_rules{suffix}"),
            median,
            format!(
                "edit to {name}, {rules} rules{}: acts after {median:.0} ms (at most {max:.0})",
                suffix.replace('_', " ")
            ),
        );
    }
    Ok(())
}

/// What becomes of the rule that lets the probes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edit {
    Deny,
    Allow,
}

/// Probes by their numbers: when each was sent, and which after the edit passed.
struct Probes {
    socket: UdpSocket,
    sent: Vec<Instant>,
    /// When the first and the last probe that passed after the edit were sent.
    passed: Option<(Instant, Instant)>,
}

impl Probes {
    fn exchange(&mut self, edited: Option<Instant>) {
        let mut probe = [0; PAYLOAD_BYTES];
        probe[..8].copy_from_slice(&(self.sent.len() as u64).to_be_bytes());
        self.sent.push(Instant::now());
        let _ = self.socket.send(&probe);
        std::thread::sleep(PROBE_EVERY);
        let mut answer = [0; PAYLOAD_BYTES];
        while self.socket.recv(&mut answer).is_ok() {
            let mut number = [0; 8];
            number.copy_from_slice(&answer[..8]);
            let number = usize::try_from(u64::from_be_bytes(number)).ok();
            let sent = number.and_then(|n| self.sent.get(n).copied());
            if let (Some(sent), Some(edited)) = (sent, edited)
                && sent > edited
            {
                let first = self.passed.map_or(sent, |(first, _)| first.min(sent));
                let last = self.passed.map_or(sent, |(_, last)| last.max(sent));
                self.passed = Some((first, last));
            }
        }
    }
}

/// Sends probes and edits after the first hundred: milliseconds until the last probe that passed,
/// or until the first.
fn watch(rig: &Rig, manifests: &Manifests, edit: Edit) -> Result<f64, Failure> {
    let socket = probe_socket(rig)?;
    socket
        .set_nonblocking(true)
        .map_err(Failure::io("a probe"))?;
    let mut probes = Probes {
        socket,
        sent: Vec::new(),
        passed: None,
    };
    for _ in 0..100 {
        interrupt::check()?;
        probes.exchange(None);
    }
    manifests.allow_echo(edit == Edit::Allow)?;
    let edited = Instant::now();
    let ms = |at: Instant| at.duration_since(edited).as_secs_f64() * 1e3;
    while edited.elapsed() < WATCH {
        interrupt::check()?;
        probes.exchange(Some(edited));
        let last = probes.passed.map_or(edited, |(_, last)| last);
        match (edit, probes.passed) {
            (Edit::Allow, Some((first, _))) => return Ok(ms(first)),
            (Edit::Deny, _) if last.elapsed() > QUIET => return Ok(ms(last)),
            _ => {}
        }
    }
    let seconds = WATCH.as_secs();
    Err(Failure::Traffic(format!(
        "an edit ({edit:?}) has not acted within {seconds} s"
    )))
}

fn probe_socket(rig: &Rig) -> Result<UdpSocket, Failure> {
    let socket = rig.client.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((TARGET, echo::PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        io::Result::Ok(socket)
    });
    socket.map_err(Failure::io("a probe"))
}

/// Few rules against many, in turns.
pub(super) fn rules(
    rig: &Rig,
    gateway: &Gateway,
    options: &Options,
    counts: [u32; 2],
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let transfer = TcpRun {
        streams: 1,
        reverse: false,
        time: options.tcp,
        congestion: &options.congestion,
        port: tcp::PORT,
    };
    let mut rates = [Samples::default(), Samples::default()];
    let mut costs = rates.clone();
    let mut first_trips = rates.clone();
    for _ in 0..REPEATS {
        for (i, rules) in counts.into_iter().enumerate() {
            gateway.manifests.set_rules(rules)?;
            interrupt::sleep(EDIT_SETTLE)?;
            cpu::wait_for_idle(options.idle_wait)?;
            let result = transfer.run(rig, TARGET)?;
            rates[i].push(result.gbit_s);
            costs[i].push(result.usage.process(gateway.pid) / result.gigabytes);
            first_trips[i].push(new_flows(rig)?);
        }
    }
    let median = |samples: &Samples| samples.median().unwrap_or_default();
    for (i, rules) in counts.into_iter().enumerate() {
        let (rate, cost, trip) = (
            median(&rates[i]),
            median(&costs[i]),
            median(&first_trips[i]),
        );
        sheet.add(
            &format!("tcp1_gbit_s_{rules}_rules"),
            rate,
            format!("{rules} rules: {rate:.2} Gbit/s at {cost:.2} gateway CPU-s/GB (medians)"),
        );
        let text = format!("{rules} rules: first round trip of a new flow {trip:.0} us (median)");
        sheet.add(&format!("new_flow_rtt_us_{rules}_rules"), trip, text);
    }
    let ratio = median(&rates[1]) / median(&rates[0]);
    sheet.add(
        "many_rules_ratio",
        ratio,
        format!(
            "{} rules run at {ratio:.2} of the speed of {}",
            counts[1], counts[0]
        ),
    );
    Ok(())
}

/// Median round trip of the first packet of a flow, microseconds.
fn new_flows(rig: &Rig) -> Result<f64, Failure> {
    let mut trips = Vec::new();
    for number in 0..NEW_FLOWS {
        interrupt::check()?;
        let socket = probe_socket(rig)?;
        trips.extend(echo::one(&socket, number as u64).map(|trip| trip.as_secs_f64() * 1e6));
    }
    quantile(&trips, 0.5).ok_or_else(|| Failure::Traffic("no new flow passed".into()))
}
