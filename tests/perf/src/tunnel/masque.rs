//! Ours: datum-connect, masque-gateway with a policy of many rules, and SRv6 to the workload's node.

mod manifests;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use masque_testkit::Netns;

pub(crate) use self::manifests::{Manifests, POOL};
use super::Tunnel;
use crate::{
    failure::Failure,
    interrupt, machine,
    options::Options,
    rig::{
        self, CORE, CORE_GATEWAY_IPV4, CORE_GATEWAY_IPV6, CORE_WORKLOAD_IPV4, CORE_WORKLOAD_IPV6,
        Merging, Rig,
    },
};

/// Its name in the tables.
pub(crate) const NAME: &str = "masque";
/// The workload behind it.
pub(crate) const TARGET: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 1);
/// Its name where the gateway's kernel forwards to the workload as it does behind peers that do not
/// bridge into SRv6: what the tunnel alone costs.
pub(crate) const PLAIN_NAME: &str = "masque-plain";
/// The workload that is reached so.
const PLAIN_TARGET: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 2);
/// The gateway's TUN device of the VPC.
const DEVICE: &str = "mq0";
/// The workload's node takes IPv4 out of SRv6 here.
const NODE_SID: &str = "fd00:0:1:1:d001::";
const NODE_LOCATOR: &str = "fd00:0:1:1::/64";
const GATEWAY_SID_IPV4: &str = "fd00:0:1:3:d001::";
const GATEWAY_LOCATOR: &str = "fd00:0:1:3::/64";
const GATEWAY_PROGRAM: &str = "masque-gateway";
const CLIENT_PROGRAM: &str = "datum-connect";
/// What clients attach to.
pub(crate) const VPC: &str = "bench-vpc";
/// Where clients find the gateway.
pub(crate) const GATEWAY_URL: &str = "https://192.0.2.1:4433";
const ADMIN: &str = "127.0.0.1:9464";
/// Ten thousand connectors and rules are read before.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A gateway and the manifests it runs on.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) pid: u32,
    pub(crate) manifests: Manifests,
    binaries: PathBuf,
}

pub(super) fn set_up(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let connector = Connector::of_command(rig, options)?;
    let gateway = Gateway::start(
        rig,
        options,
        std::slice::from_ref(&connector.id),
        options.rules,
        &[],
    )?;
    let client = gateway.attach(rig, &connector)?;
    Ok(Tunnel {
        name: NAME,
        target: TARGET,
        client: Some(client),
        gateway: Some(gateway.pid),
        merging: Merging::default(),
        way_back: bridged,
        about: format!(
            "{}, QUIC datagrams, {} rules, SRv6 (encap.red, End.DX4) behind the gateway",
            machine::version(&gateway.program(), "--version"),
            options.rules
        ),
    })
}

/// The same session, to a workload behind routes of the kernel alone.
pub(super) fn set_up_plain(rig: &mut Rig, _: &Options) -> Result<Tunnel, Failure> {
    let needs = || Failure::Machine(format!("it needs {NAME}, which is not up"));
    let client = rig.pid(CLIENT_PROGRAM).ok_or_else(needs)?;
    let gateway = rig.pid(GATEWAY_PROGRAM).ok_or_else(needs)?;
    rig.add_workload(PLAIN_TARGET);
    let table = vpc_table(&rig.gateway)?;
    rig.gateway.route(&format!(
        "{PLAIN_TARGET}/32 via {CORE_WORKLOAD_IPV4} dev {CORE} table {table}"
    ));
    rig.gateway.route(&format!("{POOL} dev {DEVICE}"));
    forwarded(rig);
    let passes = rig.await_path(PLAIN_NAME, PLAIN_TARGET);
    bridged(rig);
    passes?;
    rig.set_merging(Merging::CLIENT_AND_GATEWAY)?;
    Ok(Tunnel {
        name: PLAIN_NAME,
        target: PLAIN_TARGET,
        client: Some(client),
        gateway: Some(gateway),
        merging: Merging::default(),
        way_back: forwarded,
        about: format!("{NAME} without SRv6 behind the gateway"),
    })
}

/// The table in which the gateway looks for what comes from its device.
fn vpc_table(gateway: &Netns) -> Result<String, Failure> {
    let rules = gateway.ip(&["rule"]);
    let of_device = format!("iif {DEVICE} lookup ");
    let table = rules
        .lines()
        .find_map(|rule| rule.split_once(&of_device)?.1.split_whitespace().next());
    table
        .map(str::to_owned)
        .ok_or_else(|| Failure::program(NAME, format!("no rule for {DEVICE}:\n{rules}")))
}

/// Packets to clients go into SRv6.
fn bridged(rig: &Rig) {
    way_back(
        rig,
        &format!("encap seg6 mode encap.red segs {GATEWAY_SID_IPV4} dev {CORE} src {TARGET}"),
    );
}

/// Packets to clients go as they are.
fn forwarded(rig: &Rig) {
    way_back(
        rig,
        &format!("via {CORE_GATEWAY_IPV4} dev {CORE} src {PLAIN_TARGET}"),
    );
}

fn way_back(rig: &Rig, by: &str) {
    let words = ["route", "replace", POOL].into_iter();
    let args: Vec<&str> = words.chain(by.split_whitespace()).collect();
    rig.workload.ip(&args);
}

/// The key of datum-connect.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    folder: String,
    pub(crate) id: String,
}

impl Connector {
    /// Makes the key.
    pub(crate) fn of_command(rig: &Rig, options: &Options) -> Result<Self, Failure> {
        Self::named(rig, options, "client")
    }

    /// Makes a key of its own for each name.
    pub(crate) fn named(rig: &Rig, options: &Options, name: &str) -> Result<Self, Failure> {
        let program = options.binaries.join(CLIENT_PROGRAM);
        if !program.is_file() {
            let what = format!("no {}; cargo build --release", program.display());
            return Err(Failure::Machine(what));
        }
        let folder = rig.work().join(name).display().to_string();
        let id = rig::run(&program, &["--config-dir", &folder, "key", "--id"])?;
        Ok(Self {
            folder,
            id: id.trim().into(),
        })
    }
}

impl Gateway {
    /// Starts it, with `more` on its command line, and waits until it is ready.
    pub(crate) fn start(
        rig: &mut Rig,
        options: &Options,
        connectors: &[String],
        rules: u32,
        more: &[&str],
    ) -> Result<Self, Failure> {
        prepare_node(rig);
        let manifests = Manifests::write(&rig.work().join("manifests"), connectors, rules)?;
        let mut gateway = Self {
            pid: 0,
            manifests,
            binaries: options.binaries.clone(),
        };
        let program = gateway.program();
        if !program.is_file() {
            let what = format!("no {}; cargo build --release", program.display());
            return Err(Failure::Machine(what));
        }
        let folder = gateway.manifests.folder.display().to_string();
        let quiet: [(&str, &OsStr); 1] = [("RUST_LOG", OsStr::new("warn"))];
        let ns = rig.gateway.clone();
        let args = [&["--manifests", &folder], more].concat();
        gateway.pid = rig.start(&ns, &program, &args, &quiet, GATEWAY_PROGRAM)?;
        match await_ready(&ns) {
            Ok(()) => Ok(gateway),
            Err(e) => Err(Failure::program(
                NAME,
                format!("{e}\n{}", rig.tail(gateway.pid)),
            )),
        }
    }

    /// The packet thread of each open session, by the number of its connector.
    pub(crate) fn shards(&self, rig: &Rig) -> Result<BTreeMap<u8, u64>, Failure> {
        let folder = self.manifests.folder.display().to_string();
        let args = ["sessions", "--json", "--manifests", &folder];
        let program = self.program();
        let mut command = rig.gateway.command(&program.to_string_lossy(), &args);
        let output = command.output().map_err(Failure::io(GATEWAY_PROGRAM))?;
        let unreadable = |e: serde_json::Error| Failure::program(GATEWAY_PROGRAM, e.to_string());
        let sessions: Vec<serde_json::Value> =
            serde_json::from_slice(&output.stdout).map_err(unreadable)?;
        let place = |session: &serde_json::Value| {
            let name = session["attachment"].as_str()?;
            let number = name.rsplit_once("/c")?.1.parse().ok()?;
            Some((number, session["shard"].as_u64()?))
        };
        Ok(sessions.iter().filter_map(place).collect())
    }

    fn program(&self) -> PathBuf {
        self.binaries.join(GATEWAY_PROGRAM)
    }

    /// Attaches the client's namespace by datum-connect. Returns the pid of that.
    pub(crate) fn attach(&self, rig: &mut Rig, connector: &Connector) -> Result<u32, Failure> {
        self.attach_to(rig, connector, TARGET, &[])
    }

    /// Attaches one more, with `more` on its command line; `target` must answer then.
    pub(crate) fn attach_to(
        &self,
        rig: &mut Rig,
        connector: &Connector,
        target: Ipv4Addr,
        more: &[&str],
    ) -> Result<u32, Failure> {
        let (ca, folder) = (
            self.manifests.authority().display().to_string(),
            &connector.folder,
        );
        let args = [
            "--config-dir",
            folder,
            "--state-dir",
            folder,
            "attach",
            "--vpc",
            VPC,
            "--gateway",
            GATEWAY_URL,
            "--ca",
            &ca,
        ];
        let args = [&args, more].concat();
        let ns = rig.client.clone();
        let client = rig.start(
            &ns,
            &self.binaries.join(CLIENT_PROGRAM),
            &args,
            &[],
            CLIENT_PROGRAM,
        )?;
        rig.await_path(NAME, target).map_err(|e| {
            Failure::program(
                NAME,
                format!("{e}\n{}\n{}", rig.tail(client), rig.tail(self.pid)),
            )
        })?;
        Ok(client)
    }
}

/// The workload's namespace is also its SRv6 node: End.DX4 in, encap.red out, no SRH.
fn prepare_node(rig: &Rig) {
    let node = &rig.workload;
    rig.add_workload(TARGET);
    rig.gateway.address("lo", "fd00:0:1:3::1/128");
    rig.gateway.route(&format!(
        "{NODE_LOCATOR} via {CORE_WORKLOAD_IPV6} dev {CORE}"
    ));
    node.route(&format!(
        "{GATEWAY_LOCATOR} via {CORE_GATEWAY_IPV6} dev {CORE}"
    ));
    node.route(&format!(
        "{NODE_SID}/128 encap seg6local action End.DX4 nh4 {TARGET} dev {CORE}"
    ));
    bridged(rig);
}

fn await_ready(gateway: &Netns) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        match ask(gateway, "/readyz") {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            _ if Instant::now() >= deadline => {
                let seconds = READY_WITHIN.as_secs();
                return Err(Failure::Traffic(format!(
                    "the gateway is not ready within {seconds} s"
                )));
            }
            _ => interrupt::sleep(Duration::from_millis(50))?,
        }
    }
}

/// Asks the gateway's admin port; the whole answer with its head.
fn ask(gateway: &Netns, path: &str) -> io::Result<String> {
    gateway.enter(|| {
        let mut stream = TcpStream::connect(ADMIN)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {ADMIN}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}
