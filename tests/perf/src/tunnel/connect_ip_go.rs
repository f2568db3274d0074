//! connect-ip-go: the other implementation of the protocol, a proxy and a client around a TUN device
//! each (`go/main.go`).

use std::net::Ipv4Addr;

use masque_testkit::Netns;

use super::{Tunnel, find};
use crate::{
    failure::Failure,
    machine,
    options::Options,
    rig::{CORE_GATEWAY_IPV4, CORE_WORKLOAD_IPV4, GATEWAY_IPV4, Merging, Rig},
};

/// Its name in the tables, and of its program.
pub(super) const NAME: &str = "connect-ip-go";
const DEVICE: &str = "cig0";
/// What a QUIC datagram carries in a UDP packet of 1452 bytes, with room to spare.
const MTU: &str = "1400";
const PORT: u16 = 4443;
const CLIENT: &str = "10.50.0.2";
const TARGET: Ipv4Addr = Ipv4Addr::new(10, 50, 1, 1);

pub(super) fn set_up(rig: &mut Rig, options: &Options) -> Result<Tunnel, Failure> {
    let program = find(&options.peers, &[NAME])?;
    let (client_ns, gateway_ns) = (rig.client.clone(), rig.gateway.clone());
    rig.add_workload(TARGET);
    for ns in [&client_ns, &gateway_ns] {
        device(ns);
    }
    let (address, target) = (format!("{GATEWAY_IPV4}:{PORT}"), TARGET.to_string());
    let assigned = format!("{CLIENT}/32");
    let proxy = ["proxy", &address, DEVICE, &assigned, &target];
    let proxy = rig.start(&gateway_ns, &program, &proxy, &[], "connect-ip-go-proxy")?;
    let client = ["client", &address, DEVICE];
    let client = rig.start(&client_ns, &program, &client, &[], "connect-ip-go-client")?;
    client_ns.address(DEVICE, &format!("{CLIENT}/32"));
    client_ns.route(&format!("{TARGET}/32 dev {DEVICE} src {CLIENT}"));
    gateway_ns.route(&format!("{CLIENT}/32 dev {DEVICE}"));
    gateway_ns.route(&format!("{TARGET}/32 via {CORE_WORKLOAD_IPV4}"));
    rig.workload
        .route(&format!("{CLIENT}/32 via {CORE_GATEWAY_IPV4} src {TARGET}"));
    rig.await_path(NAME, TARGET).map_err(|e| {
        let said = format!("{e}\n{}\n{}", rig.tail(client), rig.tail(proxy));
        Failure::program(NAME, said)
    })?;
    Ok(Tunnel {
        name: NAME,
        target: TARGET,
        client: Some(client),
        gateway: Some(proxy),
        merging: Merging::default(),
        way_back: super::of_its_own,
        about: format!(
            "{}, QUIC datagrams, MTU {MTU}, a packet a system call",
            machine::version(&program, "--version")
        ),
    })
}

fn device(ns: &Netns) {
    ns.ip(&["tuntap", "add", DEVICE, "mode", "tun"]);
    ns.ip(&["link", "set", DEVICE, "mtu", MTU, "up"]);
}
