//! epoll, with the resolution that pacing needs.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd as _},
    time::Duration,
};

use masque_gateway_core::VpcIndex;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

/// What may wake the thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Commands and handed packets.
    Mailbox,
    /// A UDP socket.
    Port(u16),
    /// A TUN queue.
    Vpc(VpcIndex),
}

impl Source {
    /// The kind in the upper half, the number in the lower.
    const fn token(self) -> u64 {
        match self {
            Self::Mailbox => 0,
            Self::Port(port) => 1 << 32 | port as u64,
            Self::Vpc(vpc) => 2 << 32 | vpc.0 as u64,
        }
    }

    fn from_token(token: u64) -> Option<Self> {
        let number = u32::try_from(token & u64::from(u32::MAX)).ok()?;
        match token >> 32 {
            0 => Some(Self::Mailbox),
            1 => Some(Self::Port(u16::try_from(number).ok()?)),
            2 => Some(Self::Vpc(VpcIndex(number))),
            _ => None,
        }
    }
}

/// Descriptors that one wait reports at most; the others are reported by the next.
const EVENTS: usize = 64;

/// Waits for the sources of one shard, and says which are ready: looking at one that is not costs a
/// system call, and a gateway of many VPCs has many.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Epoll,
    /// Descriptors by source, and whether writability is waited for.
    sources: BTreeMap<Source, (i32, bool)>,
}

impl Poller {
    /// Waits for nothing yet.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            sources: BTreeMap::new(),
        })
    }

    /// Adds a source, for reading.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn add(&mut self, source: Source, fd: impl AsFd) -> io::Result<()> {
        self.epoll
            .add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, source.token()))?;
        self.sources.insert(source, (fd.as_fd().as_raw_fd(), false));
        Ok(())
    }

    /// Takes a source out.
    pub(crate) fn remove(&mut self, source: Source, fd: impl AsFd) {
        self.sources.remove(&source);
        // A descriptor that is closed is out already.
        let _closed_already = self.epoll.delete(fd);
    }

    /// Whether the source is also waited for to become writable. Costs a system call only when that
    /// changes.
    pub(crate) fn want_write(&mut self, source: Source, fd: impl AsFd, wanted: bool) {
        let Some((_, waiting)) = self.sources.get_mut(&source) else {
            return;
        };
        if *waiting == wanted {
            return;
        }
        *waiting = wanted;
        let mut flags = EpollFlags::EPOLLIN;
        flags.set(EpollFlags::EPOLLOUT, wanted);
        if let Err(error) = self
            .epoll
            .modify(fd, &mut EpollEvent::new(flags, source.token()))
        {
            tracing::warn!(%error, "epoll");
        }
    }

    /// Sleeps until a source is ready or the time is over; `None` sleeps without end. Gives every
    /// source that is ready, or the first of them: the others are given by the next call. Tells whether any
    /// was.
    #[expect(
        unsafe_code,
        reason = "epoll_pwait2 has no safe wrapper; epoll_wait counts in ms"
    )]
    pub(crate) fn wait(&self, timeout: Option<Duration>, mut ready: impl FnMut(Source)) -> bool {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        const { assert!(size_of::<libc::timespec>() == 16) };
        let timeout = timeout.map(|d| libc::timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let epoll = self.epoll.0.as_raw_fd();
        let most = libc::c_int::try_from(events.len()).unwrap_or(1);
        let buffer = events.as_mut_ptr();
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: the array and the timespec, whose fields are 64 bits wide as the kernel's, live through
        // the call; a null mask is allowed, and its size means nothing then. By number, because not every
        // C library has this call.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                epoll,
                buffer,
                most,
                pointer,
                no_mask,
                0_usize,
            )
        };
        // An interrupted or failed wait is an early turn, which finds nothing.
        let count = usize::try_from(count).unwrap_or(0);
        for event in &events[..count.min(EVENTS)] {
            if let Some(source) = Source::from_token(event.u64) {
                ready(source);
            }
        }
        count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back() {
        for source in [
            Source::Mailbox,
            Source::Port(4433),
            Source::Vpc(VpcIndex(u32::MAX)),
        ] {
            assert_eq!(Source::from_token(source.token()), Some(source));
        }
        assert_eq!(Source::from_token(u64::MAX), None);
    }

    #[test]
    fn only_what_is_ready_is_given() {
        let mut poller = Poller::new().unwrap();
        let quiet = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        poller.add(Source::Port(1), &quiet).unwrap();
        poller.add(Source::Port(2), &busy).unwrap();
        quiet.send_to(b"x", busy.local_addr().unwrap()).unwrap();
        let mut ready = Vec::new();
        poller.wait(Some(Duration::from_secs(5)), |source| ready.push(source));
        assert_eq!(ready, [Source::Port(2)]);
    }
}
