//! Flows that a rule in Audit mode would have denied, noted for the log.

use std::net::IpAddr;
use std::sync::Arc;

use masque_model::{Direction, ObjectName};
use masque_packet::flow::FlowKey;

use super::Dataplane;
use crate::id::AttachmentId;
use crate::policy::{RuleName, has_ports};
use crate::tables::VpcTables;

/// Notes that wait for [`Dataplane::take_audit_notes`]. Flows beyond are counted and not noted: who
/// opens thousands a second must not fill the log.
pub const AUDIT_NOTES_MAX: usize = 8;

/// A flow that passed though a rule in Audit mode would have denied it, as it was first judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditNote<'a> {
    /// The VPC.
    pub vpc: &'a ObjectName,
    /// The attachment at the client's side.
    pub attachment: &'a ObjectName,
    /// The Deny rule in Audit mode.
    pub rule: &'a RuleName,
    /// Who opened the flow.
    pub direction: Direction,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// Where its first packet came from.
    pub source: IpAddr,
    /// Where its first packet went.
    pub destination: IpAddr,
    /// Source and destination port of its first packet, for protocols that have them.
    pub ports: Option<(u16, u16)>,
}

/// The notes of one shard. Takes its memory once.
#[derive(Debug)]
pub(super) struct AuditNotes {
    notes: Vec<Note>,
    missed: u64,
}

/// What a note is read from. It keeps the tables by which the flow was judged: rules are numbers in
/// them.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) vpc: Arc<VpcTables>,
    pub(super) attachment: AttachmentId,
    pub(super) rule: u32,
    /// Who opened the flow.
    pub(super) opener: Direction,
    /// As the client's packets have it.
    pub(super) key: FlowKey,
}

impl AuditNotes {
    pub(super) fn new() -> Self {
        Self {
            notes: Vec::with_capacity(AUDIT_NOTES_MAX),
            missed: 0,
        }
    }

    /// Keeps a note, or counts it where too many wait.
    pub(super) fn push(&mut self, note: Note) {
        if self.notes.len() < AUDIT_NOTES_MAX {
            self.notes.push(note);
        } else {
            self.missed += 1;
        }
    }
}

impl Note {
    fn read(&self) -> Option<AuditNote<'_>> {
        let first = match self.opener {
            Direction::ToVpc => self.key,
            Direction::FromVpc => self.key.reversed(),
        };
        Some(AuditNote {
            vpc: self.vpc.vpc(),
            attachment: self.vpc.attachment(self.attachment)?.name(),
            rule: self.vpc.policy().rule_name(self.rule)?,
            direction: self.opener,
            protocol: first.protocol,
            source: first.src(),
            destination: first.dst(),
            ports: has_ports(first.protocol).then_some((first.src_port, first.dst_port)),
        })
    }
}

impl Dataplane {
    /// Gives the flows that Audit would have denied since the last call, oldest first and at most
    /// [`AUDIT_NOTES_MAX`], and returns how many there were beyond these.
    ///
    /// A flow is noted when it opens, and when an edit of the policy makes it one that Audit would
    /// deny; not at its other packets. Does not allocate.
    pub fn take_audit_notes(&mut self, each: impl FnMut(AuditNote<'_>)) -> u64 {
        self.audit
            .notes
            .iter()
            .filter_map(Note::read)
            .for_each(each);
        self.audit.notes.clear();
        std::mem::take(&mut self.audit.missed)
    }
}
