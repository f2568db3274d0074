//! The rules that concern the same attachments, indexed by prefix and port.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;
use ipnet::IpNet;
use masque_model::{PortMatch, ProtocolMatch, Rule};

use super::Query;
use crate::prefix::PrefixTree;

/// Rules of one direction and one set of attachments.
#[derive(Debug)]
pub(super) struct Group {
    tree: PrefixTree,
    /// The rules of each prefix of the tree.
    by_prefix: Vec<Bucket>,
    /// The rules without prefixes.
    anywhere: Bucket,
}

/// Rules found by protocol and port.
#[derive(Debug, Default)]
struct Bucket {
    /// Rules that name nothing but single ports of numbered protocols.
    exact: HashMap<(u8, u16), Vec<Candidate>, FixedState>,
    /// All others.
    rest: Vec<Candidate>,
}

#[derive(Clone, Debug)]
struct Candidate {
    rule: u32,
    /// The holes of the prefix that led here.
    except: Box<[IpNet]>,
}

/// Most places one rule may take in the port maps of its prefixes; a rule with more is compared
/// one by one, so that 64 prefixes times 32 ports do not multiply.
const MAX_EXACT_PER_RULE: usize = 256;

impl Group {
    pub(super) fn new(rules: &[(u32, &Rule)]) -> Self {
        let mut by_prefix: BTreeMap<IpNet, Bucket> = BTreeMap::new();
        let mut anywhere = Bucket::default();
        for (number, rule) in rules {
            let places = rule.prefixes.len().max(1) * rule.ports.len();
            let single = if places <= MAX_EXACT_PER_RULE {
                single_ports(&rule.ports)
            } else {
                None
            };
            for matched in &rule.prefixes {
                let candidate = Candidate {
                    rule: *number,
                    except: matched.except.clone().into(),
                };
                let bucket = by_prefix.entry(matched.prefix.trunc()).or_default();
                bucket.insert(candidate, single.as_deref());
            }
            if rule.prefixes.is_empty() {
                let candidate = Candidate {
                    rule: *number,
                    except: Box::default(),
                };
                anywhere.insert(candidate, single.as_deref());
            }
        }
        let (prefixes, by_prefix): (Vec<_>, Vec<_>) = by_prefix.into_iter().unzip();
        Self {
            tree: PrefixTree::new(&prefixes),
            by_prefix,
            anywhere,
        }
    }

    /// Calls `f` with every rule whose prefixes match; its ports are still to be compared.
    #[inline]
    pub(super) fn for_each_candidate(&self, query: &Query, mut f: impl FnMut(u32)) {
        self.anywhere.for_each(query, &mut f);
        for prefix in self.tree.covering(query.remote) {
            if let Some(bucket) = self.by_prefix.get(prefix as usize) {
                bucket.for_each(query, &mut f);
            }
        }
    }
}

impl Bucket {
    fn insert(&mut self, candidate: Candidate, single: Option<&[(u8, u16)]>) {
        let Some(single) = single else {
            self.rest.push(candidate);
            return;
        };
        for key in single {
            self.exact.entry(*key).or_default().push(candidate.clone());
        }
    }

    #[inline]
    fn for_each(&self, query: &Query, f: &mut impl FnMut(u32)) {
        let exact = self
            .exact
            .get(&(query.protocol, query.port))
            .map_or(&[][..], Vec::as_slice);
        for candidate in exact.iter().chain(&self.rest) {
            if !candidate
                .except
                .iter()
                .any(|hole| hole.contains(&query.remote))
            {
                f(candidate.rule);
            }
        }
    }
}

/// The ports of a rule if it names some and all are single ports of numbered protocols.
fn single_ports(ports: &[PortMatch]) -> Option<Vec<(u8, u16)>> {
    let single: Option<Vec<_>> = ports
        .iter()
        .map(|ports| match (ports.protocol, ports.ports) {
            (ProtocolMatch::Number(protocol), Some((first, last))) if first == last => {
                Some((protocol, first))
            }
            _ => None,
        })
        .collect();
    single.filter(|single| !single.is_empty())
}
