//! Signs that the way to the gateway is another one: changes of links, addresses and routes.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

/// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
/// (`linux/rtnetlink.h`).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Messages read in one turn; a change of many routes is one sign.
const READS_MAX: usize = 64;
/// Between two looks while signs go on coming.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The number that routes carry which an observer makes for an attachment (`rtm_protocol`). They are
/// no sign of anything: two attachments that renew their routes would go on waking each other.
pub const OWN_ROUTE_PROTOCOL: u8 = 0x4e;
/// `linux/netlink.h`, `linux/rtnetlink.h`.
const HEADER_BYTES: usize = 16;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
/// Where `rtm_protocol` stands in an `rtmsg`.
const PROTOCOL_OFFSET: usize = 5;

/// The kernel's notifications. Beside whether it is about a route of our own, what they say is not
/// read: they only make us look again.
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
                Ok(length) => changed |= is_sign(&buf[..length]),
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

/// Whether a datagram of notifications tells of anything but routes of our own.
fn is_sign(mut messages: &[u8]) -> bool {
    while let [a, b, c, d, e, f, ..] = messages {
        let length = u32::from_ne_bytes([*a, *b, *c, *d]) as usize;
        let kind = u16::from_ne_bytes([*e, *f]);
        let protocol = messages.get(HEADER_BYTES + PROTOCOL_OFFSET);
        if !matches!(kind, RTM_NEWROUTE | RTM_DELROUTE)
            || length <= HEADER_BYTES
            || protocol != Some(&OWN_ROUTE_PROTOCOL)
        {
            return true;
        }
        // Messages begin at multiples of four bytes (NLMSG_ALIGN).
        messages = messages
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    !messages.is_empty()
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

/// When to look for the way to the gateway: at the first sign at once, at those that follow it not
/// more often than each [`LOOK_EVERY`].
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Looks {
    /// There is a sign that the way may be another one.
    pub(super) fn sign(&mut self, now: Instant) {
        let soonest = self.last.map_or(now, |last| now.max(last + LOOK_EVERY));
        self.due.get_or_insert(soonest);
    }

    /// Whether to look now.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
            self.last = Some(now);
        }
        is_due
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sign_is_followed_at_once_and_a_flood_four_times_a_second() {
        let start = Instant::now();
        let mut looks = Looks::default();
        assert!(!looks.take(start), "nothing happened");
        looks.sign(start);
        assert!(looks.take(start));
        let count = (0..1000_u64)
            .filter(|ms| {
                let now = start + Duration::from_millis(*ms);
                looks.sign(now);
                looks.take(now)
            })
            .count();
        assert_eq!(count, 3);
        assert_eq!(
            looks.due(),
            Some(start + LOOK_EVERY * 4),
            "the last sign is not forgotten"
        );
    }

    #[test]
    fn routes_of_our_own_are_no_sign() {
        // A header and an `rtmsg` (`linux/rtnetlink.h`): length, type, …, family, …, protocol.
        let message = |kind: u16, protocol: u8| {
            let mut bytes = vec![0; 28];
            bytes[..4].copy_from_slice(&28_u32.to_ne_bytes());
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes[21] = protocol;
            bytes
        };
        const RTM_NEWADDR: u16 = 20;
        let static_route = message(RTM_NEWROUTE, 4);
        let own = message(RTM_DELROUTE, OWN_ROUTE_PROTOCOL);
        assert!(is_sign(&static_route));
        assert!(!is_sign(&own));
        assert!(is_sign(&message(RTM_NEWADDR, OWN_ROUTE_PROTOCOL)));
        assert!(is_sign(&[own.clone(), static_route].concat()));
        assert!(!is_sign(&[own.clone(), own].concat()));
        assert!(is_sign(&[1, 2, 3]), "what is not understood is one");
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
