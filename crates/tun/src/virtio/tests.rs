use proptest::prelude::*;

use super::*;

const PARTIAL_V4: PartialChecksum = PartialChecksum {
    start: 20,
    offset: 16,
};

fn gso(kind: GsoKind, checksum: Option<PartialChecksum>) -> GsoInfo {
    GsoInfo {
        kind,
        segment_bytes: 1300,
        header_bytes: 40,
        checksum,
    }
}

fn header(flags: u8, gso_type: u8, fields: [u16; 4]) -> [u8; VNET_HDR_BYTES] {
    let mut bytes = [flags, gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
    for (to, from) in bytes[2..].chunks_exact_mut(2).zip(fields) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    bytes
}

#[test]
fn reads_what_the_kernel_writes() {
    let v4 = [0x45; 4000];
    let got = decode(&header(1, GSO_TCPV4, [52, 1348, 20, 16]), &v4);
    let expected = GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes: 1348,
        header_bytes: 52,
        checksum: Some(PARTIAL_V4),
    };
    assert_eq!(got, Ok(expected));
    assert_eq!(
        decode(&header(1, GSO_TCPV4 | GSO_ECN, [52, 1348, 20, 16]), &v4),
        Ok(expected)
    );
    // DATA_VALID alone leaves nothing to do.
    assert_eq!(
        decode(&header(2, GSO_NONE, [9, 9, 9, 9]), &v4),
        Ok(GsoInfo::default())
    );
    let v6 = [0x60; 4000];
    let udp = decode(&header(1, GSO_UDP_L4, [48, 1200, 40, 6]), &v6).unwrap();
    assert_eq!((udp.kind, udp.segment_bytes), (GsoKind::UdpL4, 1200));
}

#[test]
fn trusts_no_field() {
    let v4 = [0x45; 100];
    let read = |flags, kind, fields| decode(&header(flags, kind, fields), &v4).unwrap_err();
    assert_eq!(read(1, 3, [0; 4]), PacketFault::Kind(3));
    assert_eq!(read(1, GSO_TCPV6, [40, 10, 20, 16]), PacketFault::Mismatch);
    assert_eq!(
        read(1, GSO_TCPV4, [40, 0, 20, 16]),
        PacketFault::SegmentSize
    );
    let headers = |header_bytes| PacketFault::Headers {
        header_bytes,
        packet_bytes: 100,
    };
    assert_eq!(read(1, GSO_TCPV4, [101, 10, 20, 16]), headers(101));
    assert_eq!(read(1, GSO_TCPV4, [0, 10, 20, 16]), headers(0));
    assert_eq!(read(1, GSO_TCPV4, [40, 10, 20, 6]), PacketFault::Checksum);
    assert_eq!(read(1, GSO_UDP_L4, [40, 10, 20, 16]), PacketFault::Checksum);
    assert_eq!(read(1, GSO_NONE, [0, 0, 90, 9]), PacketFault::Checksum);
    assert_eq!(
        read(1, GSO_NONE, [0, 0, u16::MAX, u16::MAX]),
        PacketFault::Checksum
    );
    assert!(decode(&header(1, GSO_NONE, [0, 0, 90, 8]), &v4).is_ok());
    assert_eq!(
        decode(&header(0, 0, [0; 4]), &[]),
        Err(PacketFault::Short(0))
    );
}

#[test]
fn writes_no_nonsense() {
    let headers = [0x45; 40];
    let write = |info: &GsoInfo, bytes| encode(info, &headers, bytes);
    assert_eq!(
        write(&gso(GsoKind::TcpV4, None), 4000),
        Err(PacketFault::Checksum)
    );
    let v6 = gso(GsoKind::TcpV6, Some(PARTIAL_V4));
    assert_eq!(write(&v6, 4000), Err(PacketFault::Mismatch));
    let good = gso(GsoKind::TcpV4, Some(PARTIAL_V4));
    assert_eq!(
        write(&good, 4000),
        Ok(header(1, GSO_TCPV4, [40, 1300, 20, 16]))
    );
    assert_eq!(write(&good, 65_576), Err(PacketFault::Long(65_576)));
    assert_eq!(
        write(&good, 39),
        Err(PacketFault::Headers {
            header_bytes: 40,
            packet_bytes: 39
        })
    );
    assert_eq!(write(&GsoInfo::default(), 40), Ok([0; VNET_HDR_BYTES]));
}

#[test]
fn a_congestion_window_reduction_is_announced() {
    let mut headers = [0x45; 40];
    headers[33] = TCP_CWR | 0x10;
    let good = gso(GsoKind::TcpV4, Some(PARTIAL_V4));
    assert_eq!(
        encode(&good, &headers, 4000).unwrap()[1],
        GSO_TCPV4 | GSO_ECN
    );
    headers[33] = 0x10;
    assert_eq!(encode(&good, &headers, 4000).unwrap()[1], GSO_TCPV4);
}

proptest! {
    #[test]
    fn what_was_read_can_be_written(
        bytes: [u8; VNET_HDR_BYTES],
        plausible: bool,
        packet in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = bytes;
        if plausible {
            bytes = header(
                bytes[0] & 3,
                [0, 1, 4, 5][usize::from(bytes[1] & 3)],
                [u16::from(bytes[2]), u16::from(bytes[4]), 20, [6, 16][usize::from(bytes[8] & 1)]],
            );
        }
        if let Ok(gso) = decode(&bytes, &packet) {
            let written = encode(&gso, &packet, packet.len());
            if gso.kind == GsoKind::None || gso.checksum.is_some() {
                let again = decode(&written.unwrap(), &packet);
                prop_assert_eq!(again, Ok(gso));
            } else {
                prop_assert_eq!(written, Err(PacketFault::Checksum));
            }
        }
    }
}
