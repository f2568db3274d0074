//! Attachments that run: on a TUN device, or with the application's own packets.

use std::{
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use masque_tun::{Offloads, TunQueue};

use crate::{
    Assignment, AttachConfig, AttachError, TunnelEvent,
    driver::{Device, Driver, Handle, Observer, PacketReceiver, PacketSender, TunPort, channel},
};

/// Events that wait to be taken; an application that does not look loses the newest ones.
pub const EVENTS_MAX: usize = 256;

/// A running attachment. Dropping it ends it.
#[derive(Debug)]
pub struct Attachment {
    handle: Handle,
    thread: Option<JoinHandle<Option<AttachError>>>,
}

/// What [`attach`] gives.
#[derive(Debug)]
pub struct PacketAttachment {
    /// Packets to the VPC.
    pub sender: PacketSender,
    /// Packets from the VPC.
    pub receiver: PacketReceiver,
    /// What happens.
    pub events: Events,
    /// The attachment itself.
    pub attachment: Attachment,
}

/// What happens to an attachment, in order.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<TunnelEvent>,
}

/// Attaches without a device: IP packets in, IP packets out. Needs no privilege.
///
/// # Errors
/// [`AttachError::Config`] and [`AttachError::Local`]; what the network and the gateway say comes as
/// events.
pub fn attach(config: &AttachConfig) -> Result<PacketAttachment, AttachError> {
    let (port, sender, receiver) = channel()?;
    let (observer, events) = observed();
    let attachment = start(config, port, observer)?;
    Ok(PacketAttachment {
        sender,
        receiver,
        events,
        attachment,
    })
}

fn observed() -> (Observer, Events) {
    let (tell, receiver) = mpsc::sync_channel(EVENTS_MAX);
    let observer: Observer = Box::new(move |event| {
        // An application that dropped its end is not interested.
        let _ = tell.try_send(event.clone());
    });
    (observer, Events { receiver })
}

/// Attaches a queue of a TUN device. `observer` sees every event on the attachment's own thread and
/// gives the device its addresses, routes and MTU.
///
/// # Errors
/// [`AttachError::Config`] and [`AttachError::Local`]; what the network and the gateway say comes as
/// events.
pub fn attach_tun(
    config: &AttachConfig,
    queue: TunQueue,
    offloads: Offloads,
    observer: Observer,
) -> Result<Attachment, AttachError> {
    start(config, TunPort::new(queue, offloads), observer)
}

fn start<D: Device + 'static>(
    config: &AttachConfig,
    device: D,
    observer: Observer,
) -> Result<Attachment, AttachError> {
    let driver = Driver::new(config, device, observer)?;
    let handle = driver.handle();
    let thread = thread::Builder::new()
        .name("attachment".into())
        .spawn(move || driver.run())
        .map_err(|error| AttachError::Local {
            reason: format!("no thread: {error}"),
        })?;
    Ok(Attachment {
        handle,
        thread: Some(thread),
    })
}

impl Attachment {
    /// To ask it and to end it.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Waits until it is over; the reason unless it was stopped.
    pub fn join(mut self) -> Option<AttachError> {
        let thread = self.thread.take()?;
        thread.join().unwrap_or_else(|_| {
            Some(AttachError::Local {
                reason: "the attachment's thread failed".to_owned(),
            })
        })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.handle.stop();
            let _ = thread.join();
        }
    }
}

impl Events {
    /// The next event within `timeout`; `None` without one, and after the end.
    pub fn next_timeout(&self, timeout: Duration) -> Option<TunnelEvent> {
        self.receiver.recv_timeout(timeout).ok()
    }

    /// Waits for the first tunnel.
    ///
    /// # Errors
    /// Why there is none: the attachment is over, or what kept it from being made until now.
    pub fn wait_up(&self, timeout: Duration) -> Result<Assignment, AttachError> {
        let deadline = Instant::now() + timeout;
        let mut last = AttachError::NoAddress { waited: timeout };
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.receiver.recv_timeout(left) {
                Ok(TunnelEvent::Up(assignment)) => return Ok(assignment),
                Ok(TunnelEvent::Down { error, .. } | TunnelEvent::Closed(Some(error))) => {
                    last = error;
                }
                Ok(TunnelEvent::Closed(None)) => {
                    return Err(AttachError::Closed {
                        reason: "it was stopped here".to_owned(),
                    });
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_that_nobody_takes_are_bounded_and_hold_nothing_up() {
        let (mut observer, events) = observed();
        for _ in 0..2 * EVENTS_MAX {
            observer(&TunnelEvent::Closed(None));
        }
        let taken = std::iter::from_fn(|| events.next_timeout(Duration::ZERO));
        assert_eq!(taken.count(), EVENTS_MAX);
    }
}
