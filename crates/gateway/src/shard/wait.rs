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

/// Descriptors that one wait reports at most; the others are reported by the next.
const EVENTS: usize = 64;

/// Waits for any source of one shard. It does not say which: a turn looks at all of them, because
/// looking costs one system call and most have something.
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
            .add(&fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
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
        if let Err(error) = self.epoll.modify(fd, &mut EpollEvent::new(flags, 0)) {
            tracing::warn!(%error, "epoll");
        }
    }

    /// Sleeps until a source is ready or the time is over; `None` sleeps without end.
    #[expect(
        unsafe_code,
        reason = "epoll_pwait2 has no safe wrapper; epoll_wait counts in ms"
    )]
    pub(crate) fn wait(&self, timeout: Option<Duration>) {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let timeout = timeout.map(|d| libc::timespec {
            tv_sec: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(d.subsec_nanos()),
        });
        let pointer = timeout
            .as_ref()
            .map_or(std::ptr::null(), std::ptr::from_ref);
        let epoll = self.epoll.0.as_raw_fd();
        let most = libc::c_int::try_from(events.len()).unwrap_or(1);
        let events = events.as_mut_ptr();
        // SAFETY: the array and the timespec live through the call; a null mask is allowed.
        let ready = unsafe { libc::epoll_pwait2(epoll, events, most, pointer, std::ptr::null()) };
        // An interrupted or failed wait is an early turn, which finds nothing.
        let _early = ready;
    }
}
