//! Edits of the policy: how soon they act, and what many rules cost.

use std::{
    io,
    net::UdpSocket,
    time::{Duration, Instant},
};

use super::{REPEATS, Sheet};
use crate::{
    cpu,
    failure::Failure,
    figure::{
        echo::{self, PAYLOAD_BYTES},
        tcp::TcpRun,
    },
    interrupt,
    options::Options,
    rig::Rig,
    stats::{Samples, quantile},
    tunnel::masque::{Gateway, TARGET},
};

/// One probe each.
const PROBE_EVERY: Duration = Duration::from_millis(2);
/// How long an edit is watched.
const WATCH: Duration = Duration::from_secs(4);
/// Rules take this long to act at most; waited for after an edit that no probe shows.
const EDIT_SETTLE: Duration = Duration::from_secs(3);
/// First packets of new flows, one socket each.
const NEW_FLOWS: usize = 500;

/// Denies the echo and allows it again: milliseconds until the last probe that passed, and until
/// the first.
pub(super) fn edits(
    rig: &Rig,
    gateway: &Gateway,
    rules: u32,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    gateway.manifests.set_rules(rules)?;
    interrupt::sleep(EDIT_SETTLE)?;
    let (mut denied, mut allowed) = (Samples::default(), Samples::default());
    for _ in 0..REPEATS {
        let passed = watch(rig, || gateway.manifests.allow_echo(false))?;
        denied.push(passed.iter().copied().fold(0.0, f64::max));
        let passed = watch(rig, || gateway.manifests.allow_echo(true))?;
        let first = passed.iter().copied().reduce(f64::min);
        allowed.push(
            first.ok_or_else(|| Failure::Traffic("an edit that allows had no effect".into()))?,
        );
    }
    for (name, samples) in [("deny", denied), ("allow", allowed)] {
        let (median, max) = (
            samples.median().unwrap_or_default(),
            samples.max().unwrap_or_default(),
        );
        sheet.add(
            &format!("edit_{name}_ms_{rules}_rules"),
            median,
            format!("edit to {name}, {rules} rules: acts after {median:.0} ms (at most {max:.0})"),
        );
    }
    Ok(())
}

/// Sends probes; edits after the first hundred. When the probes that passed after the edit were
/// sent, in milliseconds from it.
fn watch(rig: &Rig, edit: impl FnOnce() -> Result<(), Failure>) -> Result<Vec<f64>, Failure> {
    let socket = probe_socket(rig)?;
    socket
        .set_nonblocking(true)
        .map_err(Failure::io("a probe"))?;
    let mut sent: Vec<Instant> = Vec::new();
    let mut passed = Vec::new();
    let mut edit = Some(edit);
    let mut edited_at = None;
    loop {
        interrupt::check()?;
        let now = Instant::now();
        if sent.len() == 100
            && let Some(edit) = edit.take()
        {
            edit()?;
            edited_at = Some(Instant::now());
        }
        let mut probe = [0; PAYLOAD_BYTES];
        probe[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        let _ = socket.send(&probe);
        sent.push(now);
        std::thread::sleep(PROBE_EVERY);
        let mut answer = [0; PAYLOAD_BYTES];
        while socket.recv(&mut answer).is_ok() {
            let mut number = [0; 8];
            number.copy_from_slice(&answer[..8]);
            passed.extend(
                usize::try_from(u64::from_be_bytes(number))
                    .ok()
                    .and_then(|n| sent.get(n).copied()),
            );
        }
        if let Some(edited) = edited_at
            && edited.elapsed() > WATCH
        {
            let after = passed.iter().filter(|at| **at > edited);
            return Ok(after
                .map(|at| at.duration_since(edited).as_secs_f64() * 1e3)
                .collect());
        }
    }
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
