//! `--background`: a second process that stays, watched by this one until it is up.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::failure::{Exit, Failure};

/// Starts the process that stays with the same arguments, shows its lines until it is up, and fails
/// as it does.
pub(super) fn start() -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Exit::CannotCreate,
            format!("the background process cannot be started: {error}"),
            "attach without --background",
        )
    };
    let program = env::current_exe().map_err(failed)?;
    let arguments = env::args_os()
        .skip(1)
        .filter(|argument| argument != "--background");
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut child = {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .arg("--child")
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(failed)?)
            .stderr(writer);
        command.spawn().map_err(failed)?
    };
    for line in BufReader::new(reader).lines() {
        say!("{}", line.map_err(failed)?);
    }
    // The pipe ended: the process is up and on its own, or it is over.
    match child.try_wait().map_err(failed)? {
        None => Ok(()),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Failure::silent(exit_of(status.code()))),
    }
}

/// The process has said why it failed; its status becomes ours.
fn exit_of(code: Option<i32>) -> Exit {
    let all = [
        Exit::Usage,
        Exit::NoInput,
        Exit::Unavailable,
        Exit::CannotCreate,
        Exit::Io,
        Exit::TemporaryFailure,
        Exit::NoPermission,
        Exit::Config,
    ];
    let known = all.into_iter().find(|exit| code == Some(*exit as i32));
    known.unwrap_or(Exit::Software)
}
