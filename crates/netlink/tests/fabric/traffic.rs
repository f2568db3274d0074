//! What is on the wire.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use masque_packet::build::build_udp;
use masque_srv6::Sid;
use masque_testkit::Capture;

use crate::topology::{
    CLIENT, CLIENT_V6, GATEWAY_SOURCE, Gateway, Pump, Topology, VPCS, WORKLOAD, WORKLOAD_V6,
    open_tun,
};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(3);
const TRANSFER_BYTES: usize = 8 << 20;

fn client() -> IpAddr {
    CLIENT.into()
}

fn client_v6() -> IpAddr {
    CLIENT_V6.parse().unwrap()
}

/// A UDP packet whose payload tells whose it is.
fn packet(from: IpAddr, to: IpAddr, vpc: usize) -> Vec<u8> {
    build_udp(
        from,
        to,
        4000 + vpc as u16,
        5000,
        format!("packet of VPC {vpc}").as_bytes(),
    )
}

/// An outer packet of the gateway: IPv6 from its source address.
fn is_outer(packet: &[u8]) -> bool {
    let source = GATEWAY_SOURCE.parse::<Ipv6Addr>().unwrap().octets();
    packet.len() > 40 && packet[0] >> 4 == 6 && packet[8..24] == source
}

#[test]
fn each_vpc_reaches_its_own_node_without_a_routing_header() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    let captures = [topology.capture(0), topology.capture(1)];
    for vpc in [0, 1] {
        let other = &captures[1 - vpc];
        let v4 = packet(client(), WORKLOAD.into(), vpc);
        let v6 = packet(client_v6(), WORKLOAD_V6.parse().unwrap(), vpc);
        for (inner, next_header, sid) in [
            (v4, 4, VPCS[vpc].node_sid_ipv4),
            (v6, 41, VPCS[vpc].node_sid),
        ] {
            gateway.send(vpc, &inner);
            let outer = captures[vpc].next(LONG, is_outer).expect("it arrives");
            let sid: Sid = sid.parse().unwrap();
            assert_eq!(outer[6], next_header, "no routing header in between");
            assert_eq!(outer[24..40], sid.0.octets());
            assert_eq!(outer[4..6], (inner.len() as u16).to_be_bytes());
            // Untouched, down to its hop limit.
            assert_eq!(outer[40..], inner);
            assert_eq!(
                other.next(SHORT, is_outer),
                None,
                "it reaches one node only"
            );
        }
    }
}

#[test]
fn replies_come_back_to_the_right_tun() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    for vpc in [0, 1] {
        for (local, remote, family) in [
            ("10.0.2.100", "10.0.100.50", 4),
            (WORKLOAD_V6, CLIENT_V6, 6),
        ] {
            let remote: IpAddr = remote.parse().unwrap();
            let local: IpAddr = local.parse().unwrap();
            let text = format!("for VPC {vpc}");
            topology.workloads[vpc].enter(|| {
                let socket = std::net::UdpSocket::bind((local, 5000)).unwrap();
                socket.send_to(text.as_bytes(), (remote, 4000)).unwrap();
            });
            let is_it = |p: &[u8]| p[0] >> 4 == family && p.ends_with(text.as_bytes());
            let got = gateway.receive(vpc, is_it).expect("it arrives");
            assert!(masque_packet::ip::parse(&got).is_ok());
            // The kernel's own multicast reports may be there.
            let other = &gateway.queues[1 - vpc];
            let mut buf = vec![0; masque_tun::READ_BUFFER_BYTES];
            while let Some(stray) = other.read(&mut buf).unwrap() {
                assert!(!is_it(stray.packet), "the other VPC got {stray:02x?}");
            }
        }
    }
}

#[test]
fn nothing_leaks_out_of_a_vpc() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    let uplink = Capture::open(&topology.fabric, "gw");
    let anything = |p: &[u8]| p.ends_with(b"packet of VPC 0") || p.windows(4).any(|w| w == CLIENT);
    // No route of the VPC, though the gateway's main table has a default route for it.
    for destination in [
        "203.0.113.9",
        "2001:db8:bad::9",
        "10.0.100.77",
        "169.254.240.1",
    ] {
        let to: IpAddr = destination.parse().unwrap();
        let from = if to.is_ipv4() { client() } else { client_v6() };
        gateway.send(0, &packet(from, to, 0));
        assert_eq!(uplink.next(SHORT, anything), None, "{destination}");
    }
    // The gateway's own underlay address is inside a prefix of the VPC, and its SID is outside.
    let listener = topology
        .gateway
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:5000").unwrap());
    listener.set_read_timeout(Some(SHORT)).unwrap();
    gateway.send(0, &packet(client(), [192, 0, 2, 3].into(), 0));
    let outer = uplink.next(LONG, is_outer).expect("it goes to the VPC");
    assert_eq!(outer[6], 4);
    assert!(
        listener.recv_from(&mut [0; 100]).is_err(),
        "the gateway's host got it"
    );
    gateway.send(
        0,
        &packet(client_v6(), VPCS[1].gateway_sid.parse().unwrap(), 0),
    );
    assert_eq!(
        uplink.next(SHORT, anything),
        None,
        "a client speaks to a SID"
    );
    assert!(gateway.receive(1, anything).is_none());
}

#[test]
fn the_fabric_is_never_sent_back_to_itself() {
    let Some(topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    let uplink = Capture::open(&topology.fabric, "gw");
    // To the gateway's SID, but for a workload: two gateways that route to each other's SIDs would
    // pass it to and fro for ever.
    topology.nodes[0].route(&format!(
        "fd20:10:2:1::/64 encap seg6 mode encap.red segs {} dev eth0",
        VPCS[0].gateway_sid
    ));
    let mut bounced = crate::topology::snapshot(&VPCS[0]);
    let masque_model::Fabric::Static(fabric) = &mut bounced.fabric;
    fabric.routes.push(masque_model::FabricRoute {
        prefix: "fd20:10:2:1::/64".parse().unwrap(),
        sid: VPCS[0].node_sid.parse().unwrap(),
    });
    let plan = gateway.plan(&[bounced, crate::topology::snapshot(&VPCS[1])]);
    gateway.apply(&plan);
    topology.workloads[0].enter(|| {
        let socket = std::net::UdpSocket::bind("[fd20:10:2::100]:5000").unwrap();
        socket
            .send_to(b"ping-pong", "[fd20:10:2:1::1]:4000")
            .unwrap();
    });
    let arrives = |p: &[u8]| p.ends_with(b"ping-pong");
    assert!(
        uplink.next(LONG, arrives).is_some(),
        "on the way to the gateway"
    );
    assert_eq!(uplink.next(SHORT, arrives), None, "and back");
}

#[test]
fn super_packets_pass_the_encapsulation_whole() {
    let Some(mut topology) = Topology::build() else {
        return;
    };
    let gateway = Gateway::start(&topology.gateway);
    gateway.apply_both();
    // Both VPCs at once, with the same addresses.
    let clients = [topology.lab.host("ca"), topology.lab.host("cb")];
    let mut pumps = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        let tun = Arc::new(open_tun(client, "tunc"));
        client.ip(&["link", "set", "tunc", "up", "mtu", "1400"]);
        client.address("tunc", "10.0.100.50/24");
        client.address("tunc", &format!("{CLIENT_V6}/64"));
        client.route("10.0.2.0/24 dev tunc");
        client.route("fd20:10:2::/64 dev tunc");
        pumps.push(Pump::start(&tun, &gateway.queues[i]));
    }
    let uplink = Capture::open(&topology.gateway, "eth0");
    for (address, next_header) in [("10.0.2.100", 4), (WORKLOAD_V6, 41)] {
        let to: IpAddr = address.parse().unwrap();
        let done = AtomicBool::new(false);
        let (inward, outward) = thread::scope(|scope| {
            let longest = scope.spawn(|| longest_outer_bytes(&uplink, next_header, &done));
            let transfers: Vec<_> = clients
                .iter()
                .zip(&topology.workloads)
                .zip(0..)
                .map(|((client, workload), kind)| {
                    scope.spawn(move || transfer(client, workload, to, kind))
                })
                .collect();
            let failed = transfers.into_iter().filter_map(|t| t.join().err()).next();
            done.store(true, Ordering::Relaxed);
            failed.map_or_else(|| longest.join().unwrap(), |e| std::panic::resume_unwind(e))
        });
        // Both ways, though the wire's MTU is 1500.
        assert!(
            inward > 5000 && outward > 5000,
            "{address}: in {inward}, out {outward}"
        );
    }
    drop(pumps);
}

/// Length of the longest outer packets with that next header, to and from the gateway.
fn longest_outer_bytes(uplink: &Capture, next_header: u8, done: &AtomicBool) -> (usize, usize) {
    let (mut inward, mut outward) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let wanted = |p: &[u8]| p.len() > 60 && p[0] >> 4 == 6 && p[6] == next_header;
        if let Some(packet) = uplink.next(Duration::from_millis(20), wanted) {
            let longest = if is_outer(&packet) {
                &mut outward
            } else {
                &mut inward
            };
            *longest = packet.len().max(*longest);
        }
    }
    (inward, outward)
}

/// Sends bytes of a kind up and down one TCP connection.
fn transfer(
    client: &masque_testkit::Netns,
    workload: &masque_testkit::Netns,
    to: IpAddr,
    kind: u8,
) {
    let listener = workload.enter(|| TcpListener::bind((to, 7000)).unwrap());
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = vec![0; TRANSFER_BYTES];
        stream.read_exact(&mut received).unwrap();
        stream.write_all(&received).unwrap();
        received.iter().all(|&byte| byte == kind)
    });
    let mut stream = client.enter(|| TcpStream::connect((to, 7000)).unwrap());
    stream.write_all(&vec![kind; TRANSFER_BYTES]).unwrap();
    let mut echoed = vec![!kind; TRANSFER_BYTES];
    stream.read_exact(&mut echoed).unwrap();
    assert!(server.join().unwrap(), "the other VPC's bytes");
    assert!(echoed.iter().all(|&byte| byte == kind));
}
