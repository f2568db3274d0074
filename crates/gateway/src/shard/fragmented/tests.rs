use masque_packet::{
    build::{TcpFields, build_ip, build_tcp},
    checksum::checksum,
    segment::GsoKind,
};
use masque_testkit::Lab;

use super::*;
use crate::shard::tests::queue_with_a_packet;

/// Three segments of 1200 bytes of TCP data, which may be fragmented.
fn super_packet() -> (Vec<u8>, GsoInfo) {
    let fields = TcpFields::default();
    let (ours, theirs) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let mut packet = build_tcp(ours, theirs, 1, 2, &fields, &[0; 3600]);
    packet[6] = 0;
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    let gso = GsoInfo {
        kind: GsoKind::TcpV4,
        segment_bytes: 1200,
        ..GsoInfo::default()
    };
    (packet, gso)
}

#[test]
fn what_is_lost_with_a_fragment_are_all_fragments_behind_it() {
    let (packet, gso) = super_packet();
    let mut figures = ShardFigures::default();
    let mut buffer = vec![0; PACKET_BYTES];
    // Each segment becomes three.
    for (sent, lost) in [(0, 9), (1, 8), (4, 5), (8, 1)] {
        let mut left = sent;
        let mut part = [0; 600];
        let ended = cut(
            (&packet, &gso),
            600,
            &mut buffer,
            &mut figures,
            |f, _, _| {
                if left == 0 {
                    return Err(());
                }
                left -= 1;
                f.write_next(&mut part).map(drop).ok_or(())
            },
        );
        assert_eq!(ended, Err(((), lost)));
    }
    assert_eq!(figures.unfragmentable, 0);
}

#[test]
fn a_packet_that_cannot_be_cut_is_counted() {
    let mut figures = ShardFigures::default();
    let ipv6 = build_ip([0; 16].into(), [1; 16].into(), 17, &[0; 1400]);
    let (mut buffer, mut kept) = (vec![0; 2 * PACKET_BYTES], 0);
    let whole = GsoInfo::default();
    keep_fragments((&ipv6, &whole), 1280, &mut buffer, &mut figures, |_, _| {
        kept += 1;
    });
    assert_eq!((kept, figures.unfragmentable), (0, 1));

    if let Err(skip) = Lab::available() {
        return println!("{skip}");
    }
    let mut vpc = VpcPort::new(queue_with_a_packet(&mut Lab::new()), false);
    collect_fragments(&mut vpc, &ipv6, 1280, &mut buffer, &mut figures);
    assert_eq!(figures.unfragmentable, 2);
    assert!(vpc.writer.is_empty());
}
