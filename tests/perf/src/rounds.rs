//! The order of the measurements: rounds, modes, configurations, figures.

use crate::{
    cpu::{self, Look, Usage},
    failure::Failure,
    figure::{
        Figure, echo,
        tcp::{self, TcpResult, TcpRun},
        udp::Flood,
    },
    interrupt,
    options::{Mode, Options},
    report::Results,
    rig::Rig,
    tunnel::Tunnel,
};

/// One thing that is measured in one go.
#[derive(Clone, Copy, Debug)]
enum Step {
    Up1,
    Up4,
    Reverse,
    Ping,
    PingLoaded,
    Udp,
}

impl Step {
    const ALL: [Self; 6] = [
        Self::Up1,
        Self::Up4,
        Self::Reverse,
        Self::Ping,
        Self::PingLoaded,
        Self::Udp,
    ];
}

impl Step {
    /// Its word in `BENCH_STEPS`.
    fn name(self) -> &'static str {
        match self {
            Self::Up1 => "tcp1",
            Self::Up4 => "tcp4",
            Self::Reverse => "reverse",
            Self::Ping => "rtt",
            Self::PingLoaded => "loaded",
            Self::Udp => "udp",
        }
    }
}

/// What one step gave.
struct Measured {
    figures: Vec<(Figure, f64)>,
    usage: Usage,
}

/// Runs every round. A step that fails is noted and the rest goes on; a signal or a program that
/// ended ends the run.
pub(crate) fn run(
    rig: &mut Rig,
    tunnels: &[Tunnel],
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let floods: Vec<Flood> = tunnels
        .iter()
        .map(|t| {
            echo::serve(&rig.workload, t.target)?;
            Flood::open(&rig.client, &rig.workload, t.target)
        })
        .collect::<Result<_, _>>()?;
    for round in 0..options.rounds {
        for &mode in &options.modes {
            rig.set_mode(mode)?;
            for i in 0..tunnels.len() {
                // Each round starts with another one, so that no configuration always follows the same.
                let at = (i + round as usize) % tunnels.len();
                rig.check()?;
                eprintln!(
                    "round {} of {}, {}, {}",
                    round + 1,
                    options.rounds,
                    mode.name(),
                    tunnels[at].name
                );
                rig.set_merging(tunnels[at].merging)?;
                (tunnels[at].way_back)(rig);
                let wanted = |step: &Step| {
                    let steps = options.steps.as_ref();
                    steps.is_none_or(|steps| steps.iter().any(|s| s == step.name()))
                };
                for step in Step::ALL.into_iter().filter(wanted) {
                    measure(rig, &tunnels[at], &floods[at], mode, step, options, results)?;
                }
            }
        }
        results.rounds_done += 1;
    }
    Ok(())
}

/// Repeats a disturbed measurement; the last one counts, and is marked.
fn measure(
    rig: &Rig,
    tunnel: &Tunnel,
    flood: &Flood,
    mode: Mode,
    step: Step,
    options: &Options,
    results: &mut Results,
) -> Result<(), Failure> {
    let mut repeats = options.repeats;
    loop {
        interrupt::check()?;
        cpu::wait_for_idle(options.idle_wait)?;
        match once(rig, tunnel, flood, step, options) {
            Ok(measured) if measured.usage.disturbed() && repeats > 0 => repeats -= 1,
            Ok(measured) => {
                results.add(
                    mode,
                    tunnel.name,
                    &measured.figures,
                    measured.usage.foreign_share,
                );
                return Ok(());
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(e) if repeats > 0 => {
                eprintln!("  {step:?} again: {e}");
                repeats -= 1;
            }
            Err(e) => {
                results.fail(mode, tunnel.name, format!("{step:?}: {e}"));
                return Ok(());
            }
        }
    }
}

fn once(
    rig: &Rig,
    tunnel: &Tunnel,
    flood: &Flood,
    step: Step,
    options: &Options,
) -> Result<Measured, Failure> {
    let run_tcp = |streams, reverse| {
        TcpRun {
            streams,
            reverse,
            time: options.tcp,
            congestion: &options.congestion,
            port: tcp::PORT,
        }
        .run(rig, tunnel.target)
    };
    match step {
        Step::Up1 => Ok(up(tunnel, run_tcp(1, false)?)),
        Step::Up4 => {
            let result = run_tcp(4, false)?;
            Ok(Measured {
                figures: vec![(Figure::Tcp4, result.gbit_s)],
                usage: result.usage,
            })
        }
        Step::Reverse => Ok(reverse(tunnel, run_tcp(1, true)?)),
        Step::Ping => ping(rig, tunnel, options, [Figure::RttP50, Figure::RttP99]),
        Step::PingLoaded => {
            let seconds = options.ping.as_secs() + 2;
            let load = TcpRun {
                streams: 4,
                reverse: false,
                time: std::time::Duration::from_secs(seconds),
                congestion: &options.congestion,
                port: tcp::PORT,
            };
            let running = load.start(rig, tunnel.target)?;
            // Slow start and the tunnel's own window are over by then.
            interrupt::sleep(std::time::Duration::from_millis(700))?;
            let measured = ping(rig, tunnel, options, [Figure::LoadedP50, Figure::LoadedP99])?;
            running.output(load.time * 3)?;
            Ok(measured)
        }
        Step::Udp => {
            let look = Look::now()?;
            let packets = flood.search(options.udp)?;
            Ok(Measured {
                figures: vec![(Figure::Udp, packets / 1e3)],
                usage: look.usage()?,
            })
        }
    }
}

fn ping(
    rig: &Rig,
    tunnel: &Tunnel,
    options: &Options,
    [p50, p99]: [Figure; 2],
) -> Result<Measured, Failure> {
    let look = Look::now()?;
    let trips = echo::ping_pong(&rig.client, tunnel.target, options.ping)?;
    Ok(Measured {
        figures: vec![(p50, trips.p50), (p99, trips.p99)],
        usage: look.usage()?,
    })
}

fn up(tunnel: &Tunnel, result: TcpResult) -> Measured {
    let mut figures = vec![
        (Figure::Tcp1, result.gbit_s),
        (Figure::CpuAll, result.usage.busy / result.gigabytes),
    ];
    for (figure, pid) in [
        (Figure::CpuClient, tunnel.client),
        (Figure::CpuGateway, tunnel.gateway),
    ] {
        figures.extend(pid.map(|pid| (figure, result.usage.process(pid) / result.gigabytes)));
    }
    Measured {
        figures,
        usage: result.usage,
    }
}

fn reverse(tunnel: &Tunnel, result: TcpResult) -> Measured {
    let mut figures = vec![
        (Figure::Reverse, result.gbit_s),
        (Figure::CpuAllReverse, result.usage.busy / result.gigabytes),
    ];
    let gateway = tunnel
        .gateway
        .map(|pid| result.usage.process(pid) / result.gigabytes);
    figures.extend(gateway.map(|cpu| (Figure::CpuGatewayReverse, cpu)));
    Measured {
        figures,
        usage: result.usage,
    }
}
