use masque_packet::{build::build_udp, checksum::checksum, fragment::fragments};

use super::*;

/// What leaves, in its order.
fn drained(uplink: &mut Uplink) -> Vec<Vec<u8>> {
    uplink.queue.resume(());
    std::iter::from_fn(|| {
        let next = uplink.queue.pop(0, |(), _, _| true)?;
        Some(next.packet.to_vec())
    })
    .collect()
}

/// A gateway drops a later fragment that comes before the first one: it cannot know its ports.
#[test]
fn fragments_of_a_flow_that_waits_do_not_pass_the_first_one() {
    let udp = |bytes| build_udp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 5, 443, bytes);
    let now = Instant::now();
    let mut uplink = Uplink::new(now, 0);
    let whole = udp(&[0; 1300]);
    for _ in 0..20 {
        uplink.push(now, &whole, &GsoInfo::default());
    }
    let mut datagram = udp(&[1; 3000]);
    // Without Don't Fragment.
    datagram[6] = 0;
    datagram[10..12].fill(0);
    let sum = checksum(&datagram[..20]);
    datagram[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut parts = fragments(&datagram, 1400).unwrap();
    let (mut came, mut buffer) = (Vec::new(), [0; 1400]);
    while let Some(bytes) = parts.write_next(&mut buffer) {
        uplink.push(now, &buffer[..bytes], &GsoInfo::default());
        came.push(buffer[..bytes].to_vec());
    }
    let mut left = drained(&mut uplink);
    left.retain(|packet| *packet != whole);
    assert_eq!(left, came);
}
