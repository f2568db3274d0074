//! Sessions: how many, and which of two.

use std::{net::SocketAddr, time::Duration};

use masque_netns_tests::{Client, Echo, eventually, exchange};

use crate::{WEB, WORK_V4, at, with_both, with_laptop};

const VPC: &str = "production-vpc";

#[test]
fn of_two_clients_with_one_key_the_newest_has_the_traffic() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let first = fabric.attach(&fabric.laptop, "laptop", VPC);
    exchange(&fabric.laptop, at(WORK_V4, WEB), 1000).unwrap();
    let second = fabric.attach(&fabric.phone, "laptop", VPC);
    assert_eq!(first.ipv4(), second.ipv4(), "one attachment, one address");
    exchange(&fabric.phone, at(WORK_V4, WEB), 1000).unwrap();
    // What the VPC sends to the one address goes to the newest.
    let at_first = Echo::on_port(&fabric.laptop, 7000);
    let at_second = Echo::on_port(&fabric.phone, 7000);
    exchange(&fabric.work_1p, SocketAddr::new(second.ipv4(), 7000), 1000).unwrap();
    assert_eq!((at_first.peers().len(), at_second.peers().len()), (0, 1));
    assert!(exchange(&fabric.laptop, at(WORK_V4, WEB), 10).is_err());
    eventually("what the former one sends is counted", || {
        gateway.sessions() == 1 || gateway.dropped(VPC, "inactive_session") > 0
    });
    // When it leaves, the former one has the traffic again, or comes back by itself.
    assert_eq!(second.terminate().code, Some(0));
    eventually("the former one is served", || {
        exchange(&fabric.laptop, at(WORK_V4, WEB), 1000).is_ok()
    });
}

#[test]
fn max_total_refuses_the_next_session_in_words() {
    let Some(mut fabric) = with_both() else {
        return;
    };
    let production = fabric.manifests.production();
    production.sessions.push("maxTotal: 1".into());
    let gateway = fabric.start_gateway();
    let first = fabric.attach(&fabric.laptop, "laptop", VPC);
    let second = Client::start(&fabric, &fabric.phone, "phone", VPC, &[]);
    let ended = second.end(Duration::from_secs(15));
    assert_eq!(ended.code, Some(75), "{}", ended.output);
    assert!(ended.output.contains("HTTP 503"), "{}", ended.output);
    assert_eq!(gateway.sessions(), 1);
    let refused = ["result=\"too_many_sessions\""];
    let setups = "masque_gateway_session_setups_total";
    assert_eq!(gateway.metrics().sum(setups, &refused), 1, "no retry");

    assert_eq!(first.terminate().code, Some(0));
    eventually("the place is free", || gateway.sessions() == 0);
    fabric.attach(&fabric.phone, "phone", VPC);
}
