//! `--background`: a second process that stays, watched by this one until it is up.

use std::{
    env,
    io::{self, BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::failure::{Exit, Failure};

/// The line by which the process that stays says that it is up; no text for people begins so.
pub(super) const UP: &str = "\u{6}";

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
    let mut is_up = false;
    for line in BufReader::new(reader).lines() {
        let line = line.map_err(failed)?;
        is_up |= line == UP;
        if line != UP {
            say!("{line}");
        }
    }
    // The pipe ended: the process is on its own, or over.
    if is_up {
        return Ok(());
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(());
    }
    Err(Failure::silent(exit_of(status.code())))
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
