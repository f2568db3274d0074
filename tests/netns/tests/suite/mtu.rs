//! Outer links of different sizes.

use std::{net::IpAddr, time::Duration};

use masque_netns_tests::{
    Client, Echo, Fabric, Links, connects, eventually, exchange, ping, ping_fails,
};

use crate::{WEB, WORK_V4, WORK_V6, address, at};

const VPC: &str = "production-vpc";
/// IPv4 and ICMP headers.
const V4_HEADERS: u32 = 28;
/// IPv6 and ICMPv6 headers.
const V6_HEADERS: u32 = 48;

fn fabric(access_mtu: u32, underlay_mtu: u32) -> Option<Fabric> {
    let mut fabric = Fabric::with(Links {
        access_mtu,
        underlay_mtu,
    })?;
    fabric.connector("laptop");
    fabric.manifests.attach("laptop", VPC);
    // The tests ping clients, too.
    let production = fabric.manifests.production();
    production
        .rules
        .push("{name: ping-back, direction: FromVPC, ports: [{protocol: ICMP}]}".into());
    Some(fabric)
}

fn largest(ns: &masque_testkit::Netns, to: &str, mtu: u32) {
    let to = address(to);
    let headers = if to.is_ipv4() { V4_HEADERS } else { V6_HEADERS };
    let size = (mtu - headers).to_string();
    ping(ns, to, &["-M", "do", "-s", &size]);
}

#[test]
fn links_of_1280_are_refused_in_words() {
    let Some(fabric) = fabric(1280, 1500) else {
        return;
    };
    let gateway = fabric.start_gateway();
    let client = Client::start(&fabric, &fabric.laptop, "laptop", VPC, &[]);
    let ended = client.end(Duration::from_secs(20));
    assert_eq!(ended.code, Some(69), "{}", ended.output);
    // The handshake itself probes for 1331 bytes, so a path that is too small looks like one that
    // drops everything; the words have to cover both.
    let last = ended.output.lines().last().unwrap();
    assert!(last.contains("192.0.2.1:4433"), "{}", ended.output);
    assert_eq!(gateway.sessions(), 0);
}

/// Everything that holds for every link large enough.
fn passes(access_mtu: u32, underlay_mtu: u32) {
    let Some(fabric) = fabric(access_mtu, underlay_mtu) else {
        return;
    };
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let (ipv4, ipv6) = (client.ipv4().to_string(), client.ipv6().to_string());
    // The search ends at the size of Ethernet's frames.
    let room = (access_mtu - 28).min(underlay_mtu - 40).min(1452);
    // Headers and tag of QUIC at most, and the path may still be searched.
    eventually("the device has most of what the path carries", || {
        client.mtu() >= (room - 55).max(1280) && client.mtu() <= underlay_mtu - 40
    });
    let mtu = settled(&client);
    largest(&fabric.laptop, WORK_V6, 1280);
    largest(&fabric.work_1p, &ipv6, 1280);
    for (ns, to) in [
        (&fabric.laptop, WORK_V4),
        (&fabric.laptop, WORK_V6),
        (&fabric.work_1p, &*ipv4),
        (&fabric.work_1p, &*ipv6),
    ] {
        largest(ns, to, mtu);
    }
    // One byte more: the sender is told, whoever finds out.
    for (ns, to) in [
        (&fabric.laptop, WORK_V4),
        (&fabric.work_1p, &*ipv4),
        (&fabric.work_1p, &*ipv6),
    ] {
        let headers = if to.contains(':') {
            V6_HEADERS
        } else {
            V4_HEADERS
        };
        let size = (mtu + 1 - headers).to_string();
        let text = ping_fails(ns, address(to), &["-M", "do", "-s", &size]);
        let told = ["mtu", "too big", "too long", "Frag needed"];
        assert!(told.iter().any(|word| text.contains(word)), "{to}: {text}");
    }
    let _web = Echo::on_port(&fabric.work_1p, WEB);
    let _callback = Echo::on_port(&fabric.laptop, 7000);
    for to in [WORK_V4, WORK_V6] {
        exchange(&fabric.laptop, at(to, WEB), 4_000_000).unwrap_or_else(|e| panic!("{to}: {e}"));
    }
    for to in [&ipv4, &ipv6] {
        exchange(&fabric.work_1p, at(to, 7000), 4_000_000).unwrap_or_else(|e| panic!("{to}: {e}"));
    }
    assert!(connects(&fabric.laptop, at(WORK_V4, WEB), Duration::from_secs(1)).is_ok());
    let _: IpAddr = client.ipv4();
}

/// The MTU once it does not change any more.
fn settled(client: &Client) -> u32 {
    let mut mtu = client.mtu();
    loop {
        masque_netns_tests::within(Duration::from_secs(1), || client.mtu() != mtu);
        let now = client.mtu();
        if now == mtu {
            return mtu;
        }
        mtu = now;
    }
}

#[test]
fn links_of_1400() {
    passes(1400, 1500);
}

#[test]
fn links_of_1500() {
    passes(1500, 1500);
}

#[test]
fn links_of_9000() {
    passes(9000, 9000);
}

#[test]
fn an_underlay_smaller_than_the_access() {
    passes(9000, 1500);
}
