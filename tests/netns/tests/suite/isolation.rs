//! Two VPCs with the same IPv4 prefixes; clients who pretend.

use std::net::SocketAddr;

use masque_netns_tests::{Echo, exchange, ping, ping_fails, sid};

use crate::{WEB, WORK_V4, WORK_V6, address, at, connects_not, with_laptop};

#[test]
fn two_vpcs_with_the_same_prefixes_never_mix() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.connector("phone");
    fabric.manifests.attach("phone", "staging-vpc");
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

    // The other VPC's IPv6 prefix is nowhere, also for one who asks the gateway for it.
    connects_not(&fabric.laptop, at("fd20:20:0:1::10", WEB));
    fabric.laptop.route("fd20:20::/48 dev dc0");
    connects_not(&fabric.laptop, at("fd20:20:0:1::10", WEB));
    gateway.wait_dropped("production-vpc", "no_route", 1);
    assert_eq!(seen(), (1, 1));
}

#[test]
fn a_forged_source_is_dropped_and_counted() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    ping(&fabric.laptop, address(WORK_V4), &[]);
    assert_eq!(gateway.dropped("production-vpc", "source_not_assigned"), 0);

    fabric.laptop.address("dc0", "10.0.100.77/32");
    ping_fails(&fabric.laptop, address(WORK_V4), &["-I", "10.0.100.77"]);
    gateway.wait_dropped("production-vpc", "source_not_assigned", 1);

    fabric.laptop.address("dc0", "fd20:10:0:100::77/128");
    let forged = ["-I", "fd20:10:0:100::77"];
    ping_fails(&fabric.laptop, address(WORK_V6), &forged);
    gateway.wait_dropped("production-vpc", "source_not_assigned", 2);
}

#[test]
fn a_client_cannot_speak_to_the_srv6_fabric() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let laptop = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    fabric.laptop.route("fd00:0:1::/48 dev dc0");
    let own = laptop.ipv6().to_string();
    ping_fails(&fabric.laptop, sid(1, 'e', 2).into(), &["-I", &own]);
    let fabric_drops = || {
        let vpc = "production-vpc";
        gateway.dropped(vpc, "locator_destination") + gateway.dropped(vpc, "no_route")
    };
    masque_netns_tests::eventually("the packet is dropped and counted", || fabric_drops() >= 1);
}
