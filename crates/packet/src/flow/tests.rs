use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp};
use crate::icmp::build_echo_reply;
use crate::ip::parse;
use crate::reference::{V4_A, V4_B, V6_A, V6_B, addresses, packets};

fn key(packet: &[u8]) -> FlowKey {
    flow_key(&parse(packet).unwrap(), packet)
}

#[test]
fn the_parts_of_a_key() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let tcp = key(&build_tcp(a, b, 4660, 80, &TcpFields::default(), b"x"));
        assert_eq!((tcp.src(), tcp.dst(), tcp.protocol), (a, b, protocol::TCP));
        assert_eq!((tcp.src_port, tcp.dst_port), (4660, 80));
        assert_eq!(tcp, FlowKey::new(a, b, protocol::TCP, 4660, 80));
        assert_eq!(tcp.reversed(), FlowKey::new(b, a, protocol::TCP, 80, 4660));
        assert_eq!(
            key(&build_udp(a, b, 1, 2, b"")),
            FlowKey::new(a, b, protocol::UDP, 1, 2)
        );
        for with_ports in [protocol::SCTP, protocol::UDP_LITE, protocol::DCCP] {
            let packet = build_ip(a, b, with_ports, &[0, 7, 1, 0]);
            assert_eq!(key(&packet), FlowKey::new(a, b, with_ports, 7, 256));
        }
        let other = build_ip(a, b, protocol::ESP, &[0, 7, 1, 0]);
        assert_eq!(key(&other), FlowKey::new(a, b, protocol::ESP, 0, 0));
        let cut = build_ip(a, b, protocol::TCP, &[0, 7, 1]);
        assert_eq!(key(&cut), FlowKey::new(a, b, protocol::TCP, 0, 0));
    }
}

#[test]
fn an_echo_reply_reverses_its_request() {
    for (a, b) in [(V4_A, V4_B), (V6_A, V6_B)] {
        let request = build_icmp_echo(a, b, 0xbeef, 3, b"data");
        assert_eq!(
            (key(&request).src_port, key(&request).dst_port),
            (0xbeef, 0xbeef)
        );
        let mut reply = [0; 100];
        let bytes = build_echo_reply(&mut reply, &request).unwrap();
        assert_eq!(key(&reply[..bytes]), key(&request).reversed());
        let other = build_icmp_echo(a, b, 0xbeee, 3, b"data");
        assert_ne!(key(&other), key(&request));
    }
}

#[test]
fn a_later_fragment_has_no_ports() {
    let fragment = [17, 0, 0, 9, 0, 0, 0, 1, 0, 53, 0, 53];
    let packet = build_ip(V6_A, V6_B, protocol::FRAGMENT, &fragment);
    assert_eq!(key(&packet), FlowKey::new(V6_A, V6_B, protocol::UDP, 0, 0));
}

#[test]
fn a_mapped_address_is_no_ipv4_flow() {
    let (IpAddr::V4(a), IpAddr::V4(b)) = (V4_A, V4_B) else {
        unreachable!()
    };
    let v4 = FlowKey::new(V4_A, V4_B, protocol::UDP, 1, 2);
    let mapped = FlowKey::new(
        a.to_ipv6_mapped().into(),
        b.to_ipv6_mapped().into(),
        protocol::UDP,
        1,
        2,
    );
    assert_ne!(v4, mapped);
    assert_eq!(mapped.src(), IpAddr::from(a.to_ipv6_mapped()));
    assert_eq!(HashSet::from([v4, mapped]).len(), 2);
    assert_eq!(size_of::<FlowKey>(), 48);
}

proptest! {
    #[test]
    fn a_key_gives_its_parts_back(
        (a, b) in addresses(), protocol: u8, ports in any::<(u16, u16)>(),
    ) {
        let key = FlowKey::new(a, b, protocol, ports.0, ports.1);
        prop_assert_eq!((key.src(), key.dst()), (a, b));
        prop_assert_eq!(key.reversed().reversed(), key);
        prop_assert_eq!(
            key.version() == IpVersion::V4,
            a.is_ipv4()
        );
        // A hash tells the direction, the ports and the protocol apart.
        let others = HashSet::from([
            key,
            key.reversed(),
            FlowKey { src_port: key.src_port ^ 1, ..key },
            FlowKey { protocol: key.protocol ^ 1, ..key },
        ]);
        prop_assert_eq!(others.len(), if key == key.reversed() { 3 } else { 4 });
    }

    #[test]
    fn every_packet_has_the_key_of_its_header(packet in packets()) {
        let header = parse(&packet).unwrap();
        let key = flow_key(&header, &packet);
        prop_assert_eq!((key.src(), key.dst()), (header.source, header.destination));
        prop_assert_eq!((key.protocol, key.version()), (header.protocol, header.version));
    }
}
