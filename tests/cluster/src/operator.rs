//! The operator as a process outside the cluster.

use std::{
    fs::File,
    io::{Read as _, Seek as _},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    sync::OnceLock,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Names the folder of the programs, instead of the one beside this test.
const FOLDER_VARIABLE: &str = "MASQUE_BIN";
const PROGRAM: &str = "masque-operator";
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
        let admin = format!("127.0.0.1:{}", free_port());
        let stream = format!("127.0.0.1:{}", free_port());
        let log = tempfile::tempfile().expect("a file for the log");
        let mut command = Command::new(program());
        command
            .env("KUBECONFIG", kubeconfig)
            .args(["--image", "gateway:test", "--pod-name", name])
            .args(["--lease-namespace", namespace, "--admin", &admin])
            .args(["--stream-address", &stream])
            .args(["--stream-url", &format!("https://{stream}")])
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log.try_clone().expect("a descriptor"));
        if !everywhere {
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
        let answer = self.read("/readyz").await.unwrap_or_default();
        answer.starts_with("HTTP/1.1 200")
    }

    async fn read(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.admin).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }

    fn show_log(&mut self) {
        let mut text = Vec::new();
        if self.log.rewind().is_ok() && self.log.read_to_end(&mut text).is_ok() {
            let from = text.len().saturating_sub(SHOWN_BYTES);
            eprintln!("{}", String::from_utf8_lossy(&text[from..]));
        }
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

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// The operator of the profile this test was built with; built, once, when it is not there.
fn program() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        if let Some(folder) = std::env::var_os(FOLDER_VARIABLE) {
            return PathBuf::from(folder).join(PROGRAM);
        }
        let this = std::env::current_exe().expect("the path of this program");
        // target/PROFILE of target/PROFILE/deps/operator-…
        let folder = this.ancestors().nth(2).expect("a folder of programs");
        let path = folder.join(PROGRAM);
        if !path.exists() {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = Command::new(cargo);
            command.args(["build", "-p", PROGRAM]);
            command.current_dir(env!("CARGO_MANIFEST_DIR"));
            let status = command.status().expect("cargo");
            assert!(status.success(), "{command:?}: {status}");
        }
        path
    })
}
