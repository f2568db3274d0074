//! `make bench`: every tunnel on one rig, in interleaved rounds, so that a figure is a ratio to
//! something measured in the same run and never a promise. `docs/performance.md` says how to read it.

mod cpu;
mod failure;
mod figure;
mod interrupt;
mod machine;
mod options;
mod process;
mod report;
mod rig;
mod rounds;
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
        other => Err(Failure::Usage(format!(
            "no mode {other:?}; there is table (the default)"
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
    }
    outcome
}
