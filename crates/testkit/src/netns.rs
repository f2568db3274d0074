//! Laboratories of network namespaces, veth pairs and processes that vanish with their owner.
//!
//! Works as root, and as an ordinary user inside
//! `unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && …'`.

use std::{
    ffi::OsStr,
    fmt, fs,
    io::Write,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps its mounts.
const NETNS_DIR: &str = "/run/netns";
/// Every namespace of every laboratory starts with it; the pid of its owner follows.
const PREFIX: &str = "mq-";
/// `ip netns add` can lose a race for the first mount of [`NETNS_DIR`] against another process.
const ADD_ATTEMPTS: u32 = 5;

/// The kernel takes milliseconds; an emulated one some more.
const LOCAL_ROUTE_WITHIN: Duration = Duration::from_secs(10);

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Why a laboratory cannot be built here; print it and return from the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Owns namespaces and the processes in them; both are gone after drop, also on a panic.
#[derive(Debug)]
pub struct Lab {
    namespaces: Vec<Netns>,
    children: Vec<Child>,
}

/// One network namespace of a [`Lab`]; cheap to clone, does not keep the namespace alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Lab {
    /// Whether this machine and user can build a laboratory.
    pub fn available() -> Result<(), Skip> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Skip(
                "SKIPPED: needs root, or `unshare -Urnm` with a tmpfs on /run".into(),
            ));
        }
        if Command::new("ip").arg("-V").output().is_err() {
            return Err(Skip(
                "SKIPPED: needs the `ip` command (Debian: iproute2)".into(),
            ));
        }
        let probe = unique_name("probe");
        let added = Command::new("ip").args(["netns", "add", &probe]).output();
        let _ = Command::new("ip").args(["netns", "del", &probe]).output();
        match added {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(Skip(format!(
                "SKIPPED: cannot make a network namespace here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
            Err(e) => Err(Skip(format!("SKIPPED: cannot run ip: {e}"))),
        }
    }

    /// An empty laboratory. Also removes the namespaces of test processes that were killed.
    #[track_caller]
    pub fn new() -> Self {
        remove_orphans();
        Self {
            namespaces: Vec::new(),
            children: Vec::new(),
        }
    }

    /// A new host: `lo` up, no address, duplicate address detection, router advertisements and
    /// reverse-path filters off, `seg6_enabled` on for every interface it will get.
    #[track_caller]
    pub fn host(&mut self, role: &str) -> Netns {
        let ns = Netns {
            name: unique_name(role),
        };
        add_namespace(&ns.name);
        self.namespaces.push(ns.clone());
        ns.ip(&["link", "set", "lo", "up"]);
        ns.enter(|| {
            for conf in ["all", "default", "lo"] {
                write_sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0");
                write_sysctl(&format!("net/ipv6/conf/{conf}/accept_ra"), "0");
                write_sysctl(&format!("net/ipv4/conf/{conf}/rp_filter"), "0");
                if Path::new("/proc/sys/net/ipv6/conf/all/seg6_enabled").exists() {
                    write_sysctl(&format!("net/ipv6/conf/{conf}/seg6_enabled"), "1");
                }
            }
        });
        ns
    }

    /// A [`Lab::host`] that also forwards IPv4 and IPv6.
    #[track_caller]
    pub fn router(&mut self, role: &str) -> Netns {
        let ns = self.host(role);
        ns.sysctl("net.ipv4.ip_forward", "1");
        ns.sysctl("net.ipv6.conf.all.forwarding", "1");
        ns.sysctl("net.ipv6.conf.default.forwarding", "1");
        ns
    }

    /// Joins two namespaces by a veth pair, both ends up.
    #[track_caller]
    pub fn veth(&mut self, (a, a_name): (&Netns, &str), (b, b_name): (&Netns, &str), mtu: u32) {
        let mtu = mtu.to_string();
        a.ip(&[
            "link", "add", a_name, "mtu", &mtu, "type", "veth", "peer", "name", b_name, "netns",
            &b.name, "mtu", &mtu,
        ]);
        a.ip(&["link", "set", a_name, "up"]);
        b.ip(&["link", "set", b_name, "up"]);
    }

    /// Starts a program inside a namespace; it is killed with the laboratory. Returns its pid.
    #[track_caller]
    pub fn spawn<S: AsRef<OsStr>>(&mut self, ns: &Netns, program: &str, args: &[S]) -> u32 {
        let child = ns
            .command(program, args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {program} in {}: {e}", ns.name));
        let pid = child.id();
        self.children.push(child);
        pid
    }

    /// Kills one process that [`Lab::spawn`] started and waits for its end.
    pub fn kill(&mut self, pid: u32) {
        if let Some(at) = self.children.iter().position(|c| c.id() == pid) {
            end(self.children.swap_remove(at));
        }
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for child in self.children.drain(..) {
            end(child);
        }
        for ns in self.namespaces.drain(..) {
            let _ = Command::new("ip").args(["netns", "del", &ns.name]).output();
        }
    }
}

impl Netns {
    /// The name as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip -n NAME ARGS…` and returns what it printed.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> String {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(args);
        output_of(&mut command)
    }

    /// Adds an address (`10.0.0.1/24`) without duplicate address detection. Where the link is up,
    /// packets to it are delivered when this returns.
    #[track_caller]
    pub fn address(&self, link: &str, address: &str) {
        let mut args = vec!["address", "add", address, "dev", link];
        let ipv6 = address.contains(':');
        if ipv6 {
            args.push("nodad");
        }
        self.ip(&args);
        if ipv6 && !self.ip(&["link", "show", link, "up"]).is_empty() {
            self.wait_for_local_route(address.split('/').next().unwrap_or(address));
        }
    }

    /// The kernel makes an IPv6 address's local route from a work queue, later than the address and
    /// its prefix route; in between it drops what arrives.
    #[track_caller]
    fn wait_for_local_route(&self, address: &str) {
        let deadline = Instant::now() + LOCAL_ROUTE_WITHIN;
        let show = ["-6", "route", "show", "table", "local", "exact", address];
        while self.ip(&show).is_empty() {
            assert!(
                Instant::now() < deadline,
                "no local route to {address} in {}",
                self.name
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Adds a route; the words are those of `ip route add`, the family is taken from the
    /// destination (`2001:db8::/32 via fd00::1 dev eth0`).
    #[track_caller]
    pub fn route(&self, route: &str) {
        let words: Vec<&str> = route.split_whitespace().collect();
        let ipv6 = words.first().is_some_and(|w| w.contains(':'));
        let family = if ipv6 { "-6" } else { "-4" };
        let mut args = vec![family, "route", "add"];
        args.extend(words);
        self.ip(&args);
    }

    /// Sets a sysctl of this namespace, in dotted form.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = key.replace('.', "/");
        self.enter(|| write_sysctl(&path, value));
    }

    /// Runs a program inside to its end and returns its standard output; fails the test unless it
    /// succeeds.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> String {
        output_of(&mut self.command(program, args))
    }

    /// A [`Command`] that will run inside, for callers that want its pipes or its failure.
    pub fn command<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name, program])
            .args(args);
        command
    }

    /// Whether one ICMP echo to `to` is answered within `within`, trying all the time.
    pub fn pings(&self, to: IpAddr, within: Duration) -> bool {
        let start = Instant::now();
        while start.elapsed() < within {
            let args = ["-c", "1", "-W", "1", "-q", &to.to_string()];
            let output = self.command("ping", &args).output();
            if output.is_ok_and(|o| o.status.success()) {
                return true;
            }
        }
        false
    }

    /// Runs a closure on a thread of its own inside the namespace. Sockets and TUN devices that it
    /// opens stay in the namespace afterwards; threads it starts are inside too.
    #[track_caller]
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let fd = self.open();
        let joined = thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(fd.as_fd(), CloneFlags::CLONE_NEWNET).expect("setns needs CAP_SYS_ADMIN");
                    inside()
                })
                .join()
        });
        // The assertion that failed inside is the one to show.
        joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    #[track_caller]
    fn open(&self) -> OwnedFd {
        let path = Path::new(NETNS_DIR).join(&self.name);
        fs::File::open(&path)
            .unwrap_or_else(|e| panic!("cannot open {}: {e}", path.display()))
            .into()
    }
}

fn unique_name(role: &str) -> String {
    let pid = std::process::id();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{pid}-{count}-{role}")
}

#[track_caller]
fn add_namespace(name: &str) {
    let mut last = String::new();
    for _ in 0..ADD_ATTEMPTS {
        match Command::new("ip").args(["netns", "add", name]).output() {
            Ok(output) if output.status.success() => return,
            Ok(output) => last = String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(e) => last = e.to_string(),
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("ip netns add {name}: {last}");
}

/// Removes namespaces whose owner is gone: a test that was killed could not do it itself.
fn remove_orphans() {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Kills one process of ours by its pid and reaps it.
fn end(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}

#[track_caller]
fn output_of(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// `/proc/sys/net` shows the namespace of the thread that opens it.
#[track_caller]
fn write_sysctl(path: &str, value: &str) {
    let path = Path::new("/proc/sys").join(path);
    let written = fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| f.write_all(value.as_bytes()));
    if let Err(e) = written {
        panic!("cannot write {value} to {}: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exists(name: &str) -> bool {
        Path::new(NETNS_DIR).join(name).exists()
    }

    #[test]
    fn two_hosts_reach_each_other_and_vanish() {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return;
        }
        let mut lab = Lab::new();
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.veth((&a, "eth0"), (&b, "eth0"), 1500);
        a.address("eth0", "2001:db8:7e57::1/64");
        b.address("eth0", "2001:db8:7e57::2/64");
        b.address("lo", "10.9.9.9/32");
        b.address("eth0", "10.0.0.2/24");
        a.address("eth0", "10.0.0.1/24");
        a.route("10.9.9.9/32 via 10.0.0.2");
        assert!(a.pings("2001:db8:7e57::2".parse().unwrap(), Duration::from_secs(5)));
        assert!(a.pings("10.9.9.9".parse().unwrap(), Duration::from_secs(5)));
        let pid = lab.spawn(&b, "sleep", &["1000"]);
        assert!(Path::new("/proc").join(pid.to_string()).exists());
        let bound = b.enter(|| std::net::UdpSocket::bind("[2001:db8:7e57::2]:0").is_ok());
        assert!(bound && std::net::UdpSocket::bind("[2001:db8:7e57::2]:0").is_err());
        drop(lab);
        assert!(!exists(a.name()) && !exists(b.name()));
        assert!(!Path::new("/proc").join(pid.to_string()).exists());
    }

    #[test]
    fn a_panic_leaves_nothing() {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return;
        }
        let name = std::sync::Mutex::new(String::new());
        let failed = std::panic::catch_unwind(|| {
            let mut lab = Lab::new();
            let ns = lab.router("r");
            ns.name().clone_into(&mut name.lock().unwrap());
            assert!(exists(ns.name()));
            ns.enter(|| panic!("inside"));
        });
        let message = failed.unwrap_err();
        assert_eq!(message.downcast_ref::<&str>(), Some(&"inside"));
        let name = name
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(!name.is_empty() && !exists(&name));
    }
}
