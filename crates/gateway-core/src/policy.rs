//! Access rules compiled for the first packet of a flow.
//!
//! Deny beats Allow, nothing allowed is denied, and an Audit rule never acts. Rules are grouped by
//! the exact set of attachments they name, so memory grows with the rules as they were written, not
//! with rules times attachments. Inside a group a rule is found by its prefixes, there by protocol
//! and port where it names single ports; the rest is compared one by one.

mod explain;
mod group;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::FixedState;
use masque_model::{
    Action, AttachmentSet, Direction, Mode, ObjectName, PortMatch, ProtocolMatch, Rule,
};
use masque_packet::protocol;

use crate::id::AttachmentId;
use group::Group;

pub use explain::{Explanation, FlowQuestion, PolicyVerdict, RuleName};

/// The rules of one ingress point.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    rules: Vec<Compiled>,
    to_vpc: Side,
    from_vpc: Side,
}

/// A rule without what the index already answered.
#[derive(Debug)]
struct Compiled {
    name: RuleName,
    action: Action,
    mode: Mode,
    ports: Box<[PortMatch]>,
    /// `u64::MAX` if it does not end.
    not_after_unix_s: u64,
}

/// The rules of one direction.
#[derive(Debug, Default)]
struct Side {
    groups: Vec<Group>,
    /// The group of the rules for every attachment.
    everyone: Option<u32>,
    /// The other groups of each attachment.
    members: HashMap<AttachmentId, Vec<u32>, FixedState>,
}

/// What is asked about the first packet of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query {
    /// The client side.
    pub(crate) attachment: AttachmentId,
    /// Who opens the flow.
    pub(crate) direction: Direction,
    /// The address on the VPC side.
    pub(crate) remote: IpAddr,
    /// The upper-layer protocol.
    pub(crate) protocol: u8,
    /// The destination port; only read for protocols that have one.
    pub(crate) port: u16,
    /// The time.
    pub(crate) unix_s: u64,
}

/// What the rules say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The flow may pass.
    Allow {
        /// The Allow rule that matches longest.
        rule: u32,
        /// Until when, exclusive; `u64::MAX` if without end.
        until_unix_s: u64,
        /// The rule in Audit mode that would have denied it.
        audit: Option<u32>,
    },
    /// This rule denies it.
    Deny {
        /// The Deny rule.
        rule: u32,
    },
    /// No rule allows it.
    NotAllowed,
}

impl Policy {
    /// Compiles `rules`. Names of attachments that `ids` does not know are ignored.
    pub(crate) fn new(rules: &[Rule], ids: &BTreeMap<ObjectName, AttachmentId>) -> Self {
        let side = |direction| {
            let rules = (0u32..)
                .zip(rules)
                .filter(|(_, rule)| rule.direction == direction);
            Side::new(rules, ids)
        };
        let (to_vpc, from_vpc) = (side(Direction::ToVpc), side(Direction::FromVpc));
        Self {
            rules: rules.iter().map(Compiled::new).collect(),
            to_vpc,
            from_vpc,
        }
    }

    /// The name of a rule that [`decide`](Self::decide) gave.
    pub(crate) fn rule_name(&self, rule: u32) -> Option<&RuleName> {
        self.rules.get(rule as usize).map(|rule| &rule.name)
    }

    /// Decides about the first packet of a flow.
    pub(crate) fn decide(&self, query: &Query) -> Decision {
        let (mut denied, mut allowed, mut audit) = (None, None::<(u32, u64)>, None);
        self.for_each_match(query, |number, rule| match (rule.mode, rule.action) {
            (Mode::Enforce, Action::Deny) => denied = Some(number),
            (Mode::Enforce, Action::Allow) => {
                let until = rule.not_after_unix_s;
                if allowed.is_none_or(|(_, longest)| longest < until) {
                    allowed = Some((number, until));
                }
            }
            (Mode::Audit, Action::Deny) => audit = Some(number),
            // "allows nothing by itself"
            (Mode::Audit, Action::Allow) => {}
        });
        match (denied, allowed) {
            (Some(rule), _) => Decision::Deny { rule },
            (None, Some((rule, until_unix_s))) => Decision::Allow {
                rule,
                until_unix_s,
                audit,
            },
            (None, None) => Decision::NotAllowed,
        }
    }

    /// Calls `f` for every rule that matches now. A rule with overlapping prefixes may come twice.
    fn for_each_match(&self, query: &Query, mut f: impl FnMut(u32, &Compiled)) {
        self.for_each_match_at_any_time(query, |number, rule| {
            if query.unix_s < rule.not_after_unix_s {
                f(number, rule);
            }
        });
    }

    fn for_each_match_at_any_time(&self, query: &Query, mut f: impl FnMut(u32, &Compiled)) {
        let side = match query.direction {
            Direction::ToVpc => &self.to_vpc,
            Direction::FromVpc => &self.from_vpc,
        };
        let own = side
            .members
            .get(&query.attachment)
            .map_or(&[][..], Vec::as_slice);
        for group in side.everyone.iter().chain(own) {
            let Some(group) = side.groups.get(*group as usize) else {
                continue;
            };
            group.for_each_candidate(query, |number| {
                if let Some(rule) = self.rules.get(number as usize)
                    && rule.matches_ports(query)
                {
                    f(number, rule);
                }
            });
        }
    }
}

impl Side {
    fn new<'a>(
        rules: impl Iterator<Item = (u32, &'a Rule)>,
        ids: &BTreeMap<ObjectName, AttachmentId>,
    ) -> Self {
        let mut by_set: BTreeMap<Option<Vec<AttachmentId>>, Vec<(u32, &Rule)>> = BTreeMap::new();
        for (number, rule) in rules {
            let set = match &rule.attachments {
                AttachmentSet::All => None,
                AttachmentSet::Some(names) => {
                    let mut set: Vec<_> =
                        names.iter().filter_map(|n| ids.get(n).copied()).collect();
                    set.sort_unstable();
                    set.dedup();
                    Some(set)
                }
            };
            by_set.entry(set).or_default().push((number, rule));
        }
        let mut side = Self::default();
        for (number, (set, rules)) in (0u32..).zip(by_set) {
            side.groups.push(Group::new(&rules));
            match set {
                None => side.everyone = Some(number),
                Some(set) => {
                    for id in set {
                        side.members.entry(id).or_default().push(number);
                    }
                }
            }
        }
        side
    }
}

impl Compiled {
    fn new(rule: &Rule) -> Self {
        Self {
            name: RuleName {
                policy: rule.policy.clone(),
                rule: rule.name.clone(),
            },
            action: rule.action,
            mode: rule.mode,
            ports: rule.ports.as_slice().into(),
            not_after_unix_s: rule.not_after_unix_s.unwrap_or(u64::MAX),
        }
    }

    #[inline]
    fn matches_ports(&self, query: &Query) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|ports| port_matches(ports, query))
    }
}

fn port_matches(ports: &PortMatch, query: &Query) -> bool {
    let protocol_matches = match ports.protocol {
        ProtocolMatch::Any => true,
        ProtocolMatch::Icmp => query.protocol == icmp_of(query.remote),
        ProtocolMatch::Number(number) => query.protocol == number,
    };
    protocol_matches
        && ports.ports.is_none_or(|(first, last)| {
            has_ports(query.protocol) && (first..=last).contains(&query.port)
        })
}

/// Whether the flow key's ports are ports, and not the identifier of an echo.
pub(crate) const fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP
    )
}

const fn icmp_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => protocol::ICMP,
        IpAddr::V6(_) => protocol::ICMPV6,
    }
}
