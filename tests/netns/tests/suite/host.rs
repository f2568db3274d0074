//! What an attachment changes on the client's machine, beside others that do.

use std::time::Duration;

use masque_netns_tests::{Client, eventually, ping, ping_fails};

use crate::{WORK_V4, address, with_laptop};

const VPC: &str = "production-vpc";
const OTHER: &str = "staging-vpc";
/// A VPC's prefix with the workload.
const PREFIX: &str = "10.0.1.0/24";

fn routes(client: &Client) -> String {
    client.ns().ip(&["route", "show", PREFIX])
}

#[test]
fn a_client_without_ipv6_uses_ipv4_and_says_so() {
    let Some(fabric) = with_laptop() else { return };
    fabric.laptop.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let log = client.log();
    let setting = "sysctl net.ipv6.conf.all.disable_ipv6=1";
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("warning"))
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(
        told[0].contains("IPv6 is off") && told[0].contains(setting),
        "{log}"
    );
    assert!(!log.contains("CAP_NET_ADMIN"), "{log}");
    assert_eq!(client.terminate().code, Some(0));
}

#[test]
fn a_client_that_can_use_no_address_fails() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.laptop.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
    fabric.manifests.production().pools.remove(0);
    let _gateway = fabric.start_gateway();
    let client = Client::start(&fabric, &fabric.laptop, "laptop", VPC, &[]);
    let ended = client.end(Duration::from_secs(15));
    assert_eq!(ended.code, Some(78), "{}", ended.output);
    assert!(!ended.output.contains("attached to "), "{}", ended.output);
    let why = "IPv6 is off on this machine (sysctl net.ipv6.conf.all.disable_ipv6=1)";
    assert!(ended.output.contains(why), "{}", ended.output);
}

/// The laptop of `examples/standalone`: both VPCs have the same prefixes, and the laptop may well
/// have the same address in both.
#[test]
fn of_two_attachments_with_one_prefix_each_keeps_its_route() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.attach("laptop", OTHER);
    let _gateway = fabric.start_gateway();
    let first = fabric.attach(&fabric.laptop, "laptop", VPC);
    let second = fabric.attach(&fabric.laptop, "laptop", OTHER);
    let both = routes(&second);
    assert!(
        both.contains("dev dc0") && both.contains("dev dc1"),
        "{both}"
    );
    second.wait_line("10.0.1.0/24 leads through dc0, which came first");
    let through_first = || fabric.laptop.ip(&["route", "get", WORK_V4]).contains("dc0");
    assert!(through_first());

    // The second one ends: the first is as before.
    assert_eq!(second.terminate().code, Some(0));
    eventually("the first one has its route", || {
        routes(&first).contains("dev dc0")
    });
    ping(&fabric.laptop, address(WORK_V4), &[]);

    // The first one ends: the second takes over.
    let second = fabric.attach(&fabric.laptop, "laptop", OTHER);
    assert!(through_first());
    assert_eq!(first.terminate().code, Some(0));
    eventually("the second one has its route", || {
        routes(&second).contains("dev dc1")
    });
    ping(&fabric.laptop, address(WORK_V4), &[]);
}

#[test]
fn somebody_elses_route_stays() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let theirs = "10.0.1.0/24 via 198.51.100.1 dev eth0 metric 50";
    fabric.laptop.route(theirs);
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert!(routes(&client).contains("dev dc0"), "{}", routes(&client));
    client.wait_line("10.0.1.0/24 has another route on this machine, which stays and wins");
    assert!(
        routes(&client).contains("via 198.51.100.1 dev eth0"),
        "{}",
        routes(&client)
    );
    ping_fails(&fabric.laptop, address(WORK_V4), &[]);
    client.terminate();
    let left = fabric.laptop.ip(&["route", "show", PREFIX]);
    assert!(left.contains("via 198.51.100.1 dev eth0"), "{left}");
}

/// The VPC's routes hold the gateway's address: packets to it have a route of their own, which must
/// follow the client into another network.
#[test]
fn a_covered_gateway_is_found_again_after_a_move() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.production().routes = vec!["192.0.2.0/24".into()];
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let way = || fabric.laptop.ip(&["route", "get", "192.0.2.1"]);
    assert!(way().contains("via 198.51.100.1 dev eth0"), "{}", way());
    ping(&fabric.laptop, address(WORK_V4), &[]);

    fabric.router.address("laptop", "198.51.103.1/24");
    fabric
        .router
        .ip(&["addr", "del", "198.51.100.1/24", "dev", "laptop"]);
    fabric
        .laptop
        .ip(&["addr", "del", "198.51.100.10/24", "dev", "eth0"]);
    fabric.laptop.address("eth0", "198.51.103.10/24");
    fabric
        .laptop
        .ip(&["route", "replace", "0.0.0.0/0", "via", "198.51.103.1"]);
    eventually("the gateway's route leads by the new router", || {
        way().contains("via 198.51.103.1 dev eth0")
    });
    ping(&fabric.laptop, address(WORK_V4), &[]);
    client.terminate();
    assert!(!way().contains("dc0") && !fabric.laptop.ip(&["route"]).contains("192.0.2.1 "));
}

/// What a killed attachment left is taken back by the next, also where that is to another VPC.
#[test]
fn the_next_attachment_takes_back_what_a_killed_one_left() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    fabric.manifests.attach("laptop", OTHER);
    fabric.manifests.production().routes = vec!["192.0.2.0/24".into()];
    let _gateway = fabric.start_gateway();
    let left = || fabric.laptop.ip(&["route"]).contains("192.0.2.1 via");
    let killed = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert!(left(), "the gateway has a route of its own");
    killed.kill();
    assert!(left());
    let next = fabric.attach(&fabric.laptop, "laptop", OTHER);
    assert!(!left());
    assert_eq!(next.terminate().code, Some(0));
}
