//! Both families, both directions, and what is on the wire.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use masque_netns_tests::{Echo, UNDERLAY_GATEWAY, exchange, ping, sid};
use masque_testkit::Capture;

use crate::{WORK_V4, WORK_V6, address, at, with_laptop};

/// Long enough for a packet that is on its way already.
const ON_ITS_WAY: Duration = Duration::from_secs(3);

#[test]
fn both_families_pass_and_the_wire_has_one_outer_header() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let _web = Echo::on_port(&fabric.work_1p, 8080);
    let _other_node = Echo::on_port(&fabric.work_2p, 8080);

    let wire = Capture::open(&fabric.node_1, UNDERLAY_GATEWAY);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let IpAddr::V4(own) = client.ipv4() else {
        panic!("an IPv4 address")
    };
    let to = |p: &[u8], sid: Ipv6Addr| p[0] >> 4 == 6 && p[24..40] == sid.octets();
    let packet = wire
        .next(ON_ITS_WAY, |p| to(p, sid(1, 'd', 1)))
        .expect("a packet to the SID of production at node-1");
    let source: Ipv6Addr = "fd00:0:1:3::1".parse().unwrap();
    assert_eq!(packet[8..24], source.octets(), "the outer source");
    assert_eq!(packet[6], 4, "IPv4 lies right behind the outer header");
    assert_eq!(packet[40] >> 4, 4);
    assert_eq!(packet[52..56], own.octets(), "no NAT");
    assert_eq!(packet[56..60], [10, 0, 1, 10]);
    // The node's answer.
    let packet = wire
        .next(ON_ITS_WAY, |p| to(p, sid(3, 'd', 1)))
        .expect("a packet to the SID of production at the gateway");
    assert_eq!((packet[6], packet[40] >> 4), (4, 4));

    ping(&fabric.laptop, address(WORK_V6), &[]);
    let IpAddr::V6(own) = client.ipv6() else {
        panic!("an IPv6 address")
    };
    let packet = wire
        .next(ON_ITS_WAY, |p| to(p, sid(1, 'e', 1)))
        .expect("a packet to the SID for IPv6");
    assert_eq!((packet[6], packet[40] >> 4), (41, 6));
    assert_eq!(packet[48..64], own.octets());

    for address in [WORK_V4, WORK_V6, "10.0.2.10", "fd20:10:0:2::10"] {
        exchange(&fabric.laptop, at(address, 8080), 300_000)
            .unwrap_or_else(|e| panic!("{address}: {e}\n{}\n{}", client.log(), gateway.log()));
    }
    let routing_header = |p: &[u8]| p[0] >> 4 == 6 && p[6] == 43;
    assert_eq!(wire.next(Duration::from_millis(200), routing_header), None);
}

#[test]
fn a_workload_opens_connections_to_the_clients_own_addresses() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let callback = Echo::on_port(&fabric.laptop, 7000);
    for (own, from) in [(client.ipv4(), WORK_V4), (client.ipv6(), WORK_V6)] {
        exchange(&fabric.work_1p, SocketAddr::new(own, 7000), 100_000)
            .unwrap_or_else(|e| panic!("{own}: {e}"));
        assert_eq!(callback.peers().last(), Some(&address(from)), "no NAT");
    }
}
