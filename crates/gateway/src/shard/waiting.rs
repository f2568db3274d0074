//! Packets of the VPCs that wait for a client whose path is narrower than the fabric.
//!
//! They wait here and not in their connection, so that a flow that sends little passes one that
//! sends much, no client takes the memory of another, and a flow that keeps waiting is told.

use std::time::Instant;

use masque_gateway_core::SlotId;
use masque_packet::{
    budget::Budget,
    edit,
    flow::FlowKey,
    queue::FairQueue,
    segment::{GsoInfo, segments},
};

use super::{
    Shard,
    datapath::{room, send_segments},
    figures::ShardFigures,
    port::Port,
    tunnels::{TunnelKey, Tunnels},
};

/// Memory of packets that wait in one shard, for all its clients.
const WAITING_BYTES: usize = 16 * 1024 * 1024;
/// Waiting packets sent in one turn: as many as one may read, so that reading never gets ahead for good.
const WAITING_A_TURN: Budget = Budget::new(512, 2 * 1024 * 1024);

/// What waits, by client.
#[derive(Debug)]
pub(super) struct Waiting {
    queue: FairQueue<SlotId>,
    epoch: Instant,
}

impl Waiting {
    /// Nothing waits; `salt` is random.
    pub(super) fn new(epoch: Instant, salt: u64) -> Self {
        Self {
            queue: FairQueue::new(WAITING_BYTES, salt),
            epoch,
        }
    }

    /// Whether packets of this client wait, behind which the next ones must.
    #[inline]
    pub(super) fn holds(&self, slot: SlotId) -> bool {
        self.queue.holds(slot)
    }

    /// How many packets and super-packets wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Puts a packet behind the others of its flow to this client.
    pub(super) fn push(
        &mut self,
        at: Instant,
        (slot, flow): (SlotId, &FlowKey),
        packet: &[u8],
        gso: &GsoInfo,
        figures: &mut ShardFigures,
    ) {
        let lost = self.queue.stats().overflowed;
        self.queue.push(self.micros(at), slot, flow, packet, gso);
        figures.queue_full += self.queue.stats().overflowed - lost;
    }

    /// The same for each segment of a super-packet, so that others may pass between them; each is
    /// written to `buffer` first, which has room for a packet.
    pub(super) fn push_segments(
        &mut self,
        at: Instant,
        client: (SlotId, &FlowKey),
        (packet, gso): (&[u8], &GsoInfo),
        buffer: &mut [u8],
        figures: &mut ShardFigures,
    ) {
        let Ok(mut segments) = segments(packet, gso) else {
            figures.tun_bad_packets += 1;
            return;
        };
        let whole = GsoInfo::default();
        while let Some(bytes) = segments.write_next(buffer) {
            self.push(at, client, &buffer[..bytes], &whole, figures);
        }
    }

    /// Lets a client's packets try again: its connection may have room, or it has left.
    pub(super) fn resume(&mut self, slot: SlotId) {
        self.queue.resume(slot);
    }

    /// Gives memory back that has not been needed for a while.
    pub(super) fn trim(&mut self, at: Instant) {
        self.queue.trim(self.micros(at));
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

impl Shard {
    /// Gives every client of what waits for it as much as its connection has room for; whether it
    /// was anything, so that it is sent in a turn at once.
    pub(super) fn send_waiting(&mut self, at: Instant) -> bool {
        if self.waiting.queue.is_empty() {
            return false;
        }
        let now_us = self.waiting.micros(at);
        for port in &mut self.ports {
            while let Some(conn) = port.machine.poll_room() {
                for slot in self.tunnels.slots_of(port.number(), conn) {
                    self.waiting.resume(slot);
                }
            }
        }
        let (mut sent, mut budget) = (false, WAITING_A_TURN);
        while !budget.is_spent() {
            let (tunnels, ports) = (&self.tunnels, &mut self.ports);
            // What waits for a client that has left is taken and dropped.
            let has_room = |slot, bytes, gso: &GsoInfo| {
                let found = connection(tunnels, ports, slot);
                found.is_none_or(|(key, port)| room(port, key, bytes, gso))
            };
            let Some(next) = self.waiting.queue.pop(now_us, has_room) else {
                break;
            };
            sent = true;
            budget.spend(next.packet.len());
            let Some((key, port)) = connection(&self.tunnels, &mut self.ports, next.session) else {
                self.figures.unsendable += next.gso.packets_at_most(next.packet.len()) as u64;
                continue;
            };
            let lose_one = next.congested && !edit::mark_congested(next.packet);
            self.figures.marked += u64::from(next.congested && !lose_one);
            send_segments(
                port,
                key,
                next.packet,
                &next.gso,
                lose_one,
                &mut self.figures,
            );
            port.send_full(&mut self.figures);
        }
        sent
    }
}

/// Where a client's packets leave.
fn connection<'a>(
    tunnels: &Tunnels,
    ports: &'a mut [Port],
    slot: SlotId,
) -> Option<(TunnelKey, &'a mut Port)> {
    let key = tunnels.by_slot(slot)?.key;
    let port = ports.iter_mut().find(|port| port.number() == key.port)?;
    Some((key, port))
}

#[cfg(test)]
mod tests;
