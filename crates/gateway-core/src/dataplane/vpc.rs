//! Packets from the VPC.

use std::sync::Arc;

use masque_model::Direction;
use masque_packet::edit::{ChecksumState, clamp_mss, decrement_hop_limit, mss_for_mtu};
use masque_packet::icmp::Unreachable;
use masque_packet::ip::{IpHeader, parse};
use masque_packet::protocol;
use masque_packet::segment::{GsoInfo, GsoKind};

use super::answer::{self, Answered, Rejection};
use super::audit::AuditNotes;
use super::checks::{is_link_local, is_unicast};
use super::client::{Finished, count_answer, count_pass, to_the_gateway};
use super::directory::{Directory, Owner, Place};
use super::fit::fit;
use super::flows::Gate;
use super::slot::{Slot, take_bits};
use super::{Dataplane, DataplaneConfig, HopLimit, VpcState, VpcVerdict};
use crate::flow::FlowTable;
use crate::id::{Now, SlotId, VpcIndex};
use crate::reason::DropReason;
use crate::tables::VpcTables;

/// Whose a packet from the VPC is.
enum Whose {
    Slot(u32),
    Shard(u16),
}

impl Dataplane {
    /// Judges one packet, or super-packet, that the VPC sends to a client.
    ///
    /// `gso` is what the virtio header says. The sender is told by ICMP of packets that do not fit
    /// the tunnel; an IPv4 packet that may be fragmented is to be fragmented, see
    /// [`VpcVerdict::ToSession`].
    #[inline]
    pub fn from_vpc(
        &mut self,
        now: Now,
        vpc: VpcIndex,
        packet: &mut [u8],
        gso: &GsoInfo,
        reply: &mut [u8],
    ) -> VpcVerdict {
        self.judge_from_vpc(now, vpc, packet, gso, reply, false)
    }

    /// Like [`from_vpc`](Self::from_vpc) for a packet that another shard handed over; it is never
    /// handed on.
    pub fn from_vpc_handed_over(
        &mut self,
        now: Now,
        vpc: VpcIndex,
        packet: &mut [u8],
        gso: &GsoInfo,
        reply: &mut [u8],
    ) -> VpcVerdict {
        self.judge_from_vpc(now, vpc, packet, gso, reply, true)
    }

    #[inline]
    fn judge_from_vpc(
        &mut self,
        now: Now,
        index: VpcIndex,
        packet: &mut [u8],
        gso: &GsoInfo,
        reply: &mut [u8],
        handed_over: bool,
    ) -> VpcVerdict {
        let (vpc, state) = (
            self.tables.vpc(index),
            self.vpcs.get_mut(index.0 as usize).and_then(Option::as_mut),
        );
        let (Some(vpc), Some(state)) = (vpc, state) else {
            self.strays.dropped_to_client[DropReason::NoSession.index()] += 1;
            return VpcVerdict::Drop(DropReason::NoSession);
        };
        let mut desk = Desk {
            now,
            config: &self.config,
            vpc,
            state,
            directory: &self.directory,
            slots: &mut self.slots,
            owners: &mut self.owners,
            flows: &mut self.flows,
            audit: &mut self.audit,
        };
        let found = check(vpc, packet).and_then(|header| Ok((header, desk.whose(&header)?)));
        let (slot, rejection) = match found {
            Ok((_, Whose::Shard(shard))) if !handed_over => return VpcVerdict::HandOver { shard },
            Ok((_, Whose::Shard(_))) => (None, Rejection::silent(DropReason::NoSession)),
            Ok((header, Whose::Slot(slot))) => match desk.deliver(slot, packet, gso, header) {
                Ok(verdict) => return verdict,
                Err(rejection) => (Some(slot), rejection),
            },
            Err(rejection) => (None, rejection),
        };
        desk.reject(slot, rejection, packet, reply)
    }
}

/// The parts of a shard that judge a packet of one VPC.
struct Desk<'a> {
    now: Now,
    config: &'a DataplaneConfig,
    vpc: &'a Arc<VpcTables>,
    state: &'a mut VpcState,
    directory: &'a Directory,
    slots: &'a mut [Slot],
    owners: &'a mut [Owner],
    flows: &'a mut FlowTable,
    audit: &'a mut AuditNotes,
}

impl Desk<'_> {
    #[inline]
    fn whose(&self, header: &IpHeader) -> Result<Whose, Rejection> {
        self.find(header)
            .ok_or_else(|| no_session(self.vpc, header))
    }

    #[inline]
    fn find(&self, header: &IpHeader) -> Option<Whose> {
        let owner = *self
            .directory
            .get(&(self.vpc.index(), header.destination))?;
        match self.owners.get(owner as usize)?.place()? {
            Place::There(shard) => Some(Whose::Shard(shard)),
            Place::Here(index) => {
                let slot = self.slots.get(index as usize).filter(|slot| slot.used)?;
                slot.addresses
                    .contains(&header.destination)
                    .then_some(Whose::Slot(index))
            }
        }
    }

    #[inline]
    fn deliver(
        &mut self,
        index: u32,
        packet: &mut [u8],
        gso: &GsoInfo,
        header: IpHeader,
    ) -> Result<VpcVerdict, Rejection> {
        let (now, unknown) = (self.now, || Rejection::silent(DropReason::NoSession));
        let slot = self.slots.get_mut(index as usize).ok_or_else(unknown)?;
        let owner = self
            .owners
            .get_mut(slot.owner as usize)
            .ok_or_else(unknown)?;
        let mut gate = Gate {
            now,
            vpc: self.vpc,
            slot: &*slot,
            owner,
            flows: self.flows,
            audit: self.audit,
        };
        let pass = gate.pass(Direction::FromVpc, &header, packet)?;
        let shape = Shape::of(packet, &header, gso);
        let finished = finish(self.config, now, slot, packet, header, gso, &shape)?;
        slot.seen_ms = now.mono_ms;
        for counters in [&mut slot.counters, &mut self.state.counters] {
            counters.to_client.packets += shape.segments;
            counters.to_client.bytes += packet.len() as u64;
            count_pass(counters, pass, finished.clamped);
        }
        Ok(VpcVerdict::ToSession {
            slot: SlotId {
                index,
                generation: slot.generation,
            },
            header: finished.header,
            fragment_to_bytes: finished.fragment_to_bytes,
        })
    }

    #[cold]
    fn reject(
        self,
        slot: Option<u32>,
        rejection: Rejection,
        packet: &[u8],
        reply: &mut [u8],
    ) -> VpcVerdict {
        let mut slot = slot.and_then(|index| self.slots.get_mut(index as usize));
        let source = self
            .vpc
            .icmp_source(packet.first().is_some_and(|byte| byte >> 4 == 4));
        let of_session = slot.as_mut().map(|slot| &mut slot.icmp);
        let buckets = of_session.into_iter().chain([&mut self.state.icmp]);
        let answered = answer::write(self.now, rejection.answer, packet, source, buckets, reply);
        let of_session = slot.map(|slot| &mut slot.counters);
        for counters in of_session.into_iter().chain([&mut self.state.counters]) {
            if !matches!(answered, Answered::Echo(_)) {
                counters.dropped_to_client[rejection.reason.index()] += 1;
            }
            count_answer(counters, answered);
        }
        let drop = rejection.reason;
        match answered {
            Answered::Nothing | Answered::Suppressed => VpcVerdict::Drop(drop),
            Answered::Error(len_bytes) => VpcVerdict::Reply {
                len_bytes,
                drop: Some(drop),
            },
            Answered::Echo(len_bytes) => VpcVerdict::Reply {
                len_bytes,
                drop: None,
            },
        }
    }
}

/// What needs no session.
#[inline]
fn check(vpc: &VpcTables, packet: &[u8]) -> Result<IpHeader, Rejection> {
    let header = parse(packet).map_err(|error| Rejection::silent(error.into()))?;
    if is_link_local(header.source) || is_link_local(header.destination) {
        return Err(Rejection::silent(DropReason::LinkLocal));
    }
    if !is_unicast(header.destination) {
        return Err(Rejection::silent(DropReason::DestinationNotUnicast));
    }
    if !is_unicast(header.source) {
        return Err(Rejection::silent(DropReason::SourceNotUnicast));
    }
    if vpc.is_gateway_address(header.destination) {
        return Err(to_the_gateway(&header, packet));
    }
    Ok(header)
}

/// The gateway is the router of its pools: nobody else will say that the host is away.
#[cold]
fn no_session(vpc: &VpcTables, header: &IpHeader) -> Rejection {
    if vpc.is_pool_address(header.destination) {
        Rejection::unreachable(DropReason::NoSession, Unreachable::AddressUnreachable)
    } else {
        Rejection::silent(DropReason::NoSession)
    }
}

/// How a packet will look on the tunnel.
struct Shape {
    segments: u64,
    /// The longest packet that it becomes.
    packet_bytes: usize,
}

impl Shape {
    #[inline]
    fn of(packet: &[u8], header: &IpHeader, gso: &GsoInfo) -> Self {
        if gso.kind == GsoKind::None || gso.segment_bytes == 0 {
            return Self {
                segments: 1,
                packet_bytes: packet.len(),
            };
        }
        // `hdr_len` is a hint only, see `GsoInfo`.
        let upper_bytes = match gso.kind {
            GsoKind::TcpV4 | GsoKind::TcpV6 => {
                let field = packet
                    .get(header.upper_offset + 12)
                    .copied()
                    .unwrap_or(0x50);
                usize::from(field >> 4) * 4
            }
            GsoKind::UdpL4 | GsoKind::None => 8,
        };
        let headers_bytes = header.upper_offset + upper_bytes;
        let payload_bytes = packet.len().saturating_sub(headers_bytes);
        let segment_bytes = usize::from(gso.segment_bytes);
        Self {
            segments: payload_bytes.div_ceil(segment_bytes).max(1) as u64,
            packet_bytes: headers_bytes + segment_bytes.min(payload_bytes),
        }
    }
}

/// What is left for a packet that may pass: size, hop limit, rate, MSS.
#[inline]
fn finish(
    config: &DataplaneConfig,
    now: Now,
    slot: &mut Slot,
    packet: &mut [u8],
    mut header: IpHeader,
    gso: &GsoInfo,
    shape: &Shape,
) -> Result<Finished, Rejection> {
    let fragment_to_bytes = fit(packet, shape.packet_bytes, slot.mtu_bytes)?;
    if config.hop_limit == HopLimit::DecrementHere && header.hop_limit <= 1 {
        return Err(DropReason::HopLimitExceeded.into());
    }
    if !take_bits(&mut slot.to_client_bits, now, packet.len()) {
        return Err(Rejection::silent(DropReason::RateLimited));
    }
    if config.hop_limit == HopLimit::DecrementHere && decrement_hop_limit(packet) {
        header.hop_limit -= 1;
    }
    let checksum = match gso.checksum {
        Some(_) => ChecksumState::Partial,
        None => ChecksumState::Complete,
    };
    let clamped = config.clamp_mss
        && header.protocol == protocol::TCP
        && clamp_mss(
            packet,
            &header,
            mss_for_mtu(header.version, slot.mtu_bytes.into()),
            checksum,
        );
    Ok(Finished {
        header,
        clamped,
        fragment_to_bytes,
    })
}
