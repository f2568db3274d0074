//! The kernel's SRv6 between client and gateway: encap.red out, End.DX4 in, no encryption.

use std::net::Ipv4Addr;

use super::Tunnel;
use crate::{
    failure::Failure,
    options::Options,
    rig::{CLIENT_IPV6, CORE_GATEWAY_IPV4, CORE_WORKLOAD_IPV4, GATEWAY_IPV6, Merging, Rig, WIRE},
};

const TARGET: Ipv4Addr = Ipv4Addr::new(10, 20, 1, 1);
const INNER: &str = "10.20.0.2";
const CLIENT_SID: &str = "fd00:0:2:1:d001::";
const GATEWAY_SID: &str = "fd00:0:2:2:d001::";

pub(super) fn set_up(rig: &mut Rig, _: &Options) -> Result<Tunnel, Failure> {
    let (client, gateway) = (&rig.client, &rig.gateway);
    rig.add_workload(TARGET);
    client.address("lo", &format!("{INNER}/32"));
    client.route(&format!("{GATEWAY_SID}/128 via {GATEWAY_IPV6}"));
    client.route(&format!(
        "{TARGET}/32 encap seg6 mode encap.red segs {GATEWAY_SID} dev {WIRE} src {INNER}"
    ));
    client.route(&format!(
        "{CLIENT_SID}/128 encap seg6local action End.DX4 nh4 {INNER} dev {WIRE}"
    ));
    gateway.route(&format!("{TARGET}/32 via {CORE_WORKLOAD_IPV4}"));
    gateway.route(&format!(
        "{GATEWAY_SID}/128 encap seg6local action End.DX4 nh4 {CORE_WORKLOAD_IPV4} dev {WIRE}"
    ));
    gateway.route(&format!("{CLIENT_SID}/128 via {CLIENT_IPV6}"));
    gateway.route(&format!(
        "{INNER}/32 encap seg6 mode encap.red segs {CLIENT_SID} dev {WIRE}"
    ));
    rig.workload
        .route(&format!("{INNER}/32 via {CORE_GATEWAY_IPV4} src {TARGET}"));
    rig.await_path("seg6", TARGET)?;
    Ok(Tunnel {
        name: "seg6",
        target: TARGET,
        client: None,
        gateway: None,
        merging: Merging::default(),
        way_back: super::of_its_own,
        about: "kernel encap.red and End.DX4, no encryption".into(),
    })
}
