//! Round trips of one small UDP packet at a time.

use std::{
    io,
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use masque_testkit::Netns;

use crate::{failure::Failure, interrupt, stats::quantile};

/// UDP port of the echo, one socket for each workload address so that replies come from it.
pub(crate) const PORT: u16 = 7007;
/// Payload of a ping.
pub(crate) const PAYLOAD_BYTES: usize = 64;
/// A ping that took longer is lost.
const LOST_AFTER: Duration = Duration::from_millis(500);
/// A run in which more than one of so many pings is lost has no latency worth the name.
const LOST_SHARE_MAX: f64 = 0.2;

/// Round-trip times of one run, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RoundTrips {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// Answers pings to `address` as long as this process lives.
pub(crate) fn serve(ns: &Netns, address: Ipv4Addr) -> Result<(), Failure> {
    let bound = ns.enter(|| UdpSocket::bind((address, PORT)));
    let socket = bound.map_err(Failure::io("the echo socket"))?;
    thread::spawn(move || {
        let mut packet = [0; PAYLOAD_BYTES * 2];
        loop {
            if let Ok((n, from)) = socket.recv_from(&mut packet) {
                let _ = socket.send_to(&packet[..n], from);
            }
        }
    });
    Ok(())
}

/// One ping after the other for `time`.
pub(crate) fn ping_pong(
    ns: &Netns,
    target: Ipv4Addr,
    time: Duration,
) -> Result<RoundTrips, Failure> {
    let socket = ns.enter(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((target, PORT))?;
        socket.set_read_timeout(Some(LOST_AFTER))?;
        io::Result::Ok(socket)
    });
    let socket = socket.map_err(Failure::io("the ping socket"))?;
    let (mut micros, mut lost) = (Vec::new(), 0_u32);
    let start = Instant::now();
    let mut number = 0_u64;
    while start.elapsed() < time {
        interrupt::check()?;
        number += 1;
        match one(&socket, number) {
            Some(trip) => micros.push(trip.as_secs_f64() * 1e6),
            None => lost += 1,
        }
    }
    let sent = f64::from(lost) + f64::from(u32::try_from(micros.len()).unwrap_or(u32::MAX));
    let (Some(p50), Some(p99)) = (quantile(&micros, 0.5), quantile(&micros, 0.99)) else {
        return Err(Failure::Traffic(format!("no ping to {target} came back")));
    };
    if f64::from(lost) / sent > LOST_SHARE_MAX {
        return Err(Failure::Traffic(format!(
            "{lost} of {sent} pings to {target} were lost"
        )));
    }
    Ok(RoundTrips { p50, p99 })
}

/// `None` when it was lost. A late answer to an earlier ping is passed over.
pub(crate) fn one(socket: &UdpSocket, number: u64) -> Option<Duration> {
    let mut packet = [0; PAYLOAD_BYTES];
    packet[..8].copy_from_slice(&number.to_be_bytes());
    let start = Instant::now();
    socket.send(&packet).ok()?;
    let mut answer = [0; PAYLOAD_BYTES];
    while start.elapsed() < LOST_AFTER {
        let n = socket.recv(&mut answer).ok()?;
        if n == PAYLOAD_BYTES && answer[..8] == number.to_be_bytes() {
            return Some(start.elapsed());
        }
    }
    None
}
