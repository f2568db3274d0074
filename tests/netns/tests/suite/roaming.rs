//! The client's address changes under a session.

use std::time::Duration;

use masque_netns_tests::{Echo, Flow, Gateway, eventually, ping};

use crate::{WEB, WORK_V4, WORK_V6, address, at, with_laptop};

const VPC: &str = "production-vpc";

fn accepted(gateway: &Gateway) -> u64 {
    let setups = "masque_gateway_session_setups_total";
    gateway.metrics().sum(setups, &["result=\"accepted\""])
}

#[test]
fn a_session_survives_another_network_of_the_client() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let flow = Flow::start(&fabric.laptop, at(WORK_V4, WEB));
    eventually("the flow goes on", || flow.records() > 5);
    let before = client.ipv4();

    fabric.router.address("laptop", "198.51.103.1/24");
    fabric
        .laptop
        .ip(&["addr", "del", "198.51.100.10/24", "dev", "eth0"]);
    fabric.laptop.address("eth0", "198.51.103.10/24");
    fabric.laptop.route("0.0.0.0/0 via 198.51.103.1");

    let records = flow.records();
    eventually("the flow goes on", || flow.records() > records + 20);
    eprintln!("its longest gap: {:?}", flow.longest_gap());
    assert!(
        gateway.ask("sessions").contains("198.51.103.10"),
        "{}",
        gateway.ask("sessions")
    );
    assert_eq!(accepted(&gateway), 1, "the same session");
    assert_eq!(client.ipv4(), before);
}

#[test]
fn a_session_survives_a_nat_that_forgets_it() {
    let Some(fabric) = with_laptop() else { return };
    fabric.router.run("nft", &["add table ip t"]);
    let chain = "add chain ip t n { type nat hook postrouting priority 100; }";
    fabric.router.run("nft", &[chain]);
    let rule = "add rule ip t n oifname gateway meta l4proto udp masquerade to :20000-20009";
    fabric.router.run("nft", &[rule]);
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    assert!(
        gateway.ask("sessions").contains("192.0.2.254:2000"),
        "{}",
        gateway.ask("sessions")
    );

    // Other ports for new mappings, and every mapping is forgotten at once.
    fabric.router.run("nft", &["flush chain ip t n"]);
    fabric
        .router
        .run("nft", &[&rule.replace("20000-20009", "30000-30009")]);
    for key in [
        "nf_conntrack_udp_timeout",
        "nf_conntrack_udp_timeout_stream",
    ] {
        fabric.router.sysctl(&format!("net.netfilter.{key}"), "1");
    }
    eventually("the NAT uses another port", || {
        masque_netns_tests::within(Duration::from_millis(1500), || false);
        ping(&fabric.laptop, address(WORK_V4), &[]);
        gateway.ask("sessions").contains("192.0.2.254:3000")
    });
    ping(&fabric.laptop, address(WORK_V6), &[]);
    assert_eq!(accepted(&gateway), 1, "the same session");
    assert!(!client.log().contains("connected again"));
}
