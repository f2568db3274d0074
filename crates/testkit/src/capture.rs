//! What really is on the wire: an AF_PACKET socket on one interface.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use crate::Netns;

/// Longest packet read whole: a super-packet of 64 kB and its outer header.
const PACKET_BYTES_MAX: usize = 1 << 17;

/// Reads every packet that passes one interface, in both directions, from the IP header on. It
/// sees what the interface got: a super-packet comes whole where segmentation is offloaded.
#[derive(Debug)]
pub struct Capture {
    socket: OwnedFd,
}

impl Capture {
    /// Listens on `link` from now on.
    #[track_caller]
    pub fn open(ns: &Netns, link: &str) -> Self {
        match ns.enter(|| open_socket(link)) {
            Ok(socket) => Self { socket },
            Err(e) => panic!("cannot capture on {link} in {}: {e}", ns.name()),
        }
    }

    /// The next packet that `wanted` accepts, or `None` after `within`; others are thrown away.
    pub fn next(&self, within: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        let mut buf = vec![0; PACKET_BYTES_MAX];
        loop {
            let left = deadline.checked_duration_since(Instant::now())?;
            let length = self.receive(&mut buf, left)?;
            if wanted(&buf[..length]) {
                buf.truncate(length);
                return Some(buf);
            }
        }
    }

    fn receive(&self, buf: &mut [u8], within: Duration) -> Option<usize> {
        let fd = self.socket.as_raw_fd();
        let mut poll = libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let timeout_ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd of ours.
        if unsafe { libc::poll(&raw mut poll, 1, timeout_ms) } <= 0 {
            return None;
        }
        // SAFETY: the buffer is valid for its length.
        let read =
            unsafe { libc::recv(fd, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_DONTWAIT) };
        usize::try_from(read).ok()
    }
}

fn open_socket(link: &str) -> io::Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    let name = CString::new(link)?;
    // SAFETY: a NUL-terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain system call; the descriptor is owned at once.
    let socket = unsafe {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_PACKET, kind, i32::from(protocol));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: sockaddr_ll is plain data, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = index.cast_signed();
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: address and length describe one sockaddr_ll that lives through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lab;

    #[test]
    fn sees_a_ping_from_its_ip_header_on() {
        if let Err(skip) = Lab::available() {
            eprintln!("{skip}");
            return;
        }
        let mut lab = Lab::new();
        let (a, b) = (lab.host("a"), lab.host("b"));
        lab.veth((&a, "eth0"), (&b, "eth0"), 1500);
        a.address("eth0", "10.0.0.1/24");
        b.address("eth0", "10.0.0.2/24");
        let capture = Capture::open(&b, "eth0");
        assert!(a.pings("10.0.0.2".parse().unwrap(), Duration::from_secs(5)));
        let request = |p: &[u8]| p[0] == 0x45 && p[9] == 1 && p[20] == 8;
        let packet = capture
            .next(Duration::from_secs(2), request)
            .expect("the echo request");
        assert_eq!(packet[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(
            capture.next(Duration::from_millis(50), |p| p[9] == 99),
            None
        );
    }
}
