//! IPv4 packets that are longer than the way on carries and may be fragmented (RFC 1812 §4.2.2.7).

use std::convert::Infallible;

use masque_packet::{
    fragment::{Fragments, fragments},
    ip::parse,
    segment::{GsoInfo, segments},
};

use super::{
    datapath::{CONTEXT, PACKET_BYTES},
    figures::ShardFigures,
    port::Port,
    tunnels::TunnelKey,
    vpc_port::VpcPort,
};

/// Queues the fragments of a packet, or of each segment of a super-packet, for a client.
pub(super) fn send_fragments(
    port: &mut Port,
    key: TunnelKey,
    packet: (&[u8], &GsoInfo),
    mtu_bytes: u16,
    buffer: &mut [u8],
    figures: &mut ShardFigures,
) {
    let sent = cut(packet, mtu_bytes, buffer, figures, |fragments, bytes, _| {
        let length = CONTEXT.len() + bytes;
        let machine = &mut port.machine;
        machine.send_datagram(key.conn, key.stream, length, |out| {
            let (context, room) = out.split_at_mut(CONTEXT.len());
            context.copy_from_slice(&CONTEXT);
            // The room is as long as the fragment.
            let _written = fragments.write_next(room);
        })
    });
    if let Err((error, lost)) = sent {
        // The queue does not drain within a turn, and what is left is of no use without this.
        figures.count_unsent(error, lost);
    }
}

/// Gives the same fragments, one by one, to `keep`. `buffer` has room for two packets.
pub(super) fn keep_fragments(
    packet: (&[u8], &GsoInfo),
    mtu_bytes: u16,
    buffer: &mut [u8],
    figures: &mut ShardFigures,
    mut keep: impl FnMut(&[u8], &mut ShardFigures),
) {
    let (whole, part) = buffer.split_at_mut(PACKET_BYTES);
    let kept = cut(
        packet,
        mtu_bytes,
        whole,
        figures,
        |fragments, _, figures| {
            if let Some(bytes) = fragments.write_next(part) {
                keep(&part[..bytes], figures);
            }
            Ok::<_, Infallible>(())
        },
    );
    match kept {
        Ok(()) => {}
        Err((never, _)) => match never {},
    }
}

/// Cuts a packet, or each segment of a super-packet, for `take`, which is given the fragments and the
/// length of the one it is to write. Segments go through `buffer`: their checksums cover what the
/// fragments divide. The error of `take` ends it, with the number of fragments left, those of the
/// segments behind it as many each.
fn cut<E>(
    (packet, gso): (&[u8], &GsoInfo),
    mtu_bytes: u16,
    buffer: &mut [u8],
    figures: &mut ShardFigures,
    mut take: impl FnMut(&mut Fragments<'_>, usize, &mut ShardFigures) -> Result<(), E>,
) -> Result<(), (E, u64)> {
    let Ok(mut segments) = segments(packet, gso) else {
        figures.tun_bad_packets += 1;
        return Ok(());
    };
    while let Some(bytes) = segments.write_next(buffer) {
        let Ok(mut fragments) = fragments(&buffer[..bytes], mtu_bytes.into()) else {
            figures.unfragmentable += 1;
            continue;
        };
        while let Some(bytes) = fragments.next_packet_bytes() {
            if let Err(error) = take(&mut fragments, bytes, figures) {
                let lost = fragments.remaining() + segments.remaining() * fragments.count();
                return Err((error, lost as u64));
            }
        }
    }
    Ok(())
}

/// Collects the fragments of a packet for its VPC; each goes through `buffer`.
pub(super) fn collect_fragments(
    vpc: &mut VpcPort,
    packet: &[u8],
    mtu_bytes: u16,
    buffer: &mut [u8],
    figures: &mut ShardFigures,
) {
    let Ok(mut fragments) = fragments(packet, mtu_bytes.into()) else {
        figures.unfragmentable += 1;
        return;
    };
    while let Some(bytes) = fragments.write_next(buffer) {
        let fragment = &buffer[..bytes];
        let Ok(header) = parse(fragment) else {
            figures.unfragmentable += 1;
            continue;
        };
        if vpc.writer.stage(&vpc.queue, fragment).is_some() {
            vpc.writer.commit(&vpc.queue, &header);
        } else {
            figures.tun_refused += 1;
        }
    }
}

#[cfg(test)]
mod tests;
