//! IPv4 packets that are longer than the way on carries and may be fragmented (RFC 1812 §4.2.2.7).

use masque_packet::{
    fragment::fragments,
    ip::parse,
    segment::{GsoInfo, segments},
};

use super::{
    datapath::CONTEXT, figures::ShardFigures, port::Port, tunnels::TunnelKey, vpc_port::VpcPort,
};

/// Queues the fragments of a packet, or of each segment of a super-packet, for a client. Segments go
/// through `buffer`: their checksums cover what the fragments divide.
pub(super) fn send_fragments(
    port: &mut Port,
    key: TunnelKey,
    (packet, gso): (&[u8], &GsoInfo),
    mtu_bytes: u16,
    buffer: &mut [u8],
    figures: &mut ShardFigures,
) {
    let Ok(mut segments) = segments(packet, gso) else {
        figures.tun_bad_packets += 1;
        return;
    };
    while let Some(bytes) = segments.write_next(buffer) {
        let Ok(mut fragments) = fragments(&buffer[..bytes], mtu_bytes.into()) else {
            figures.tun_bad_packets += 1;
            continue;
        };
        while let Some(bytes) = fragments.next_packet_bytes() {
            let length = CONTEXT.len() + bytes;
            let sent = port
                .machine
                .send_datagram(key.conn, key.stream, length, |out| {
                    let (context, room) = out.split_at_mut(CONTEXT.len());
                    context.copy_from_slice(&CONTEXT);
                    // The room is as long as the fragment.
                    let _written = fragments.write_next(room);
                });
            if let Err(error) = sent {
                // The queue does not drain within a turn, and what is left is of no use without this.
                let lost = fragments.remaining() + segments.remaining();
                figures.count_unsent(error, lost as u64);
                return;
            }
        }
    }
}

/// Collects the fragments of a packet for its VPC; each goes through `buffer`.
pub(super) fn collect_fragments(
    vpc: &mut VpcPort,
    packet: &[u8],
    mtu_bytes: u16,
    buffer: &mut [u8],
) {
    let Ok(mut fragments) = fragments(packet, mtu_bytes.into()) else {
        return;
    };
    while let Some(bytes) = fragments.write_next(buffer) {
        let fragment = &buffer[..bytes];
        if let Ok(header) = parse(fragment)
            && vpc.writer.stage(&vpc.queue, fragment).is_some()
        {
            vpc.writer.commit(&vpc.queue, &header);
        }
    }
}
