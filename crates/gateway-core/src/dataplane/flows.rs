//! Whether a packet may pass: by the flow it belongs to, else by scope, routes and rules.

use std::sync::Arc;

use masque_model::Direction;
use masque_packet::flow::{FlowKey, flow_key};
use masque_packet::icmp::{IcmpKind, classify, quoted_flow};
use masque_packet::ip::{Fragment, IpHeader, IpVersion};
use masque_packet::protocol;

use super::audit::{AuditNotes, Note};
use super::directory::Owner;
use super::slot::Slot;
use crate::flow::{FlowId, FlowState, FlowTable, Follows, Judged, Piece, TcpFlags};
use crate::id::Now;
use crate::policy::{Decision, Query};
use crate::reason::DropReason;
use crate::tables::VpcTables;

/// Everything that decides about the packets of one session.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    pub(super) now: Now,
    pub(super) vpc: &'a Arc<VpcTables>,
    pub(super) slot: &'a Slot,
    pub(super) owner: &'a mut Owner,
    pub(super) flows: &'a mut FlowTable,
    pub(super) audit: &'a mut AuditNotes,
}

/// A packet may pass.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pass {
    /// It is the first one of a flow.
    pub(super) opened: bool,
    /// A rule in Audit mode would have denied it.
    pub(super) audit_denied: bool,
}

impl Gate<'_> {
    /// Lets a packet pass that goes in `direction`, or says why not.
    #[inline]
    pub(super) fn pass(
        &mut self,
        direction: Direction,
        header: &IpHeader,
        packet: &[u8],
    ) -> Result<Pass, DropReason> {
        if header.fragment != Fragment::Whole {
            return self.pass_fragment(direction, header, packet);
        }
        self.pass_whole(direction, header, packet)
    }

    #[cold]
    fn pass_fragment(
        &mut self,
        direction: Direction,
        header: &IpHeader,
        packet: &[u8],
    ) -> Result<Pass, DropReason> {
        let piece = Piece::of(direction, header, packet).ok_or(DropReason::FragmentUnmatched)?;
        if let Some(ring) = &mut self.owner.fragments {
            ring.renew(self.vpc.epoch(), self.owner.generation);
        }
        if header.fragment == Fragment::Later {
            let ring = self.owner.fragments.as_ref();
            return match ring.map(|ring| ring.follows(self.now.mono_ms, &piece)) {
                Some(Follows::Yes) => Ok(Pass::default()),
                Some(Follows::Overlaps) => Err(DropReason::FragmentOverlap),
                Some(Follows::Nothing) | None => Err(DropReason::FragmentUnmatched),
            };
        }
        let pass = self.pass_whole(direction, header, packet)?;
        if header.fragment == (Fragment::First { more: true })
            && let Some(ring) = &mut self.owner.fragments
        {
            ring.allow(self.now.mono_ms, &piece);
        }
        Ok(pass)
    }

    #[inline]
    fn pass_whole(
        &mut self,
        direction: Direction,
        header: &IpHeader,
        packet: &[u8],
    ) -> Result<Pass, DropReason> {
        let key = from_the_client(direction, flow_key(header, packet));
        if !is_icmp(&key) {
            return self.pass_flow(direction, header, packet, key, None, direction);
        }
        match classify(header, packet) {
            Some(IcmpKind::Error) => self.pass_icmp_error(direction, header, packet),
            Some(IcmpKind::EchoReply { .. }) => {
                let asker = opposite(direction);
                self.pass_flow(direction, header, packet, key, Some(asker), asker)
            }
            Some(IcmpKind::EchoRequest { .. }) => {
                self.pass_flow(direction, header, packet, key, Some(direction), direction)
            }
            Some(IcmpKind::Other) | None => {
                self.pass_flow(direction, header, packet, key, None, direction)
            }
        }
    }

    /// Lets a packet of a flow pass that `opener` may open; only packets in its direction do.
    #[inline]
    fn pass_flow(
        &mut self,
        direction: Direction,
        header: &IpHeader,
        packet: &[u8],
        key: FlowKey,
        echo: Option<Direction>,
        opener: Direction,
    ) -> Result<Pass, DropReason> {
        let id = FlowId {
            key,
            owner: self.slot.owner,
            echo,
        };
        let flags = TcpFlags::of(header, packet);
        if let Some(at) = self.flows.find(self.now.mono_ms, &id)
            && let Some(pass) = self.pass_known(at, direction, flags)?
        {
            return Ok(pass);
        }
        if opener != direction {
            return Err(DropReason::EchoReplyUnmatched);
        }
        let judged = self.judge(direction, &key, false)?;
        let mut state = FlowState::new(key.protocol, direction);
        state.see(direction, flags);
        // No place is no error: the next packet is judged as this one was.
        let _at = self.flows.insert(self.now.mono_ms, id, judged, state);
        Ok(Pass {
            opened: true,
            audit_denied: judged.audit_denied,
        })
    }

    /// Lets a packet of the flow at `at` pass. `None` if it must be judged as the first packet of a
    /// new one; the former flow is gone then.
    #[inline]
    fn pass_known(
        &mut self,
        at: u32,
        direction: Direction,
        flags: TcpFlags,
    ) -> Result<Option<Pass>, DropReason> {
        let Some(flow) = self.flows.flow_mut(at) else {
            return Ok(None);
        };
        let fresh = flow
            .judged
            .holds(self.vpc.epoch(), self.owner.generation, self.now.unix_s);
        if !fresh && !self.judge_again(at, direction)? {
            return Ok(None);
        }
        let Some(flow) = self.flows.flow_mut(at) else {
            return Ok(None);
        };
        if flags.opens() && flow.state.opener() != direction {
            // Who only may reply opens a connection: the rules of its own direction decide, and
            // the other's flow stays if they refuse.
            return self.judge_takeover(at, direction);
        }
        flow.seen_ms = self.now.mono_ms;
        flow.state.see(direction, flags);
        Ok(Some(Pass {
            opened: false,
            audit_denied: flow.judged.audit_denied,
        }))
    }

    /// Judges a flow by the rules of now and says whether it stays. What is not allowed any more is
    /// cut; a packet of the side that did not open it may then open one of its own, so it gets no
    /// error here.
    #[cold]
    fn judge_again(&mut self, at: u32, direction: Direction) -> Result<bool, DropReason> {
        let Some(flow) = self.flows.flow_mut(at) else {
            return Ok(false);
        };
        let (key, opener) = (flow.id().key, flow.state.opener());
        let noted = flow.judged.audit_denied;
        match self.judge(opener, &key, noted) {
            Ok(judged) => {
                if let Some(flow) = self.flows.flow_mut(at) {
                    flow.judged = judged;
                }
                Ok(true)
            }
            Err(reason) => {
                self.flows.remove(at);
                if opener == direction {
                    Err(reason)
                } else {
                    Ok(false)
                }
            }
        }
    }

    #[cold]
    fn judge_takeover(
        &mut self,
        at: u32,
        direction: Direction,
    ) -> Result<Option<Pass>, DropReason> {
        let Some(flow) = self.flows.flow_mut(at) else {
            return Ok(None);
        };
        let key = flow.id().key;
        // Asked once more when the packet opens its own flow, which is then noted.
        self.judge(direction, &key, true)?;
        self.flows.remove(at);
        Ok(None)
    }

    /// An ICMP error passes if it is about a packet of a flow that may pass, and goes to the sender
    /// of that packet. Its own source may be any router: path MTU discovery needs that, so neither
    /// scope nor routes ask for it (RFC 9484 §4.6: ICMP is "always allowed").
    #[cold]
    fn pass_icmp_error(
        &mut self,
        direction: Direction,
        header: &IpHeader,
        packet: &[u8],
    ) -> Result<Pass, DropReason> {
        let unmatched = DropReason::IcmpErrorUnmatched;
        if header.version == IpVersion::V4 && packet.get(header.upper_offset) == Some(&V4_REDIRECT)
        {
            return Err(unmatched);
        }
        let quoted = quoted_flow(header, packet).ok_or(unmatched)?;
        if quoted.src() != header.destination {
            return Err(unmatched);
        }
        let key = from_the_client(opposite(direction), quoted);
        let echoes: &[_] = if is_icmp(&key) {
            &[None, Some(Direction::ToVpc), Some(Direction::FromVpc)]
        } else {
            &[None]
        };
        for echo in echoes {
            let id = FlowId {
                key,
                owner: self.slot.owner,
                echo: *echo,
            };
            let Some(at) = self.flows.find(self.now.mono_ms, &id) else {
                continue;
            };
            let Some(flow) = self.flows.flow_mut(at) else {
                continue;
            };
            let opener = flow.state.opener();
            let fresh = flow
                .judged
                .holds(self.vpc.epoch(), self.owner.generation, self.now.unix_s);
            if fresh || self.judge_again(at, opener).is_ok() {
                return Ok(Pass::default());
            }
        }
        Err(unmatched)
    }

    /// Whether `opener` may open a flow: attachment, scope, routes, rules, in this order. What Audit
    /// would have denied is noted for the log, unless it is `noted` already.
    fn judge(
        &mut self,
        opener: Direction,
        key: &FlowKey,
        noted: bool,
    ) -> Result<Judged, DropReason> {
        let table = self.vpc.attachment(self.slot.attachment);
        let table = table
            .filter(|table| !table.suspended())
            .ok_or(DropReason::AttachmentGone)?;
        let remote = key.dst();
        let (beyond_target, beyond_routes, port) = match opener {
            Direction::ToVpc => (DropReason::OutOfScope, DropReason::NoRoute, key.dst_port),
            Direction::FromVpc => {
                let outside = DropReason::SourceOutsideRoutes;
                (outside, outside, key.src_port)
            }
        };
        if self
            .slot
            .targets
            .as_ref()
            .is_some_and(|targets| !targets.contains(remote))
        {
            return Err(beyond_target);
        }
        if self
            .slot
            .protocol
            .is_some_and(|scope| scope != key.protocol)
            && !is_icmp(key)
        {
            return Err(DropReason::OutOfScope);
        }
        if !table.routes(remote) {
            return Err(beyond_routes);
        }
        let query = Query {
            attachment: self.slot.attachment,
            direction: opener,
            remote,
            protocol: key.protocol,
            port,
            unix_s: self.now.unix_s,
        };
        match self.vpc.policy().decide(&query) {
            Decision::Allow {
                until_unix_s,
                audit,
                ..
            } => {
                if let Some(rule) = audit.filter(|_| !noted) {
                    self.note(rule, opener, key);
                }
                Ok(Judged {
                    epoch: self.vpc.epoch(),
                    generation: self.owner.generation,
                    audit_denied: audit.is_some(),
                    until_unix_s,
                })
            }
            Decision::Deny { .. } => Err(DropReason::PolicyDenied),
            Decision::NotAllowed => Err(DropReason::PolicyNotAllowed),
        }
    }
}

impl Gate<'_> {
    /// Notes a flow that `rule` would deny if it were enforced.
    #[cold]
    fn note(&mut self, rule: u32, opener: Direction, key: &FlowKey) {
        self.audit.push(Note {
            vpc: Arc::clone(self.vpc),
            attachment: self.slot.attachment,
            rule,
            opener,
            key: *key,
        });
    }
}

/// ICMP Redirect (RFC 792): a router's word to a host on its own link, never forwarded.
const V4_REDIRECT: u8 = 5;

const fn opposite(direction: Direction) -> Direction {
    match direction {
        Direction::ToVpc => Direction::FromVpc,
        Direction::FromVpc => Direction::ToVpc,
    }
}

/// The key of a packet that goes in `direction`, as the client's packets of the same flow have it.
#[inline]
fn from_the_client(direction: Direction, key: FlowKey) -> FlowKey {
    match direction {
        Direction::ToVpc => key,
        Direction::FromVpc => key.reversed(),
    }
}

#[inline]
fn is_icmp(key: &FlowKey) -> bool {
    key.protocol
        == match key.version() {
            IpVersion::V4 => protocol::ICMP,
            IpVersion::V6 => protocol::ICMPV6,
        }
}
