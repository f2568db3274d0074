//! Many sessions, policy edits, many rules: what the goals say beside speed.

mod clients;
mod edit;

use std::{fs, path::Path, sync::Arc, time::Duration};

use masque_client::{AttachConfig, ConnectorIdentity, GatewayUrl, ServerTrust, VpcName};
use serde_json::{Map, Value, json};

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
    stats::Samples,
    tunnel::masque::{Connector, GATEWAY_URL, Gateway, TARGET, VPC},
};

/// Medians are of so many.
const REPEATS: usize = 3;
/// Handshakes under way at one time.
const PARALLEL: usize = 64;
/// How long idle sessions are watched before their memory is read: buffers of the handshake go.
const SETTLE: Duration = Duration::from_secs(5);
const FEW_RULES: u32 = 10;
/// A gateway takes 4,096 for one ingress point.
const MANY_RULES: u32 = 4_000;

/// Figures of a run, in the order they were measured.
struct Sheet {
    values: Map<String, Value>,
}

impl Sheet {
    fn add(&mut self, key: &str, value: f64, text: impl AsRef<str>) {
        println!("{}", text.as_ref());
        self.values.insert(key.into(), value.into());
    }
}

/// Runs everything and writes `scale.json` beside `latest.json`.
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut rig = Rig::build(&options.work)?;
    let connector = Connector::of_command(&rig, options)?;
    let identities = identities(options.sessions)?;
    let mut ids = vec![connector.id.clone()];
    ids.extend(identities.iter().map(|i| i.public_id().to_string()));
    let gateway = Gateway::start(&mut rig, options, &ids, FEW_RULES)?;
    gateway.attach(&mut rig, &connector)?;
    echo::serve(&rig.workload, TARGET)?;

    let machine = Machine::describe();
    println!(
        "{} · kernel {} · commit {} · {}",
        machine.processor, machine.kernel, machine.commit, machine.date
    );
    let mut sheet = Sheet { values: Map::new() };
    sessions(&mut rig, &gateway, identities, options, &mut sheet)?;
    edit::edits(&rig, &gateway, FEW_RULES, &mut sheet)?;
    edit::rules(&rig, &gateway, options, [FEW_RULES, MANY_RULES], &mut sheet)?;
    edit::edits(&rig, &gateway, MANY_RULES, &mut sheet)?;
    rig.check()?;
    let path = options.json.with_file_name("scale.json");
    let json = json!({
        "commit": machine.commit, "date": machine.date, "kernel": machine.kernel,
        "processor": machine.processor, "cores": machine.cores, "figures": sheet.values,
    });
    fs::write(&path, format!("{json:#}\n")).map_err(Failure::file(&path))
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
    };
    cpu::wait_for_idle(options.idle_wait)?;
    let alone = transfer.run(rig, TARGET)?;
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
    let (mut rates, mut costs) = (Samples::default(), Samples::default());
    for _ in 0..REPEATS {
        cpu::wait_for_idle(options.idle_wait)?;
        let result = transfer.run(rig, TARGET)?;
        rates.push(result.gbit_s);
        costs.push(result.usage.process(gateway.pid) / result.gigabytes);
        clients.idle(Duration::from_millis(100))?;
    }
    let alone_cost = alone.usage.process(gateway.pid) / alone.gigabytes;
    let (rate, cost) = (
        rates.median().unwrap_or_default(),
        costs.median().unwrap_or_default(),
    );
    sheet.add(
        "gateway_cpu_ratio_many_sessions",
        cost / alone_cost,
        format!(
            "transfer beside {count} idle sessions: {rate:.2} Gbit/s at {cost:.2} gateway CPU-s/GB \
             (alone {:.2} at {alone_cost:.2})",
            alone.gbit_s
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

/// Half of the sessions are set up alone, half of them beside a transfer.
fn set_ups(
    rig: &Rig,
    gateway: &Gateway,
    clients: &mut Clients,
    transfer: &TcpRun<'_>,
    alone_gbit_s: f64,
    options: &Options,
    sheet: &mut Sheet,
) -> Result<(), Failure> {
    let (count, half) = (clients.count(), clients.count() / 2);
    cpu::wait_for_idle(options.idle_wait)?;
    let look = Look::now()?;
    let seconds = clients.bring_up(0..half, PARALLEL)?.as_secs_f64();
    let each_ms = look.usage()?.process(gateway.pid) * 1e3 / to_f64(half);
    sheet.add(
        "setup_seconds",
        seconds,
        format!("{half} sessions set up in {seconds:.2} s, {PARALLEL} at a time, clients on the same cores"),
    );
    sheet.add(
        "setup_gateway_cpu_ms",
        each_ms,
        format!("gateway CPU of one set-up: {each_ms:.3} ms"),
    );

    let running = transfer.start(rig, TARGET)?;
    interrupt::sleep(Duration::from_millis(300))?;
    let seconds = clients.bring_up(half..count, PARALLEL)?.as_secs_f64();
    let (gbit_s, _) = tcp::received(&running.output(transfer.time * 4)?)
        .ok_or_else(|| Failure::program("iperf3", "no result"))?;
    let ratio = gbit_s / alone_gbit_s;
    sheet.add(
        "setup_beside_transfer_seconds",
        seconds,
        format!(
            "{} sessions set up in {seconds:.2} s beside a transfer",
            count - half
        ),
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
