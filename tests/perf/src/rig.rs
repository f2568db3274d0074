//! client ── wire ── gateway ── core ── workload: three namespaces, two veth pairs.
//!
//! Every tunnel goes from the client to the gateway and has inner addresses of its own, so that all
//! are up at once: `10.N.0.0/24` is the tunnel, `10.N.1.1` the workload behind it.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use masque_testkit::{Lab, Netns};

use crate::{
    failure::Failure,
    options::Mode,
    process::{Process, which},
};

/// Name of the link between client and gateway, on both ends.
pub(crate) const WIRE: &str = "wire";
/// Name of the link between gateway and workload, on both ends.
pub(crate) const CORE: &str = "core";
const WIRE_MTU: u32 = 1500;
/// Room for the outer headers of the fabric, as data centres have it.
const CORE_MTU: u32 = 9000;
/// The gateway's address on the wire, IPv4.
pub(crate) const GATEWAY_IPV4: &str = "192.0.2.1";
/// The client's addresses on the wire.
pub(crate) const CLIENT_IPV4: &str = "192.0.2.2";
pub(crate) const CLIENT_IPV6: &str = "fd00:0:0:c::2";
pub(crate) const GATEWAY_IPV6: &str = "fd00:0:0:c::1";
/// On the core link.
pub(crate) const CORE_GATEWAY_IPV4: &str = "198.51.100.1";
pub(crate) const CORE_WORKLOAD_IPV4: &str = "198.51.100.2";
pub(crate) const CORE_GATEWAY_IPV6: &str = "fd00:0:0:a::3";
pub(crate) const CORE_WORKLOAD_IPV6: &str = "fd00:0:0:a::1";
/// How long a tunnel may take to carry its first packet.
const FIRST_PACKET: Duration = Duration::from_secs(10);

/// The namespaces and what runs in them; all gone after drop.
#[derive(Debug)]
pub(crate) struct Rig {
    // The order of the fields is the order of their end.
    processes: Vec<Process>,
    _lab: Lab,
    work: WorkFolder,
    pub(crate) client: Netns,
    pub(crate) gateway: Netns,
    pub(crate) workload: Netns,
}

/// Logs and configuration of one run.
#[derive(Debug)]
struct WorkFolder(PathBuf);

impl Drop for WorkFolder {
    fn drop(&mut self) {
        if std::env::var_os("BENCH_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Ends of links.
const ENDS: usize = 4;
/// How ethtool writes that GRO is on.
const GRO_ON: &str = "generic-receive-offload: on";

/// The ends of the links whose kernel merges what arrives (GRO). A veth is made with it off; who
/// turns it on is part of what is measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merging([bool; ENDS]);

impl Merging {
    /// Where a client and a gateway may turn it on: all but the workload's.
    pub(crate) const CLIENT_AND_GATEWAY: Self = Self([true, true, true, false]);
}

impl fmt::Display for Merging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["client", "gateway's wire", "gateway's core", "workload"];
        let on = names.into_iter().zip(self.0).filter(|(_, on)| *on);
        let on: Vec<&str> = on.map(|(name, _)| name).collect();
        match on.is_empty() {
            true => f.write_str("no GRO"),
            false => write!(f, "GRO on at {}", on.join(", ")),
        }
    }
}

impl Rig {
    /// The links and namespaces, and iperf3 where the workload is; `work` is made.
    pub(crate) fn build(work: &Path) -> Result<Self, Failure> {
        for (program, package) in [
            ("ethtool", "ethtool"),
            ("iperf3", "iperf3"),
            ("ping", "iputils-ping"),
        ] {
            if which(program).is_none() {
                return Err(Failure::Machine(format!(
                    "needs {program} (Debian: {package})"
                )));
            }
        }
        fs::create_dir_all(work).map_err(Failure::file(work))?;
        let work = WorkFolder(work.into());
        let mut lab = Lab::new();
        let (client, gateway, workload) = (
            lab.host("client"),
            lab.router("gateway"),
            lab.host("workload"),
        );
        lab.veth((&client, WIRE), (&gateway, WIRE), WIRE_MTU);
        lab.veth((&gateway, CORE), (&workload, CORE), CORE_MTU);
        for (ns, link, ipv4, ipv6) in [
            (&client, WIRE, CLIENT_IPV4, CLIENT_IPV6),
            (&gateway, WIRE, GATEWAY_IPV4, GATEWAY_IPV6),
            (&gateway, CORE, CORE_GATEWAY_IPV4, CORE_GATEWAY_IPV6),
            (&workload, CORE, CORE_WORKLOAD_IPV4, CORE_WORKLOAD_IPV6),
        ] {
            ns.address(link, &format!("{ipv4}/24"));
            ns.address(link, &format!("{ipv6}/64"));
        }
        let mut rig = Self {
            processes: Vec::new(),
            _lab: lab,
            work,
            client,
            gateway,
            workload,
        };
        let server = which("iperf3").unwrap_or_default();
        let ns = rig.workload.clone();
        rig.start(&ns, &server, &["-s"], &[], "iperf3-server")?;
        Ok(rig)
    }

    /// Where this run may write.
    pub(crate) fn work(&self) -> &Path {
        &self.work.0
    }

    /// Starts a program that runs as long as the rig. Returns its pid.
    pub(crate) fn start(
        &mut self,
        ns: &Netns,
        program: &Path,
        args: &[&str],
        env: &[(&str, &std::ffi::OsStr)],
        name: &str,
    ) -> Result<u32, Failure> {
        let log = self.work().join(format!("{name}.log"));
        let process = Process::start(ns, program, args, env, &log)?;
        let pid = process.pid();
        self.processes.push(process);
        Ok(pid)
    }

    /// Fails with the last words of the first program that has ended.
    pub(crate) fn check(&mut self) -> Result<(), Failure> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The pid of the first program of that name.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        let process = self.processes.iter().find(|p| p.name() == name);
        process.map(Process::pid)
    }

    /// The last words of one program.
    pub(crate) fn tail(&self, pid: u32) -> String {
        let process = self.processes.iter().find(|p| p.pid() == pid);
        process.map(Process::tail).unwrap_or_default()
    }

    /// A workload address behind a tunnel.
    pub(crate) fn add_workload(&self, address: Ipv4Addr) {
        self.workload.address("lo", &format!("{address}/32"));
    }

    /// Waits for the first echo through a tunnel.
    pub(crate) fn await_path(&self, name: &str, target: Ipv4Addr) -> Result<(), Failure> {
        if self.client.pings(target.into(), FIRST_PACKET) {
            return Ok(());
        }
        Err(Failure::Traffic(format!(
            "{name}: no echo from {target} within {} s",
            FIRST_PACKET.as_secs()
        )))
    }

    /// The ends of the links, with the namespaces they are in.
    fn ends(&self) -> [(&Netns, &'static str); ENDS] {
        [
            (&self.client, WIRE),
            (&self.gateway, WIRE),
            (&self.gateway, CORE),
            (&self.workload, CORE),
        ]
    }

    /// Turns the offloads of every link on or off, all but GRO. On is the state a veth is made in.
    pub(crate) fn set_mode(&self, mode: Mode) -> Result<(), Failure> {
        let on = if mode == Mode::Gso { "on" } else { "off" };
        for (ns, link) in self.ends() {
            let features = ["gso", on, "tso", on, "tx-udp-segmentation", on];
            ethtool(ns, &[&["-K", link], &features[..]].concat())?;
        }
        Ok(())
    }

    /// Which ends have GRO on.
    pub(crate) fn merging(&self) -> Result<Merging, Failure> {
        let mut merging = Merging::default();
        for (at, (ns, link)) in self.ends().into_iter().enumerate() {
            let features = ethtool(ns, &["-k", link])?;
            merging.0[at] = features.lines().any(|line| line.starts_with(GRO_ON));
        }
        Ok(merging)
    }

    /// Turns GRO on at these ends, and off at the others.
    pub(crate) fn set_merging(&self, merging: Merging) -> Result<(), Failure> {
        for (at, (ns, link)) in self.ends().into_iter().enumerate() {
            let on = if merging.0[at] { "on" } else { "off" };
            ethtool(ns, &["-K", link, "gro", on])?;
        }
        Ok(())
    }
}

fn ethtool(ns: &Netns, args: &[&str]) -> Result<String, Failure> {
    let program = which("ethtool").unwrap_or_default();
    let output = ns.command(&program.to_string_lossy(), args).output();
    let output = output.map_err(Failure::io("ethtool"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::program("ethtool", said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a plain program outside the namespaces, for its standard output.
pub(crate) fn run(program: &Path, args: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(Failure::file(program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Err(Failure::program(&program.to_string_lossy(), said))
}
