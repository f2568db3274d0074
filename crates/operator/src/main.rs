//! Turns VPCIngressPoints, ConnectorAttachments and VPCAccessPolicies into gateway Deployments, and
//! streams Snapshots to their pods.
//!
//! This file only dispatches; [`run`] wires the parts of a running operator.

mod addresses;
mod admin;
mod apply;
mod args;
mod certificates;
mod client;
#[cfg(test)]
mod fake;
mod fingerprints;
mod holdback;
mod index;
mod kinds;
mod leader;
mod lease;
mod lookups;
mod metrics;
mod namespaces;
mod reconcile;
mod retry;
mod run;
mod secrets;
mod status_writer;
mod statuses;
mod tokens;
mod versions;
mod view;
mod watches;
mod writer;

use std::process::ExitCode;

use clap::Parser as _;

use args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = masque_telemetry::init_logs(cli.log, &cli.log_filter) {
        eprintln!("masque-operator: {error}");
        return ExitCode::from(2);
    }
    // The one TLS provider of the process; a second call would only find the first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the operator cannot run");
            ExitCode::FAILURE
        }
    }
}
