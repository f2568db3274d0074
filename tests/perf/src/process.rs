//! Programs of the rig: started inside a namespace, ended by their pid.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use masque_testkit::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{failure::Failure, interrupt};

/// How long a program may take to end by itself after SIGTERM.
const END_WITHIN: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(5);
/// How much of a log a message shows.
const TAIL_LINES: usize = 12;

/// A running program; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `ns`; what it says goes to `log`.
    pub(crate) fn start<S: AsRef<OsStr>>(
        ns: &Netns,
        program: &Path,
        args: &[S],
        env: &[(&str, &OsStr)],
        log: &Path,
    ) -> Result<Self, Failure> {
        let mut command = ns.command(&program.to_string_lossy(), args);
        command.envs(env.iter().copied());
        Self::spawn(command, program, log)
    }

    fn spawn(mut command: Command, program: &Path, log: &Path) -> Result<Self, Failure> {
        let out = File::create(log).map_err(Failure::file(log))?;
        let err = out.try_clone().map_err(Failure::file(log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(Failure::file(program))?;
        Ok(Self {
            name: program
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            child,
            log: log.into(),
        })
    }

    /// Its file's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last lines it said.
    pub(crate) fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Fails with its last words if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("ended with {status}"))),
            Err(e) => Err(self.failure(&format!("cannot be waited for: {e}"))),
        }
    }

    /// Waits for its end and returns what it said.
    pub(crate) fn output(mut self, within: Duration) -> Result<String, Failure> {
        let deadline = Instant::now() + within;
        let status = self.wait(deadline)?;
        let text = fs::read_to_string(&self.log).map_err(Failure::file(&self.log))?;
        if status.success() {
            return Ok(text);
        }
        Err(self.failure(&format!("ended with {status}")))
    }

    fn wait(&mut self, deadline: Instant) -> Result<ExitStatus, Failure> {
        loop {
            interrupt::check()?;
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Err(e) => return Err(self.failure(&format!("cannot be waited for: {e}"))),
                Ok(None) if Instant::now() >= deadline => {
                    return Err(self.failure("did not end in time"));
                }
                Ok(None) => thread::sleep(LOOK),
            }
        }
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::program(&self.name, format!("{what}\n{}", self.tail()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let Ok(pid) = i32::try_from(self.child.id()) else {
            return;
        };
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let deadline = Instant::now() + END_WITHIN;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(LOOK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where an installed program is.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|f| f.join(name)).find(|f| f.is_file())
}
