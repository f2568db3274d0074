//! The UDP socket towards the gateway, and the ICMP errors that come back.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::Instant,
};

use masque_transport::{
    Machine,
    sockets::{SocketOptions, UdpSocket},
};
use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt},
};

use crate::AttachError;

/// Datagrams received in one turn: a few hundred microseconds of work.
const RECEIVE_BUDGET: usize = 512;
/// GSO batches sent in one turn.
const SEND_BUDGET: usize = 64;
/// Errors read in one turn; the kernel keeps no more than its receive buffer holds.
const ERRORS_MAX: usize = 64;
/// Receive errors in a row after which a turn gives up; each takes one pending ICMP error away.
const RETRIES_MAX: usize = 8;
/// Space for one `sock_extended_err` with the offender's address, and a second of the other family.
const CONTROL_BYTES: usize = 256;

/// One socket for both families where the system has IPv6, else for IPv4.
pub(super) struct GatewaySocket {
    socket: UdpSocket,
    dual_stack: bool,
}

/// What an ICMP error, or this machine's own link, says about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It cannot be reached.
    Unreachable(&'static str),
    /// A packet was longer than this MTU (RFC 1191, RFC 8201).
    TooBig { mtu_bytes: u32 },
}

/// What one turn of receiving or sending did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moved {
    /// There may be more at once.
    pub(super) more: bool,
}

impl GatewaySocket {
    pub(super) fn open() -> Result<Self, AttachError> {
        let any_v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        let any_v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let (socket, dual_stack) = match UdpSocket::bind(&SocketOptions::new(any_v6)) {
            Ok(socket) => (socket, true),
            // A system without IPv6.
            Err(_) => (
                UdpSocket::bind(&SocketOptions::new(any_v4)).map_err(local)?,
                false,
            ),
        };
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).map_err(local)?;
        if dual_stack {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).map_err(local)?;
        }
        Ok(Self { socket, dual_stack })
    }

    /// Whether IPv4 gateways have IPv4-mapped addresses here.
    pub(super) fn is_dual_stack(&self) -> bool {
        self.dual_stack
    }

    /// Our port.
    pub(super) fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |address| address.port())
    }

    /// Whether a batch waits for the socket to become writable.
    pub(super) fn is_blocked(&self) -> bool {
        self.socket.is_blocked()
    }

    /// Hands what was received to the machine.
    pub(super) fn receive(&mut self, machine: &mut Machine, now: Instant) -> Moved {
        for _ in 0..RETRIES_MAX {
            match self.socket.recv_batch(machine, now, RECEIVE_BUDGET) {
                Ok(received) => {
                    return Moved {
                        more: received.more,
                    };
                }
                // An ICMP error about something sent; the error queue has the details.
                Err(error) => tracing::trace!(%error, "receive"),
            }
        }
        Moved { more: true }
    }

    /// Sends what the machine has.
    pub(super) fn send(&mut self, machine: &mut Machine, now: Instant) -> Moved {
        self.send_batches(machine, now, SEND_BUDGET)
    }

    /// Sends a GSO batch if the machine has a whole one.
    pub(super) fn send_full(&mut self, machine: &mut Machine) {
        if machine.has_batch() && !self.is_blocked() {
            self.send_batches(machine, Instant::now(), 1);
        }
    }

    fn send_batches(&mut self, machine: &mut Machine, now: Instant, budget: usize) -> Moved {
        match self.socket.flush(machine, now, budget) {
            Ok(flushed) => Moved { more: flushed.more },
            Err(error) => {
                tracing::debug!(%error, "send");
                Moved { more: true }
            }
        }
    }

    /// Takes ICMP errors: whom they are about, and what they say.
    pub(super) fn take_errors(&self, mut each: impl FnMut(SocketAddr, Fault)) {
        for _ in 0..ERRORS_MAX {
            match self.take_error() {
                Ok(Some((about, fault))) => each(about, fault),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    }

    fn take_error(&self) -> nix::Result<Option<(SocketAddr, Fault)>> {
        let (mut data, mut control) = ([0; 128], [0; CONTROL_BYTES]);
        let mut slices = [IoSliceMut::new(&mut data)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let fd = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), flags)?;
        let fault = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4RecvErr(error, _)
            | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                fault(Errno::from_raw(error.ee_errno.cast_signed()), error.ee_info)
            }
            _ => None,
        });
        let about = message.address.as_ref().and_then(socket_address);
        Ok(about.zip(fault))
    }
}

impl AsFd for GatewaySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What an error means; `None` for those that say nothing about the destination.
fn fault(errno: Errno, info: u32) -> Option<Fault> {
    match errno {
        // For a local error and for both kinds of ICMP this is the MTU (ip(7), ipv6(7)).
        Errno::EMSGSIZE => Some(Fault::TooBig { mtu_bytes: info }),
        errno => reason(errno).map(Fault::Unreachable),
    }
}

fn reason(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ECONNREFUSED => Some("connection refused: nothing listens on its UDP port"),
        Errno::EHOSTUNREACH => Some("no route to host"),
        Errno::ENETUNREACH => Some("network is unreachable"),
        Errno::EACCES => Some("a firewall on the way prohibits it"),
        _ => None,
    }
}

/// What a refused route lookup means.
pub(super) fn local_reason(error: &io::Error) -> &'static str {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno
        .and_then(reason)
        .unwrap_or("this machine has no address to reach it from")
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage
        .as_sockaddr_in()
        .map(|v4| (IpAddr::from(v4.ip()), v4.port()));
    let v6 = || {
        storage
            .as_sockaddr_in6()
            .map(|v6| (IpAddr::from(v6.ip()), v6.port()))
    };
    v4.or_else(v6).map(SocketAddr::from)
}

fn local(error: impl std::fmt::Display) -> AttachError {
    AttachError::Local {
        reason: format!("no UDP socket can be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket as StdSocket, time::Duration};

    use super::*;

    #[test]
    fn a_closed_port_is_told_by_its_icmp_error() {
        let socket = GatewaySocket::open().unwrap();
        let closed = {
            let there = StdSocket::bind("127.0.0.1:0").unwrap();
            there.local_addr().unwrap()
        };
        let to = match (socket.is_dual_stack(), closed.ip()) {
            (true, IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), closed.port()),
            _ => closed,
        };
        let sender: StdSocket = socket.as_fd().try_clone_to_owned().unwrap().into();
        sender.send_to(b"x", to).unwrap();
        let mut told = Vec::new();
        for _ in 0..100 {
            socket.take_errors(|about, fault| told.push((about, fault)));
            if !told.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let (about, Fault::Unreachable(reason)) = told[0] else {
            panic!("{told:?}")
        };
        assert_eq!(
            (about.ip().to_canonical(), about.port()),
            (closed.ip(), closed.port())
        );
        assert!(reason.starts_with("connection refused"), "{reason}");
    }
}
