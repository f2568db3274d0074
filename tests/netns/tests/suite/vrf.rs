//! One SID for both families: End.DT46 into a VRF, at the gateway and at the nodes. Needs a kernel
//! with VRFs; `tests/guest/run` has one.

use std::{
    net::{Ipv6Addr, SocketAddr},
    time::Duration,
};

use masque_netns_tests::{Echo, Fabric, Gateway, UNDERLAY_GATEWAY, exchange, ping, sid};
use masque_testkit::Capture;

use crate::{WEB, WORK_V4, WORK_V6, address, at};

/// Long enough for a packet that is on its way already, on an emulated machine.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

#[test]
fn one_sid_carries_both_families_both_ways() {
    let Some(mut fabric) = Fabric::with_vrfs() else {
        return;
    };
    fabric.connector("laptop");
    fabric.manifests.attach("laptop", "production-vpc");
    fabric.connector("phone");
    fabric.manifests.attach("phone", "staging-vpc");
    let gateway = fabric.start_gateway();
    let behavior = ["behavior=\"End.DT46\""];
    let metrics = gateway.metrics();
    assert_eq!(
        metrics.sum("masque_gateway_decapsulation_info", &behavior),
        1
    );
    let laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let wire = Capture::open(&fabric.node_1, UNDERLAY_GATEWAY);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    ping(&fabric.laptop, address(WORK_V6), &[]);
    let to = |p: &[u8], sid: Ipv6Addr| p[0] >> 4 == 6 && p[24..40] == sid.octets();
    for (node, next_header) in [(1, 4), (3, 4), (1, 41), (3, 41)] {
        let sid = sid(node, 'e', 1);
        let found = wire.next(ON_ITS_WAY, |p| {
            to(p, sid) && p[6] == next_header && p[40] >> 4 == next_header.min(6)
        });
        assert!(found.is_some(), "next header {next_header} to {sid}");
    }

    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let _far = Echo::on_port(&fabric.work_2p, WEB);
    let callback = Echo::on_port(&fabric.laptop, 7000);
    for to in [WORK_V4, WORK_V6, "10.0.2.10", "fd20:10:0:2::10"] {
        exchange(&fabric.laptop, at(to, WEB), 200_000).unwrap_or_else(|e| panic!("{to}: {e}"));
    }
    for (own, from) in [(laptop.ipv4(), WORK_V4), (laptop.ipv6(), WORK_V6)] {
        exchange(&fabric.work_1p, SocketAddr::new(own, 7000), 200_000)
            .unwrap_or_else(|e| panic!("{own}: {e}"));
        assert_eq!(callback.peers().last(), Some(&address(from)), "no NAT");
    }
    let routing_header = |p: &[u8]| p[0] >> 4 == 6 && p[6] == 43;
    assert_eq!(wire.next(Duration::from_millis(500), routing_header), None);

    // The other VPC has the same addresses behind another SID.
    let _phone = fabric.attach(&fabric.phone, "phone", "staging-vpc");
    let staging = Echo::on_port(&fabric.work_1s, WEB);
    exchange(&fabric.phone, at(WORK_V4, WEB), 10_000).unwrap();
    assert_eq!(staging.peers().len(), 1);

    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(Gateway::kernel_state(&fabric.gateway), Vec::<String>::new());
}
