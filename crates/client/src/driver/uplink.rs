//! Packets from the device to the gateway, and where they wait while the path is narrower than the
//! device.
//!
//! A device hands packets over in one line, and the kernel keeps five hundred super-packets in it:
//! seconds on a slow uplink. So whatever the connection has no room for is taken from the device at
//! once, and waits here, where a keystroke passes a download and an upload is told to slow down.

use std::time::Instant;

use masque_packet::{
    budget::Budget,
    icmp::MAX_ERROR_BYTES,
    queue::{FairQueue, queue_key_of},
    segment::GsoInfo,
};

use super::{
    Driver,
    device::{Device, write_own},
};
use crate::{AttachError, DropReason};

/// Packets or super-packets taken from the device in one turn: as many as a TUN device's line has. What
/// a turn delivers is acknowledged at once, by a packet for every second one, and what a turn leaves in
/// the line stands in the way of what comes next.
const DEVICE_BUDGET: Budget = Budget::new(512, 4 * 1024 * 1024);
/// Waiting packets sent in one turn: as many as one may take, so that taking never gets ahead for good.
const WAITING_BUDGET: Budget = DEVICE_BUDGET;
/// Memory of packets that wait: 80 ms at 800 Mbit/s, and as much as two windows of most senders.
const WAITING_BYTES: usize = 8 * 1024 * 1024;

/// What waits, in one session.
pub(super) struct Uplink {
    queue: FairQueue<()>,
    epoch: Instant,
    /// Where an answer to the device is written.
    reply: Box<[u8]>,
}

impl Uplink {
    /// Nothing waits; `salt` is random.
    pub(super) fn new(now: Instant, salt: u64) -> Self {
        Self {
            queue: FairQueue::new(WAITING_BYTES, salt),
            epoch: now,
            reply: vec![0; MAX_ERROR_BYTES].into_boxed_slice(),
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }

    /// Gives memory back that has not been needed for a while.
    pub(super) fn trim(&mut self, now: Instant) {
        self.queue.trim(self.micros(now));
    }

    /// Puts a packet behind the others of its flow; how many are lost for it.
    fn push(&mut self, now: Instant, packet: &[u8], gso: &GsoInfo) -> usize {
        let key = queue_key_of(packet);
        let lost = self.queue.stats().overflowed;
        self.queue.push(self.micros(now), (), &key, packet, gso);
        usize::try_from(self.queue.stats().overflowed - lost).unwrap_or(usize::MAX)
    }
}

impl<D: Device> Driver<D> {
    /// Takes packets from the device: to the gateway if nothing waits and there is room, else to
    /// those that wait. Whether there may be more.
    pub(super) fn read_device(&mut self, now: Instant) -> bool {
        let mut answered = false;
        let mut more = true;
        let mut budget = DEVICE_BUDGET;
        while !budget.is_spent() {
            let (packet, gso) = match self.device.read() {
                Ok(Some(read)) => read,
                Ok(None) => {
                    more = false;
                    break;
                }
                Err(reason) => {
                    self.closed = Some(Some(AttachError::Local {
                        reason: format!("the device is gone: {reason}"),
                    }));
                    return false;
                }
            };
            budget.spend(packet.len());
            if !(self.uplink.queue.is_empty() && self.tunnel.has_room(packet.len(), &gso)) {
                let lost = self.uplink.push(now, packet, &gso);
                self.tunnel
                    .tally()
                    .dropped_many(DropReason::SendQueueFull, lost);
                continue;
            }
            let reply = &mut self.uplink.reply;
            if let Some(length) = self.tunnel.send(packet, &gso, reply) {
                answered |= write_own(&mut self.device, &reply[..length]);
            }
            self.socket.send_full(self.tunnel.machine());
        }
        if answered {
            self.flush_device();
        }
        more
    }

    /// Gives the connection of what waits as much as it has room for; whether it was anything, so
    /// that it is sent in a turn at once.
    pub(super) fn send_waiting(&mut self, now: Instant) -> bool {
        if self.uplink.queue.is_empty() {
            return false;
        }
        let (mut sent, mut answered) = (false, false);
        let now_us = self.uplink.micros(now);
        self.uplink.queue.resume(());
        let mut budget = WAITING_BUDGET;
        while !budget.is_spent() {
            let tunnel = &mut self.tunnel;
            let room = |(), bytes, gso: &GsoInfo| tunnel.has_room(bytes, gso);
            let Some(next) = self.uplink.queue.pop(now_us, room) else {
                break;
            };
            budget.spend(next.packet.len());
            let reply = &mut self.uplink.reply;
            let answer = if next.congested {
                self.tunnel.send_congested(next.packet, &next.gso, reply)
            } else {
                self.tunnel.send(next.packet, &next.gso, reply)
            };
            if let Some(length) = answer {
                answered |= write_own(&mut self.device, &reply[..length]);
            }
            sent = true;
            self.socket.send_full(self.tunnel.machine());
        }
        if answered {
            self.flush_device();
        }
        sent
    }
}

#[cfg(test)]
mod tests;
