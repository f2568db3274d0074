//! Signs that the way to the gateway is another one: changes of addresses and routes, and sleep.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
    time::{ClockId, clock_gettime},
};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
/// (`linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Messages read in one turn; a change of many routes is one sign.
const READS_MAX: usize = 64;
/// The clock that goes on in sleep may be ahead of the other by so much without sleep.
const SLEEP_MIN: Duration = Duration::from_secs(2);

/// The kernel's notifications. What they say is not read: they only make us look again.
#[derive(Debug)]
pub(super) struct NetworkWatch {
    socket: OwnedFd,
}

impl NetworkWatch {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkRoute;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Whether anything changed since the last call.
    pub(super) fn take(&self) -> bool {
        let mut buf = [0; 8192];
        let mut changed = false;
        for _ in 0..READS_MAX {
            match recv(self.socket.as_raw_fd(), &mut buf, MsgFlags::empty()) {
                Ok(_) => changed = true,
                // The kernel had more to say than the socket holds.
                Err(Errno::ENOBUFS) => changed = true,
                Err(_) => break,
            }
        }
        changed
    }
}

impl AsFd for NetworkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The address this machine would send to `remote` from.
///
/// # Errors
/// The routing table's reason why it would not: no network, no route.
pub(super) fn source_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let wildcard = match remote {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let socket = UdpSocket::bind(wildcard)?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

/// Notices that the machine slept: CLOCK_BOOTTIME counts sleep, CLOCK_MONOTONIC does not.
#[derive(Debug, Default)]
pub(super) struct SleepWatch {
    offset: Option<Duration>,
}

impl SleepWatch {
    /// Whether the machine slept since the last call.
    pub(super) fn take(&mut self) -> bool {
        let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
        let monotonic = read(ClockId::CLOCK_MONOTONIC);
        self.observe(monotonic, read(ClockId::CLOCK_BOOTTIME))
    }

    fn observe(&mut self, monotonic: Duration, boottime: Duration) -> bool {
        let offset = boottime.saturating_sub(monotonic);
        let former = self.offset.replace(offset);
        former.is_some_and(|former| offset.saturating_sub(former) >= SLEEP_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_what_only_one_clock_counts() {
        let seconds = Duration::from_secs;
        let mut watch = SleepWatch::default();
        assert!(!watch.observe(seconds(100), seconds(500)));
        assert!(
            !watch.observe(seconds(200), seconds(600)),
            "only time passed"
        );
        assert!(
            watch.observe(seconds(201), seconds(4201)),
            "an hour of sleep"
        );
        assert!(!watch.observe(seconds(202), seconds(4202)), "told once");
        assert!(
            !SleepWatch::default().take(),
            "the first look tells nothing"
        );
    }

    #[test]
    fn knows_the_way_to_a_neighbour() {
        let loopback = "127.0.0.1:9".parse().unwrap();
        assert!(source_towards(loopback).unwrap().is_loopback());
    }

    #[test]
    fn a_quiet_network_says_nothing() {
        let watch = NetworkWatch::open().unwrap();
        let _ = watch.take();
        assert!(!watch.take());
    }
}
