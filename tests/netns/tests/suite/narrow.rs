//! A path much narrower than what both ends can send: who fills it is told, nobody else waits.

use std::{net::SocketAddr, thread, time::Duration};

use masque_netns_tests::{Echo, Fabric, exchange, ping};
use masque_testkit::Netns;

use crate::{WEB, WORK_V4, address, at};

const VPC: &str = "production-vpc";
/// What each upload sends and gets back: some two seconds of the path.
const UPLOAD_BYTES: usize = 4_000_000;
/// Uploads at one time.
const UPLOADS: usize = 2;

/// Both directions of the access link at 40 Mbit/s, with a buffer of its own that is short.
fn narrow(fabric: &Fabric) {
    for (ns, device) in [(&fabric.router, "gateway"), (&fabric.router, "laptop")] {
        let shaper = ["qdisc", "replace", "dev", device, "root", "tbf"];
        let limits = ["rate", "40mbit", "burst", "20kb", "limit", "120kb"];
        ns.run("tc", &[&shaper[..], &limits].concat());
    }
}

fn uploads(ns: &Netns, to: SocketAddr) -> Vec<thread::JoinHandle<()>> {
    let upload = |_| {
        let ns = ns.clone();
        thread::spawn(move || drop(exchange(&ns, to, UPLOAD_BYTES).expect("all comes back")))
    };
    (0..UPLOADS).map(upload).collect()
}

#[test]
fn uploads_are_told_to_slow_down_and_keep_nobody_waiting() {
    let Some(mut fabric) = Fabric::new() else {
        return;
    };
    fabric.connector("laptop");
    fabric.manifests.attach("laptop", VPC);
    narrow(&fabric);
    let _echo = Echo::on_port(&fabric.work_1p, WEB);
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);

    let running = uploads(client.ns(), at(WORK_V4, WEB));
    thread::sleep(Duration::from_millis(500));
    for _ in 0..5 {
        ping(client.ns(), address(WORK_V4), &["-W", "1"]);
    }
    for upload in running {
        upload.join().expect("an upload");
    }
    let at_gateway = gateway.metrics();
    let told = client.dropped("send_congested")
        + at_gateway.sum("masque_gateway_shard_events_total", &["client_congested"]);
    assert!(
        told > 0,
        "nobody was told: {}",
        client.ask(&["status", "--json"])
    );
    assert_eq!(
        client.dropped("send_queue_full"),
        0,
        "before memory ran out"
    );
}
