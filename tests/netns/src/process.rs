//! Programs inside of a namespace: their lines, signals and ends.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use masque_testkit::Netns;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::within;

/// A running program whose output goes to a file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: PathBuf,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output and standard error.
    pub output: String,
    /// How long it ran.
    pub took: Duration,
}

impl Process {
    /// Starts a program in a namespace; what it prints goes to `output`.
    #[track_caller]
    pub fn start(ns: &Netns, program: &Path, args: &[&str], output: &Path) -> Self {
        let file = fs::File::create(output).expect("a file for the output");
        let program = program.to_str().expect("a plain path");
        // The kernel ends it with this test, however this test ends.
        let mut words = vec!["--pdeathsig", "KILL", program];
        words.extend(args);
        let child = ns
            .command("setpriv", &words)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{program}: {e}"));
        Self {
            child,
            output: output.to_owned(),
        }
    }

    /// Runs a program to its end.
    #[track_caller]
    pub fn run(ns: &Netns, program: &Path, args: &[&str], output: &Path, limit: Duration) -> Ended {
        Self::start(ns, program, args, output).end(limit)
    }

    /// Everything it has printed.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).expect("it runs");
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> Ended {
        let start = Instant::now();
        let mut status: Option<ExitStatus> = None;
        within(limit, || {
            status = self.child.try_wait().expect("a child of ours");
            status.is_some()
        });
        let Some(status) = status else {
            panic!("still runs after {limit:?}:\n{}", self.output());
        };
        Ended {
            code: status.code(),
            signal: status.signal(),
            output: self.output(),
            took: start.elapsed(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- {}\n{}", self.output.display(), self.output());
        }
    }
}
