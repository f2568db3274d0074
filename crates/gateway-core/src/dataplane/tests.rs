//! The packet half by cases; numbers are those of `docs/conformance.numbers`.

mod checks;
mod flows;
mod icmp;
mod moves;
mod sessions;

use std::net::IpAddr;
use std::sync::Arc;

use masque_model::Snapshot;
use masque_packet::build::{TcpFields, build_icmp_echo, build_tcp, build_udp, tcp_flag};
use masque_packet::checksum;
use masque_packet::ip::parse;
use masque_packet::segment::GsoInfo;

use super::*;
use crate::fixture::{ip, request, snapshot};
use crate::id::SlotId;
use crate::registry::{AdmitRequest, Registry, RegistryConfig};

pub(super) const MTU: u16 = 1_400;
pub(super) const CLIENT: &str = "10.200.0.5";
pub(super) const CLIENT_V6: &str = "fd00:200::5";
pub(super) const WORKLOAD: &str = "10.0.1.1";
pub(super) const WORKLOAD_V6: &str = "fd00:1::1";
pub(super) const GATEWAY: &str = "10.200.0.1";
pub(super) const GATEWAY_V6: &str = "fd00:200::1";

/// A registry and one shard that runs what it says.
pub(super) struct Bench {
    pub(super) registry: Registry,
    pub(super) plane: Dataplane,
    pub(super) now: Now,
    pub(super) reply: Vec<u8>,
}

impl Bench {
    pub(super) fn new(snapshots: &[Snapshot]) -> Self {
        Self::with_config(
            snapshots,
            DataplaneConfig {
                flow_entries: 512,
                ..Default::default()
            },
        )
    }

    pub(super) fn with_config(snapshots: &[Snapshot], config: DataplaneConfig) -> Self {
        let now = Now {
            mono_ms: 1_000_000,
            unix_s: 1_000_000,
        };
        let mut registry = Registry::new(RegistryConfig::default());
        let snapshots = snapshots.iter().cloned().map(Arc::new).collect();
        let changes = registry.apply(now, snapshots);
        let plane = Dataplane::new(config, now, changes.tables);
        Self {
            registry,
            plane,
            now,
            reply: vec![0; 2048],
        }
    }

    pub(super) fn apply(&mut self, snapshots: &[&Snapshot]) {
        let snapshots = snapshots
            .iter()
            .map(|snapshot| Arc::new((*snapshot).clone()))
            .collect();
        let changes = self.registry.apply(self.now, snapshots);
        self.plane.set_tables(self.now, changes.tables);
        for grant in changes.updated {
            self.plane.update(self.now, &grant);
        }
        for ended in changes.ended {
            if let Some(slot) = self.plane.slot_of(ended.session.session) {
                self.plane.detach(slot);
            }
        }
    }

    pub(super) fn open(&mut self, number: u32) -> SlotId {
        self.open_with(request(number, 0))
    }

    pub(super) fn open_with(&mut self, request: AdmitRequest<'_>) -> SlotId {
        let admitted = self.registry.admit(self.now, &request).unwrap();
        self.plane.attach(self.now, &admitted.grant, MTU).unwrap()
    }

    pub(super) fn wait(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_s += ms / 1000;
    }

    /// What becomes of a packet from a client.
    pub(super) fn up(&mut self, slot: SlotId, mut packet: Vec<u8>) -> ClientVerdict {
        self.plane
            .from_client(self.now, slot, &mut packet, &mut self.reply)
    }

    /// What becomes of a packet from the first VPC.
    pub(super) fn down(&mut self, mut packet: Vec<u8>) -> VpcVerdict {
        self.down_gso(&mut packet, &GsoInfo::default())
    }

    pub(super) fn down_gso(&mut self, packet: &mut [u8], gso: &GsoInfo) -> VpcVerdict {
        self.plane
            .from_vpc(self.now, VpcIndex(0), packet, gso, &mut self.reply)
    }

    /// The reason of a packet from a client that goes nowhere, and type and code of what is
    /// answered.
    pub(super) fn up_drop(&mut self, slot: SlotId, packet: Vec<u8>) -> (DropReason, Option<Icmp>) {
        match self.up(slot, packet) {
            ClientVerdict::Drop(reason) => (reason, None),
            ClientVerdict::Reply {
                len_bytes,
                drop: Some(reason),
            } => (reason, Some(self.answer(len_bytes))),
            verdict => panic!("{verdict:?}"),
        }
    }

    pub(super) fn down_drop(&mut self, packet: Vec<u8>) -> (DropReason, Option<Icmp>) {
        match self.down(packet) {
            VpcVerdict::Drop(reason) => (reason, None),
            VpcVerdict::Reply {
                len_bytes,
                drop: Some(reason),
            } => (reason, Some(self.answer(len_bytes))),
            verdict => panic!("{verdict:?}"),
        }
    }

    pub(super) fn answer(&self, len_bytes: usize) -> Icmp {
        Icmp::read(&self.reply[..len_bytes])
    }

    pub(super) fn passes_up(&mut self, slot: SlotId, packet: Vec<u8>) -> bool {
        matches!(self.up(slot, packet), ClientVerdict::Forward { .. })
    }

    pub(super) fn passes_down(&mut self, packet: Vec<u8>) -> bool {
        matches!(self.down(packet), VpcVerdict::ToSession { .. })
    }
}

/// One VPC with nine attachments, the fifth connected.
pub(super) fn connected() -> (Bench, SlotId) {
    let mut bench = Bench::new(&[snapshot("vpc", 9)]);
    let slot = bench.open(5);
    (bench, slot)
}

/// An ICMP message that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Icmp {
    pub(super) kind: u8,
    pub(super) code: u8,
    pub(super) parameter: u32,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl Icmp {
    pub(super) fn read(packet: &[u8]) -> Self {
        let header = parse(packet).unwrap();
        let message = &packet[header.upper_offset..];
        Self {
            kind: message[0],
            code: message[1],
            parameter: u32::from_be_bytes(message[4..8].try_into().unwrap()),
            source: header.source,
            destination: header.destination,
        }
    }

    pub(super) fn kind_and_code(this: Option<Self>) -> Option<(u8, u8)> {
        this.map(|icmp| (icmp.kind, icmp.code))
    }
}

pub(super) fn udp(source: &str, destination: &str) -> Vec<u8> {
    udp_ports(source, destination, 1_000, 53)
}

pub(super) fn udp_ports(source: &str, destination: &str, from: u16, to: u16) -> Vec<u8> {
    build_udp(ip(source), ip(destination), from, to, b"payload")
}

pub(super) fn ping(source: &str, destination: &str, data_bytes: usize) -> Vec<u8> {
    build_icmp_echo(ip(source), ip(destination), 7, 1, &vec![0xab; data_bytes])
}

/// The reply to [`ping`]. Its ICMP checksum is that of the request: the gateway does not read it.
pub(super) fn pong(source: &str, destination: &str) -> Vec<u8> {
    let mut packet = ping(source, destination, 8);
    let header = parse(&packet).unwrap();
    packet[header.upper_offset] = if header.source.is_ipv4() { 0 } else { 129 };
    packet
}

/// Edits an IPv4 packet and completes its header checksum.
pub(super) fn edited(mut packet: Vec<u8>, edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
    edit(&mut packet);
    let header_bytes = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let checksum = checksum::checksum(&packet[..header_bytes]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

pub(super) fn tcp(source: &str, destination: &str, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let fields = TcpFields {
        flags,
        ..TcpFields::default()
    };
    build_tcp(ip(source), ip(destination), ports.0, ports.1, &fields, &[])
}

/// A TCP SYN with an MSS option.
pub(super) fn syn(source: &str, destination: &str, ports: (u16, u16), mss: u16) -> Vec<u8> {
    let mss = mss.to_be_bytes();
    let options = [2, 4, mss[0], mss[1]];
    let fields = TcpFields {
        flags: tcp_flag::SYN,
        options: &options,
        ..TcpFields::default()
    };
    build_tcp(ip(source), ip(destination), ports.0, ports.1, &fields, &[])
}
