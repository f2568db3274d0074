use masque_packet::{
    build::{build_icmp_echo, build_udp},
    icmp::{MAX_ERROR_BYTES, build_error},
};
use masque_protocol::from_prefixes;
use proptest::prelude::*;

use super::*;

const MTU_BYTES: usize = 1400;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn guard() -> Guard {
    let routes = [net("10.0.0.0/16"), net("10.2.0.0/16"), net("fd20::/32")];
    let assigned = vec![net("10.0.100.50/32"), net("fd20:0:1::32/128")];
    Guard::new(assigned, &from_prefixes(&routes, None), MTU_BYTES)
}

fn outgoing(guard: &Guard, source: &str, destination: &str, bytes: usize) -> Outgoing {
    let packet = build_udp(ip(source), ip(destination), 1, 2, &[0; 8]);
    guard.outgoing(&ip::parse(&packet).unwrap(), bytes)
}

fn incoming(packet: &[u8]) -> Result<Incoming, DropReason> {
    guard().incoming(packet).map(|(_, verdict)| verdict)
}

fn from(source: &str, destination: &str) -> Vec<u8> {
    build_udp(ip(source), ip(destination), 1, 2, b"x")
}

#[test]
fn what_is_ours_and_routed_passes_both_ways() {
    let guard = guard();
    for (ours, theirs) in [("10.0.100.50", "10.2.0.1"), ("fd20:0:1::32", "fd20:0:9::1")] {
        assert_eq!(outgoing(&guard, ours, theirs, MTU_BYTES), Outgoing::Send);
        assert_eq!(incoming(&from(theirs, ours)), Ok(Incoming::Deliver));
    }
}

#[test]
fn n58_forged_sources_and_foreign_destinations_are_dropped() {
    use DropReason::{ReceiveDestinationNotAssigned, ReceiveSourceNotRouted};
    let drop = |reason| Ok(Incoming::Drop(reason));
    assert_eq!(
        incoming(&from("10.1.0.1", "10.0.100.50")),
        drop(ReceiveSourceNotRouted)
    );
    assert_eq!(
        incoming(&from("10.0.0.1", "10.0.100.51")),
        drop(ReceiveDestinationNotAssigned)
    );
    assert_eq!(
        incoming(&from("fd20::1", "fd20::2")),
        drop(ReceiveDestinationNotAssigned)
    );
    for bytes in [
        &[][..],
        &[0x45],
        &[0x75; 40],
        &from("10.0.0.1", "10.0.100.50")[..27],
    ] {
        assert_eq!(incoming(bytes), Err(DropReason::ReceiveMalformed));
    }
}

#[test]
fn n63_senders_are_told_why() {
    let guard = guard();
    let told = |source, destination, bytes| match outgoing(&guard, source, destination, bytes) {
        Outgoing::Answer(reason, error) => (reason, error),
        other => panic!("{other:?}"),
    };
    let unreachable = IcmpError::DestinationUnreachable;
    assert_eq!(
        told("10.0.100.50", "192.0.2.1", 100),
        (
            DropReason::SendDestinationNotRouted,
            unreachable(Unreachable::NoRoute)
        )
    );
    assert_eq!(
        told("10.0.100.51", "10.0.0.1", 100),
        (
            DropReason::SendSourceNotAssigned,
            unreachable(Unreachable::SourcePolicyFailed)
        )
    );
    let next_hop_mtu_bytes = 1400;
    assert_eq!(
        told("fd20:0:1::32", "fd20::1", MTU_BYTES + 1),
        (
            DropReason::SendTooBig,
            IcmpError::PacketTooBig { next_hop_mtu_bytes }
        )
    );
}

#[test]
fn n60_link_local_stays_and_its_echo_is_answered() {
    let guard = guard();
    for destination in ["ff02::2", "fe80::1"] {
        let verdict = outgoing(&guard, "fd20:0:1::32", destination, 100);
        assert_eq!(
            verdict,
            Outgoing::Drop(DropReason::SendLinkLocal),
            "{destination}"
        );
    }
    let verdict = outgoing(&guard, "10.0.100.50", "224.0.0.22", 100);
    assert_eq!(verdict, Outgoing::Drop(DropReason::SendLinkLocal));
    let echo = build_icmp_echo(ip("fe80::1"), ALL_NODES.into(), 1, 2, &[0; 1232]);
    assert_eq!(incoming(&echo), Ok(Incoming::Echo));
}

#[test]
fn a_route_of_one_protocol_permits_that_and_icmp() {
    let ranges = from_prefixes(&[net("10.0.0.0/16")], Some(protocol::TCP));
    let guard = Guard::new(vec![net("10.0.100.50/32")], &ranges, MTU_BYTES);
    let denied = IcmpError::DestinationUnreachable(Unreachable::AdminProhibited);
    assert_eq!(
        outgoing(&guard, "10.0.100.50", "10.0.0.1", 100),
        Outgoing::Answer(DropReason::SendDestinationNotRouted, denied)
    );
    let ping = build_icmp_echo(ip("10.0.100.50"), ip("10.0.0.1"), 1, 1, b"");
    assert_eq!(
        guard.outgoing(&ip::parse(&ping).unwrap(), 100),
        Outgoing::Send
    );
}

#[test]
fn errors_of_routers_outside_the_routes_are_delivered_if_they_quote_us() {
    let quoted = from("10.0.100.50", "10.2.0.1");
    let mut error = [0; MAX_ERROR_BYTES];
    let bytes = build_error(
        &mut error,
        &quoted,
        ip("192.0.2.9"),
        IcmpError::TimeExceeded,
    )
    .unwrap();
    assert_eq!(incoming(&error[..bytes]), Ok(Incoming::Deliver));

    let reply = build_icmp_echo(ip("192.0.2.9"), ip("10.0.100.50"), 7, 8, b"");
    let verdict = Incoming::Drop(DropReason::ReceiveSourceNotRouted);
    assert_eq!(incoming(&reply), Ok(verdict), "an echo request is no error");
}

proptest! {
    /// The arranged table says the same as the plain definition.
    #[test]
    fn the_table_agrees_with_the_ranges(
        prefixes in proptest::collection::vec((any::<u32>(), 8_u8..=32), 0..12),
        probe in any::<u32>(),
        pick in any::<proptest::sample::Index>(),
        only in proptest::option::of(Just(protocol::TCP)),
    ) {
        let nets: Vec<IpNet> = prefixes
            .iter()
            .map(|(bits, length)| {
                let prefix = ipnet::Ipv4Net::new((*bits).into(), *length).unwrap();
                IpNet::V4(prefix.trunc())
            })
            .collect();
        let ranges = from_prefixes(&nets, only);
        let table = RouteTable::new(&ranges);
        let mut probes = vec![IpAddr::V4(probe.into())];
        if !nets.is_empty() {
            let net = pick.get(&nets);
            probes.extend([net.network(), net.broadcast()]);
        }
        for address in probes {
            for protocol in [protocol::TCP, protocol::UDP, protocol::ICMP] {
                let wanted = masque_protocol::covers(&ranges, address, protocol);
                prop_assert_eq!(table.permits(address, protocol), wanted);
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = guard().incoming(&bytes);
    }
}
