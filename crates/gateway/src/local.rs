//! The control socket: `masque-gateway sessions`, `status` and `explain` ask a running gateway.

use std::{
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream as BlockingStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};

use crate::{
    args::AskArgs,
    control::Control,
    exit::Fatal,
    explain,
    report::{Ask, SessionReport, StatusReport, human_age, human_bytes},
};

/// A question is one short line.
pub(crate) const MAX_ASK_BYTES: u64 = 1024;
/// The longest answer a client of the socket reads.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;
/// Connections answered at one time; more wait.
const MAX_CONNECTIONS: usize = 8;
/// A peer that does not finish its question in this time is left.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A folder beside the socket where it gets its mode before anybody can reach it.
const ANTEROOM: &str = ".control";

/// Binds the socket, for this user only; a stale one of a process that is gone is replaced.
///
/// # Errors
/// [`Fatal::StateTaken`] when another gateway answers on it, else what the operating system says.
pub(crate) fn bind(path: &Path) -> Result<UnixListener, Fatal> {
    if BlockingStream::connect(path).is_ok() {
        let path = path.parent().unwrap_or(path).to_owned();
        return Err(Fatal::StateTaken { path });
    }
    replace(path).map_err(|error| {
        let path = path.to_owned();
        Fatal::Write { path, error }
    })
}

fn replace(path: &Path) -> io::Result<UnixListener> {
    let anteroom = path.with_file_name(ANTEROOM);
    match std::fs::remove_dir_all(&anteroom) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&anteroom)?;
    let hidden = anteroom.join("s");
    let bound = UnixListener::bind(&hidden).and_then(|listener| {
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&hidden, path)?;
        Ok(listener)
    });
    // What is left of it harms nobody, and the next start removes it.
    let _harmless = std::fs::remove_dir_all(&anteroom);
    bound
}

/// Answers until the process ends.
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let control = Arc::clone(&control);
        tokio::spawn(async move {
            let answered = tokio::time::timeout(ASK_TIMEOUT, answer(stream, &control)).await;
            if !matches!(answered, Ok(Ok(()))) {
                tracing::debug!("a control connection ended without an answer");
            }
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, control: &Control) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    tokio::io::BufReader::new(reader.take(MAX_ASK_BYTES))
        .read_line(&mut line)
        .await?;
    let text = match serde_json::from_str::<Ask>(line.trim()) {
        Ok(Ask::Sessions) => serde_json::to_string(&control.sessions().await)?,
        Ok(Ask::Status) => serde_json::to_string(&control.status().await)?,
        Ok(Ask::Explain(question)) => {
            serde_json::to_string(&explain::answer(&question, &control.tables()))?
        }
        Err(error) => serde_json::json!({ "error": error.to_string() }).to_string(),
    };
    writer.write_all(text.as_bytes()).await?;
    writer.write_all(b"\n").await
}

fn ask<T: DeserializeOwned>(path: &Path, question: &Ask) -> io::Result<T> {
    let mut stream = BlockingStream::connect(path)?;
    stream.set_read_timeout(Some(ASK_TIMEOUT))?;
    stream.write_all(serde_json::to_string(question)?.as_bytes())?;
    stream.write_all(b"\n")?;
    read_answer(stream, MAX_ANSWER_BYTES)
}

/// The answer is one line of JSON.
fn read_answer<T: DeserializeOwned>(from: impl Read, max_bytes: u64) -> io::Result<T> {
    let mut answer = String::new();
    BufReader::new(from.take(max_bytes)).read_line(&mut answer)?;
    serde_json::from_str(&answer).map_err(io::Error::from)
}

fn socket(args: &AskArgs) -> Result<PathBuf, Fatal> {
    args.socket().ok_or_else(|| {
        Fatal::Usage(
            "which gateway? give --manifests DIR or --socket PATH (or set MASQUE_GATEWAY_SOCKET)"
                .to_owned(),
        )
    })
}

/// Asks the gateway that `args` names.
///
/// # Errors
/// [`Fatal::Usage`] when they name none, [`Fatal::NotRunning`] when it does not answer.
pub(crate) fn asked<T: DeserializeOwned>(args: &AskArgs, question: &Ask) -> Result<T, Fatal> {
    let path = socket(args)?;
    ask(&path, question).map_err(|error| Fatal::NotRunning { path, error })
}

/// Prints an answer for machines.
///
/// # Errors
/// [`Fatal::Os`] when it has no JSON form.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Result<(), Fatal> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Fatal::Os {
        what: "cannot write JSON",
        error: e.into(),
    })?;
    println!("{text}");
    Ok(())
}

/// `masque-gateway sessions`.
///
/// # Errors
/// [`Fatal::NotRunning`] when no gateway answers.
pub(crate) fn print_sessions(args: &AskArgs) -> Result<(), Fatal> {
    let sessions: Vec<SessionReport> = asked(args, &Ask::Sessions)?;
    if args.json {
        return print_json(&sessions);
    }
    if sessions.is_empty() {
        println!("No sessions.");
        return Ok(());
    }
    println!(
        "{:<6} {:<24} {:<24} {:<32} {:<24} {:>6} {:>9} {:>10} {:>10} {:>7}",
        "ID",
        "ATTACHMENT",
        "VPC",
        "ADDRESSES",
        "REMOTE",
        "AGE",
        "RTT",
        "TO-VPC",
        "FROM-VPC",
        "DROPS"
    );
    for s in &sessions {
        let addresses: Vec<String> = s.addresses.iter().map(|a| a.addr().to_string()).collect();
        println!(
            "{:<6} {:<24} {:<24} {:<32} {:<24} {:>6} {:>9} {:>10} {:>10} {:>7}",
            s.id,
            s.attachment,
            s.vpc,
            addresses.join(","),
            s.remote,
            human_age(s.age_s),
            format!("{:.1}ms", s.rtt_us as f64 / 1000.0),
            human_bytes(s.to_vpc.bytes),
            human_bytes(s.from_vpc.bytes),
            s.drops.values().sum::<u64>(),
        );
    }
    Ok(())
}

/// `masque-gateway status`.
///
/// # Errors
/// [`Fatal::NotRunning`] when no gateway answers.
pub(crate) fn print_status(args: &AskArgs) -> Result<(), Fatal> {
    let status: StatusReport = asked(args, &Ask::Status)?;
    if args.json {
        return print_json(&status);
    }
    let ready = status
        .not_ready
        .as_deref()
        .map_or("ready".to_owned(), |r| format!("NOT READY: {r}"));
    println!(
        "masque-gateway {}, up {}: {ready}",
        status.version,
        human_age(status.uptime_s)
    );
    let ports: Vec<String> = status.ports.iter().map(u16::to_string).collect();
    println!(
        "UDP ports: {}   packet threads: {}",
        ports.join(", "),
        status.shards
    );
    for vpc in &status.vpcs {
        println!(
            "\n{} (VPCIngressPoint {}, snapshot {})",
            vpc.vpc, vpc.ingress_point, vpc.snapshot_version
        );
        println!(
            "  device {}, decapsulation by {}",
            vpc.device, vpc.decapsulation
        );
        println!(
            "  {} attachment(s), {} session(s)",
            vpc.attachments, vpc.sessions
        );
        for pool in &vpc.pools {
            println!(
                "  pool {}: {} of {} addresses held",
                pool.prefix, pool.allocated, pool.total
            );
        }
    }
    if !status.problems.is_empty() {
        println!("\nProblems in the manifests:");
        for problem in &status.problems {
            println!("  {problem}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use masque_testkit::once_free;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let first = bind(&path).unwrap();
        let taken = bind(&path).unwrap_err();
        assert_eq!(taken.status(), crate::exit::status::UNAVAILABLE);
        let says = format!(
            "another gateway runs on the state folder {}",
            dir.path().display()
        );
        assert!(taken.to_string().starts_with(&says), "{taken}");
        drop(first);
        assert!(path.exists(), "what a crash leaves");
        let _second = once_free(
            |error| matches!(error, Fatal::StateTaken { .. }),
            || bind(&path),
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(BlockingStream::connect(&path).is_ok());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_answer_without_end_is_not_read_for_ever() {
        let endless = io::repeat(b' ');
        let error = read_answer::<StatusReport>(endless, 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read_answer::<u8>(&b"7\nmore"[..], 2).unwrap(), 7);
    }
}
