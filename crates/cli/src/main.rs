//! The `datum-connect` command: attaches a machine to a VPC.

mod args;
mod commands;
mod control;
mod dirs;
mod failure;
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
            eprintln!("datum-connect: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    masque_telemetry::init_logs(masque_telemetry::LogFormat::Text, &cli.global.log)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))?;
    if let Command::Completions { shell } = cli.command {
        return commands::completions::run(shell);
    }
    let dirs = Dirs::new(&cli.global)?;
    match &cli.command {
        Command::Key(args) => commands::key::run(args, &dirs),
        Command::Detach(args) => commands::detach::run(args, &dirs),
        Command::Status(args) => commands::status::run(args, &dirs),
        Command::Ping(args) => commands::ping::run(args, &dirs),
        Command::Attach(_) | Command::Doctor(_) | Command::Completions { .. } => Ok(()),
    }
}
