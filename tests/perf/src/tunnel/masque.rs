//! Ours: datum-connect, masque-gateway with a policy of many rules, and SRv6 to the workload's node.

mod manifests;

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use masque_testkit::Netns;

pub(crate) use self::manifests::Manifests;
use super::Tunnel;
use crate::{
    failure::Failure,
    interrupt, machine,
    options::Options,
    rig::{self, CORE, CORE_GATEWAY_IPV6, CORE_WORKLOAD_IPV6, GATEWAY_IPV4, Rig},
};

/// Its name in the tables.
pub(crate) const NAME: &str = "masque";
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 40, 1, 1);
/// The workload's node takes IPv4 out of SRv6 here.
const NODE_SID: &str = "fd00:0:1:1:d001::";
const NODE_LOCATOR: &str = "fd00:0:1:1::/64";
const GATEWAY_SID_IPV4: &str = "fd00:0:1:3:d001::";
const GATEWAY_LOCATOR: &str = "fd00:0:1:3::/64";
const ADMIN: &str = "127.0.0.1:9464";
const READY_WITHIN: Duration = Duration::from_secs(15);

pub(super) fn set_up(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let [gateway_program, client_program] =
        ["masque-gateway", "datum-connect"].map(|n| options.binaries.join(n));
    for program in [&gateway_program, &client_program] {
        if !program.is_file() {
            return Err(Failure::Machine(format!(
                "no {}; cargo build --release",
                program.display()
            )));
        }
    }
    prepare_node(rig);
    let client_dir = rig.work().join("client").display().to_string();
    let dirs = ["--config-dir", &client_dir, "--state-dir", &client_dir];
    let id = rig::run(&client_program, &[&dirs[..], &["key", "--id"]].concat())?;
    let manifests = Manifests::write(&rig.work().join("manifests"), id.trim(), options.rules)?;
    let folder = manifests.folder.display().to_string();

    let (gateway_ns, client_ns) = (rig.gateway.clone(), rig.client.clone());
    let quiet: [(&str, &OsStr); 1] = [("RUST_LOG", OsStr::new("warn"))];
    let gateway = rig.start(
        &gateway_ns,
        &gateway_program,
        &["--manifests", &folder],
        &quiet,
        "masque-gateway",
    )?;
    let with_words =
        |rig: &Rig, e: Failure, pid| Failure::program(NAME, format!("{e}\n{}", rig.tail(pid)));
    await_ready(&gateway_ns).map_err(|e| with_words(rig, e, gateway))?;

    let url = format!("https://{GATEWAY_IPV4}:4433");
    let ca = manifests.authority().display().to_string();
    let attach = [
        "attach",
        "--vpc",
        "bench-vpc",
        "--gateway",
        &url,
        "--ca",
        &ca,
    ];
    let client = rig.start(
        &client_ns,
        &client_program,
        &[&dirs[..], &attach].concat(),
        &[],
        "datum-connect",
    )?;
    rig.await_path(NAME, TARGET).map_err(|e| {
        Failure::program(
            NAME,
            format!("{e}\n{}\n{}", rig.tail(client), rig.tail(gateway)),
        )
    })?;
    Ok(Tunnel {
        name: NAME,
        target: TARGET,
        client: Some(client),
        gateway: Some(gateway),
        about: format!(
            "{}, QUIC datagrams, AES-128-GCM or what TLS agrees on, {} rules, SRv6 behind the gateway",
            machine::version(&gateway_program, "--version"),
            options.rules
        ),
    })
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
    node.route(&format!(
        "10.40.0.0/24 encap seg6 mode encap.red segs {GATEWAY_SID_IPV4} dev {CORE} src {TARGET}"
    ));
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

/// Where the gateway puts the authority of a certificate it made itself.
const DEVELOPMENT_CA: &str = ".state/development-tls/ca.crt";

impl Manifests {
    pub(crate) fn authority(&self) -> std::path::PathBuf {
        Path::new(&self.folder).join(DEVELOPMENT_CA)
    }
}
