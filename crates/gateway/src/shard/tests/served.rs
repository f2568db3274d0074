//! A shard that serves a VPC, which is a namespace, and a client with a tunnel into it.

use std::net::{IpAddr, UdpSocket};

use masque_gateway_core::AdmitRequest;
use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, Mode, Rule, SessionLimits, Sid, Snapshot, StaticFabric,
};
use masque_testkit::Netns;

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
}

fn key(number: u8) -> ConnectorKey {
    ConnectorKey::from_bytes([number; 32])
}

fn attachment(number: u8, address: [u8; 4]) -> Attachment {
    Attachment {
        name: ObjectName::new("default", format!("laptop-{number}")),
        connector: String::new(),
        key: key(number),
        ipv4: true,
        ipv6: false,
        addresses: vec![IpAddr::from(address)],
        routes: vec!["10.0.0.0/16".parse().unwrap()],
        suspended: false,
        limits: AttachmentLimits {
            sessions: 1,
            bits_per_second: None,
        },
    }
}

fn allow(direction: Direction) -> Rule {
    Rule {
        policy: ObjectName::new("default", "policy"),
        name: "all".to_owned(),
        mode: Mode::Enforce,
        action: Action::Allow,
        direction,
        attachments: AttachmentSet::All,
        prefixes: Vec::new(),
        ports: Vec::new(),
        not_after_unix_s: None,
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        version: 1,
        ingress_point: ObjectName::new("default", "point"),
        vpc: ObjectName::new("default", "vpc"),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![AddressPool {
            prefix: "10.200.0.0/24".parse().unwrap(),
            reserved: Vec::new(),
        }],
        routes: vec!["10.0.0.0/16".parse().unwrap()],
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid("2001:db8:ff03:1:e001::".parse().unwrap()),
            local_sid_ipv4: None,
            source_address: "2001:db8:ff03:1::1".parse().unwrap(),
            routes: Vec::new(),
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 60_000,
            resume_window_ms: 0,
            address_quarantine_ms: 0,
            max_total: 10,
        },
        attachments: vec![attachment(1, CLIENT), attachment(2, OTHER)],
        rules: vec![allow(Direction::ToVpc), allow(Direction::FromVpc)],
        drain_deadline_ms: 0,
    }
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
    let config = TunConfig {
        name: "tun0".to_owned(),
        queues: 1,
        offload: true,
    };
    let (device, mut queues) = host.enter(|| TunDevice::open(&config)).unwrap();
    host.ip(&["link", "set", "tun0", "up", "mtu", "1400"]);
    host.address("tun0", "10.0.0.1/24");
    host.route("10.200.0.0/24 dev tun0");
    let inside = host.enter(|| UdpSocket::bind((Ipv4Addr::from(HOST), PORT)));
    let inside = inside.unwrap();
    inside.set_nonblocking(true).unwrap();
    (device, queues.remove(0), inside)
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
        let snapshot = vec![Arc::new(snapshot())];
        let changes = shard.control.registry().apply(Now::default(), snapshot);
        shard.plane.set_tables(Now::default(), changes.tables);
        let (grant, other) = (admit(shard, 1), admit(shard, 2));
        let (key, slot) = bench.open(grant);
        let merge_udp = device.offloads.udp;
        bench.shard.open_vpc(VpcIndex(0), queue, merge_udp);
        Some(Self {
            bench,
            key,
            slot,
            other,
            inside,
            lab,
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
