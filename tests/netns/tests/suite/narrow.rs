//! A path much narrower than what its ends can send: who fills it is told, nobody else waits.

use std::{net::UdpSocket, thread, time::Duration};

use masque_netns_tests::{Echo, Fabric, eventually, exchange, ping};

use crate::{WEB, WORK_V4, address, at, with_laptop};

const VPC: &str = "production-vpc";
/// A sender that heeds nothing: what it sends takes the path 0.7 s.
const PACKETS: usize = 3_000;
const PACKET_BYTES: usize = 1_200;
/// The discard port; whether the policy lets it through does not matter here.
const DISCARD: u16 = 9;
/// So many packets the device's own line holds at least.
const AT_ONCE: usize = 100;

/// A page that takes such a path 1.6 s.
const PAGE_BYTES: usize = 8_000_000;

/// The way from the router over this device at 40 Mbit/s, with a buffer of its own that is short.
fn narrow(fabric: &Fabric, device: &str) {
    let shaper = ["qdisc", "replace", "dev", device, "root", "tbf"];
    let limits = ["rate", "40mbit", "burst", "20kb", "limit", "120kb"];
    fabric.router.run("tc", &[&shaper[..], &limits].concat());
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
    narrow(&fabric, "gateway");
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let socket = client.ns().enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((address(WORK_V4), DISCARD))?;
        std::io::Result::Ok(socket)
    });
    let socket = socket.expect("a socket");
    let flooding = thread::spawn(move || flood(&socket));
    thread::sleep(Duration::from_millis(100));
    for _ in 0..3 {
        ping(client.ns(), address(WORK_V4), &[]);
    }
    flooding.join().expect("all was sent");
    eventually("the flow is told", || client.dropped("send_congested") > 0);
    assert_eq!(
        client.dropped("send_queue_full"),
        0,
        "before memory ran out"
    );
}

#[test]
fn what_waits_for_a_client_behind_a_narrow_path_arrives() {
    let Some(fabric) = with_laptop() else { return };
    narrow(&fabric, "laptop");
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let _echo = Echo::on_port(&fabric.work_1p, WEB);
    exchange(client.ns(), at(WORK_V4, WEB), PAGE_BYTES).expect("all of it");
    let events = |label| {
        let metrics = gateway.metrics();
        metrics.sum("masque_gateway_shard_events_total", &[label])
    };
    let told = || events("client_congested") + events("client_congestion_marked");
    assert!(told() > 0, "nothing waited");
    assert_eq!(events("client_queue_full"), 0, "before memory ran out");
}
