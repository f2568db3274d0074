//! Where it was measured, and how busy that was.

use std::{fs, process::Command};

use serde_json::{Value, json};

/// What a reader must know before comparing a figure with another run.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) commit: String,
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let mut names = cpuinfo
            .lines()
            .filter(|line| line.starts_with("model name"));
        let name = names.next().and_then(|line| line.split_once(':'));
        Self {
            processor: name.map_or("unknown", |(_, name)| name.trim()).to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: output("uname", &["-r"]),
            commit: output("git", &["rev-parse", "--short=12", "HEAD"]),
            date: output("date", &["-u", "+%Y-%m-%dT%H:%MZ"]),
        }
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "processor": self.processor, "cores": self.cores, "kernel": self.kernel,
            "commit": self.commit, "date": self.date,
        })
    }
}

/// Processes that want to run, mean of the last minute; above the number of cores, times are longer
/// than they need be.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(f64::NAN)
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok();
    let output = output.filter(|output| output.status.success());
    output.map_or_else(
        || "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}
