//! TCP throughput by iperf3, and what it cost.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;

use crate::{
    cpu::{Look, Usage},
    failure::Failure,
    process::{Process, which},
    rig::Rig,
};

/// How long iperf3 may take beyond its own time.
const GRACE: Duration = Duration::from_secs(8);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpRun {
    pub(crate) streams: u32,
    /// From the workload to the client.
    pub(crate) reverse: bool,
    pub(crate) time: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct TcpResult {
    pub(crate) gbit_s: f64,
    pub(crate) gigabytes: f64,
    pub(crate) usage: Usage,
}

impl TcpRun {
    /// Starts it and does not wait.
    pub(crate) fn start(&self, rig: &Rig, target: Ipv4Addr) -> Result<Process, Failure> {
        let (target, streams) = (target.to_string(), self.streams.to_string());
        let time = self.time.as_secs().max(1).to_string();
        let mut args = vec![
            "-c",
            &target,
            "-P",
            &streams,
            "-t",
            &time,
            "-J",
            "--connect-timeout",
            "3000",
        ];
        if self.reverse {
            args.push("-R");
        }
        let program = which("iperf3").unwrap_or_default();
        Process::start(
            &rig.client,
            &program,
            &args,
            &[],
            &rig.work().join("iperf3.json"),
        )
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, rig: &Rig, target: Ipv4Addr) -> Result<TcpResult, Failure> {
        let look = Look::now()?;
        let text = self.start(rig, target)?.output(self.time + GRACE)?;
        let usage = look.usage()?;
        let (gbit_s, gigabytes) = received(&text)
            .ok_or_else(|| Failure::program("iperf3", format!("no result in {text}")))?;
        Ok(TcpResult {
            gbit_s,
            gigabytes,
            usage,
        })
    }
}

/// Rate and volume as the receiver saw them.
pub(crate) fn received(json: &str) -> Option<(f64, f64)> {
    let json: Value = serde_json::from_str(json).ok()?;
    let sum = json.get("end")?.get("sum_received")?;
    let number = |name: &str| sum.get(name).and_then(Value::as_f64).filter(|n| *n > 0.0);
    Some((number("bits_per_second")? / 1e9, number("bytes")? / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_receivers_sum() {
        let json = r#"{"end":{"sum_sent":{"bytes":9e9,"bits_per_second":9e9},
            "sum_received":{"bytes":2000000000,"bits_per_second":5e9}}}"#;
        assert_eq!(received(json), Some((5.0, 2.0)));
        assert_eq!(
            received(r#"{"end":{"sum_received":{"bytes":0,"bits_per_second":0}}}"#),
            None
        );
        assert_eq!(received("connection refused"), None);
    }
}
