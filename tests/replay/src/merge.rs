//! A batch of packets, merged and segmented again: the same packets, each flow in its order.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use masque_packet::{
    build::{TcpFields, build_tcp, build_udp, tcp_flag},
    checksum::{Sum, pseudo_header},
    flow::{FlowKey, flow_key},
    ip::{IpHeader, IpVersion, parse},
    merge::{MAX_MERGED_BYTES, MAX_PIECES, Merger, Push},
    protocol,
    segment::segments,
};

use crate::input::Input;

const MAX_PACKETS: usize = 200;
const V4: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)),
];
const V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
];

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.u8();
    let mut merger = Merger::new(usize::from(flags & 0x3f));
    merger.set_merge_udp(flags & 0x40 == 0);
    let packets = packets(&mut input);
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut written = Vec::new();
    let mut merged = false;
    for packet in &packets {
        let header = parse(packet).expect("only valid ones were kept");
        match merger.push(packet, &header) {
            Push::Full => {
                written.extend(write(&mut merger, &batch));
                batch.clear();
                assert_ne!(merger.push(packet, &header), Push::Full);
            }
            Push::Merged(_) => merged = true,
            _ => {}
        }
        batch.push(packet.clone());
    }
    written.extend(write(&mut merger, &batch));
    assert_eq!(by_flow(&packets), by_flow(&written));
    merged
}

/// What the device makes of everything the merger holds.
fn write(merger: &mut Merger, batch: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for output in merger.outputs() {
        let mut whole = output.headers.to_vec();
        for piece in output.pieces {
            whole.extend(&batch[piece.packet()][piece.range()]);
        }
        assert_eq!(whole.len(), output.total_bytes());
        assert!(output.pieces.len() == 1 || whole.len() <= MAX_MERGED_BYTES);
        assert!((1..=MAX_PIECES).contains(&output.pieces.len()));
        let mut segments = segments(&whole, &output.gso).expect("our own header is right");
        let mut out = vec![0; segments.max_packet_bytes()];
        while let Some(bytes) = segments.write_next(&mut out) {
            packets.push(out[..bytes].to_vec());
        }
    }
    merger.clear();
    assert!(merger.is_empty());
    packets
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<FlowKey, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<FlowKey, Vec<Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let header = parse(packet).expect("what is written is valid");
        let mut packet = packet.clone();
        // RFC 6864 §4.1: the identification of an atomic packet means nothing.
        if header.version == IpVersion::V4 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        // Zero written as all ones is zero, but for UDP, where zero says that there is none.
        let tcp = header.upper_offset + 16;
        if header.version == IpVersion::V4 && packet[10..12] == [0xff; 2] {
            packet[10..12].fill(0);
        }
        if header.protocol == protocol::TCP && packet.get(tcp..tcp + 2) == Some(&[0xff; 2]) {
            packet[tcp..tcp + 2].fill(0);
        }
        flows
            .entry(flow_key(&header, &packet))
            .or_default()
            .push(packet);
    }
    flows
}

/// Valid packets: some as the fuzzer wrote them, most of a few flows and then changed.
fn packets(input: &mut Input<'_>) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    let mut sequence = [0_u32; 4];
    while !input.is_empty() && packets.len() < MAX_PACKETS {
        let op = input.u8();
        let [source, destination] = if op & 0x80 == 0 { V4 } else { V6 };
        let flow = usize::from(op >> 5 & 3);
        let port = 1000 + flow as u16;
        let mut packet = match op & 7 {
            0 => {
                let length = usize::from(input.u16() & 0x7ff);
                input.bytes(length).to_vec()
            }
            1 | 2 => packets.last().cloned().unwrap_or_default(),
            3 | 4 => {
                let length = usize::from(input.u8());
                build_udp(source, destination, port, 80, &vec![op; length])
            }
            _ => {
                let length = usize::from(input.u8()) * if op & 8 == 0 { 1 } else { 16 };
                let push = if op & 16 == 0 { 0 } else { tcp_flag::PSH };
                let fields = TcpFields {
                    sequence: sequence[flow],
                    flags: tcp_flag::ACK | push,
                    ..TcpFields::default()
                };
                sequence[flow] = sequence[flow].wrapping_add(length as u32);
                build_tcp(source, destination, port, 80, &fields, &vec![op; length])
            }
        };
        if op & 7 == 2 {
            change(&mut packet, input);
        }
        if parse(&packet).is_ok() {
            packets.push(packet);
        }
    }
    packets
}

/// Changes one byte and mends the checksums, in one of the ways there are.
fn change(packet: &mut [u8], input: &mut Input<'_>) {
    let (at, value, mode) = (input.u8(), input.u8(), input.u8());
    let Some(byte) = packet.get_mut(usize::from(at)) else {
        return;
    };
    *byte = byte.wrapping_add(value);
    if packet[0] >> 4 == 4 && packet.len() >= 20 {
        let header_bytes = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
        packet[10..12].fill(0);
        let checksum = Sum::of(&packet[..header_bytes]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let Ok(header) = parse(packet) else { return };
    if mode & 1 == 0 {
        mend_upper(packet, &header, mode);
    }
}

fn mend_upper(packet: &mut [u8], header: &IpHeader, mode: u8) {
    let upper = &mut packet[header.upper_offset..];
    let (field, payload) = match header.protocol {
        protocol::TCP => (16, 20),
        protocol::UDP => (6, 8),
        _ => return,
    };
    if upper.len() < payload + 2 {
        return;
    }
    let pseudo = pseudo_header(
        header.source,
        header.destination,
        header.protocol,
        upper.len(),
    );
    upper[field..field + 2].fill(0);
    let checksum = (pseudo + Sum::of(upper)).checksum();
    if mode & 2 == 0 {
        upper[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
        return;
    }
    // A payload for which the checksum is zero: 0x0000 and 0xffff say the same.
    let word = u16::from_be_bytes([upper[payload], upper[payload + 1]]);
    let sum = u32::from(word) + u32::from(checksum);
    let sum = (sum & 0xffff) as u16 + (sum >> 16) as u16;
    upper[payload..payload + 2].copy_from_slice(&sum.to_be_bytes());
    if mode & 4 == 0 {
        upper[field..field + 2].fill(0xff);
    }
}
