//! How threads reach a shard: a bounded queue of commands, a bounded ring of packets, one wake-up.

mod ring;

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crossbeam_queue::SegQueue;
use masque_gateway_core::VpcIndex;
use masque_packet::segment::GsoInfo;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::command::{Command, HandedPacket};
pub(crate) use ring::MAX_HANDED_PACKETS;
use ring::Ring;

/// Commands that may wait for one shard: four for each session that a registry takes
/// (`RegistryConfig::sessions_max`), because one reload may end or change all of them at once. A lost
/// command would leave a session alive that must end. A shard that lets this many pile up is stuck,
/// and the sender says so.
pub(crate) const MAX_COMMANDS: usize = 4 * 65_536;

/// One shard's mailbox; every thread may hold a handle.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// Takes memory by what waits; [`MAX_COMMANDS`] bounds it.
    commands: SegQueue<Command>,
    packets: Ring,
    wake: EventFd,
    /// Set while a wake-up is on its way, so that a burst costs one system call.
    woken: AtomicBool,
    refused_packets: AtomicU64,
}

/// The shard is stuck or gone: its commands are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a packet thread does not take commands")]
pub(crate) struct Stuck;

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// What the operating system says of the eventfd.
    pub(crate) fn new() -> std::io::Result<Arc<Self>> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Arc::new(Self {
            commands: SegQueue::new(),
            packets: Ring::new(),
            wake,
            woken: AtomicBool::new(false),
            refused_packets: AtomicU64::new(0),
        }))
    }

    /// Leaves a command.
    ///
    /// # Errors
    /// [`Stuck`] when [`MAX_COMMANDS`] wait already.
    pub(crate) fn send(&self, command: Command) -> Result<(), Stuck> {
        if self.commands.len() >= MAX_COMMANDS {
            return Err(Stuck);
        }
        self.commands.push(command);
        self.wake();
        Ok(())
    }

    /// Leaves a copy of a packet; where its VPC has no place left in the ring it is dropped and
    /// counted.
    pub(crate) fn hand_over(&self, vpc: VpcIndex, gso: &GsoInfo, packet: &[u8]) -> bool {
        let taken = self.packets.push(vpc, gso, packet);
        if taken {
            self.wake();
        } else {
            self.refused_packets.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// The next command (the shard's own thread).
    pub(crate) fn command(&self) -> Option<Command> {
        self.commands.pop()
    }

    /// Whether commands wait: two loads, no system call.
    pub(crate) fn has_commands(&self) -> bool {
        !self.commands.is_empty()
    }

    /// The next packet (the shard's own thread); give it back by [`recycle`](Self::recycle).
    pub(crate) fn packet(&self) -> Option<HandedPacket> {
        self.packets.pop()
    }

    /// Takes back a packet for its buffer.
    pub(crate) fn recycle(&self, packet: HandedPacket) {
        self.packets.recycle(packet);
    }

    /// Before looking into the queues: later senders wake again.
    pub(crate) fn acknowledge(&self) {
        self.acknowledge_around(|| ());
    }

    /// First the counter, then the mark: the other way round, a sender in `between` would set the mark
    /// again and have its wake-up taken here, and nobody would wake this shard any more.
    fn acknowledge_around(&self, between: impl FnOnce()) {
        // Nothing to read is fine: the wake-up was taken in an earlier turn.
        let _nothing_to_read = self.wake.read();
        between();
        // A swap, because it must see what a sender left before it found the mark set.
        self.woken.swap(false, Ordering::SeqCst);
    }

    fn wake(&self) {
        if !self.woken.swap(true, Ordering::SeqCst) {
            // An eventfd whose counter is full is readable already.
            let _readable_already = self.wake.write(1);
        }
    }
}

impl AsFd for Mailbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn both_queues_are_bounded() {
        let mailbox = Mailbox::new().unwrap();
        let hand_over = |vpc| mailbox.hand_over(VpcIndex(vpc), &GsoInfo::default(), &[0x45]);
        let places = u32::try_from(MAX_HANDED_PACKETS).unwrap();
        for vpc in 0..places {
            assert!(hand_over(vpc));
        }
        assert!(!hand_over(places));
        assert_eq!(mailbox.refused_packets.load(Ordering::Relaxed), 1);
        for _ in 0..MAX_COMMANDS {
            mailbox.send(Command::Drain).unwrap();
        }
        assert_eq!(mailbox.send(Command::Drain), Err(Stuck));
    }

    /// The receiver sleeps and looks as a shard does, and the sender's pauses go through all phases
    /// of that.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const COMMANDS: usize = 200_000;
        let mailbox = Mailbox::new().unwrap();
        let receiver = Arc::clone(&mailbox);
        let shard = std::thread::spawn(move || {
            let mut count = 0;
            while count < COMMANDS {
                let mut fds = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
                if poll(&mut fds, PollTimeout::from(5_000_u16)).unwrap() == 0 {
                    break;
                }
                receiver.acknowledge();
                while receiver.command().is_some() {
                    count += 1;
                }
            }
            count
        });
        for sent in 0..COMMANDS {
            mailbox.send(Command::Drain).unwrap();
            for _ in 0..sent % 257 {
                std::hint::spin_loop();
            }
        }
        assert_eq!(shard.join().unwrap(), COMMANDS);
    }

    /// Whether the shard was woken for a turn or came by itself.
    #[test]
    fn a_sender_within_acknowledge_stops_no_later_wake_up() {
        for woken in [true, false] {
            let mailbox = Mailbox::new().unwrap();
            if woken {
                mailbox.send(Command::Drain).unwrap();
            }
            mailbox.acknowledge_around(|| mailbox.send(Command::Drain).unwrap());
            while mailbox.command().is_some() {}
            mailbox.send(Command::Drain).unwrap();
            assert!(mailbox.wake.read().is_ok(), "woken before: {woken}");
        }
    }

    #[test]
    fn a_wake_up_after_acknowledge_is_not_lost() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.send(Command::Drain).unwrap();
        mailbox.acknowledge();
        assert!(mailbox.command().is_some());
        mailbox.send(Command::Drain).unwrap();
        assert_eq!(
            mailbox.wake.read().unwrap(),
            1,
            "the second command woke again"
        );
    }
}
