//! What a test lets go, and takes again.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

/// A child has begun its program by then, on any machine.
const FREE_MAX: Duration = Duration::from_secs(10);
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What `attempt` gives, which needs something free that this process has just let go: a port, a
/// device, a lock.
///
/// A child that another test of this process forked a moment ago has copies of all descriptors, until
/// it runs its program: so what was closed here is taken a little longer.
///
/// # Panics
///
/// With the last error, when it still fails after ten seconds.
#[track_caller]
pub fn once_free<T, E: Display>(mut attempt: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + FREE_MAX;
    loop {
        match attempt() {
            Ok(done) => return done,
            Err(error) if Instant::now() >= deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(TRY_AGAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_port_is_had_once_its_copy_is_closed() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut copy = Some(taken.try_clone().unwrap());
        drop(taken);
        let mut failed = 0;
        let socket = once_free(|| {
            let socket = UdpSocket::bind(address);
            if socket.is_err() {
                failed += 1;
                copy = None;
            }
            socket
        });
        assert_eq!(socket.local_addr().unwrap(), address);
        assert!(failed > 0, "the copy held it");
    }
}
