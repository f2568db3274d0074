//! Outer links of different sizes.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use masque_netns_tests::{
    Client, Echo, Fabric, Gateway, Links, connects, eventually, exchange, ping, ping_fails,
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

/// Gives the link between router and gateway another size.
fn set_gateway_link(fabric: &Fabric, mtu: &str) {
    fabric.router.ip(&["link", "set", "gateway", "mtu", mtu]);
    fabric.gateway.ip(&["link", "set", "access", "mtu", mtu]);
}

/// A firewall that keeps the ICMP errors of the narrow link to itself.
fn silence(router: &masque_testkit::Netns) {
    router.run("nft", &["add table ip silent"]);
    let chain = "add chain ip silent out { type filter hook output priority 0; }";
    router.run("nft", &[chain]);
    let rule = "add rule ip silent out icmp type destination-unreachable drop";
    router.run("nft", &[rule]);
}

/// The last words of an attachment over links of 1280, and how long it took to say them.
fn refused(silent: bool) -> Option<String> {
    let fabric = fabric(1500, 1500)?;
    set_gateway_link(&fabric, "1280");
    if silent {
        silence(&fabric.router);
    }
    let gateway = fabric.start_gateway();
    let client = Client::start(&fabric, &fabric.laptop, "laptop", VPC, &[]);
    let ended = client.end(Duration::from_secs(20));
    assert_eq!(ended.code, Some(69), "{}", ended.output);
    assert_eq!(gateway.sessions(), 0);
    let last = ended.output.lines().last().unwrap_or_default().to_owned();
    for word in [
        "192.0.2.1:4433",
        "too narrow",
        "1359",
        "tracepath -n 192.0.2.1",
    ] {
        assert!(last.contains(word), "{word}: {}", ended.output);
    }
    Some(last)
}

#[test]
fn links_of_1280_are_refused_in_words() {
    let Some(last) = refused(false) else {
        return;
    };
    // Told by ICMP: what is measured is "about" so much.
    assert!(last.contains("MTU is 1280 bytes"), "{last}");
}

#[test]
fn links_of_1280_that_say_nothing_are_measured() {
    let Some(last) = refused(true) else {
        return;
    };
    let found = (1250..=1280).any(|mtu| last.contains(&format!("MTU is about {mtu} bytes")));
    assert!(found, "{last}");
}

#[test]
fn the_clients_own_link_of_1280_is_refused_in_words() {
    let Some(fabric) = fabric(1280, 1500) else {
        return;
    };
    let _gateway = fabric.start_gateway();
    let client = Client::start(&fabric, &fabric.laptop, "laptop", VPC, &[]);
    let ended = client.end(Duration::from_secs(20));
    assert_eq!(ended.code, Some(69), "{}", ended.output);
    let last = ended.output.lines().last().unwrap();
    assert!(last.contains("MTU is 1280 bytes"), "{}", ended.output);
}

/// A client that is attached over links of 1500, and its gateway.
fn attached() -> Option<(Fabric, Gateway, Client)> {
    let fabric = fabric(1500, 1500)?;
    let gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    settled(&client);
    Some((fabric, gateway, client))
}

/// Sends large packets until the client says what is wrong, and waits for the gateway to know.
fn told_too_narrow(fabric: &Fabric, gateway: &Gateway, client: &Client, words: &str) {
    let size = (1280 - V6_HEADERS).to_string();
    eventually("the client says that the path is too narrow", || {
        let to = WORK_V6;
        let args = ["-c", "1", "-W", "1", "-M", "do", "-s", &size, to];
        let _lost = fabric.laptop.command("ping", &args).output().unwrap();
        client.log().contains("too narrow")
    });
    let log = client.log();
    let line = log.lines().find(|line| line.contains("too narrow"));
    assert!(line.is_some_and(|line| line.contains(words)), "{log}");
    eventually("the session is over", || gateway.sessions() == 0);
}

#[test]
fn n61_n62_a_path_that_narrows_to_1280_under_a_session_ends_it_in_words() {
    let Some((fabric, gateway, client)) = attached() else {
        return;
    };
    silence(&fabric.router);
    set_gateway_link(&fabric, "1280");
    ping(&fabric.laptop, address(WORK_V4), &[]);
    told_too_narrow(&fabric, &gateway, &client, "large ones are lost");
    set_gateway_link(&fabric, "1500");
    client.wait_line("connected again");
    largest(&fabric.laptop, WORK_V6, 1280);
}

#[test]
fn n62_a_router_that_says_too_big_under_a_session_is_quoted() {
    let Some((fabric, gateway, client)) = attached() else {
        return;
    };
    set_gateway_link(&fabric, "1280");
    told_too_narrow(&fabric, &gateway, &client, "MTU is 1280 bytes");
}

#[test]
fn n62_the_clients_own_link_that_narrows_under_a_session_ends_it_in_words() {
    let Some((fabric, gateway, client)) = attached() else {
        return;
    };
    fabric.laptop.ip(&["link", "set", "eth0", "mtu", "1280"]);
    fabric.router.ip(&["link", "set", "laptop", "mtu", "1280"]);
    told_too_narrow(&fabric, &gateway, &client, "too narrow");
}

#[test]
fn a_path_that_narrows_to_1400_under_a_session_carries_on() {
    let Some((fabric, gateway, client)) = attached() else {
        return;
    };
    let before = client.mtu();
    silence(&fabric.router);
    set_gateway_link(&fabric, "1400");
    let size = (before - V4_HEADERS).to_string();
    eventually("the device has what the path carries", || {
        let args = ["-c", "1", "-W", "1", "-M", "do", "-s", &size, WORK_V4];
        let _lost = fabric.laptop.command("ping", &args).output().unwrap();
        client.mtu() < before && client.mtu() >= 1280
    });
    largest(&fabric.laptop, WORK_V6, 1280);
    largest(&fabric.laptop, WORK_V4, settled(&client));
    assert_eq!(gateway.sessions(), 1, "the same session");
    assert!(!client.log().contains("not connected"), "{}", client.log());
}

/// Everything that holds for every link large enough.
fn passes(access_mtu: u32, underlay_mtu: u32) {
    let Some(fabric) = fabric(access_mtu, underlay_mtu) else {
        return;
    };
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    let (ipv4, ipv6) = (client.ipv4().to_string(), client.ipv6().to_string());
    // The search ends where the link does, and at 9000 less IPv6 and UDP.
    let room = (access_mtu - 28).min(underlay_mtu - 40).min(8952);
    // Headers and tag of QUIC at most, and the path may still be searched.
    eventually("the device has most of what the path carries", || {
        client.mtu() >= (room - 55).max(1280) && client.mtu() <= underlay_mtu - 40
    });
    let mtu = settled(&client);
    if access_mtu.min(underlay_mtu) >= 9000 {
        assert!(mtu > 8800, "{mtu}");
    }
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
        // What the fabric itself has no room for is lost at the node; the gateway never sees it.
        if ns.name() != fabric.laptop.name() && mtu >= underlay_mtu - 40 {
            continue;
        }
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

/// RFC 1812 §4.2.2.7: what a workload sends without Don't Fragment arrives, whether it comes to the
/// gateway in one piece or in fragments that are too long themselves.
#[test]
fn a_long_datagram_without_dont_fragment_reaches_the_client() {
    const PORT: u16 = 7000;
    let Some(mut fabric) = fabric(1500, 9000) else {
        return;
    };
    let datagrams = "{name: datagrams, direction: FromVPC, ports: [{protocol: UDP}]}";
    fabric.manifests.production().rules.push(datagrams.into());
    let workload = &fabric.work_1p;
    workload.sysctl("net.ipv4.ip_no_pmtu_disc", "1");
    let _gateway = fabric.start_gateway();
    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert!(client.mtu() < 1500);
    let receiver = fabric.laptop.enter(|| UdpSocket::bind(("0.0.0.0", PORT)));
    let receiver = receiver.unwrap();
    let wait = Duration::from_millis(500);
    receiver.set_read_timeout(Some(wait)).unwrap();
    let sender = workload.enter(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap();
    for link_mtu in ["9000", "1500"] {
        workload.ip(&["link", "set", "eth0", "mtu", link_mtu]);
        let datagram: Vec<u8> = (0..3_000_u16).map(|at| (at % 251) as u8).collect();
        let mut buffer = vec![0; 65_536];
        eventually("the datagram is there", || {
            sender.send_to(&datagram, (client.ipv4(), PORT)).unwrap();
            let received = receiver.recv(&mut buffer);
            received.is_ok_and(|length| buffer[..length] == datagram)
        });
    }
}
