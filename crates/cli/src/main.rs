//! The `datum-connect` command: attaches a machine to a VPC.

/// A line on standard error. Unlike `eprintln!` it does not panic when nobody reads any more, say
/// because the terminal of a background process was closed.
macro_rules! say {
    ($($arguments:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($arguments)*);
    }};
}

mod args;
mod cluster;
mod commands;
mod control;
mod dirs;
mod failure;
mod host;
mod profile;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};

use crate::{
    args::{Cli, Command},
    dirs::Dirs,
    failure::{Exit, Failure},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(Exit::Usage as u8),
            };
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.is_silent() {
                say!("datum-connect: {failure}");
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    masque_telemetry::init_logs(masque_telemetry::LogFormat::Text, &cli.global.log)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))?;
    let dirs = || Dirs::new(&cli.global);
    match &cli.command {
        Command::Attach(args) => commands::attach::run(args, &dirs()?),
        Command::Key(args) => commands::key::run(args, &dirs()?),
        Command::Detach(args) => commands::detach::run(args, &dirs()?),
        Command::Status(args) => commands::status::run(args, &dirs()?),
        Command::Ping(args) => commands::ping::run(args, &dirs()?),
        Command::Doctor(args) => commands::doctor::run(args, &dirs()?),
        Command::Completions { shell } => commands::completions::run(*shell),
    }
}
