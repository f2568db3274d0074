//! No tunnel: the gateway's kernel forwards.

use std::net::Ipv4Addr;

use super::Tunnel;
use crate::{
    failure::Failure,
    options::Options,
    rig::{CORE_GATEWAY_IPV4, CORE_WORKLOAD_IPV4, GATEWAY_IPV4, Merging, Rig},
};

const TARGET: Ipv4Addr = Ipv4Addr::new(10, 10, 1, 1);

pub(super) fn set_up(rig: &mut Rig, _: &Options) -> Result<Tunnel, Failure> {
    rig.add_workload(TARGET);
    rig.client.route(&format!("{TARGET}/32 via {GATEWAY_IPV4}"));
    rig.gateway
        .route(&format!("{TARGET}/32 via {CORE_WORKLOAD_IPV4}"));
    rig.workload
        .route(&format!("192.0.2.0/24 via {CORE_GATEWAY_IPV4}"));
    rig.await_path("plain", TARGET)?;
    Ok(Tunnel {
        name: "plain",
        target: TARGET,
        client: None,
        gateway: None,
        merging: Merging::default(),
        way_back: super::of_its_own,
        about: "kernel forwarding, no tunnel".into(),
    })
}
