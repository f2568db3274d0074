//! A path much narrower than what its ends can send: who fills it is told, nobody else waits.

use std::{net::UdpSocket, path::Path, thread, time::Duration};

use masque_netns_tests::{Echo, Fabric, Process, eventually, exchange};

use crate::{WEB, WORK_V4, address, at, with_laptop};

const VPC: &str = "production-vpc";
/// A sender that heeds nothing: what it sends takes the path six seconds, and it is sent in a small
/// part of that.
const PACKETS: usize = 3_000;
const PACKET_BYTES: usize = 1_200;
/// The discard port; whether the policy lets it through does not matter here.
const DISCARD: u16 = 9;
/// So many packets the device's own line holds at least.
const AT_ONCE: usize = 100;

/// A page that takes a path of 40 Mbit/s 1.6 s.
const PAGE_BYTES: usize = 8_000_000;

/// The way from the router over this device at this rate, with a buffer of its own that is short.
fn narrow(fabric: &Fabric, device: &str, rate: &str) {
    let shaper = ["qdisc", "replace", "dev", device, "root", "tbf"];
    let limits = ["rate", rate, "burst", "20kb", "limit", "100kb"];
    fabric.router.run("tc", &[&shaper[..], &limits].concat());
}

/// Bytes that took the narrow path so far.
fn passed(fabric: &Fabric) -> usize {
    let shown = ["-s", "qdisc", "show", "dev", "gateway"];
    let shown = fabric.router.run("tc", &shown);
    let mut words = shown.split_whitespace().skip_while(|word| *word != "Sent");
    let bytes = words.nth(1).and_then(|bytes| bytes.parse().ok());
    bytes.unwrap_or_else(|| panic!("no count of bytes:\n{shown}"))
}

fn flood(socket: &UdpSocket) {
    let packet = [0; PACKET_BYTES];
    for number in 1..=PACKETS {
        // What comes back is the ICMP error of an earlier packet, which the policy denied.
        let _denied = socket.send(&packet);
        if number % AT_ONCE == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn who_fills_a_narrow_path_is_told_and_keeps_nobody_waiting() {
    let Some(mut fabric) = Fabric::new() else {
        return;
    };
    fabric.connector("laptop");
    fabric.manifests.attach("laptop", VPC);
    narrow(&fabric, "gateway", "5mbit");
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let socket = client.ns().enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((address(WORK_V4), DISCARD))?;
        std::io::Result::Ok(socket)
    });
    let socket = socket.expect("a socket");
    let before = passed(&fabric);
    flood(&socket);
    // Some are lost on the full path. Whoever waited behind all of the flood would be answered after
    // it had passed. How long an answer takes says nothing on a busy machine; what has passed by then
    // does.
    let log = fabric.folder().join("ping.log");
    let pings = ["-n", "-i", "0.1", "-c", "200", WORK_V4];
    let pings = Process::start(client.ns(), Path::new("ping"), &pings, &log);
    eventually("an echo is answered", || {
        pings.output().contains("bytes from")
    });
    let passed = passed(&fabric) - before;
    let sent = PACKETS * PACKET_BYTES;
    assert!(passed < sent / 2, "behind {passed} bytes of {sent}");
    eventually("the flow is told", || client.dropped("send_congested") > 0);
    assert_eq!(
        client.dropped("send_queue_full"),
        0,
        "before memory ran out"
    );
}

/// Once a connection has no room, what comes for its client waits until somebody tells that it has.
#[test]
fn what_waits_for_a_client_behind_a_narrow_path_arrives() {
    let Some(fabric) = with_laptop() else { return };
    narrow(&fabric, "laptop", "40mbit");
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _echo = Echo::on_port(&fabric.work_1p, WEB);
    exchange(client.ns(), at(WORK_V4, WEB), PAGE_BYTES).expect("all of it");
    let events = "masque_gateway_shard_events_total";
    let lost = gateway.metrics().sum(events, &["client_queue_full"]);
    assert_eq!(lost, 0, "before memory ran out");
}
