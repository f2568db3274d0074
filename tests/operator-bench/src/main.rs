//! `make bench-operator`: times, sizes and writes of masque-operator against a real API server,
//! beside their goals. The bench plays the pods; `docs/performance.md` says how to read it.

mod cluster;
mod exposition;
mod failure;
mod fleet;
mod gateways;
mod goals;
mod machine;
mod operator;
mod options;
mod run;
mod sheet;
mod stats;
mod wait;

use std::{fs, process::ExitCode};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{failure::Failure, machine::Machine, options::Options};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("masque-operator-bench: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start() -> Result<(), Failure> {
    let options = Options::from_env()?;
    // The one TLS provider of the process; a second call would only find the first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("a runtime"))?;
    runtime.block_on(async {
        let mut term = signal(SignalKind::terminate()).map_err(Failure::io("signals"))?;
        let mut int = signal(SignalKind::interrupt()).map_err(Failure::io("signals"))?;
        tokio::select! {
            done = all(&options) => done,
            _ = term.recv() => Err(Failure::Interrupted),
            _ = int.recv() => Err(Failure::Interrupted),
        }
    })
}

/// One run for each size; what is done is written even when the next one fails.
async fn all(options: &Options) -> Result<(), Failure> {
    fs::create_dir_all(&options.results).map_err(Failure::file(&options.results))?;
    let machine = Machine::describe();
    println!(
        "{} · {} cores · kernel {} · commit {} · {} · load {:.1}",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.commit,
        machine.date,
        machine::load()
    );
    println!(
        "API server, etcd and controller manager share the cores with the operator and the pods."
    );
    let path = options.results.join("operator.json");
    let mut sheets = Vec::new();
    for &size in &options.sizes {
        println!("\n{size} attachments");
        let sheet = run::run(options, size).await?;
        sheets.push(sheet);
        let runs: Vec<_> = sheets.iter().map(sheet::Sheet::json).collect();
        let json = json!({"machine": machine.json(), "runs": runs});
        fs::write(&path, format!("{json:#}\n")).map_err(Failure::file(&path))?;
    }
    for sheet in &sheets {
        print!("{}", sheet.text());
    }
    println!("\nwritten: {}", path.display());
    Ok(())
}
