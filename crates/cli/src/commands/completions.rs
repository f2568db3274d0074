//! `datum-connect completions SHELL`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args::Cli, failure::Failure};

/// Prints the script.
pub(crate) fn run(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "datum-connect", &mut script);
    super::print(&String::from_utf8_lossy(&script))
}
