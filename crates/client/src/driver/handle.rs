//! How other threads talk to the thread of an attachment.

use std::{
    collections::VecDeque,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::{AttachError, Status};

/// Commands that wait for the thread; more are refused.
const COMMANDS_MAX: usize = 64;
/// The thread looks at its commands many times a second; longer means that it is gone.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A handle on a running attachment; cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// An answered echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pong {
    /// Who answered.
    pub from: IpAddr,
    /// After how long.
    pub rtt: Duration,
}

/// Why an echo was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PingError {
    /// Nothing came back in time.
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It was not sent.
    #[error("not sent: {0}")]
    NotSent(&'static str),
    /// The attachment is over.
    #[error("the attachment is over")]
    Over,
}

#[derive(Debug)]
pub(super) enum Command {
    Stop,
    Status(mpsc::SyncSender<Status>),
    Ping {
        address: Option<IpAddr>,
        size_bytes: usize,
        timeout: Duration,
        reply: mpsc::SyncSender<Result<Pong, PingError>>,
    },
    Resolved(Result<Vec<IpAddr>, String>),
}

#[derive(Debug)]
pub(super) struct Shared {
    wake: EventFd,
    commands: Mutex<VecDeque<Command>>,
    last: Mutex<Status>,
}

impl Shared {
    pub(super) fn new(status: Status) -> Result<Arc<Self>, AttachError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(
            |error| AttachError::Local {
                reason: format!("eventfd: {error}"),
            },
        )?;
        Ok(Arc::new(Self {
            wake,
            commands: Mutex::new(VecDeque::new()),
            last: Mutex::new(status),
        }))
    }

    pub(super) fn wake_fd(&self) -> &EventFd {
        &self.wake
    }

    /// Everything that was asked for since the last call.
    pub(super) fn take(&self) -> VecDeque<Command> {
        // The counter says only that there is something.
        let _ = self.wake.read();
        std::mem::take(&mut *lock(&self.commands))
    }

    pub(super) fn set_last(&self, status: Status) {
        *lock(&self.last) = status;
    }

    pub(super) fn push(&self, command: Command) -> bool {
        let mut commands = lock(&self.commands);
        if commands.len() >= COMMANDS_MAX && !matches!(command, Command::Stop) {
            return false;
        }
        commands.push_back(command);
        drop(commands);
        self.wake.write(1).is_ok()
    }
}

impl Handle {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
        }
    }

    /// Ends the attachment: the gateway is told, the device closed.
    pub fn stop(&self) {
        self.shared.push(Command::Stop);
    }

    /// What it is doing now; the last known state after its end.
    pub fn status(&self) -> Status {
        let (reply, answer) = mpsc::sync_channel(1);
        if self.shared.push(Command::Status(reply))
            && let Ok(status) = answer.recv_timeout(ANSWER_MAX)
        {
            return status;
        }
        lock(&self.shared.last).clone()
    }

    /// Sends one echo request through the tunnel and waits for its answer; without an address to
    /// the gateway's end of the tunnel.
    ///
    /// # Errors
    /// [`PingError`]
    pub fn ping(
        &self,
        address: Option<IpAddr>,
        size_bytes: usize,
        timeout: Duration,
    ) -> Result<Pong, PingError> {
        let (reply, answer) = mpsc::sync_channel(1);
        if !self.shared.push(Command::Ping {
            address,
            size_bytes,
            timeout,
            reply,
        }) {
            return Err(PingError::NotSent("too much is asked at once"));
        }
        answer
            .recv_timeout(timeout + ANSWER_MAX)
            .unwrap_or(Err(PingError::Over))
    }
}

/// A thread that panicked left whole values behind: they are only ever replaced.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_wait_are_bounded_and_the_end_is_always_taken() {
        let shared = Shared::new(Status::default()).unwrap();
        let ask = || shared.push(Command::Resolved(Err(String::new())));
        assert_eq!((0..COMMANDS_MAX + 10).filter(|_| ask()).count(), 64);
        let refused = Handle::new(&shared).ping(None, 0, Duration::ZERO);
        let wanted = PingError::NotSent("too much is asked at once");
        assert_eq!(refused, Err(wanted));
        assert!(shared.push(Command::Stop));
        assert_eq!(shared.take().len(), 65);
        assert!(ask(), "there is room again");
    }
}
