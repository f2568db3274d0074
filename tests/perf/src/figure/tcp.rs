//! TCP throughput by iperf3, and what it cost.

use std::{fs, net::Ipv4Addr, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    cpu::{Look, Usage},
    failure::Failure,
    process::{Process, which},
    rig::Rig,
};

/// How long iperf3 may take beyond its own time.
const GRACE: Duration = Duration::from_secs(8);

/// What the kernel can run TCP by. Only those that it also lists as allowed may become a namespace's
/// default, but root chooses any of these for a socket, as iperf3 does at both ends.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Where the rig's iperf3 listens.
pub(crate) const PORT: u16 = 5201;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpRun<'a> {
    pub(crate) streams: u32,
    /// From the workload to the client.
    pub(crate) reverse: bool,
    pub(crate) time: Duration,
    /// Congestion control of both ends.
    pub(crate) congestion: &'a str,
    /// Where iperf3 listens.
    pub(crate) port: u16,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct TcpResult {
    pub(crate) gbit_s: f64,
    pub(crate) gigabytes: f64,
    pub(crate) usage: Usage,
}

impl TcpRun<'_> {
    /// Starts it and does not wait.
    pub(crate) fn start(&self, rig: &Rig, target: Ipv4Addr) -> Result<Process, Failure> {
        let (target, streams) = (target.to_string(), self.streams.to_string());
        let time = self.time.as_secs().max(1).to_string();
        let port = self.port.to_string();
        let mut args = vec![
            "-c",
            &target,
            "-p",
            &port,
            "-P",
            &streams,
            "-t",
            &time,
            "-C",
            self.congestion,
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
            &rig.work().join(format!("iperf3-{port}.json")),
        )
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, rig: &Rig, target: Ipv4Addr) -> Result<TcpResult, Failure> {
        let look = Look::now()?;
        let text = self.start(rig, target)?.output(self.time + GRACE)?;
        let usage = look.usage()?;
        let (gbit_s, gigabytes) = self.received(&text)?;
        Ok(TcpResult {
            gbit_s,
            gigabytes,
            usage,
        })
    }
}

impl TcpRun<'_> {
    /// Rate and volume, in Gbit/s and GB, that iperf3 tells of this run at its end.
    pub(crate) fn received(&self, text: &str) -> Result<(f64, f64), Failure> {
        let sums = received(text)
            .ok_or_else(|| Failure::program("iperf3", format!("no result in {text}")))?;
        if sent_by(text).is_some_and(|used| used != self.congestion) {
            let what = format!("did not run TCP by {}: {text}", self.congestion);
            return Err(Failure::program("iperf3", what));
        }
        Ok(sums)
    }
}

/// Refuses a congestion control that this kernel does not have.
pub(crate) fn check_congestion(name: &str) -> Result<(), Failure> {
    let available = fs::read_to_string(AVAILABLE).map_err(Failure::file(Path::new(AVAILABLE)))?;
    find_congestion(name, available.trim())
}

fn find_congestion(name: &str, available: &str) -> Result<(), Failure> {
    if available.split_whitespace().any(|known| known == name) {
        return Ok(());
    }
    Err(Failure::Machine(format!(
        "no TCP congestion control {name:?}; BENCH_TCP chooses one of: {available}"
    )))
}

/// Rate and volume as the receiver saw them.
fn received(json: &str) -> Option<(f64, f64)> {
    let json: Value = serde_json::from_str(json).ok()?;
    let sum = json.get("end")?.get("sum_received")?;
    let number = |name: &str| sum.get(name).and_then(Value::as_f64).filter(|n| *n > 0.0);
    Some((number("bits_per_second")? / 1e9, number("bytes")? / 1e9))
}

/// The congestion control that the sender ran by, where iperf3 tells it.
fn sent_by(json: &str) -> Option<String> {
    let json: Value = serde_json::from_str(json).ok()?;
    let name = json.get("end")?.get("sender_tcp_congestion")?.as_str()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_has_is_taken() {
        assert!(find_congestion("cubic", "reno cubic").is_ok());
        let error = find_congestion("cub", "reno cubic").unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().ends_with("one of: reno cubic"), "{error}");
    }

    #[test]
    fn reads_what_the_sender_ran_by() {
        let json = r#"{"end":{"sender_tcp_congestion":"cubic"}}"#;
        assert_eq!(sent_by(json).as_deref(), Some("cubic"));
        assert_eq!(sent_by("{}"), None);
    }

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
