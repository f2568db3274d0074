//! What a device is at the moment, and whether any device has changed.

use std::{
    io, mem,
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

/// Bytes of messages that one read takes; what is longer is cut, and nobody reads it.
const READ_BYTES: usize = 4096;
/// Messages that one look takes. The kernel keeps the others, and the descriptor stays readable.
const READS_MAX: usize = 1024;

/// A network device of this thread's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Its index: another device of the same name has another one.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu_bytes: usize,
}

impl LinkState {
    /// The device of this name.
    ///
    /// # Errors
    /// What the operating system says; `ENODEV` when there is no such device.
    pub fn of(name: &str) -> io::Result<Self> {
        let socket = any_socket()?;
        let ask = |call: libc::c_ulong, request: &mut libc::ifreq| {
            // SAFETY: these calls read the name of, and write one number to, an ifreq that lives
            // through the call. The type of the call's number is not the same in every C library.
            let done = unsafe { libc::ioctl(socket.as_raw_fd(), call as _, request) };
            if done < 0 {
                Err(io::Error::last_os_error())
            } else {
                Ok(())
            }
        };
        let mut request = named(name)?;
        ask(libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: the kernel has just written this member of the union.
        let index = unsafe { request.ifr_ifru.ifru_ifindex };
        ask(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: as above.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        ask(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: as above.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        let absurd = |_| io::Error::from_raw_os_error(libc::EINVAL);
        Ok(Self {
            index: u32::try_from(index).map_err(absurd)?,
            up: i32::from(flags) & libc::IFF_UP != 0,
            mtu_bytes: usize::try_from(mtu).map_err(absurd)?,
        })
    }
}

/// The MTU of a network device in this thread's network namespace, in bytes.
///
/// # Errors
/// What the operating system says; `ENODEV` when there is no such device.
pub fn link_mtu(name: &str) -> io::Result<usize> {
    LinkState::of(name).map(|link| link.mtu_bytes)
}

/// Becomes readable when a device of the namespace comes, goes or changes. Needs no privilege.
#[derive(Debug)]
pub struct LinkMonitor {
    fd: OwnedFd,
}

impl LinkMonitor {
    /// Listens from now on in the network namespace of the calling thread.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: plain system call; the descriptor is owned at once.
        let fd = unsafe {
            let fd = libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(fd)
        };
        // SAFETY: a sockaddr_nl is plain numbers; all zeros is no group.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = libc::RTMGRP_LINK as u32;
        let length = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the address lives through the call and is as long as said.
        let done = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd })
    }

    /// Whether a device came, went or changed since the last look. Never waits.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn changed(&self) -> io::Result<bool> {
        let mut buffer = [0u8; READ_BYTES];
        for read in 0..READS_MAX {
            let (room, length) = (buffer.as_mut_ptr().cast(), buffer.len());
            // SAFETY: the buffer lives through the call and is as long as said.
            let got = unsafe { libc::recv(self.fd.as_raw_fd(), room, length, 0) };
            if got >= 0 {
                continue;
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(read > 0),
                // More happened than the kernel kept: something did.
                Some(libc::ENOBUFS | libc::EINTR) => {}
                _ => return Err(error),
            }
        }
        Ok(true)
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// Any socket of the namespace will do; it is bound to nothing that anybody hears.
pub(crate) fn any_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind(("::", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))
}

pub(crate) fn named(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: an ifreq is plain bytes; all zeros is an empty name and no value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use masque_testkit::Lab;

    use super::*;

    #[test]
    fn the_loopback_has_one_and_nobody_has_none() {
        assert!(link_mtu("lo").unwrap() >= 1280);
        assert_eq!(
            link_mtu("no-such-dev").unwrap_err().raw_os_error(),
            Some(libc::ENODEV)
        );
        assert!(link_mtu("").is_err());
        assert!(link_mtu("a-name-that-is-longer-than-any-device").is_err());
    }

    #[test]
    fn a_change_is_noticed_once_and_seen() {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return;
        }
        let mut lab = Lab::new();
        let host = lab.host("links");
        host.ip(&[
            "link", "add", "left", "type", "veth", "peer", "name", "right",
        ]);
        let (monitor, before) = host.enter(|| (LinkMonitor::open(), LinkState::of("left")));
        let (monitor, before) = (monitor.unwrap(), before.unwrap());
        assert!(!monitor.changed().unwrap());
        host.ip(&["link", "set", "left", "mtu", "1400", "up"]);
        assert!(monitor.changed().unwrap());
        assert!(!monitor.changed().unwrap());
        let after = host.enter(|| LinkState::of("left")).unwrap();
        assert_eq!((after.up, after.mtu_bytes), (true, 1400));
        assert_eq!((before.up, before.index), (false, after.index));
        host.ip(&["link", "del", "left"]);
        assert!(monitor.changed().unwrap());
        let gone = host.enter(|| LinkState::of("left")).unwrap_err();
        assert_eq!(gone.raw_os_error(), Some(libc::ENODEV));
    }
}
