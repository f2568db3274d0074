//! Two VPCs with the same IPv4 prefixes; clients who pretend.

use std::{net::SocketAddr, time::Duration};

use masque_netns_tests::{Echo, exchange, ping, ping_fails, sid};
use masque_testkit::Capture;

use crate::{WEB, WORK_V4, WORK_V6, address, at, connects_not, with_laptop};

#[test]
fn two_vpcs_with_the_same_prefixes_never_mix() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.connector("phone");
    fabric.manifests.attach("phone", "staging-vpc");
    for (at, six) in [(0, 10), (1, 20)] {
        let addresses = format!("[10.0.100.9, \"fd20:{six}:0:100::9\"]");
        let allocation = format!("ipAllocation: {{mode: Static, addresses: {addresses}}}");
        fabric.manifests.attachments[at].more.push(allocation);
    }
    let gateway = fabric.start_gateway();
    let laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let phone = fabric.attach(&fabric.phone, "phone", "staging-vpc");
    let production = Echo::on_port(&fabric.work_1p, WEB);
    let staging = Echo::on_port(&fabric.work_1s, WEB);
    let seen = || (production.peers().len(), staging.peers().len());

    exchange(&fabric.laptop, at(WORK_V4, WEB), 1000).unwrap();
    assert_eq!(seen(), (1, 0));
    exchange(&fabric.phone, at(WORK_V4, WEB), 1000).unwrap();
    assert_eq!(seen(), (1, 1));

    // Both have the same address, each in a VPC of its own.
    assert_eq!(laptop.ipv4(), phone.ipv4());
    let at_laptop = Echo::on_port(&fabric.laptop, 7000);
    let at_phone = Echo::on_port(&fabric.phone, 7000);
    let client = SocketAddr::new(phone.ipv4(), 7000);
    exchange(&fabric.work_1s, client, 1000).unwrap();
    assert_eq!((at_laptop.peers().len(), at_phone.peers().len()), (0, 1));
    exchange(&fabric.work_1p, client, 1000).unwrap();
    assert_eq!((at_laptop.peers().len(), at_phone.peers().len()), (1, 1));

    // The other VPC's IPv6 prefix is nowhere.
    connects_not(&fabric.laptop, at("fd20:20:0:1::10", WEB));
    connects_not(&fabric.phone, at(WORK_V6, WEB));
    assert_eq!(seen(), (1, 1));
    assert_eq!(gateway.sessions(), 2);
}

/// A packet with a source that was not assigned gets nowhere. The client's own end stops it before
/// the gateway has to; what the gateway does with clients that do not is tested in its core.
#[test]
fn a_forged_source_of_a_client_does_not_pass() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    ping(&fabric.laptop, address(WORK_V4), &[]);
    assert_eq!(laptop.dropped("send_source_not_assigned"), 0);
    let own = laptop.ipv6().to_string();
    let at_work = Capture::open(&fabric.work_1p, "eth0");
    fabric.laptop.address("dc0", "10.0.100.77/32");
    ping_fails(&fabric.laptop, address(WORK_V4), &["-I", "10.0.100.77"]);
    assert_eq!(laptop.dropped("send_source_not_assigned"), 1);
    fabric.laptop.address("dc0", "fd20:10:0:100::77/128");
    let forged = ["-I", "fd20:10:0:100::77"];
    ping_fails(&fabric.laptop, address(WORK_V6), &forged);
    assert_eq!(laptop.dropped("send_source_not_assigned"), 2);
    // Nor may it speak to the SRv6 fabric itself.
    fabric.laptop.route("fd00:0:1::/48 dev dc0");
    ping_fails(&fabric.laptop, sid(1, 'e', 2).into(), &["-I", &own]);
    let status = laptop.ask(&["status", "--json"]);
    assert!(
        laptop.dropped("send_destination_not_routed") >= 1,
        "{status}"
    );
    let echo = |p: &[u8]| matches!((p[0] >> 4, p[9], p[6]), (4, 1, _) | (6, _, 58));
    assert_eq!(at_work.next(Duration::from_millis(200), echo), None);
}

#[test]
fn a_forged_source_of_a_workload_is_dropped_and_counted() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let at_laptop = Capture::open(&fabric.laptop, "dc0");
    let reason = "source_outside_routes";
    for (forged, prefix, to) in [
        ("10.9.9.9", 32, laptop.ipv4()),
        ("fd20:99::9", 128, laptop.ipv6()),
    ] {
        let before = gateway.dropped("production-vpc", reason);
        fabric
            .work_1p
            .address("eth0", &format!("{forged}/{prefix}"));
        ping_fails(&fabric.work_1p, to, &["-I", forged]);
        gateway.wait_dropped("production-vpc", reason, before + 1);
    }
    let echo = |p: &[u8]| matches!((p[0] >> 4, p[9], p[6]), (4, 1, _) | (6, _, 58));
    assert_eq!(at_laptop.next(Duration::from_millis(200), echo), None);
}
