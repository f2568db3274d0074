//! Many sessions, policy edits, many rules: what the goals say beside speed.

mod clients;
mod edit;

use std::{fs, path::Path, sync::Arc, time::Duration};

use self::clients::Clients;
use crate::{
    cpu::{self, Look},
    failure::Failure,
    figure::{
        echo,
        tcp::{self, TcpRun},
    },
    interrupt,
    machine::Machine,
    options::Options,
    rig::Rig,
    sheet::Sheet,
    stats::Samples,
    tunnel::masque::{Connector, GATEWAY_URL, Gateway, TARGET, VPC},
};
use masque_client::{AttachConfig, ConnectorIdentity, GatewayUrl, ServerTrust, VpcName};

/// Beside the table's.
pub(crate) const FILE: &str = "scale.json";
/// Medians are of so many.
const REPEATS: usize = 3;
/// Handshakes under way at one time.
const PARALLEL: usize = 64;
/// How long idle sessions are watched before their memory is read: buffers of the handshake go.
const SETTLE: Duration = Duration::from_secs(5);
pub(crate) const FEW_RULES: u32 = 10;
/// What the goals say; a gateway takes 16,384 for one ingress point.
pub(crate) const MANY_RULES: u32 = 10_000;
/// Sessions that come in one go beside a transfer, as the goals have it.
const STORM: usize = 1_000;

/// Runs everything and writes `scale.json` beside `latest.json`.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let machine = Machine::describe();
    println!(
        "{} · kernel {} · commit {} · {}",
        machine.processor, machine.kernel, machine.commit, machine.date
    );
    let mut sheet = Sheet::default();
    {
        let identities = identities(options.sessions)?;
        let (mut rig, gateway) = set_up(options, "sessions", &identities)?;
        sessions(&mut rig, &gateway, identities, options, &mut sheet)?;
        let among = format!("_among_{}", options.sessions);
        edit::edits(&rig, &gateway, FEW_RULES, &among, &mut sheet)?;
        rig.check()?;
    }
    let (mut rig, gateway) = set_up(options, "policy", &[])?;
    edit::edits(&rig, &gateway, FEW_RULES, "", &mut sheet)?;
    edit::rules(&rig, &gateway, options, [FEW_RULES, MANY_RULES], &mut sheet)?;
    edit::edits(&rig, &gateway, MANY_RULES, "", &mut sheet)?;
    rig.check()?;
    sheet.write(&machine, &options.json.with_file_name(FILE))
}

/// A gateway that knows `identities`, and datum-connect attached to it.
fn set_up(
    options: &Options,
    name: &str,
    identities: &[Arc<ConnectorIdentity>],
) -> Result<(Rig, Gateway), Failure> {
    let mut rig = Rig::build(&options.work.join(name))?;
    let connector = Connector::of_command(&rig, options)?;
    let mut ids = vec![connector.id.clone()];
    ids.extend(identities.iter().map(|i| i.public_id().to_string()));
    let gateway = Gateway::start(&mut rig, options, &ids, FEW_RULES, &[])?;
    gateway.attach(&mut rig, &connector)?;
    echo::serve(&rig.workload, TARGET)?;
    Ok((rig, gateway))
}

fn identities(count: u32) -> Result<Vec<Arc<ConnectorIdentity>>, Failure> {
    let new = |_| ConnectorIdentity::generate().map(Arc::new);
    let made: Result<_, _> = (0..count).map(new).collect();
    made.map_err(|e| Failure::Machine(e.to_string()))
}

/// Set-up, memory, and what idle sessions and a storm of them do to a running transfer.
fn sessions(
    rig: &mut Rig,
    gateway: &Gateway,
    identities: Vec<Arc<ConnectorIdentity>>,
    options: &Options,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let mut clients = Clients::open(&rig.client, &configs(gateway, identities)?)?;
    let transfer = TcpRun {
        streams: 1,
        reverse: false,
        time: options.tcp,
        congestion: &options.congestion,
        port: tcp::PORT,
    };
    cpu::wait_for_idle(options.idle_wait)?;
    let alone = transfers(rig, gateway, &transfer, options, || Ok(()))?;
    let rss_before = rss_kib(gateway.pid)?;
    set_ups(
        rig,
        gateway,
        &mut clients,
        &transfer,
        alone.gbit_s,
        options,
        sheet,
    )?;
    idle(gateway, &mut clients, rss_before, sheet)?;

    let count = clients.count();
    let beside = transfers(rig, gateway, &transfer, options, || {
        clients.idle(Duration::from_millis(100))
    })?;
    sheet.keep("idle_sessions", to_f64(count));
    sheet.add(
        "gateway_cpu_ratio_many_sessions",
        beside.cost / alone.cost,
        format!(
            "transfer beside {count} idle sessions: {:.2} Gbit/s at {:.2} gateway CPU-s/GB \
             (alone {:.2} at {:.2}), medians of {REPEATS}",
            beside.gbit_s, beside.cost, alone.gbit_s, alone.cost
        ),
    );
    let up = clients.up();
    sheet.add(
        "sessions_still_up",
        to_f64(up),
        format!("{up} of {count} sessions are still up"),
    );
    Ok(())
}

/// Medians of some transfers: Gbit/s, and seconds of the gateway's processor time a gigabyte.
struct Transfers {
    gbit_s: f64,
    cost: f64,
}

fn transfers(
    rig: &Rig,
    gateway: &Gateway,
    transfer: &TcpRun<'_>,
    options: &Options,
    mut between: impl FnMut() -> Result<(), Failure>,
) -> Result<Transfers, Failure> {
    let (mut rates, mut costs) = (Samples::default(), Samples::default());
    for _ in 0..REPEATS {
        cpu::wait_for_idle(options.idle_wait)?;
        let result = transfer.run(rig, TARGET)?;
        rates.push(result.gbit_s);
        costs.push(result.usage.process(gateway.pid) / result.gigabytes);
        between()?;
    }
    Ok(Transfers {
        gbit_s: rates.median().unwrap_or_default(),
        cost: costs.median().unwrap_or_default(),
    })
}

fn configs(
    gateway: &Gateway,
    identities: Vec<Arc<ConnectorIdentity>>,
) -> Result<Vec<AttachConfig>, Failure> {
    let authority = gateway.manifests.authority();
    let pem = fs::read(&authority).map_err(Failure::file(&authority))?;
    let url = GATEWAY_URL
        .parse::<GatewayUrl>()
        .map_err(|e| Failure::Usage(e.to_string()))?;
    let vpc = VPC
        .parse::<VpcName>()
        .map_err(|e| Failure::Usage(e.to_string()))?;
    let config = |identity| {
        let mut config = AttachConfig::new(url.clone(), vpc.clone(), identity);
        config.trust = ServerTrust::RootsPem(pem.clone());
        config
    };
    Ok(identities.into_iter().map(config).collect())
}

/// The last thousand sessions, or half of them, are set up beside a transfer, the others alone.
fn set_ups(
    rig: &Rig,
    gateway: &Gateway,
    clients: &mut Clients,
    transfer: &TcpRun<'_>,
    alone_gbit_s: f64,
    options: &Options,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let count = clients.count();
    let alone = count - STORM.min(count / 2);
    cpu::wait_for_idle(options.idle_wait)?;
    let look = Look::now()?;
    let seconds = clients.bring_up(0..alone, PARALLEL)?.as_secs_f64();
    let each_ms = look.usage()?.process(gateway.pid) * 1e3 / to_f64(alone);
    sheet.add(
        "setup_seconds",
        seconds,
        format!("{alone} sessions set up in {seconds:.2} s, {PARALLEL} at a time, clients on the same cores"),
    );
    sheet.add(
        "setup_gateway_cpu_ms",
        each_ms,
        format!("gateway CPU of one set-up: {each_ms:.3} ms"),
    );

    let running = transfer.start(rig, TARGET)?;
    interrupt::sleep(Duration::from_millis(300))?;
    let seconds = clients.bring_up(alone..count, PARALLEL)?.as_secs_f64();
    let (gbit_s, _) = transfer.received(&running.output(transfer.time * 4)?)?;
    let ratio = gbit_s / alone_gbit_s;
    sheet.add(
        "setup_beside_transfer_seconds",
        seconds,
        format!(
            "{} sessions set up in {seconds:.2} s beside a transfer",
            count - alone
        ),
    );
    sheet.keep(
        "setup_beside_transfer_seconds_per_1000",
        seconds * 1e3 / to_f64(count - alone),
    );
    sheet.add(
        "transfer_beside_setup_ratio",
        ratio,
        format!("that transfer: {gbit_s:.2} Gbit/s, {ratio:.2} of {alone_gbit_s:.2} alone"),
    );
    Ok(())
}

/// Memory and processor time of sessions that do nothing.
fn idle(
    gateway: &Gateway,
    clients: &mut Clients,
    rss_before_kib: f64,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    clients.idle(SETTLE)?;
    let look = Look::now()?;
    clients.idle(SETTLE)?;
    let share = look.usage()?.process(gateway.pid) / SETTLE.as_secs_f64();
    let count = clients.count();
    let rss = (rss_kib(gateway.pid)? - rss_before_kib) / to_f64(count);
    sheet.add(
        "rss_kib_per_session",
        rss,
        format!("gateway memory of one idle session, {count} open: {rss:.1} KiB (before: {rss_before_kib:.0} KiB)"),
    );
    sheet.add(
        "idle_cpu_share",
        share,
        format!(
            "gateway CPU with {count} idle sessions: {:.2} % of a core",
            share * 100.0
        ),
    );
    Ok(())
}

/// Resident memory of a process.
fn rss_kib(pid: u32) -> Result<f64, Failure> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(Failure::file(Path::new(&path)))?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Failure::Machine(format!("{path} has no VmRSS")))
}

#[expect(clippy::cast_precision_loss, reason = "counts of sessions")]
fn to_f64(n: usize) -> f64 {
    n as f64
}
