//! One file a command.

pub(crate) mod attach;
pub(crate) mod completions;
pub(crate) mod detach;
pub(crate) mod doctor;
pub(crate) mod key;
pub(crate) mod ping;
pub(crate) mod status;

use std::io::{self, Write};

use crate::failure::{Exit, Failure};

/// Writes to standard output. A closed pipe (`| head`) ends the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Io,
            format!("cannot write to standard output: {error}"),
            "look where it leads: `df -h`",
        )),
        _ => Ok(()),
    }
}

/// Writes a value as indented JSON with a final newline.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(Exit::Software, format!("cannot write JSON: {error}"), ""))?;
    print(&(text + "\n"))
}
