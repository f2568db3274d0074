//! The outer IP header (RFC 9484 §10), on the wire between client and gateway.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use std::time::Duration;

use masque_netns_tests::{Fabric, Links};
use masque_testkit::Capture;

/// UDP packets looked at.
const PACKETS: usize = 40;

#[test]
fn n65_neither_dscp_nor_ecn_of_inner_packets_is_copied() {
    let Some(fabric) = Fabric::with_laptop(Links::default()) else {
        return;
    };
    let _gateway = fabric.start_gateway();
    let _client = fabric.attach(&fabric.laptop, "laptop", "production-vpc");
    let capture = Capture::open(&fabric.laptop, "eth0");
    // EF with CE; the workload's kernel answers with the same class.
    let ping = [
        "-Q",
        "0xbb",
        "-c",
        "40",
        "-i",
        "0.01",
        "-W",
        "2",
        "10.0.1.10",
    ];
    let answered = fabric.laptop.run("ping", &ping);
    assert!(answered.contains(" 0% packet loss"), "{answered}");
    let udp = |packet: &[u8]| packet.len() > 28 && packet[0] >> 4 == 4 && packet[9] == 17;
    for _ in 0..PACKETS {
        let packet = capture
            .next(Duration::from_secs(2), udp)
            .expect("the tunnel's packets");
        let (dscp, ecn) = (packet[1] >> 2, packet[1] & 0b11);
        assert_eq!(
            dscp, 0,
            "RFC 9484 §10.3: with congestion control, no DSCP is copied"
        );
        assert_ne!(ecn, 0b11, "congestion inside is none of the outer path's");
    }
}
