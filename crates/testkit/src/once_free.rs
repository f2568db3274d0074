//! What a test lets go, and takes again.
//!
//! A child that another test of the same process forked a moment ago has copies of all descriptors,
//! until it runs its program: so a port, a device or a lock that was let go is taken a little longer.

use std::{
    fmt::Display,
    fs,
    time::{Duration, Instant},
};

/// A child has begun its program by then, on any machine.
const FREE_MAX: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What `attempt` gives, which is made again as long as it fails by what `is_taken` says of its error.
///
/// # Panics
///
/// With any other error at once, and with this one after ten seconds.
#[track_caller]
pub fn once_free<T, E: Display>(
    is_taken: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> T {
    let deadline = Instant::now() + FREE_MAX;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if is_taken(&error) && Instant::now() < deadline => {
                std::thread::sleep(TRY_AGAIN);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Waits until what was let go is no longer taken.
///
/// # Panics
///
/// When it still is after ten seconds.
#[track_caller]
pub fn until_free(mut is_taken: impl FnMut() -> bool) {
    once_free(
        |_| true,
        || {
            if is_taken() {
                Err("what was let go is still taken")
            } else {
                Ok(())
            }
        },
    );
}

/// Whether a UDP socket has `port`, in the network namespace of this thread; asked without a socket,
/// of which a child could have a copy.
#[must_use]
pub fn udp_port_is_taken(port: u16) -> bool {
    let port = format!(":{port:04X}");
    // The first column is a number, the second one the local address.
    let is_taken = |line: &str| {
        let local = line.split_ascii_whitespace().nth(1);
        local.is_some_and(|address| address.ends_with(&port))
    };
    ["udp", "udp6"].iter().any(|table| {
        let sockets = fs::read_to_string(format!("/proc/thread-self/net/{table}"));
        sockets.is_ok_and(|sockets| sockets.lines().any(is_taken))
    })
}

/// Whether a network device has this name, in the network namespace of this thread.
#[must_use]
pub fn device_exists(name: &str) -> bool {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let mut names = devices.lines().filter_map(|line| line.split(':').next());
    names.any(|device| device.trim() == name)
}

#[cfg(test)]
mod tests {
    use std::{io, net::UdpSocket};

    use super::*;

    fn in_use(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::AddrInUse
    }

    #[test]
    fn a_port_is_had_once_its_copy_is_closed() {
        for any in ["127.0.0.1:0", "[::]:0"] {
            let taken = UdpSocket::bind(any).unwrap();
            let address = taken.local_addr().unwrap();
            let mut copy = Some(taken.try_clone().unwrap());
            drop(taken);
            assert!(udp_port_is_taken(address.port()));
            let mut failed = 0;
            let socket = once_free(in_use, || {
                let socket = UdpSocket::bind(address);
                if socket.is_err() {
                    failed += 1;
                    copy = None;
                }
                socket
            });
            assert_eq!(socket.local_addr().unwrap(), address);
            assert!(failed > 0, "the copy held it");
            drop(socket);
            until_free(|| udp_port_is_taken(address.port()));
        }
    }

    #[test]
    #[should_panic(expected = "something else")]
    fn another_error_is_not_tried_again() {
        let mut attempts = 0;
        once_free(in_use, || {
            attempts += 1;
            assert_eq!(attempts, 1);
            Err::<(), _>(io::Error::other("something else"))
        });
    }

    #[test]
    fn devices_are_known_by_their_whole_name() {
        assert!(device_exists("lo"));
        assert!(!device_exists("l") && !device_exists("lo0") && !device_exists(""));
    }
}
