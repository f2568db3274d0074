//! A shard that serves a VPC, which is a namespace, and a client with a tunnel into it.

use std::net::UdpSocket;

use masque_gateway_core::AdmitRequest;
use masque_model::Direction;
use masque_testkit::{
    Netns,
    snapshots::{allow, attachment, key, snapshot},
};

use super::*;

/// The client in the VPC.
pub(in crate::shard) const CLIENT: [u8; 4] = [10, 200, 0, 5];
/// Another one, of another shard.
pub(in crate::shard) const OTHER: [u8; 4] = [10, 200, 0, 6];
/// The VPC's one host.
pub(in crate::shard) const HOST: [u8; 4] = [10, 0, 0, 1];
/// Both ends' port.
pub(in crate::shard) const PORT: u16 = 9;

pub(in crate::shard) struct Served {
    pub(in crate::shard) bench: Bench,
    pub(super) key: TunnelKey,
    pub(super) slot: SlotId,
    /// What the other client is granted.
    pub(in crate::shard) other: Grant,
    /// In the VPC; does not block.
    pub(super) inside: UdpSocket,
    pub(super) lab: Lab,
    /// Whether the device takes UDP super-packets whole.
    pub(super) merges_udp: bool,
}

/// The session of an attachment, on the shard before its number.
fn admit(shard: &Shard, number: u8) -> Grant {
    let request = AdmitRequest {
        key: key(number),
        vpc: None,
        listener: None,
        scope: &Scope::default(),
        shard: u16::from(number) - 1,
        ipv4: true,
        ipv6: true,
    };
    let mut registry = shard.control.registry();
    registry.admit(Now::default(), &request).unwrap().grant
}

/// A device that says nothing by itself, and a socket of the VPC's host.
fn device(host: &Netns) -> (TunDevice, TunQueue, UdpSocket) {
    host.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
    let (device, queue) = tun(host);
    host.route("10.200.0.0/24 dev tun0");
    let inside = host.enter(|| UdpSocket::bind((Ipv4Addr::from(HOST), PORT)));
    let inside = inside.unwrap();
    inside.set_nonblocking(true).unwrap();
    (device, queue, inside)
}

impl Served {
    /// With connections in which so many bytes may wait. `None` where there are no namespaces.
    pub(in crate::shard) fn new(room_bytes: usize) -> Option<Self> {
        if let Err(skip) = Lab::available() {
            println!("{skip}");
            return None;
        }
        let mut lab = Lab::new();
        let (device, queue, inside) = device(&lab.host("vpc"));
        let mut bench = Bench::with_room(room_bytes);
        let shard = &mut bench.shard;
        let snapshot = snapshot(
            vec![attachment(1, CLIENT), attachment(2, OTHER)],
            vec![allow(Direction::ToVpc), allow(Direction::FromVpc)],
        );
        let snapshots = vec![Arc::new(snapshot)];
        let changes = shard.control.registry().apply(Now::default(), snapshots);
        shard.plane.set_tables(Now::default(), changes.tables);
        let (grant, other) = (admit(shard, 1), admit(shard, 2));
        let (key, slot) = bench.open(grant);
        let merges_udp = device.offloads.udp;
        bench.shard.open_vpc(VpcIndex(0), queue, merges_udp);
        Some(Self {
            bench,
            key,
            slot,
            other,
            inside,
            lab,
            merges_udp,
        })
    }

    /// The VPC's host sends the client so many packets.
    pub(super) fn host_sends(&self, packets: usize) {
        for _ in 0..packets {
            let to = (Ipv4Addr::from(CLIENT), PORT);
            self.inside.send_to(&[7; 100], to).unwrap();
        }
    }

    /// Packets that went to the client.
    pub(super) fn to_client(&self) -> u64 {
        let counters = self.bench.shard.plane.counters(self.slot).unwrap();
        counters.to_client.packets
    }
}
