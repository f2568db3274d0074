//! Whole attachments against a small gateway, in virtual time.

pub(super) mod gateway;
mod narrowing;
mod reconnect;
mod refusals;
mod world;

use std::{net::IpAddr, time::Duration};

use masque_packet::{
    build::{build_icmp_echo, build_udp},
    icmp::{self, IcmpKind, MAX_ERROR_BYTES},
    ip,
    segment::GsoInfo,
};

use self::{
    gateway::{Behaviour, net},
    world::World,
};
use super::*;
use crate::{Auth, DropReason, Scope, Stage, Target, guard::ALL_NODES};

const OURS: &str = "10.0.100.50";
const THEIRS: &str = "10.0.2.100";

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn packet(source: &str, destination: &str, size: usize) -> Vec<u8> {
    build_udp(addr(source), addr(destination), 1000, 2000, &vec![7; size])
}

/// Sends and gives the answer, if there is one.
fn send(world: &mut World, mut packet: Vec<u8>) -> Option<Vec<u8>> {
    let mut reply = [0; MAX_ERROR_BYTES];
    let length = world
        .client
        .send(&mut packet, &GsoInfo::default(), &mut reply)?;
    Some(reply[..length].to_vec())
}

#[test]
fn attaches_step_by_step_and_carries_packets() {
    let mut world = World::attach(Behaviour::default());
    let stages: Vec<Stage> = world
        .events
        .iter()
        .filter_map(|(_, event)| match event {
            TunnelEvent::Stage(stage) => Some(*stage),
            _ => None,
        })
        .collect();
    let all = [
        Stage::Resolve,
        Stage::Connect,
        Stage::Authenticate,
        Stage::Address,
        Stage::Up,
    ];
    assert_eq!(stages, all);

    let assignment = world.client.assignment().unwrap();
    assert_eq!(
        assignment.addresses,
        [net("10.0.100.50/32"), net("fd20:0:1::32/128")]
    );
    assert_eq!(assignment.routes, [net("10.0.0.0/16"), net("fd20::/32")]);
    assert!(
        (1280..=1420).contains(&assignment.mtu_bytes),
        "{}",
        assignment.mtu_bytes
    );
    let key = world.key;
    let path = "/vpc/production-vpc/masque/ip/*/*/".to_owned();
    assert_eq!(world.gateway().requests, [(Some(key), path)]);

    let out = packet(OURS, THEIRS, 100);
    assert_eq!(send(&mut world, out.clone()), None);
    let back = packet(THEIRS, OURS, 100);
    world.gateway().send(&back);
    world.run_until("delivered", |world| {
        !world.received.is_empty() && !world.gateway.as_ref().unwrap().packets.is_empty()
    });
    assert_eq!(world.gateway().packets, [out]);
    assert_eq!(world.received[0].packet, back);
    let counters = world.client.counters();
    assert_eq!((counters.sent_packets, counters.received_packets), (1, 1));
    assert_eq!(counters.sent_bytes, 128);
    assert!(counters.drops.is_empty());
}

#[test]
fn a_client_certificate_proves_the_same_key() {
    let mut world = World::with(Behaviour::default(), |config| {
        config.auth = Auth::ClientCertificate
    });
    world.client.start(world.now);
    world.run_until("open", |world| world.client.phase() == Phase::Connected);
    let key = world.key;
    assert_eq!(world.gateway().requests[0].0, Some(key));
}

#[test]
fn asks_for_a_scope() {
    let mut world = World::with(Behaviour::default(), |config| {
        config.scope = Scope {
            target: Target::Prefix(net("10.0.2.0/24")),
            protocol: Some(17),
        };
    });
    world.client.start(world.now);
    world.run_until("open", |world| world.client.phase() == Phase::Connected);
    assert_eq!(
        world.gateway().requests[0].1,
        "/vpc/production-vpc/masque/ip/10.0.2.0%2F24/17/"
    );
}

#[test]
fn n49_asks_for_addresses_when_none_come() {
    let pool = vec![net("10.0.100.51/32")];
    let behaviour = Behaviour {
        assign: Vec::new(),
        pool,
        ..Behaviour::default()
    };
    let world = World::attach(behaviour);
    let addresses = world.client.assignment().unwrap().addresses;
    assert_eq!(addresses, [net("10.0.100.51/32")], "IPv6 was declined");
}

/// Whether the request comes before the tunnel is open, or later.
#[test]
fn n51_a_gateway_that_asks_for_addresses_is_refused() {
    let asks = vec![net("0.0.0.0/32"), net("::/128")];
    let refused = |world: &World, ids: &[u64]| {
        let told = &world.gateway.as_ref().unwrap().assigned;
        let refusals = told.iter().filter(|entry| entry.is_refusal());
        refusals
            .map(|entry| entry.request_id)
            .eq(ids.iter().copied())
    };
    let mut world = World::attach(Behaviour {
        asks: asks.clone(),
        ..Behaviour::default()
    });
    world.run_until("refused", |world| refused(world, &[1, 2]));
    let session = world.gateway().sessions.values_mut().next().unwrap();
    session.request_addresses(&asks).unwrap();
    world.run_until("refused", |world| refused(world, &[1, 2, 3, 4]));
    assert_eq!(world.client.phase(), Phase::Connected);
}

#[test]
fn addresses_and_routes_change_while_it_runs() {
    let mut world = World::attach(Behaviour::default());
    let session = world.gateway().sessions.values_mut().next().unwrap();
    session.assign(&[net("10.0.100.60/32")]).unwrap();
    world.run_until("changed", |world| {
        world.has(|event| matches!(event, TunnelEvent::Changed(_)))
    });
    assert!(
        send(&mut world, packet(OURS, THEIRS, 10)).is_some(),
        "the old source is no more"
    );
    assert_eq!(send(&mut world, packet("10.0.100.60", THEIRS, 10)), None);
    assert_eq!(
        world
            .client
            .tally()
            .drops(DropReason::SendSourceNotAssigned),
        1
    );
}

#[test]
fn the_mtu_grows_with_the_path_and_oversize_is_answered() {
    let mut world = World::attach(Behaviour::default());
    let first = world.client.assignment().unwrap().mtu_bytes;
    world.run_until("larger", |world| {
        world.has(|event| matches!(event, TunnelEvent::Mtu(_)))
    });
    world.run_for(Duration::from_secs(5));
    let mtu = world.client.assignment().unwrap().mtu_bytes;
    assert!(mtu > first && mtu <= 1452, "{first} became {mtu}");

    let fits = packet(OURS, THEIRS, usize::from(mtu) - 28);
    assert_eq!(send(&mut world, fits), None);
    let reply = send(&mut world, packet(OURS, THEIRS, usize::from(mtu) - 27)).unwrap();
    let header = ip::parse(&reply).unwrap();
    assert_eq!(
        (header.source, header.destination),
        (addr(THEIRS), addr(OURS))
    );
    assert_eq!(reply[20..22], [3, 4], "fragmentation needed");
    assert_eq!(u16::from_be_bytes([reply[26], reply[27]]), mtu);
}

#[test]
fn jumbo_frames_are_used_where_this_machines_link_has_them() {
    for (link_mtu, wanted) in [(Some(9000), 8800..8952), (Some(1500), 1400..1472)] {
        let mut world = World::new(Behaviour::default());
        world.link.udp_payload_max = 9000;
        world.client.set_route_mtu(match link_mtu {
            Some(9000) => |_| Some(9000),
            _ => |_| Some(1500),
        });
        world.client.start(world.now);
        world.run_until("open", |w| w.client.phase() == Phase::Connected);
        world.run_for(Duration::from_secs(3));
        let mtu = world.client.assignment().unwrap().mtu_bytes;
        assert!(wanted.contains(&mtu), "{link_mtu:?}: {mtu}");
        let conn = world.gateway().sessions.keys().next().unwrap().0;
        let back = world.gateway().machine.path_mtu(conn).unwrap();
        // The gateway may look further, but not beyond what the client says that it takes.
        assert!(back > wanted.start && back <= wanted.end, "{back}");
    }
}

#[test]
fn errors_to_the_local_stack_are_bounded() {
    let mut world = World::attach(Behaviour::default());
    let answers = (0..1000)
        .filter(|_| send(&mut world, packet(OURS, "192.0.2.200", 10)).is_some())
        .count();
    assert_eq!(answers, 32);
}

#[test]
fn echoes_under_way_are_bounded() {
    let mut world = World::attach(Behaviour::default());
    let timeout = Duration::from_secs(1);
    let sent = |world: &mut World| {
        let (now, to) = (world.now, Some(addr(THEIRS)));
        (0..100)
            .map(|token| world.client.ping(now, token, to, 56, timeout))
            .filter(Result::is_ok)
            .count()
    };
    assert_eq!(sent(&mut world), 64);
    assert_eq!(sent(&mut world), 0);
    world.run_for(timeout * 2);
    assert_eq!(sent(&mut world), 64, "none is under way any more");
}

#[test]
fn packets_in_capsules_wait_in_bounded_number() {
    let mut world = World::attach(Behaviour::default());
    let packets = |count| open::Changes {
        packets: vec![packet(THEIRS, OURS, 10).into(); count],
        ..open::Changes::default()
    };
    world.client.changed(packets(50));
    world.client.changed(packets(50));
    let received = std::iter::from_fn(|| world.client.poll_packet()).count();
    assert_eq!(received, 64);
    world.client.changed(packets(1));
    assert!(world.client.poll_packet().is_some(), "there is room again");
}

#[test]
fn pings_through_the_tunnel_are_matched() {
    let mut world = World::attach(Behaviour::default());
    let timeout = Duration::from_secs(1);
    world
        .client
        .ping(world.now, 7, Some(addr(THEIRS)), 56, timeout)
        .unwrap();
    world
        .client
        .ping(world.now, 8, None, 1232, timeout)
        .unwrap();
    world.run_until("sent", |world| {
        world.gateway.as_ref().unwrap().packets.len() == 2
    });
    let request = world.gateway().packets[0].clone();
    let mut reply = vec![0; request.len()];
    icmp::build_echo_reply(&mut reply, &request).unwrap();
    world.gateway().send(&reply);
    world.run_until("answered", |world| {
        world.has(|event| matches!(event, TunnelEvent::PingTimeout { token: 8 }))
    });
    let from = addr(THEIRS);
    let wanted = |event: &TunnelEvent| match event {
        TunnelEvent::Pong {
            token: 7,
            from: who,
            rtt,
        } => *who == from && *rtt >= Duration::from_millis(20),
        _ => false,
    };
    assert!(world.has(wanted), "{:?}", world.events);
    assert!(
        world.received.is_empty(),
        "the reply is not delivered as well"
    );
}

#[test]
fn n60_an_echo_to_all_nodes_is_answered() {
    let mut world = World::attach(Behaviour::default());
    let request = build_icmp_echo(addr("fe80::1"), ALL_NODES.into(), 3, 4, &[1; 1232]);
    world.gateway().send(&request);
    world.run_until("answered", |world| {
        !world.gateway.as_ref().unwrap().packets.is_empty()
    });
    let reply = world.gateway().packets[0].clone();
    let header = ip::parse(&reply).unwrap();
    assert_eq!(header.source, addr("fd20:0:1::32"));
    let kind = icmp::classify(&header, &reply);
    assert_eq!(
        kind,
        Some(IcmpKind::EchoReply {
            identifier: 3,
            sequence: 4
        })
    );
    assert!(world.received.is_empty());
}

#[test]
fn forged_packets_are_counted_and_kept_out() {
    let mut world = World::attach(Behaviour::default());
    world.gateway().send(&packet("192.0.2.9", OURS, 10));
    world.gateway().send(&packet(THEIRS, "10.0.100.51", 10));
    world.gateway().send(&[0x45, 0, 0]);
    world.gateway().send(&packet(THEIRS, OURS, 10));
    world.run_until("the good one", |world| !world.received.is_empty());
    assert_eq!(world.received.len(), 1);
    for reason in [
        DropReason::ReceiveSourceNotRouted,
        DropReason::ReceiveDestinationNotAssigned,
        DropReason::ReceiveMalformed,
    ] {
        assert_eq!(world.client.tally().drops(reason), 1, "{reason:?}");
    }
}

#[test]
fn leaving_tells_the_gateway() {
    let mut world = World::attach(Behaviour::default());
    world.client.stop(world.now);
    world.run_until("told", |world| {
        !world.gateway.as_ref().unwrap().closed.is_empty()
    });
    assert!(world.gateway().closed[0].contains("the client leaves"));
    assert_eq!(world.events.last().unwrap().1, TunnelEvent::Closed(None));
    assert_eq!(world.client.phase(), Phase::Closed);
}

#[test]
fn stops_where_it_is_told_to() {
    let mut world = World::with(Behaviour::default(), |config| {
        config.stop_at = Some(Stage::Authenticate);
    });
    world.client.start(world.now);
    world.run_until("over", |world| world.client.phase() == Phase::Closed);
    assert!(
        world.gateway().requests.is_empty(),
        "no session was asked for"
    );
    assert_eq!(world.events.last().unwrap().1, TunnelEvent::Closed(None));
}
