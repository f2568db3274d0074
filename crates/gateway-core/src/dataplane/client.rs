//! Packets from clients.

use masque_model::Direction;
use masque_packet::edit::{ChecksumState, clamp_mss, decrement_hop_limit, mss_for_mtu};
use masque_packet::icmp::{IcmpKind, Unreachable, classify};
use masque_packet::ip::{IpHeader, parse};
use masque_packet::protocol;

use super::answer::{self, Answer, Answered, Rejection};
use super::checks::{
    ALL_HOSTS_V4, ALL_NODES, ALL_ROUTERS, has_source_route, is_link_local, is_unicast,
};
use super::fit::fit;
use super::flows::{Gate, Pass};
use super::slot::{Slot, take_bits};
use super::{ClientVerdict, Dataplane, DataplaneConfig};
use crate::id::{Now, SlotId};
use crate::reason::DropReason;
use crate::tables::{LINK_LOCAL, VpcTables};

impl Dataplane {
    /// Judges one packet from the client of a session: an HTTP Datagram with context 0 (RFC 9484
    /// §6). Failure is a forwarding error, never one of the stream (RFC 9484 §7.2).
    #[inline]
    pub fn from_client(
        &mut self,
        now: Now,
        slot: SlotId,
        packet: &mut [u8],
        reply: &mut [u8],
    ) -> ClientVerdict {
        let place = self.slots.get_mut(slot.index as usize);
        let Some(slot) = place.filter(|place| place.holds(slot.generation)) else {
            self.strays.dropped_to_vpc[DropReason::UnknownSession.index()] += 1;
            return ClientVerdict::Drop(DropReason::UnknownSession);
        };
        slot.seen_ms = now.mono_ms;
        let state = self
            .vpcs
            .get_mut(slot.vpc.0 as usize)
            .and_then(Option::as_mut);
        let owner = self.owners.get_mut(slot.owner as usize);
        let (Some(state), Some(owner), Some(vpc)) = (state, owner, self.tables.vpc(slot.vpc))
        else {
            slot.counters.dropped_to_vpc[DropReason::AttachmentGone.index()] += 1;
            return ClientVerdict::Drop(DropReason::AttachmentGone);
        };
        let checked = check(slot, vpc, packet).and_then(|header| {
            let mut gate = Gate {
                now,
                vpc,
                slot: &*slot,
                owner,
                flows: &mut self.flows,
                audit: &mut self.audit,
            };
            let pass = gate.pass(Direction::ToVpc, &header, packet)?;
            Ok((header, pass))
        });
        let finished = checked.and_then(|(header, pass)| {
            Ok((finish(&self.config, now, slot, packet, header)?, pass))
        });
        match finished {
            Ok((finished, pass)) => {
                for counters in [&mut slot.counters, &mut state.counters] {
                    counters.to_vpc.packets += 1;
                    counters.to_vpc.bytes += packet.len() as u64;
                    count_pass(counters, pass, finished.clamped);
                }
                ClientVerdict::Forward {
                    vpc: slot.vpc,
                    header: finished.header,
                    fragment_to_bytes: finished.fragment_to_bytes,
                }
            }
            Err(rejection) => {
                let source = vpc.icmp_source(packet.first().is_some_and(|byte| byte >> 4 == 4));
                let buckets = [&mut slot.icmp, &mut state.icmp];
                let answered = answer::write(now, rejection.answer, packet, source, buckets, reply);
                for counters in [&mut slot.counters, &mut state.counters] {
                    if !matches!(answered, Answered::Echo(_)) {
                        counters.dropped_to_vpc[rejection.reason.index()] += 1;
                    }
                    count_answer(counters, answered);
                }
                let drop = rejection.reason;
                match answered {
                    Answered::Nothing | Answered::Suppressed => ClientVerdict::Drop(drop),
                    Answered::Error(len_bytes) => ClientVerdict::Reply {
                        len_bytes,
                        drop: Some(drop),
                    },
                    Answered::Echo(len_bytes) => ClientVerdict::Reply {
                        len_bytes,
                        drop: None,
                    },
                }
            }
        }
    }
}

pub(super) fn count_pass(counters: &mut crate::Counters, pass: Pass, clamped: bool) {
    counters.flows_opened += u64::from(pass.opened);
    counters.audit_denied += u64::from(pass.audit_denied);
    counters.mss_clamped += u64::from(clamped);
}

pub(super) fn count_answer(counters: &mut crate::Counters, answered: Answered) {
    match answered {
        Answered::Nothing => {}
        Answered::Suppressed => counters.icmp_suppressed += 1,
        Answered::Error(_) => counters.icmp_errors += 1,
        Answered::Echo(_) => counters.echo_replies += 1,
    }
}

/// What needs no flow: RFC 9484 §7.2 and the fabric's own rules.
#[inline]
fn check(slot: &Slot, vpc: &VpcTables, packet: &[u8]) -> Result<IpHeader, Rejection> {
    let header = parse(packet).map_err(|error| Rejection::silent(error.into()))?;
    if !slot.active {
        return Err(Rejection::silent(DropReason::InactiveSession));
    }
    // A client that chooses segments could have any node of the fabric decapsulate into any VPC.
    if header.has_routing_header {
        return Err(Rejection::silent(if header.has_segment_routing_header {
            DropReason::SegmentRoutingHeader
        } else {
            DropReason::RoutingHeader
        }));
    }
    if header.ipv4_options && has_source_route(packet.get(..header.header_bytes).unwrap_or(packet))
    {
        return Err(Rejection::silent(DropReason::SourceRoute));
    }
    let assigned = slot.addresses.contains(&header.source);
    if is_link_local(header.source) || is_link_local(header.destination) {
        return Err(link_local(vpc, &header, assigned));
    }
    // BCP 38: "source IP address ... within the set of IP prefixes assigned" (RFC 9484 §7.2).
    if !assigned {
        return Err(if is_unicast(header.source) {
            DropReason::SourceNotAssigned.into()
        } else {
            Rejection::silent(DropReason::SourceNotUnicast)
        });
    }
    if !is_unicast(header.destination) {
        return Err(Rejection::silent(DropReason::DestinationNotUnicast));
    }
    if vpc.is_fabric(header.destination) {
        return Err(Rejection::silent(DropReason::LocatorDestination));
    }
    if vpc.is_gateway_address(header.destination) {
        return Err(to_the_gateway(&header, packet));
    }
    Ok(header)
}

/// A packet that may pass.
pub(super) struct Finished {
    pub(super) header: IpHeader,
    /// Its MSS option was lowered.
    pub(super) clamped: bool,
    pub(super) fragment_to_bytes: Option<u16>,
}

/// What is left for a packet that may pass: hop limit, size, rate, MSS.
#[inline]
fn finish(
    config: &DataplaneConfig,
    now: Now,
    slot: &mut Slot,
    packet: &mut [u8],
    mut header: IpHeader,
) -> Result<Finished, Rejection> {
    if header.hop_limit <= 1 {
        return Err(DropReason::HopLimitExceeded.into());
    }
    let fragment_to_bytes = fit(packet, packet.len(), config.fabric_mtu_bytes)?;
    if !take_bits(&mut slot.to_vpc_bits, now, packet.len()) {
        return Err(Rejection::silent(DropReason::RateLimited));
    }
    if decrement_hop_limit(packet) {
        header.hop_limit -= 1;
    }
    let clamped = config.clamp_mss
        && header.protocol == protocol::TCP
        && clamp_mss(
            packet,
            &header,
            mss_for_mtu(header.version, slot.mtu_bytes.into()),
            ChecksumState::Complete,
        );
    Ok(Finished {
        header,
        clamped,
        fragment_to_bytes,
    })
}

/// RFC 9484 §7.2: link-local packets are not forwarded, and "IP proxying endpoints MUST properly
/// answer" link-local multicast, at least echo requests: peers probe the MTU by them. There is no
/// neighbour discovery on a point-to-point link (RFC 9484 §7.1).
#[cold]
fn link_local(vpc: &VpcTables, header: &IpHeader, assigned: bool) -> Rejection {
    let reason = DropReason::LinkLocal;
    let from_this_client = assigned || is_link_local(header.source) && is_unicast(header.source);
    let groups = [
        ALL_NODES.into(),
        ALL_ROUTERS.into(),
        ALL_HOSTS_V4.into(),
        LINK_LOCAL.into(),
    ];
    if !from_this_client || !groups.contains(&header.destination) {
        return Rejection::silent(reason);
    }
    let source = if assigned || header.source.is_ipv4() {
        vpc.icmp_source(header.source.is_ipv4())
    } else {
        LINK_LOCAL.into()
    };
    Rejection {
        reason,
        answer: Answer::Echo(source),
    }
}

/// A packet to the gateway's own address: echo requests are answered, nothing else listens.
#[cold]
pub(super) fn to_the_gateway(header: &IpHeader, packet: &[u8]) -> Rejection {
    let reason = DropReason::GatewayAddress;
    match classify(header, packet) {
        Some(IcmpKind::EchoRequest { .. }) => Rejection {
            reason,
            answer: Answer::Echo(header.destination),
        },
        Some(_) => Rejection::silent(reason),
        None => Rejection::unreachable(reason, Unreachable::PortUnreachable),
    }
}
