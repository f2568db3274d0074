//! WireGuard in user space: wireguard-go and boringtun, set up through their control sockets.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use masque_testkit::Netns;

use super::{Tunnel, find};
use crate::{
    failure::Failure,
    interrupt, machine,
    options::Options,
    rig::{
        CORE, CORE_GATEWAY_IPV4, CORE_GATEWAY_IPV6, CORE_WORKLOAD_IPV4, CORE_WORKLOAD_IPV6,
        GATEWAY_IPV4, Merging, Rig,
    },
};

/// The two key pairs of RFC 7748 §6.1. Nothing but test packets depends on them.
const CLIENT_PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
const CLIENT_PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
const GATEWAY_PRIVATE: &str = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb";
const GATEWAY_PUBLIC: &str = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
/// What both projects use over a wire of 1500 bytes.
const MTU: &str = "1420";
/// Where the workload takes packets out of SRv6, and where the gateway does.
const NODE_SID: &str = "fd00:0:3:1:d001::";
const GATEWAY_SID: &str = "fd00:0:3:3:d001::";
const SOCKET_DIR: &str = "/var/run/wireguard";
const SOCKET_WITHIN: Duration = Duration::from_secs(5);

/// One implementation and its numbers.
struct Implementation {
    name: &'static str,
    /// Second byte of its addresses.
    net: u8,
    /// UDP port of the gateway side.
    port: u16,
    program: PathBuf,
    args: &'static [&'static str],
    /// SRv6 between the gateway and the workload, as we have it.
    srv6: bool,
}

const GO: [&str; 2] = ["wireguard-go", "wireguard"];

pub(super) fn set_up_go(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let implementation = Implementation {
        name: "wireguard-go",
        net: 30,
        port: 51820,
        program: find(&options.peers, &GO)?,
        args: &["-f"],
        srv6: false,
    };
    set_up(rig, &implementation)
}

/// With the receive offload that our programs turn on by themselves, turned on by hand.
pub(super) fn set_up_go_gro(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let implementation = Implementation {
        name: "wireguard-go+gro",
        net: 33,
        port: 51823,
        program: find(&options.peers, &GO)?,
        args: &["-f"],
        srv6: false,
    };
    let tunnel = set_up(rig, &implementation)?;
    rig.set_merging(Merging::CLIENT_AND_GATEWAY)?;
    Ok(tunnel)
}

/// Like for like: a tunnel to a gateway that bridges into an SRv6 VPC.
pub(super) fn set_up_go_srv6(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let implementation = Implementation {
        name: "wireguard-go+srv6",
        net: 32,
        port: 51822,
        program: find(&options.peers, &GO)?,
        args: &["-f"],
        srv6: true,
    };
    set_up(rig, &implementation)
}

pub(super) fn set_up_boringtun(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let program = find(&options.peers, &["boringtun-cli"])?;
    let args = &["-f", "--disable-drop-privileges"];
    let implementation = Implementation {
        name: "boringtun",
        net: 31,
        port: 51821,
        program,
        args,
        srv6: false,
    };
    set_up(rig, &implementation)
}

fn set_up(rig: &mut Rig, of: &Implementation) -> Result<Tunnel, Failure> {
    let net = of.net;
    let target = Ipv4Addr::new(10, net, 1, 1);
    let (client_ns, gateway_ns) = (rig.client.clone(), rig.gateway.clone());
    rig.add_workload(target);
    let gateway = start(
        rig,
        &gateway_ns,
        of,
        'g',
        &format!(
            "private_key={GATEWAY_PRIVATE}\nlisten_port={}\npublic_key={CLIENT_PUBLIC}\nallowed_ip=10.{net}.0.2/32\n",
            of.port
        ),
    )?;
    let client = start(
        rig,
        &client_ns,
        of,
        'c',
        &format!(
            "private_key={CLIENT_PRIVATE}\npublic_key={GATEWAY_PUBLIC}\nendpoint={GATEWAY_IPV4}:{}\nallowed_ip={target}/32\n",
            of.port
        ),
    )?;
    client_ns.address(&link(of, 'c'), &format!("10.{net}.0.2/24"));
    client_ns.route(&format!("{target}/32 dev {}", link(of, 'c')));
    gateway_ns.address(&link(of, 'g'), &format!("10.{net}.0.1/24"));
    if of.srv6 {
        bridge(rig, net, target);
    } else {
        gateway_ns.route(&format!("{target}/32 via {CORE_WORKLOAD_IPV4}"));
        rig.workload.route(&format!(
            "10.{net}.0.0/24 via {CORE_GATEWAY_IPV4} src {target}"
        ));
    }
    if let Err(e) = rig.await_path(of.name, target) {
        return Err(Failure::program(
            of.name,
            format!("{e}\n{}{}", rig.tail(client), rig.tail(gateway)),
        ));
    }
    Ok(Tunnel {
        name: of.name,
        target,
        client: Some(client),
        gateway: Some(gateway),
        merging: Merging::default(),
        way_back: super::of_its_own,
        about: format!(
            "{}, MTU {MTU}, ChaCha20-Poly1305{}",
            machine::version(&of.program, "--version"),
            if of.srv6 {
                ", SRv6 (encap.red, End.DX4) behind the gateway"
            } else {
                ""
            }
        ),
    })
}

/// The routes that our gateway and its fabric have: encap.red out, End.DX4 in, both ways.
fn bridge(rig: &Rig, net: u8, target: Ipv4Addr) {
    let (gateway, node) = (&rig.gateway, &rig.workload);
    gateway.route(&format!(
        "{NODE_SID}/128 via {CORE_WORKLOAD_IPV6} dev {CORE}"
    ));
    gateway.route(&format!(
        "{target}/32 encap seg6 mode encap.red segs {NODE_SID} dev {CORE}"
    ));
    gateway.route(&format!(
        "{GATEWAY_SID}/128 encap seg6local action End.DX4 nh4 10.{net}.0.2 dev {CORE}"
    ));
    node.route(&format!(
        "{GATEWAY_SID}/128 via {CORE_GATEWAY_IPV6} dev {CORE}"
    ));
    node.route(&format!(
        "{NODE_SID}/128 encap seg6local action End.DX4 nh4 {target} dev {CORE}"
    ));
    node.route(&format!(
        "10.{net}.0.0/24 encap seg6 mode encap.red segs {GATEWAY_SID} dev {CORE} src {target}"
    ));
}

/// The control sockets are in one folder, so the name holds our pid.
fn link(of: &Implementation, side: char) -> String {
    format!("mq{side}{}-{}", of.net, std::process::id())
}

fn start(
    rig: &mut Rig,
    ns: &Netns,
    of: &Implementation,
    side: char,
    settings: &str,
) -> Result<u32, Failure> {
    let link = link(of, side);
    let mut args = of.args.to_vec();
    args.push(&link);
    let pid = rig.start(ns, &of.program, &args, &[], &format!("{}-{side}", of.name))?;
    configure(
        &Path::new(SOCKET_DIR).join(format!("{link}.sock")),
        settings,
    )
    .map_err(|e| Failure::program(of.name, format!("{e}\n{}", rig.tail(pid))))?;
    ns.ip(&["link", "set", &link, "mtu", MTU, "up"]);
    Ok(pid)
}

/// Speaks the cross-platform configuration protocol, <https://www.wireguard.com/xplatform/>.
fn configure(socket: &Path, settings: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + SOCKET_WITHIN;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(e) if Instant::now() >= deadline => return Err(Failure::file(socket)(e)),
            Err(_) => interrupt::sleep(Duration::from_millis(20))?,
        }
    };
    stream
        .set_read_timeout(Some(SOCKET_WITHIN))
        .map_err(Failure::file(socket))?;
    stream
        .write_all(format!("set=1\n{settings}\n").as_bytes())
        .map_err(Failure::file(socket))?;
    let mut answer = Vec::new();
    let mut chunk = [0; 256];
    while !answer.ends_with(b"\n\n") {
        match stream.read(&mut chunk).map_err(Failure::file(socket))? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    let answer = String::from_utf8_lossy(&answer).trim().to_owned();
    if answer != "errno=0" {
        return Err(Failure::Traffic(format!(
            "the control socket answers {answer:?}"
        )));
    }
    Ok(())
}
