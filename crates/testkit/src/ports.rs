//! Ports for servers that a test starts, and may start again.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below what Linux gives who asks for any port (`net.ipv4.ip_local_port_range`, from 32768 on) and
/// below NodePorts (from 30000 on): nobody takes one of these by chance. From 20000 on `scripts/kube.sh`
/// chooses, whose API server may be away for a while and needs its port again.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;

static HANDED_OUT: AtomicU16 = AtomicU16::new(0);

/// A port on which nothing listens over IPv4, by TCP or UDP; another one for each of the first 10,000
/// calls of a process.
///
/// Port 0 finds one as well, but a moment after it was closed a connection of another test may
/// have it.
///
/// # Panics
///
/// When none of 10,000 is free.
#[must_use]
pub fn free_port() -> u16 {
    // Processes that run side by side mostly begin 97 ports apart, or more.
    let begin = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for _ in 0..COUNT {
        let turn = u32::from(HANDED_OUT.fetch_add(1, Ordering::Relaxed));
        let offset = (begin + turn) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("below 10,000");
        let address = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no port from {FIRST} on is free");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_port_twice_or_one_that_is_taken() {
        let first = free_port();
        let after = |port| FIRST + (port - FIRST + 1) % COUNT;
        let (udp, tcp) = (after(first), after(after(first)));
        let _taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, udp));
        let _taken_too = TcpListener::bind((Ipv4Addr::LOCALHOST, tcp));
        let second = free_port();
        assert!(![first, udp, tcp].contains(&second), "{first} {second}");
        assert!((FIRST..FIRST + COUNT).contains(&second));
    }
}
