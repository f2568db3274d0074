//! What passes through: echo servers, exchanges over TCP, ping.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use masque_testkit::Netns;

use crate::wait::patient;

/// A connection over the fabric takes milliseconds; so long is waited for it.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// A stalled exchange fails after this.
const STALL_MAX: Duration = Duration::from_secs(10);
/// What a [`Flow`] sends each time.
const RECORD_BYTES: usize = 64;
/// Between two records of a [`Flow`].
const RECORD_EVERY: Duration = Duration::from_millis(10);

/// A TCP server that sends back what it gets, and remembers who came.
#[derive(Debug)]
pub struct Echo {
    listener: TcpListener,
    peers: Arc<Mutex<Vec<IpAddr>>>,
}

impl Echo {
    /// Listens in a namespace.
    #[track_caller]
    pub fn start(ns: &Netns, address: SocketAddr) -> Self {
        let listener = ns.enter(|| TcpListener::bind(address));
        let listener = listener.unwrap_or_else(|e| panic!("cannot listen on {address}: {e}"));
        let peers = Arc::new(Mutex::new(Vec::new()));
        let (accepting, seen) = (listener.try_clone().expect("a descriptor"), peers.clone());
        thread::spawn(move || {
            while let Ok((stream, peer)) = accepting.accept() {
                lock(&seen).push(peer.ip().to_canonical());
                thread::spawn(move || echo(stream));
            }
        });
        Self { listener, peers }
    }

    /// Listens on a port of both families.
    #[track_caller]
    pub fn on_port(ns: &Netns, port: u16) -> Self {
        Self::start(ns, SocketAddr::from(([0_u16; 8], port)))
    }

    /// Addresses of those who connected.
    pub fn peers(&self) -> Vec<IpAddr> {
        lock(&self.peers).clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // The thread in accept() ends.
        let fd = self.listener.as_raw_fd();
        let _ = nix::sys::socket::shutdown(fd, nix::sys::socket::Shutdown::Both);
    }
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 65536];
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    while let Ok(length @ 1..) = read_some(&mut stream, &mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// A read with a timeout ends when a signal comes to this process, and is not begun anew by the kernel
/// (signal(7)).
fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Sends `bytes` to an echo server and compares what comes back.
///
/// # Errors
/// No connection, a stall, or other bytes.
pub fn exchange(ns: &Netns, to: SocketAddr, bytes: usize) -> io::Result<Duration> {
    let start = Instant::now();
    let mut stream = ns.enter(|| TcpStream::connect_timeout(&to, patient(CONNECT_MAX)))?;
    stream.set_read_timeout(Some(patient(STALL_MAX)))?;
    stream.set_write_timeout(Some(patient(STALL_MAX)))?;
    let mut writer = stream.try_clone()?;
    let pattern = |at: usize| (at % 251) as u8;
    let sender = thread::spawn(move || -> io::Result<()> {
        let block: Vec<u8> = (0..251 * 256).map(pattern).collect();
        let mut sent = 0;
        while sent < bytes {
            let from = sent % 251;
            let length = (bytes - sent).min(block.len() - from);
            writer.write_all(&block[from..from + length])?;
            sent += length;
        }
        writer.shutdown(Shutdown::Write)
    });
    let mut received = 0;
    let mut buffer = vec![0; 65536];
    while received < bytes {
        let length = read_some(&mut stream, &mut buffer)?;
        if length == 0 {
            return Err(io::Error::other(format!("ended after {received} bytes")));
        }
        let good = buffer[..length]
            .iter()
            .enumerate()
            .all(|(i, byte)| *byte == pattern(received + i));
        if !good {
            return Err(io::Error::other("other bytes came back"));
        }
        received += length;
    }
    sender
        .join()
        .map_err(|_| io::Error::other("the sender panicked"))??;
    Ok(start.elapsed())
}

/// Whether a TCP connection opens; the error otherwise.
///
/// # Errors
/// What the kernel says, a timeout after `limit` among it.
pub fn connects(ns: &Netns, to: SocketAddr, limit: Duration) -> io::Result<()> {
    ns.enter(|| TcpStream::connect_timeout(&to, limit).map(drop))
}

/// One echo request must be answered within a few tries.
#[track_caller]
pub fn ping(ns: &Netns, to: IpAddr, more: &[&str]) {
    let to = to.to_string();
    let mut args = vec!["-c", "1", "-W", "1"];
    args.extend(more);
    args.push(&to);
    let mut last = String::new();
    for _ in 0..3 {
        let output = ns.command("ping", &args).output().expect("ping runs");
        if output.status.success() {
            return;
        }
        last = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
    }
    panic!("no answer of {to} in {}:\n{last}", ns.name());
}

/// No echo request is answered; what ping said about it.
#[track_caller]
pub fn ping_fails(ns: &Netns, to: IpAddr, more: &[&str]) -> String {
    let to = to.to_string();
    let mut args = vec!["-c", "1", "-W", "1"];
    args.extend(more);
    args.push(&to);
    let output = ns.command("ping", &args).output().expect("ping runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{to} answers:\n{text}");
    text
}

/// A TCP connection that exchanges a record every few milliseconds until it is dropped.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    last: Instant,
    longest: Duration,
    records: u64,
    over: bool,
}

impl Flow {
    /// Connects to an echo server.
    #[track_caller]
    pub fn start(ns: &Netns, to: SocketAddr) -> Self {
        let stream = ns.enter(|| TcpStream::connect_timeout(&to, patient(CONNECT_MAX)));
        let stream = stream.unwrap_or_else(|e| panic!("{to} from {}: {e}", ns.name()));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            state: Mutex::new(State {
                last: Instant::now(),
                longest: Duration::ZERO,
                records: 0,
                over: false,
            }),
        });
        let inside = shared.clone();
        let thread = thread::spawn(move || {
            let _ = go_on(stream, &inside);
            lock(&inside.state).over = true;
        });
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Since when nothing came back.
    pub fn silent(&self) -> Duration {
        lock(&self.shared.state).last.elapsed()
    }

    /// The longest time between two records so far.
    pub fn longest_gap(&self) -> Duration {
        let state = *lock(&self.shared.state);
        state.longest.max(state.last.elapsed())
    }

    /// Records that came back.
    pub fn records(&self) -> u64 {
        lock(&self.shared.state).records
    }

    /// Whether the connection ended.
    pub fn is_over(&self) -> bool {
        lock(&self.shared.state).over
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn go_on(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut number = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        number += 1;
        let mut record = [0; RECORD_BYTES];
        record[..8].copy_from_slice(&number.to_be_bytes());
        stream.write_all(&record)?;
        let mut back = [0; RECORD_BYTES];
        read_all(&mut stream, &mut back, shared)?;
        if back != record {
            return Err(io::Error::other("another record came back"));
        }
        let mut state = lock(&shared.state);
        state.longest = state.longest.max(state.last.elapsed());
        state.last = Instant::now();
        state.records += 1;
        drop(state);
        thread::sleep(RECORD_EVERY);
    }
    Ok(())
}

/// `read_exact` that looks at `stop` meanwhile.
fn read_all(stream: &mut TcpStream, mut rest: &mut [u8], shared: &Shared) -> io::Result<()> {
    while !rest.is_empty() {
        match read_some(stream, rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => rest = &mut rest[length..],
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                if shared.stop.load(Ordering::Relaxed) {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
