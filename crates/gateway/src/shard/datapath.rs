//! The way of a packet through a shard: datagram → dataplane → TUN, and TUN → dataplane → datagrams.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Instant};

use masque_gateway_core::{ClientVerdict, Dataplane, Now, SlotId, VpcIndex, VpcVerdict};
use masque_packet::{
    budget::Budget,
    ip::IpHeader,
    queue::{fragments_key, queue_key},
    segment::{GsoInfo, segments},
};
use masque_tun::{READ_BUFFER_BYTES, TunError, Written};

use super::{
    COMMANDS_A_TURN, Shard,
    figures::ShardFigures,
    fragmented::{collect_fragments, keep_fragments, send_fragments},
    port::Port,
    tunnels::{Tunnel, TunnelKey, Tunnels},
    vpc_port::VpcPort,
    wait::Source,
    waiting::Waiting,
};
use crate::mailbox::{MAX_HANDED_PACKETS, Mailbox};

/// RFC 9484 §6: Context ID 0 means that an IP packet follows.
pub(super) const CONTEXT: [u8; 1] = [0];

/// Datagrams taken from one port's connections a turn. The line of a VPC's TUN device holds as many
/// answers.
const DATAGRAMS_A_TURN: usize = 1024;
/// Packets and super-packets read from the VPCs' queues a turn, shared by those that have any: what a
/// turn wrote is acknowledged at once, by a packet for every second one, so half as many as
/// [`DATAGRAMS_A_TURN`]; what it leaves in the line makes what comes next wait, or be lost when the line
/// is full.
const READS_A_TURN: usize = 512;
/// What one VPC may read however many have packets.
const READS_OF_A_VPC: usize = 32;
/// Bytes after which a turn reads no more of a VPC.
const READ_BYTES_OF_A_VPC: usize = 2 * 1024 * 1024;
/// Taken from other shards a turn: as many packets as one VPC may have in the ring.
const HANDED_A_TURN: Budget = Budget::new(MAX_HANDED_PACKETS / 2, 2 * 1024 * 1024);
/// Answers of the gateway itself: ICMP errors quote at most 1,280 bytes, echo replies are as long as
/// their requests.
const REPLY_BYTES: usize = 65_536;

/// The longest IP packet.
pub(super) const PACKET_BYTES: usize = 65_536;

/// Buffers that every packet of the shard passes, one after the other.
#[derive(Debug)]
pub(crate) struct Scratch {
    read: Box<[u8]>,
    reply: Box<[u8]>,
    /// A packet that is to be fragmented, and one fragment of it.
    whole: Box<[u8]>,
}

impl Scratch {
    /// Three buffers; nothing else is allocated.
    pub(crate) fn new() -> Self {
        Self {
            read: vec![0; READ_BUFFER_BYTES].into_boxed_slice(),
            reply: vec![0; REPLY_BYTES].into_boxed_slice(),
            whole: vec![0; 2 * PACKET_BYTES].into_boxed_slice(),
        }
    }
}

impl Shard {
    /// Datagrams of clients into the VPCs; `true` when the budget ended it.
    pub(super) fn datagrams_to_vpcs(&mut self, now: Now) -> bool {
        let mut more = false;
        for port in &mut self.ports {
            let mut left = DATAGRAMS_A_TURN;
            while left > 0
                && let Some((conn, stream, payload)) = port.machine.poll_datagram()
            {
                left -= 1;
                let key = TunnelKey {
                    port: port.number(),
                    conn,
                    stream,
                };
                let Some(tunnel) = self.tunnels.at(key) else {
                    self.figures.unclaimed += 1;
                    continue;
                };
                let Ok(packet) = tunnel.protocol.handle_datagram(payload) else {
                    self.figures.unknown_context += 1;
                    continue;
                };
                let mut inward = Inward {
                    plane: &mut self.plane,
                    vpcs: &mut self.vpcs,
                    reply: &mut self.scratch.reply,
                    whole: &mut self.scratch.whole,
                };
                if let Some(answer) = inward.packet(tunnel, &packet, now, &mut self.figures) {
                    send_packet(port, key, answer, &mut self.figures);
                }
            }
            more |= left == 0;
        }
        for vpc in self.vpcs.values_mut() {
            vpc.flush();
        }
        more
    }

    /// A packet that came in a DATAGRAM capsule (RFC 9297 §3.5): treated like one in a datagram.
    pub(super) fn capsule_packet(&mut self, key: TunnelKey, packet: &[u8], now: Now) {
        let Some(tunnel) = self.tunnels.at(key) else {
            return;
        };
        let mut inward = Inward {
            plane: &mut self.plane,
            vpcs: &mut self.vpcs,
            reply: &mut self.scratch.reply,
            whole: &mut self.scratch.whole,
        };
        if let Some(answer) = inward.packet(tunnel, packet, now, &mut self.figures)
            && let Some(port) = self.ports.iter_mut().find(|p| p.number() == key.port)
        {
            send_packet(port, key, answer, &mut self.figures);
        }
    }

    /// Packets of the VPCs to clients; `true` when a budget ended it.
    pub(super) fn vpcs_to_datagrams(&mut self, at: Instant, now: Now) -> bool {
        let mut more = false;
        // Out of the shard while packets lie in it, so that commands may be obeyed between them.
        let mut buffer = std::mem::take(&mut self.scratch.read);
        let readable = self.vpcs.values().filter(|vpc| vpc.is_readable()).count();
        let reads = (READS_A_TURN / readable.max(1)).max(READS_OF_A_VPC);
        let mut next = self.vpcs.first_key_value().map(|(index, _)| *index);
        while let Some(index) = next {
            let mut budget = Budget::new(reads, READ_BYTES_OF_A_VPC);
            let mut commands = COMMANDS_A_TURN;
            while !budget.is_spent()
                && commands > 0
                && let Some(read_bytes) =
                    self.vpc_to_datagrams(index, &mut buffer, &mut commands, at, now)
            {
                budget.spend(read_bytes);
            }
            more |= budget.is_spent() || commands == 0;
            let after = (Bound::Excluded(index), Bound::Unbounded);
            next = self.vpcs.range(after).next().map(|(index, _)| *index);
        }
        self.scratch.read = buffer;
        more
    }

    /// Reads one super-packet of a VPC and sends it to its client; how long it was, in bytes, or `None`
    /// when there is none. `commands` says how many may yet be obeyed between packets of this VPC.
    fn vpc_to_datagrams(
        &mut self,
        index: VpcIndex,
        buffer: &mut [u8],
        commands: &mut usize,
        at: Instant,
        now: Now,
    ) -> Option<usize> {
        let vpc = self.vpcs.get_mut(&index)?;
        if !vpc.is_readable() {
            return None;
        }
        match vpc.queue.read(buffer) {
            Ok(Some(read)) => {
                let read_bytes = read.packet.len();
                *commands = commands.saturating_sub(self.hear_of_sessions(at, now));
                self.forward_to_client(index, false, (read.packet, &read.gso), at, now);
                for port in &mut self.ports {
                    port.send_full(&mut self.figures);
                }
                return Some(read_bytes);
            }
            Ok(None) => vpc.ready = false,
            Err(TunError::BadPacket(_)) => {
                self.figures.tun_bad_packets += 1;
                return Some(0);
            }
            Err(error) => {
                tracing::error!(shard = self.id, %error, "a TUN device is gone");
                vpc.down = true;
                // A device that is gone is ready without end: the thread would never sleep.
                self.poller.remove(Source::Vpc(index), &vpc.queue);
            }
        }
        None
    }

    /// Takes the commands that came since the turn began, as many as a turn takes; how many there were.
    /// The packet just read may answer the first one of a session that another shard has begun meanwhile:
    /// that shard told of the session before its client learnt an address, so what was told is here.
    fn hear_of_sessions(&mut self, at: Instant, now: Now) -> usize {
        if self.mailbox.has_commands() {
            self.take_commands(at, now)
        } else {
            0
        }
    }

    /// Judges a packet of a VPC, which this shard read or another one handed over, and carries the
    /// verdict out.
    fn forward_to_client(
        &mut self,
        index: VpcIndex,
        handed_over: bool,
        (packet, gso): (&mut [u8], &GsoInfo),
        at: Instant,
        now: Now,
    ) {
        // A command may have closed the VPC.
        let Some(vpc) = self.vpcs.get(&index) else {
            return;
        };
        let reply = &mut self.scratch.reply;
        let verdict = if handed_over {
            self.plane
                .from_vpc_handed_over(now, index, packet, gso, reply)
        } else {
            self.plane.from_vpc(now, index, packet, gso, reply)
        };
        let mut outward = Outward {
            at,
            plane: &mut self.plane,
            whole: &mut self.scratch.whole,
            tunnels: &self.tunnels,
            ports: &mut self.ports,
            peers: &self.peers,
            waiting: &mut self.waiting,
            figures: &mut self.figures,
        };
        outward.act(verdict, index, vpc, packet, gso, reply);
    }

    /// Packets that other shards read for sessions of this one.
    pub(super) fn handed_packets(&mut self, at: Instant, now: Now) -> bool {
        let mut budget = HANDED_A_TURN;
        while !budget.is_spent() {
            let Some(mut handed) = self.mailbox.packet() else {
                return false;
            };
            budget.spend(handed.bytes.len());
            let packet = (&mut handed.bytes[..], &handed.gso);
            self.forward_to_client(handed.vpc, true, packet, at, now);
            self.mailbox.recycle(handed);
        }
        true
    }
}

/// What a packet of a client needs.
struct Inward<'a> {
    plane: &'a mut Dataplane,
    vpcs: &'a mut BTreeMap<VpcIndex, VpcPort>,
    reply: &'a mut [u8],
    whole: &'a mut [u8],
}

impl Inward<'_> {
    /// Judges a packet and collects it for its VPC; gives what the client is answered.
    fn packet(
        &mut self,
        tunnel: &Tunnel,
        packet: &[u8],
        now: Now,
        figures: &mut ShardFigures,
    ) -> Option<&[u8]> {
        let Some(vpc) = self.vpcs.get_mut(&tunnel.grant.index) else {
            figures.tun_missing += 1;
            return None;
        };
        let Some(staged) = vpc.writer.stage(&vpc.queue, packet) else {
            figures.tun_refused += 1;
            return None;
        };
        match self.plane.from_client(now, tunnel.slot, staged, self.reply) {
            ClientVerdict::Forward {
                fragment_to_bytes: Some(mtu_bytes),
                ..
            } => {
                let whole = &mut self.whole[..staged.len()];
                whole.copy_from_slice(staged);
                collect_fragments(vpc, whole, mtu_bytes, self.reply, figures);
                None
            }
            ClientVerdict::Forward { header, .. } => {
                vpc.writer.commit(&vpc.queue, &header);
                None
            }
            ClientVerdict::Reply { len_bytes, .. } => Some(&self.reply[..len_bytes]),
            ClientVerdict::Drop(_) => None,
        }
    }
}

/// What a packet of a VPC needs.
struct Outward<'a> {
    at: Instant,
    plane: &'a mut Dataplane,
    whole: &'a mut [u8],
    tunnels: &'a Tunnels,
    ports: &'a mut [Port],
    peers: &'a [Arc<Mailbox>],
    waiting: &'a mut Waiting,
    figures: &'a mut ShardFigures,
}

impl Outward<'_> {
    /// Carries out a verdict.
    fn act(
        &mut self,
        verdict: VpcVerdict,
        index: VpcIndex,
        vpc: &VpcPort,
        packet: &[u8],
        gso: &GsoInfo,
        reply: &[u8],
    ) {
        match verdict {
            VpcVerdict::ToSession {
                slot,
                header,
                fragment_to_bytes,
            } => {
                let Some(tunnel) = self.tunnels.by_slot(slot) else {
                    return;
                };
                let client = (slot, tunnel.key);
                self.give(client, &header, packet, gso, fragment_to_bytes);
            }
            VpcVerdict::HandOver { shard } => {
                let peer = self.peers.get(usize::from(shard));
                if peer.is_some_and(|peer| peer.hand_over(index, gso, packet)) {
                    self.figures.handovers += 1;
                } else {
                    self.figures.handovers_lost += 1;
                    self.plane.count_lost_hand_over(index);
                }
            }
            VpcVerdict::Reply { len_bytes, .. } => {
                if !matches!(vpc.queue.write(&reply[..len_bytes]), Ok(Written::Done)) {
                    self.figures.tun_refused += 1;
                }
            }
            VpcVerdict::Drop(_) => {}
        }
    }

    /// Gives a packet to its client's connection, or puts it with those that wait for it.
    fn give(
        &mut self,
        (slot, key): (SlotId, TunnelKey),
        header: &IpHeader,
        packet: &[u8],
        gso: &GsoInfo,
        fragment_to_bytes: Option<u16>,
    ) {
        let Some(port) = self.ports.iter_mut().find(|p| p.number() == key.port) else {
            return;
        };
        let (at, waiting, figures) = (self.at, &mut *self.waiting, &mut *self.figures);
        // A super-packet that takes a narrow path for long waits in its segments, between which
        // others pass.
        let apart = !may_wait_whole(port, key, packet.len(), gso);
        let waits = apart || waiting.holds(slot) || !room(port, key, packet.len(), gso);
        match (waits, fragment_to_bytes) {
            (false, None) => send_segments(port, key, packet, gso, false, figures),
            (true, None) => {
                let flow = queue_key(header, packet);
                let client = (slot, &flow);
                if apart {
                    waiting.push_segments(at, client, (packet, gso), self.whole, figures);
                } else {
                    waiting.push(at, client, packet, gso, figures);
                }
            }
            (false, Some(mtu_bytes)) => {
                send_fragments(port, key, (packet, gso), mtu_bytes, self.whole, figures);
            }
            (true, Some(mtu_bytes)) => {
                let flow = fragments_key(header);
                let waiting = |fragment: &[u8], figures: &mut ShardFigures| {
                    waiting.push(at, (slot, &flow), fragment, &GsoInfo::default(), figures);
                };
                keep_fragments((packet, gso), mtu_bytes, self.whole, figures, waiting);
            }
        }
    }
}

/// Queues one packet for a client.
fn send_packet(port: &mut Port, key: TunnelKey, packet: &[u8], figures: &mut ShardFigures) {
    let length = CONTEXT.len() + packet.len();
    let sent = port
        .machine
        .send_datagram(key.conn, key.stream, length, |out| {
            let (context, room) = out.split_at_mut(CONTEXT.len());
            context.copy_from_slice(&CONTEXT);
            room.copy_from_slice(packet);
        });
    if let Err(error) = sent {
        figures.count_unsent(error, 1);
    }
}

/// Whether a client's connection could soon send a packet or super-packet of so many bytes.
pub(super) fn room(port: &mut Port, key: TunnelKey, packet_bytes: usize, gso: &GsoInfo) -> bool {
    let datagrams = gso.packets_at_most(packet_bytes);
    port.machine.has_room(key.conn, packet_bytes, datagrams)
}

/// Whether a packet, or all of a super-packet, is no more than may wait in a connection at one time.
fn may_wait_whole(port: &Port, key: TunnelKey, packet_bytes: usize, gso: &GsoInfo) -> bool {
    let datagrams = gso.packets_at_most(packet_bytes);
    datagrams == 1
        || port
            .machine
            .may_wait_whole(key.conn, packet_bytes, datagrams)
}

/// Queues every segment of a super-packet for a client, each written where it leaves from; all but
/// the first if `lose_one`, by which its sender learns of congestion.
pub(super) fn send_segments(
    port: &mut Port,
    key: TunnelKey,
    packet: &[u8],
    gso: &GsoInfo,
    lose_one: bool,
    figures: &mut ShardFigures,
) {
    let Ok(mut segments) = segments(packet, gso) else {
        figures.tun_bad_packets += 1;
        return;
    };
    if lose_one {
        segments.skip_next();
        figures.congested += 1;
    }
    while let Some(bytes) = segments.next_packet_bytes() {
        let length = CONTEXT.len() + bytes;
        let sent = port
            .machine
            .send_datagram(key.conn, key.stream, length, |out| {
                let (context, room) = out.split_at_mut(CONTEXT.len());
                context.copy_from_slice(&CONTEXT);
                // The room is as long as the segment.
                let _written = segments.write_next(room);
            });
        if let Err(error) = sent {
            // The queue does not drain within a turn: the rest would be dropped one by one.
            figures.count_unsent(error, segments.remaining() as u64);
            return;
        }
    }
}

#[cfg(test)]
mod tests;
