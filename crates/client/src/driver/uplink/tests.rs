use std::{os::fd::BorrowedFd, sync::Arc};

use masque_packet::{build::build_udp, checksum::checksum, fragment::fragments, ip::IpHeader};
use nix::sys::eventfd::EventFd;

use super::*;
use crate::{AttachConfig, ConnectorIdentity};

/// A device whose line holds so many packets of one length.
struct Line {
    left: usize,
    packet: Vec<u8>,
    never: EventFd,
}

impl Device for Line {
    fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.never)
    }

    fn read(&mut self) -> Result<Option<(&mut [u8], GsoInfo)>, String> {
        let Some(left) = self.left.checked_sub(1) else {
            return Ok(None);
        };
        self.left = left;
        Ok(Some((&mut self.packet, GsoInfo::default())))
    }

    fn write(&mut self, _: &[u8], _: &IpHeader, _: impl FnOnce(&mut [u8])) -> bool {
        true
    }

    fn flush(&mut self) -> u64 {
        0
    }
}

/// A driver whose tunnel is not open, so that it loses what it is given to send.
fn driver(packets: usize, packet_bytes: usize) -> Driver<Line> {
    let line = Line {
        left: packets,
        packet: vec![0; packet_bytes],
        never: EventFd::new().unwrap(),
    };
    let identity = Arc::new(ConnectorIdentity::generate().unwrap());
    let gateway = "https://localhost:1".parse().unwrap();
    let config = AttachConfig::new(gateway, "v".parse().unwrap(), identity);
    Driver::new(&config, line, Box::new(|_| {})).unwrap()
}

/// Packets given to the tunnel.
fn given(driver: &mut Driver<Line>) -> u64 {
    driver.tunnel.tally().drops(DropReason::SendNotConnected)
}

#[test]
fn a_turn_takes_all_of_the_line_but_no_more_than_four_megabytes() {
    let now = Instant::now();
    let mut short = driver(500, 60);
    assert!(!short.read_device(now));
    assert_eq!(given(&mut short), 500);
    let mut endless = driver(1000, 60);
    assert!(endless.read_device(now));
    assert_eq!(endless.device.left, 1000 - 512);
    let mut long = driver(100, 64 * 1024);
    assert!(long.read_device(now));
    assert_eq!(long.device.left, 100 - 64);
}

#[test]
fn a_turn_sends_of_what_waits_as_much_as_it_takes() {
    for (packet_bytes, count, most) in [(60, 600, 512), (64 * 1024, 100, 64)] {
        let now = Instant::now();
        let mut driver = driver(0, packet_bytes);
        for _ in 0..count {
            let packet = driver.device.packet.clone();
            driver.uplink.push(now, &packet, &GsoInfo::default());
        }
        assert!(driver.send_waiting(now));
        assert_eq!(given(&mut driver), most);
        assert!(driver.send_waiting(now));
        assert_eq!(given(&mut driver), count);
        assert!(!driver.send_waiting(now));
    }
}

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

#[test]
fn a_driver_does_not_sleep_before_line_and_queue_are_empty() {
    let mut driver = driver(100, 64 * 1024);
    for _ in 0..100 {
        let more = driver.turn();
        let left = driver.device.left + driver.uplink.queue.len();
        assert!(more || left == 0, "{left} would wait");
        if !more {
            break;
        }
    }
    assert_eq!(driver.device.left + driver.uplink.queue.len(), 0);
    assert_eq!(given(&mut driver), 100);
}
