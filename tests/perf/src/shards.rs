//! One packet thread against two: the same two clients, each with a transfer of its own.

use std::{net::Ipv4Addr, time::Duration};

use crate::{
    cpu::{self, Look},
    failure::Failure,
    figure::tcp::{self, TcpRun},
    machine::Machine,
    options::Options,
    process::which,
    rig::Rig,
    sheet::Sheet,
    stats::Samples,
    tunnel::masque::{Connector, Gateway},
};

/// Beside the table's.
pub(crate) const FILE: &str = "shards.json";
/// Medians are of so many runs of each.
const REPEATS: usize = 3;
/// Clients that attach. Which packet thread has a connection is chance: that all of them have the
/// same happens once in 128.
const CLIENTS: u8 = 8;
/// Transfers at one time, and packet threads of the second gateway.
const TWO: usize = 2;
/// Where the iperf3 of each transfer listens.
const PORTS: [u16; TWO] = [tcp::PORT, tcp::PORT + 1];
const RULES: u32 = 10;
/// How long iperf3 may take beyond its own time.
const GRACE: Duration = Duration::from_secs(8);

/// What one run gave.
struct Measured {
    gbit_s: f64,
    /// Seconds of the gateway's processor time a gigabyte.
    cost: f64,
}

/// Runs everything and writes [`FILE`].
pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let machine = Machine::describe();
    println!(
        "{} · {} cores · kernel {} · commit {} · {}",
        machine.processor, machine.cores, machine.kernel, machine.commit, machine.date
    );
    let mut rates = [Samples::default(), Samples::default()];
    let mut costs = rates.clone();
    for repeat in 0..REPEATS {
        for (i, shards) in ["1", "2"].into_iter().enumerate() {
            let work = options.work.join(format!("shards-{shards}-{repeat}"));
            let measured = once(&mut Rig::build(&work)?, options, shards)?;
            rates[i].push(measured.gbit_s);
            costs[i].push(measured.cost);
        }
    }
    let mut sheet = Sheet::default();
    let median = |samples: &Samples| samples.median().unwrap_or_default();
    for (i, shards) in ["1", "2"].into_iter().enumerate() {
        let (rate, cost) = (median(&rates[i]), median(&costs[i]));
        sheet.keep(&format!("shards_{shards}_gateway_cpu_s_per_gb"), cost);
        sheet.add(
            &format!("shards_{shards}_gbit_s"),
            rate,
            format!("{shards} packet thread(s): {rate:.2} Gbit/s, {cost:.2} gateway CPU-s/GB"),
        );
    }
    let cost = median(&costs[1]) / median(&costs[0]);
    let ratio = median(&rates[1]) / median(&rates[0]);
    sheet.keep("two_shards_cost_ratio", cost);
    sheet.add(
        "two_shards_ratio",
        ratio,
        format!(
            "two have {ratio:.2} of the speed of one, at {cost:.2} of its processor time a gigabyte; \
             clients, workload and kernel share the {} cores",
            machine.cores
        ),
    );
    sheet.write(&machine, &options.json.with_file_name(FILE))
}

fn once(rig: &mut Rig, options: &Options, shards: &str) -> Result<Measured, Failure> {
    let connectors: Result<Vec<_>, _> = (0..CLIENTS)
        .map(|i| Connector::named(rig, options, &format!("client-{i}")))
        .collect();
    let connectors = connectors?;
    let ids: Vec<String> = connectors.iter().map(|c| c.id.clone()).collect();
    let gateway = Gateway::start(rig, options, &ids, RULES, &["--shards", shards])?;
    for (i, connector) in (0..CLIENTS).zip(&connectors) {
        let target = target(i);
        rig.add_workload(target);
        // Each tunnel leads to its own workload, so that all are up in one namespace.
        let scope = format!("{target}/32");
        gateway.attach_to(rig, connector, target, &["--target", &scope])?;
    }
    let program = which("iperf3").unwrap_or_default();
    let (ns, port) = (rig.workload.clone(), PORTS[1].to_string());
    rig.start(&ns, &program, &["-s", "-p", &port], &[], "iperf3-server-2")?;
    let places = gateway.shards(rig)?;
    let pair = pair(
        places.iter().map(|(client, shard)| (*client, *shard)),
        shards == "2",
    );
    let pair = pair.ok_or_else(|| {
        Failure::Traffic(format!(
            "no two clients to compare among {places:?}; run it again"
        ))
    })?;

    cpu::wait_for_idle(options.idle_wait)?;
    let look = Look::now()?;
    let run = |port| TcpRun {
        streams: 1,
        reverse: false,
        time: options.tcp,
        congestion: &options.congestion,
        port,
    };
    let mut running = Vec::new();
    for (client, port) in pair.into_iter().zip(PORTS) {
        let run = run(port);
        running.push((run, run.start(rig, target(client))?));
    }
    let (mut gbit_s, mut gigabytes) = (0.0, 0.0);
    for (run, process) in running {
        let sums = run.received(&process.output(options.tcp + GRACE)?)?;
        gbit_s += sums.0;
        gigabytes += sums.1;
    }
    let cost = look.usage()?.process(gateway.pid) / gigabytes;
    rig.check()?;
    Ok(Measured { gbit_s, cost })
}

/// The workload of a client.
fn target(client: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 40, 1, client + 2)
}

/// Two clients, on different packet threads if they must be `apart`.
fn pair(mut clients: impl Iterator<Item = (u8, u64)>, apart: bool) -> Option<[u8; TWO]> {
    let (first, shard) = clients.next()?;
    let (second, _) = clients.find(|(_, other)| !apart || *other != shard)?;
    Some([first, second])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_apart_where_it_must_be() {
        let clients = || [(0, 1), (1, 1), (2, 0)].into_iter();
        assert_eq!(pair(clients(), false), Some([0, 1]));
        assert_eq!(pair(clients(), true), Some([0, 2]));
        assert_eq!(pair(clients().take(2), true), None);
    }
}
