//! A device's MTU.

use std::{io, mem, net::UdpSocket, os::fd::AsRawFd as _};

/// The MTU of a network device in this thread's network namespace, in bytes.
///
/// # Errors
/// What the operating system says; `ENODEV` when there is no such device.
pub fn link_mtu(name: &str) -> io::Result<usize> {
    let mut request = empty_request();
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    // Any socket of the namespace will do; it is bound to nothing that anybody hears.
    let socket = UdpSocket::bind(("::", 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)))?;
    // SAFETY: SIOCGIFMTU reads the name of, and writes the MTU to, an ifreq that lives through the
    // call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just written this member of the union.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    usize::try_from(mtu).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn empty_request() -> libc::ifreq {
    // SAFETY: an ifreq is plain bytes; all zeros is an empty name and no value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
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
}
