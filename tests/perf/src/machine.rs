//! Where and what was measured.

use std::{fs, path::Path, process::Command};

/// What a reader must know before comparing a figure with another run.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib = field(&meminfo, "MemTotal")
            .and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").into(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: memory_kib.unwrap_or_default().div_ceil(1 << 20),
            kernel: output("uname", &["-r"]).unwrap_or_else(|| "unknown".into()),
            commit: commit(),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%MZ"]).unwrap_or_default(),
        }
    }
}

fn commit() -> String {
    let Some(id) = output("git", &["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".into();
    };
    let dirty = output("git", &["status", "--porcelain", "--untracked-files=no"]);
    if dirty.is_some_and(|d| !d.is_empty()) {
        format!("{id} with changes")
    } else {
        id
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) = text
        .lines()
        .find(|l| l.starts_with(name))?
        .split_once(':')?;
    Some(value.trim())
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first line a program says about its version, for the notes.
pub(crate) fn version(program: &Path, arg: &str) -> String {
    let text = output(&program.to_string_lossy(), &[arg]).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
