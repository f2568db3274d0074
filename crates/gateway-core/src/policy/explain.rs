//! Which rule decides, told to people.

use std::fmt;
use std::net::IpAddr;

use masque_model::{Action, Direction, Mode, ObjectName};

use super::{Decision, Policy, Query};
use crate::id::AttachmentId;
use crate::reason::DropReason;

/// A rule of a VPCAccessPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: ObjectName,
    /// The rule in it.
    pub rule: String,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.policy, self.rule)
    }
}

/// A flow to ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowQuestion {
    /// Who opens it.
    pub direction: Direction,
    /// The address on the VPC side.
    pub remote: IpAddr,
    /// The upper-layer protocol.
    pub protocol: u8,
    /// The destination port of its first packet; zero for protocols without ports.
    pub port: u16,
    /// When, in seconds since the Unix epoch.
    pub unix_s: u64,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyVerdict {
    /// It passes.
    Allowed,
    /// Its first packet is dropped for this reason.
    Dropped(DropReason),
}

/// What becomes of a flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of it.
    pub verdict: PolicyVerdict,
    /// The rule that decides; `None` if none matches or routing decides before the rules.
    pub decided_by: Option<RuleName>,
    /// When the permission ends by itself, in seconds since the Unix epoch.
    pub until_unix_s: Option<u64>,
    /// The rule in Audit mode that would deny it.
    pub audit_denied_by: Option<RuleName>,
    /// Every rule in Enforce mode that matches, sorted.
    pub matching: Vec<RuleName>,
    /// Rules that would match but have ended (`notAfter`), sorted.
    pub expired: Vec<RuleName>,
}

impl Explanation {
    /// Says that the flow ends before the rules are asked.
    pub(crate) fn dropped(reason: DropReason) -> Self {
        Self {
            verdict: PolicyVerdict::Dropped(reason),
            decided_by: None,
            until_unix_s: None,
            audit_denied_by: None,
            matching: Vec::new(),
            expired: Vec::new(),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.verdict, &self.decided_by) {
            (PolicyVerdict::Allowed, Some(rule)) => write!(f, "allowed by {rule}")?,
            (PolicyVerdict::Allowed, None) => f.write_str("allowed")?,
            (PolicyVerdict::Dropped(reason), Some(rule)) => {
                write!(f, "dropped ({}) by {rule}", reason.as_str())?;
            }
            (PolicyVerdict::Dropped(reason), None) => {
                write!(f, "dropped ({}): {}", reason.as_str(), reason.explain())?;
            }
        }
        if let Some(rule) = &self.audit_denied_by {
            write!(f, "; {rule} in Audit mode would deny it")?;
        }
        if let Some(rule) = self.expired.first() {
            write!(f, "; {rule} would match but has ended")?;
        }
        Ok(())
    }
}

impl Policy {
    /// What the rules make of a flow of `attachment`. Allocates: not for the packet path.
    pub(crate) fn explain(&self, attachment: AttachmentId, flow: &FlowQuestion) -> Explanation {
        let query = Query {
            attachment,
            direction: flow.direction,
            remote: flow.remote,
            protocol: flow.protocol,
            port: flow.port,
            unix_s: flow.unix_s,
        };
        let mut explanation = Explanation::dropped(DropReason::PolicyNotAllowed);
        self.for_each_match_at_any_time(&query, |_, rule| {
            if flow.unix_s >= rule.not_after_unix_s {
                explanation.expired.push(rule.name.clone());
            } else if rule.mode == Mode::Enforce {
                explanation.matching.push(rule.name.clone());
            } else if rule.action == Action::Deny {
                explanation.audit_denied_by = Some(rule.name.clone());
            }
        });
        for names in [&mut explanation.matching, &mut explanation.expired] {
            names.sort();
            names.dedup();
        }
        let name = |rule: u32| self.rule_name(rule).cloned();
        match self.decide(&query) {
            Decision::Allow {
                rule, until_unix_s, ..
            } => {
                explanation.verdict = PolicyVerdict::Allowed;
                explanation.decided_by = name(rule);
                explanation.until_unix_s = (until_unix_s != u64::MAX).then_some(until_unix_s);
            }
            Decision::Deny { rule } => {
                explanation.verdict = PolicyVerdict::Dropped(DropReason::PolicyDenied);
                explanation.decided_by = name(rule);
            }
            Decision::NotAllowed => {}
        }
        explanation
    }
}
