//! Packets to and from the application, without a device.

use std::{
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, mpsc},
};

use masque_packet::{ip::IpHeader, segment::GsoInfo};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::device::Device;
use crate::AttachError;

/// Packets that wait in each direction; more are dropped and counted. At 1,400 bytes a packet both
/// hold 3 MiB.
pub const CHANNEL_PACKETS: usize = 1024;

/// Gives packets to the gateway; cheap to clone.
#[derive(Clone, Debug)]
pub struct PacketSender {
    packets: mpsc::SyncSender<Vec<u8>>,
    wake: Arc<EventFd>,
}

/// Takes packets from the gateway.
#[derive(Debug)]
pub struct PacketReceiver {
    packets: mpsc::Receiver<Vec<u8>>,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// [`CHANNEL_PACKETS`] wait already.
    #[error("the channel is full; the packet was dropped")]
    Full,
    /// The attachment is over.
    #[error("the attachment is over")]
    Over,
}

/// Why no packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// None came in time.
    #[error("no packet came in time")]
    Timeout,
    /// The attachment is over.
    #[error("the attachment is over")]
    Over,
}

impl PacketSender {
    /// Sends one whole IP packet. What the tunnel does not carry comes back to the
    /// [`PacketReceiver`] as an ICMP error.
    ///
    /// # Errors
    /// [`SendError`]: the packet is gone.
    pub fn send(&self, packet: Vec<u8>) -> Result<(), SendError> {
        self.packets.try_send(packet).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => SendError::Full,
            mpsc::TrySendError::Disconnected(_) => SendError::Over,
        })?;
        // It can only fail when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
        Ok(())
    }
}

impl PacketReceiver {
    /// The next packet, if one is there.
    ///
    /// # Errors
    /// [`ReceiveError`]
    pub fn try_receive(&self) -> Result<Vec<u8>, ReceiveError> {
        self.packets.try_recv().map_err(|error| match error {
            mpsc::TryRecvError::Empty => ReceiveError::Timeout,
            mpsc::TryRecvError::Disconnected => ReceiveError::Over,
        })
    }

    /// Waits for the next packet.
    ///
    /// # Errors
    /// [`ReceiveError`]
    pub fn receive_timeout(&self, timeout: std::time::Duration) -> Result<Vec<u8>, ReceiveError> {
        self.packets
            .recv_timeout(timeout)
            .map_err(|error| match error {
                mpsc::RecvTimeoutError::Timeout => ReceiveError::Timeout,
                mpsc::RecvTimeoutError::Disconnected => ReceiveError::Over,
            })
    }
}

/// The attachment's end.
#[derive(Debug)]
pub(crate) struct ChannelPort {
    outgoing: mpsc::Receiver<Vec<u8>>,
    incoming: mpsc::SyncSender<Vec<u8>>,
    wake: Arc<EventFd>,
    current: Vec<u8>,
}

/// Both ends.
pub(crate) fn channel() -> Result<(ChannelPort, PacketSender, PacketReceiver), AttachError> {
    let wake =
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(|error| {
            AttachError::Local {
                reason: format!("eventfd: {error}"),
            }
        })?;
    let wake = Arc::new(wake);
    let (to_gateway, outgoing) = mpsc::sync_channel(CHANNEL_PACKETS);
    let (incoming, from_gateway) = mpsc::sync_channel(CHANNEL_PACKETS);
    Ok((
        ChannelPort {
            outgoing,
            incoming,
            wake: Arc::clone(&wake),
            current: Vec::new(),
        },
        PacketSender {
            packets: to_gateway,
            wake,
        },
        PacketReceiver {
            packets: from_gateway,
        },
    ))
}

impl Device for ChannelPort {
    fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    fn read(&mut self) -> Result<Option<(&mut [u8], GsoInfo)>, String> {
        let packet = self.outgoing.try_recv().or_else(|_| {
            // Cleared before the second look: what is sent after it sets it again.
            let _ = self.wake.read();
            self.outgoing.try_recv()
        });
        // Without senders nothing more comes, but the attachment may still receive.
        let Ok(packet) = packet else { return Ok(None) };
        self.current = packet;
        Ok(Some((&mut self.current, GsoInfo::default())))
    }

    fn write(&mut self, packet: &[u8], _header: &IpHeader, edit: impl FnOnce(&mut [u8])) -> bool {
        let mut packet = packet.to_vec();
        edit(&mut packet);
        self.incoming.try_send(packet).is_ok()
    }

    fn flush(&mut self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_channel_is_bounded_both_ways() {
        let (mut port, sender, receiver) = channel().unwrap();
        for _ in 0..CHANNEL_PACKETS {
            sender.send(vec![1]).unwrap();
        }
        assert_eq!(sender.send(vec![1]), Err(SendError::Full));
        assert!(port.read().unwrap().is_some());
        sender.send(vec![1]).unwrap();

        let packet =
            masque_packet::build::build_udp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), 1, 2, b"");
        let header = masque_packet::ip::parse(&packet).unwrap();
        let taken = (0..CHANNEL_PACKETS + 5)
            .filter(|_| port.write(&packet, &header, |_| {}))
            .count();
        assert_eq!(taken, CHANNEL_PACKETS);
        assert_eq!(receiver.try_receive().unwrap(), packet);
        drop(port);
        assert_eq!(sender.send(vec![1]), Err(SendError::Over));
    }
}
