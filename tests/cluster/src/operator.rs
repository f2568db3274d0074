//! The operator as a process outside the cluster.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Child, Command, ExitStatus},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{free_port, program};

/// How much of its log is shown when a test fails.
const SHOWN_BYTES: usize = 6000;

/// An operator process; killed when dropped. Its log is shown when the test fails.
#[derive(Debug)]
pub struct Operator {
    child: Child,
    admin: String,
    log: File,
}

impl Operator {
    /// Starts one that keeps its Lease in `namespace` and serves that namespace only, or all of
    /// them when `everywhere`.
    pub fn start(kubeconfig: &Path, namespace: &str, name: &str, everywhere: bool) -> Self {
        let serves = (!everywhere).then_some(namespace);
        Self::start_at(kubeconfig, namespace, serves, name, free_port())
    }

    /// [`Operator::start`] that serves another namespace, or all of them, and listens for pods on a
    /// port where they find the next operator too.
    pub fn start_at(
        kubeconfig: &Path,
        lease_namespace: &str,
        serves: Option<&str>,
        name: &str,
        stream_port: u16,
    ) -> Self {
        let admin = format!("127.0.0.1:{}", free_port());
        let stream = format!("127.0.0.1:{stream_port}");
        let log = tempfile::tempfile().expect("a file for the log");
        let mut command = Command::new(program("masque-operator"));
        command
            .env("KUBECONFIG", kubeconfig)
            .args(["--image", "gateway:test", "--pod-name", name])
            .args(["--lease-namespace", lease_namespace, "--admin", &admin])
            .args(["--stream-address", &stream])
            .args(["--stream-url", &format!("https://{stream}")])
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log.try_clone().expect("a descriptor"));
        if let Some(namespace) = serves {
            command.args(["--namespace", namespace]);
        }
        let child = command.spawn().expect("the operator starts");
        Self { child, admin, log }
    }

    /// Ends it like a power failure.
    pub fn kill(mut self) {
        self.child.kill().expect("it still ran");
    }

    /// Asks it to end, and waits.
    pub fn stop(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("it still ran");
        self.child.wait().expect("its end")
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether this one holds the Lease.
    pub async fn leads(&self) -> bool {
        self.sum("masque_operator_leader", &[]).await > 0.0
    }

    /// The sum of the series of one metric that carry all these labels.
    pub async fn sum(&self, metric: &str, labels: &[&str]) -> f64 {
        let text = self.read("/metrics").await.unwrap_or_default();
        let lines = text.lines().filter(|line| {
            let named = line.strip_prefix(metric);
            named.is_some_and(|rest| rest.starts_with([' ', '{']))
                && labels.iter().all(|label| line.contains(label))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// Whether `/readyz` says yes.
    pub async fn is_ready(&self) -> bool {
        let answer = self.readiness().await;
        answer.starts_with("HTTP/1.1 200")
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> String {
        self.read("/readyz").await.unwrap_or_default()
    }

    async fn read(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        let mut at = 0;
        let mut part = [0; 8192];
        // Not by the descriptor's position: the process writes at it.
        while let Ok(read @ 1..) = self.log.read_at(&mut part, at) {
            text.extend_from_slice(&part[..read]);
            at += read as u64;
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    fn show_log(&self) {
        let text = self.log();
        let from = text.ceil_char_boundary(text.len().saturating_sub(SHOWN_BYTES));
        eprintln!("{}", &text[from..]);
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // It may have ended already.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
        if std::thread::panicking() {
            self.show_log();
        }
    }
}
