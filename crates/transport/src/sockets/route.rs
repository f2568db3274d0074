//! What this machine knows of the way to an address.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

/// The MTU in bytes of this machine's route to `remote`: that of the link it leaves by, or less
/// when the route or an ICMP error says so. Nothing is sent.
///
/// # Errors
/// There is no route.
pub fn route_mtu_bytes(remote: SocketAddr) -> io::Result<u32> {
    let remote = SocketAddr::new(remote.ip().to_canonical(), remote.port());
    let (any, level, option) = match remote {
        SocketAddr::V4(_) => (
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            libc::IPPROTO_IP,
            libc::IP_MTU,
        ),
        SocketAddr::V6(_) => (
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU,
        ),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(remote)?;
    let mut mtu_bytes: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the life of `socket`; the pointers describe `mtu_bytes` and
    // its length, which outlive the call.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw mut mtu_bytes).cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(mtu_bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_mtu_of_the_loopback_device() {
        let mut known = 0;
        for remote in ["127.0.0.1:9", "[::1]:9", "[::ffff:127.0.0.1]:9"] {
            // A machine without one of the families has no route.
            if let Ok(mtu_bytes) = route_mtu_bytes(remote.parse().unwrap()) {
                assert!(mtu_bytes > 1500, "{remote}: {mtu_bytes}");
                known += 1;
            }
        }
        assert!(known > 0);
    }
}
