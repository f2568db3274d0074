//! Hop limits and ICMP errors: what a person sees who looks for the way.
//!
//! The gateway's kernel counts the hop between TUN and SRv6, so a packet that enters the tunnel with
//! a hop limit of 1 is answered there. A node that takes packets out of SRv6 by End.DX4 hands them to
//! the workload without counting, one with End.DT6 looks up a route and counts. Towards clients the
//! node counts when it puts a packet into SRv6, and the gateway, whose End.DX4 or End.DT6 leads into
//! the TUN device, counts no more than these do.

use std::time::Duration;

use masque_netns_tests::{UNDERLAY_GATEWAY, ping, ping_fails, sid};
use masque_testkit::Capture;

use crate::{DENIED_AFTER, WORK_V4, WORK_V6, address, with_laptop};

/// Long enough for a packet that is on its way already.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
const VPC: &str = "production-vpc";

/// Hop limits that do not reach, from 1 on, and what ping said.
fn refused(ns: &masque_testkit::Netns, to: &str) -> Vec<String> {
    let mut said = Vec::new();
    for hops in 1..=6 {
        let hops = hops.to_string();
        let output = ns
            .command("ping", &["-c", "1", "-W", "1", "-t", &hops, to])
            .output()
            .unwrap();
        if output.status.success() {
            return said;
        }
        said.push(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    panic!("{to} is not reached: {said:?}");
}

#[test]
fn the_gateway_is_one_hop_of_the_way_to_a_workload() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let underlay = Capture::open(&fabric.node_1, UNDERLAY_GATEWAY);
    for (to, function) in [(WORK_V4, 'd'), (WORK_V6, 'e')] {
        ping(&fabric.laptop, address(to), &["-t", "10"]);
        let sid = sid(1, function, 1).octets();
        let is_echo = |p: &[u8]| p[0] >> 4 == 6 && p[24..40] == sid;
        let packet = underlay.next(ON_ITS_WAY, is_echo).expect("the echo");
        let hops = if function == 'd' {
            packet[48]
        } else {
            packet[47]
        };
        assert_eq!(hops, 9, "{to} in SRv6");

        let said = refused(&fabric.laptop, to);
        let told = said[0].contains("Time to live exceeded") || said[0].contains("Hop limit");
        assert!(told, "{to}: {said:?}");
        let nodes = 1;
        assert_eq!(said.len(), 1 + nodes, "{to}: {said:?}");
    }
}

#[test]
fn the_way_to_a_client_has_an_end_too() {
    let Some(mut fabric) = with_laptop() else {
        return;
    };
    let rule = "{name: ping-back, direction: FromVPC, ports: [{protocol: ICMP}]}";
    fabric.manifests.production().rules.push(rule.into());
    let _gateway = fabric.start_gateway();
    let laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    for to in [laptop.ipv4(), laptop.ipv6()] {
        let said = refused(&fabric.work_1p, &to.to_string());
        eprintln!("{to}: {said:?}");
        assert!((1..=2).contains(&said.len()), "{to}: {said:?}");
    }
}

#[test]
fn a_denied_packet_is_answered_by_administratively_prohibited() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let _laptop = fabric.attach(&fabric.laptop, "laptop", VPC);
    let device = Capture::open(&fabric.laptop, "dc0");
    for to in [WORK_V4, WORK_V6] {
        let denied =
            masque_netns_tests::connects(&fabric.laptop, crate::at(to, 9999), DENIED_AFTER);
        assert!(denied.is_err());
        // RFC 1812 §5.2.7.1, type 3 code 13; RFC 4443 §3.1, type 1 code 1.
        let told = |p: &[u8]| match p[0] >> 4 {
            4 => p[9] == 1 && p[20..22] == [3, 13],
            6 => p[6] == 58 && p[40..42] == [1, 1],
            _ => false,
        };
        let packet = device.next(DENIED_AFTER, told).expect("an ICMP error");
        assert_eq!(packet[0] >> 4 == 6, address(to).is_ipv6());
    }
    ping(&fabric.laptop, address(WORK_V4), &[]);
    let elsewhere = ping_fails(&fabric.laptop, address("10.0.1.99"), &[]);
    assert!(!elsewhere.contains("prohibited"), "{elsewhere}");
}
