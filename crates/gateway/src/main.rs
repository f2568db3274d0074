//! Terminates CONNECT-IP tunnels (RFC 9484) and bridges their packets into SRv6 VPCs.
//!
//! This file only dispatches; [`run`] wires the parts of a running gateway.

mod admin;
mod args;
mod auth;
mod certificates;
mod check;
mod command;
mod control;
mod development;
mod exit;
mod explain;
mod init;
mod local;
mod mailbox;
mod metrics;
mod operator_source;
mod report;
mod run;
mod shard;
mod sites;
mod source;
mod state;
mod supervisor;
mod sysctls;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use args::{Cli, Command};
use exit::Fatal;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal is no reason to fail harder.
            let _printed = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(exit::status::USAGE),
            };
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => fatal.report(),
    }
}

fn dispatch(cli: Cli) -> Result<(), Fatal> {
    match cli.command {
        None => run::run(&cli.run),
        Some(Command::Init { dir, hosts }) => init::init(&dir, &hosts),
        Some(Command::Check { dir }) => check::check(&dir),
        Some(Command::Sessions(args)) => local::print_sessions(&args),
        Some(Command::Status(args)) => local::print_status(&args),
        Some(Command::Explain(args)) => explain::print(&args),
        Some(Command::Sysctls { settings }) => sysctls::write(&settings),
        Some(Command::Completions { shell }) => {
            let name = "masque-gateway";
            clap_complete::generate(shell, &mut Cli::command(), name, &mut std::io::stdout());
            Ok(())
        }
    }
}
