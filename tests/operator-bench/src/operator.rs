//! The operator as a process: its metrics, its memory, its processor time.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use masque_testkit::free_port;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{exposition::Exposition, failure::Failure, options::Options, wait::until};

const PROGRAM: &str = "masque-operator";
/// Where it keeps its Lease and its CA.
pub(crate) const NAMESPACE: &str = "masque-system";
/// `/proc/PID/stat` counts in these (`USER_HZ`, the same on every architecture of Linux we build for).
const TICKS_PER_SECOND: f64 = 100.0;
/// Nothing is under way when nothing was written for so long.
const QUIET: Duration = Duration::from_secs(2);

/// An operator process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Operator {
    child: Child,
    admin: String,
    started: Instant,
}

/// Memory of a process, in megabytes (10⁶ bytes).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident_mb: f64,
    /// The most since [`Operator::forget_peak`].
    pub(crate) peak_mb: f64,
}

impl Operator {
    /// Starts one for all namespaces; pods dial `stream`.
    pub(crate) fn start(
        options: &Options,
        kubeconfig: &Path,
        stream: u16,
        log: &Path,
    ) -> Result<Self, Failure> {
        let program = options.programs.join(PROGRAM);
        let admin = format!("127.0.0.1:{}", free_port());
        let log = File::options().create(true).append(true).open(log);
        let log = log.map_err(Failure::io("the operator's log"))?;
        let address = format!("127.0.0.1:{stream}");
        let started = Instant::now();
        let child = Command::new(&program)
            .env("KUBECONFIG", kubeconfig)
            .args(["--image", "gateway:bench", "--pod-name", "bench"])
            .args(["--lease-namespace", NAMESPACE, "--admin", &admin])
            .args(["--stream-address", &address])
            .args(["--stream-url", &format!("https://{address}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(Failure::io("a descriptor"))?)
            .stderr(log)
            .spawn()
            .map_err(Failure::file(&program))?;
        Ok(Self {
            child,
            admin,
            started,
        })
    }

    /// Waits for `/readyz`; the time since it started.
    pub(crate) async fn ready(&self, limit: Duration) -> Result<Duration, Failure> {
        until("the operator is ready", limit, async || {
            Ok(self
                .read("/readyz")
                .await
                .is_some_and(|it| it.starts_with("HTTP/1.1 200")))
        })
        .await?;
        Ok(self.started.elapsed())
    }

    /// Waits until it leads; the time since it started.
    pub(crate) async fn leads(&self, limit: Duration) -> Result<Duration, Failure> {
        until("the operator leads", limit, async || {
            Ok(self.metrics().await.sum("masque_operator_leader", &[]) > 0.0)
        })
        .await?;
        Ok(self.started.elapsed())
    }

    /// Waits until this many objects of a kind are Ready and none is not.
    pub(crate) async fn all_ready(
        &self,
        kind: &str,
        count: u32,
        limit: Duration,
    ) -> Result<Duration, Failure> {
        let what = format!("{count} of {kind} are Ready");
        until(&what, limit, async || {
            let metrics = self.metrics().await;
            let of = |ready| {
                metrics.sum(
                    "masque_operator_managed_objects",
                    &[("kind", kind), ("ready", ready)],
                )
            };
            Ok(of("true") == f64::from(count) && of("false") == 0.0)
        })
        .await
    }

    /// Waits until nothing was written for [`QUIET`] and nothing waits for its turn.
    pub(crate) async fn quiet(&self, limit: Duration) -> Result<(), Failure> {
        let begun = Instant::now();
        let mut last = (f64::NAN, Instant::now());
        while last.1.elapsed() < QUIET {
            let metrics = self.metrics().await;
            let now = metrics.own_writes();
            let waiting = metrics.sum("masque_operator_workqueue_depth", &[]);
            if now != last.0 || waiting > 0.0 {
                last = (now, Instant::now());
            }
            if begun.elapsed() > limit {
                let what = "the operator stops writing".to_owned();
                return Err(Failure::Late { what, limit });
            }
            tokio::time::sleep(QUIET / 10).await;
        }
        Ok(())
    }

    /// Its metrics; none while it does not answer.
    pub(crate) async fn metrics(&self) -> Exposition {
        let text = self.read("/metrics").await.unwrap_or_default();
        Exposition::parse(&text, &["masque_operator_"])
    }

    /// Resident memory and its peak.
    pub(crate) fn memory(&self) -> Result<Memory, Failure> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(Failure::io(&path))?;
        let mb = |name: &str| -> Result<f64, Failure> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<f64>().ok());
            let missing = || Failure::Wrong(format!("{path} has no {name}"));
            Ok(kib.ok_or_else(missing)? * 1024.0 / 1e6)
        };
        Ok(Memory {
            resident_mb: mb("VmRSS")?,
            peak_mb: mb("VmHWM")?,
        })
    }

    /// The peak begins anew at what is resident now.
    pub(crate) fn forget_peak(&self) -> Result<(), Failure> {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        fs::write(&path, "5").map_err(Failure::io(&path))
    }

    /// Processor time that it used, in seconds.
    pub(crate) fn processor_s(&self) -> Result<f64, Failure> {
        let path = format!("/proc/{}/stat", self.child.id());
        let text = fs::read_to_string(&path).map_err(Failure::io(&path))?;
        // The program's name may hold spaces: what follows its bracket is regular.
        let rest = text.rsplit(')').next().unwrap_or_default();
        let mut ticks = rest.split_whitespace().skip(11).take(2);
        let mut next = || ticks.next()?.parse::<f64>().ok();
        match (next(), next()) {
            (Some(user), Some(system)) => Ok((user + system) / TICKS_PER_SECOND),
            _ => Err(Failure::Wrong(format!("{path} cannot be read"))),
        }
    }

    /// Asks it to end, and waits.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").arg(&pid).status();
        asked.map_err(Failure::io("kill"))?;
        let begun = Instant::now();
        let limit = Duration::from_secs(30);
        while self
            .child
            .try_wait()
            .map_err(Failure::io(PROGRAM))?
            .is_none()
        {
            if begun.elapsed() > limit {
                let what = "the operator ends".to_owned();
                return Err(Failure::Late { what, limit });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn read(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Exposition {
    /// Writes that the operator counts: statuses and children.
    pub(crate) fn own_writes(&self) -> f64 {
        self.sum("masque_operator_status_writes_total", &[])
            + self.sum("masque_operator_child_writes_total", &[])
    }
}
