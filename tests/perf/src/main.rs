//! `make bench`: every tunnel on one rig, in interleaved rounds, so that a figure is a ratio to
//! something measured in the same run and never a promise. `docs/performance.md` says how to read it.

mod cpu;
mod failure;
mod figure;
mod goals;
mod interrupt;
mod machine;
mod options;
mod process;
mod report;
mod rig;
mod rounds;
mod scale;
mod shards;
mod sheet;
mod stats;
mod tunnel;

use std::process::ExitCode;

use masque_testkit::Lab;

use crate::{failure::Failure, options::Options};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let mode = args.next().unwrap_or_else(|| "table".into());
    let done = match mode.as_str() {
        "table" => table(),
        "scale" => apart(scale::run),
        "shards" => apart(shards::run),
        "goals" => Options::from_env().map(|options| goals::print(&options)),
        "hold" => hold(),
        other => Err(Failure::Usage(format!(
            "no mode {other:?}; there are table (the default), scale, shards, goals and hold"
        ))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("masque-perf: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// The main table: all configurations, all modes, all figures.
fn table() -> Result<(), Failure> {
    let options = Options::from_env()?;
    Lab::available().map_err(|skip| Failure::Machine(skip.to_string()))?;
    interrupt::watch()?;
    let mut rig = rig::Rig::build(&options.work)?;
    let tunnels = tunnel::all(&mut rig, &options)?;
    let mut results = report::Results::new(&options, &tunnels);
    let outcome = rounds::run(&mut rig, &tunnels.up, &options, &mut results);
    // What was measured before an interruption is still worth its paper.
    if results.any() {
        print!("{}", report::text(&results));
        report::write_json(&results, &options.json)?;
        println!("\nwritten: {}", options.json.display());
        goals::print(&options);
    }
    outcome
}

/// A run with rigs of its own, beside the table: sessions, edits and rules, or packet threads.
fn apart(run: fn(&Options) -> Result<(), Failure>) -> Result<(), Failure> {
    let options = Options::from_env()?;
    Lab::available().map_err(|skip| Failure::Machine(skip.to_string()))?;
    interrupt::watch()?;
    run(&options)?;
    goals::print(&options);
    Ok(())
}

/// Keeps the rig up until a signal, for measurements and profiles by hand.
fn hold() -> Result<(), Failure> {
    let options = Options::from_env()?;
    Lab::available().map_err(|skip| Failure::Machine(skip.to_string()))?;
    interrupt::watch()?;
    let mut rig = rig::Rig::build(&options.work)?;
    let tunnels = tunnel::all(&mut rig, &options)?;
    if let Some(&mode) = options.modes.first() {
        rig.set_mode(mode)?;
    }
    if let Some(first) = tunnels.up.first() {
        rig.set_merging(first.merging)?;
        (first.way_back)(&rig);
    }
    for ns in [&rig.client, &rig.gateway, &rig.workload] {
        println!("namespace {}", ns.name());
    }
    for tunnel in &tunnels.up {
        figure::echo::serve(&rig.workload, tunnel.target)?;
        println!(
            "{}: {}, client pid {:?}, gateway pid {:?}",
            tunnel.name, tunnel.target, tunnel.client, tunnel.gateway
        );
    }
    for (name, why) in &tunnels.skipped {
        println!("SKIPPED {name}: {why}");
    }
    loop {
        rig.check()?;
        interrupt::sleep(std::time::Duration::from_secs(1))?;
    }
}
