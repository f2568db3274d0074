use masque_srv6::Sid;
use netlink_packet_core::{Emitable, Parseable};

use super::*;

const LINK: u32 = 7;

fn links() -> BTreeMap<u32, String> {
    BTreeMap::from([(LINK, "eth0".to_owned())])
}

fn route(destination: &str, action: RouteAction) -> Route {
    Route {
        table: 0x4d51_0003,
        destination: destination.parse().unwrap(),
        metric: 1024,
        action,
    }
}

fn bytes_of(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn local(behaviour: Behaviour) -> RouteAction {
    RouteAction::Decapsulate {
        behaviour,
        link: "eth0".into(),
    }
}

#[test]
fn routes_round_trip_through_their_bytes() {
    let sid = Sid("2001:db8:ff03:1:e001::".parse().unwrap());
    let encap = || RouteAction::Encapsulate {
        sid,
        link: "eth0".into(),
    };
    let device = || RouteAction::Device {
        link: "eth0".into(),
    };
    let next_hop = "169.254.240.1".parse().unwrap();
    for route in [
        route("10.0.2.0/24", encap()),
        route("fd20:10::/64", encap()),
        route("0.0.0.0/0", RouteAction::Blackhole),
        route("::/0", RouteAction::Blackhole),
        route("10.0.100.0/24", device()),
        route("fd20:10:1::/64", device()),
        route(
            "2001:db8::1/128",
            local(Behaviour::EndDt46 {
                vrf_table: 0x4d51_0001,
            }),
        ),
        route(
            "2001:db8::2/128",
            local(Behaviour::EndDt6 { table: 0x4d51_0001 }),
        ),
        route("2001:db8::3/128", local(Behaviour::EndDx4 { next_hop })),
    ] {
        let link = (route.action != RouteAction::Blackhole).then_some(LINK);
        let bytes = bytes_of(&route_message(&route, link));
        let parsed = RouteMessage::parse(&bytes[..]).unwrap();
        let expected = (RouteKey::of(&route), Some(route.action));
        assert_eq!(route_of(&parsed, &links()), Some(expected));
    }
}

/// This kernel may have no VRF, so the form of End.DT46 is held against the kernel's headers here:
/// `RTA_ENCAP_TYPE` = LWTUNNEL_ENCAP_SEG6_LOCAL (7), `RTA_ENCAP` { SEG6_LOCAL_ACTION (1) =
/// SEG6_LOCAL_ACTION_END_DT46 (16), SEG6_LOCAL_VRFTABLE (9) = table }.
#[test]
fn end_dt46_has_the_kernels_bytes() {
    let dt46 = local(Behaviour::EndDt46 {
        vrf_table: 0x4d51_0001,
    });
    let bytes = bytes_of(&route_message(&route("2001:db8::1/128", dt46), Some(LINK)));
    let header = [
        10,
        128,
        0,
        0, // AF_INET6, destination length, source length, tos
        0,
        ROUTE_PROTOCOL,
        0,
        1, // table in an attribute, protocol, universe, unicast
        0,
        0,
        0,
        0,
    ];
    assert_eq!(bytes[..12], header);
    if cfg!(target_endian = "little") {
        let table = [8, 0, 15, 0, 0x03, 0, 0x51, 0x4d];
        let encap_type = [6, 0, 21, 0, 7, 0, 0, 0];
        let encap = [
            20, 0, 22, 0, // RTA_ENCAP, 16 bytes of
            8, 0, 1, 0, 16, 0, 0, 0, // action End.DT46
            8, 0, 9, 0, 0x01, 0, 0x51, 0x4d, // vrftable
        ];
        let holds = |part: &[u8]| bytes.windows(part.len()).any(|w| w == part);
        assert!(
            holds(&table) && holds(&encap_type) && holds(&encap),
            "{bytes:02x?}"
        );
    }
}

/// `SEG6_IPTUNNEL_SRH` (1) { mode ENCAP_RED (3), a segment routing header of one segment }.
#[test]
fn the_encapsulation_is_reduced() {
    let sid = Sid("2001:db8::9".parse().unwrap());
    let action = RouteAction::Encapsulate {
        sid,
        link: "eth0".into(),
    };
    let bytes = bytes_of(&route_message(&route("10.0.2.0/24", action), Some(LINK)));
    if cfg!(target_endian = "little") {
        let encap = [
            36, 0, 22, 0x80, // RTA_ENCAP, nested, 32 bytes of
            32, 0, 1, 0, 3, 0, 0, 0, // SRH, mode
            0, 2, 4, 0, 0, 0, 0, 0, // length 2, routing type 4, segments left 0, last entry 0
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9,
        ];
        assert!(
            bytes.windows(encap.len()).any(|w| w == encap),
            "{bytes:02x?}"
        );
    }
}

#[test]
fn what_is_not_ours_or_not_known_is_told_apart() {
    let sid = Sid("2001:db8::9".parse().unwrap());
    let action = RouteAction::Encapsulate {
        sid,
        link: "eth0".into(),
    };
    let good = route_message(&route("10.0.2.0/24", action), Some(LINK));
    let mut foreign = good.clone();
    foreign.header.protocol = RouteProtocol::Bird;
    assert_eq!(route_of(&foreign, &links()), None);
    // With a segment routing header, by another program that took our number.
    let mut full = good.clone();
    for attribute in &mut full.attributes {
        if let RouteAttribute::Encap(encap) = attribute {
            let mut header = Seg6Header::default();
            header.mode = Seg6Mode::Encap;
            header.segments = vec![sid.0];
            *encap = vec![RouteLwTunnelEncap::Seg6(RouteSeg6IpTunnel::Seg6(header))];
        }
    }
    assert!(matches!(route_of(&full, &links()), Some((_, None))));
    assert!(
        matches!(route_of(&good, &BTreeMap::new()), Some((_, None))),
        "its link is gone"
    );
}

#[test]
fn rules_round_trip_through_their_bytes() {
    for rule in [
        Rule {
            family: Family::Ipv6,
            priority: 900,
            from: Some("2001:db8::1/128".parse().unwrap()),
            iif: Some("tun0".into()),
            table: 254,
        },
        Rule {
            family: Family::Ipv4,
            priority: 2000,
            from: None,
            iif: None,
            table: 255,
        },
        Rule {
            family: Family::Ipv4,
            priority: 910,
            from: None,
            iif: Some("a-15-bytes-name".into()),
            table: 0x4d51_0000,
        },
    ] {
        let bytes = bytes_of(&rule_message(&rule));
        let parsed = RuleMessage::parse(&bytes[..]).unwrap();
        assert_eq!(rule_of(&parsed), Some((rule, ROUTE_PROTOCOL)));
    }
    let bytes = bytes_of(&kernel_local_rule(Family::Ipv6));
    let (rule, protocol) = rule_of(&RuleMessage::parse(&bytes[..]).unwrap()).unwrap();
    assert!(is_kernel_local_rule(&rule));
    assert_eq!(protocol, 2, "RTPROT_KERNEL");
}
