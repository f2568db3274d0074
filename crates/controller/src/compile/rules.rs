//! Policies, flattened into the rules of each ingress point.

use std::collections::{BTreeMap, BTreeSet};

use masque_api::{PolicyTargetKind, Reason};
use masque_model::{AttachmentSet, ObjectName, Rule, Snapshot};

use super::{
    Compiler, Drafts, MAX_RULE_ATTACHMENTS, MAX_RULES,
    connectors::{self, Connectors},
};
use crate::{
    Kind, labels, prefixes,
    validate::{self, CheckedPolicy, CheckedRule, Report},
};

impl Compiler<'_> {
    pub(super) fn policies(&mut self, drafts: &mut Drafts) {
        let mut sources: Vec<_> = self.resources.policies.iter().collect();
        sources.sort_by_cached_key(|sourced| sourced.precedence());
        let connectors = connectors::by_name(self.resources);
        let attachments: BTreeSet<_> = self
            .resources
            .attachments
            .iter()
            .map(|sourced| sourced.name())
            .collect();
        let points: BTreeSet<_> = self
            .resources
            .ingress_points
            .iter()
            .map(|sourced| sourced.name())
            .collect();
        let mut names: BTreeMap<ObjectName, usize> = BTreeMap::new();
        let mut problems = std::mem::take(&mut self.problems);
        let mut refused = BTreeSet::new();
        for sourced in sources {
            let mut report = Report::new(Kind::VPCAccessPolicy, sourced, &mut problems);
            let Some(policy) = validate::policy(sourced, self.now_unix_s, &mut report) else {
                refused.insert(sourced.name());
                continue;
            };
            self.check_targets(&policy, (&points, &attachments), drafts, &mut report);
            self.check_connectors(&policy, &connectors, &mut report);
            for (point, draft) in drafts.iter_mut() {
                let total = names.entry(point.clone()).or_default();
                let old = self.old_rules(point);
                add(
                    &policy,
                    &connectors,
                    old,
                    &mut draft.snapshot,
                    total,
                    &mut report,
                );
            }
        }
        self.problems = problems;
        self.retain_rules(&refused, drafts);
        for draft in drafts.values_mut() {
            let key = |rule: &Rule| (rule.policy.clone(), rule.name.clone());
            draft.snapshot.rules.sort_by_key(key);
        }
    }

    /// A target that does not exist is left out; the others have the rules.
    fn check_targets(
        &self,
        policy: &CheckedPolicy,
        (points, attachments): (&BTreeSet<ObjectName>, &BTreeSet<ObjectName>),
        drafts: &Drafts,
        report: &mut Report<'_>,
    ) {
        for (i, kind, target) in &policy.targets {
            let (kind, known) = match kind {
                PolicyTargetKind::VPCIngressPoint => (Kind::VPCIngressPoint, points),
                PolicyTargetKind::ConnectorAttachment => (Kind::ConnectorAttachment, attachments),
            };
            let retained = kind == Kind::VPCIngressPoint && drafts.contains_key(target);
            if !known.contains(target) && !retained {
                let field = format!("spec.targetRefs[{i}].name");
                let hint = connectors::meant(target, known.iter(), "correct the name");
                self.unresolved((kind, target), (&field, hint), report);
            }
        }
    }

    /// Names of connectors that do not exist match nobody, which is rarely meant.
    fn check_connectors(
        &self,
        policy: &CheckedPolicy,
        connectors: &Connectors<'_>,
        report: &mut Report<'_>,
    ) {
        for rule in &policy.rules {
            let names = rule.connectors.as_ref().map_or(&[][..], |(names, _)| names);
            for (i, name) in names.iter().enumerate() {
                let name = ObjectName::new(&policy.name.namespace, name);
                if !connectors.contains_key(&name) {
                    let field = format!("spec.rules[{}].connectors.names[{i}]", rule.index);
                    let hint = connectors::meant(&name, connectors.keys(), "correct the name");
                    self.unresolved((Kind::Connector, &name), (&field, hint), report);
                }
            }
        }
    }

    /// A name of a policy leads nowhere. The policy is in force with the names that are known: who
    /// deletes a Connector does not open what a Deny closes to others.
    fn unresolved(
        &self,
        (kind, name): (Kind, &ObjectName),
        (field, hint): (&str, String),
        report: &mut Report<'_>,
    ) {
        let reason = match kind {
            Kind::Connector => Reason::ConnectorNotFound,
            _ => Reason::TargetNotFound,
        };
        let message = format_args!("there is no {kind} {name}");
        // One that is there and cannot be read at present is told of where it stands.
        if self.options.names_must_exist && !self.unread(kind, name) {
            report.error(field, reason, message, hint);
        } else {
            report.warn(field, reason, message, hint);
        }
    }

    /// The rules in force at an ingress point.
    fn old_rules(&self, point: &ObjectName) -> &[Rule] {
        self.previous.get(point).map_or(&[][..], |old| &old.rules)
    }

    /// The rules of a policy that cannot be read now stay as they were: leaving out a Deny would
    /// open what it closed.
    fn retain_rules(&self, refused: &BTreeSet<ObjectName>, drafts: &mut Drafts) {
        let present: BTreeSet<_> = self
            .resources
            .policies
            .iter()
            .map(|sourced| sourced.name())
            .collect();
        for (point, draft) in drafts {
            for rule in self.old_rules(point) {
                let keep = refused.contains(&rule.policy)
                    || !present.contains(&rule.policy)
                        && self.unread(Kind::VPCAccessPolicy, &rule.policy);
                if keep && draft.snapshot.rules.len() < MAX_RULES {
                    draft.snapshot.rules.push(rule.clone());
                }
            }
        }
    }
}

/// Adds the policy's rules to a snapshot that it targets.
fn add(
    policy: &CheckedPolicy,
    connectors: &Connectors<'_>,
    old: &[Rule],
    snapshot: &mut Snapshot,
    total_names: &mut usize,
    report: &mut Report<'_>,
) {
    let Some(scope) = Scope::new(policy, connectors, snapshot) else {
        return;
    };
    let rule = |rule: &CheckedRule| Rule {
        policy: policy.name.clone(),
        name: rule.name.clone(),
        mode: policy.mode,
        action: rule.action,
        direction: rule.direction,
        attachments: scope.attachments(rule, old),
        prefixes: rule.prefixes.clone(),
        ports: rule.ports.clone(),
        not_after_unix_s: rule.not_after_unix_s,
    };
    let rules: Vec<_> = policy.rules.iter().map(rule).collect();
    let names: usize = rules.iter().map(|rule| set_size(&rule.attachments)).sum();
    if snapshot.rules.len() + rules.len() > MAX_RULES || *total_names + names > MAX_RULE_ATTACHMENTS
    {
        let message = format_args!(
            "{} would have more than {MAX_RULES} rules, or {MAX_RULE_ATTACHMENTS} names in them",
            snapshot.ingress_point
        );
        let hint = "use fewer rules, or rules that cover every attachment";
        report.error("spec.rules", Reason::SnapshotTooLarge, message, hint);
        return;
    }
    *total_names += names;
    warn_outside(policy, snapshot, report);
    snapshot.rules.extend(rules);
}

fn set_size(set: &AttachmentSet) -> usize {
    match set {
        AttachmentSet::All => 0,
        AttachmentSet::Some(names) => names.len(),
    }
}

/// The attachments of one ingress point that one policy is about.
struct Scope<'a> {
    policy: &'a ObjectName,
    /// The policy targets the ingress point itself.
    whole: bool,
    /// Sorted by name; empty when every rule is about the whole ingress point.
    members: Vec<Member<'a>>,
}

struct Member<'a> {
    attachment: &'a ObjectName,
    connector: &'a str,
    /// The connector's labels; `None` when it cannot be read at present.
    labels: Option<&'a BTreeMap<String, String>>,
}

static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();

impl<'a> Scope<'a> {
    /// `None` when the policy is not about this ingress point.
    fn new(
        policy: &'a CheckedPolicy,
        connectors: &Connectors<'a>,
        snapshot: &'a Snapshot,
    ) -> Option<Self> {
        let targets = |kind| {
            let targets = policy
                .targets
                .iter()
                .filter(move |(_, target, _)| *target == kind);
            targets.map(|(_, _, name)| name)
        };
        let whole =
            targets(PolicyTargetKind::VPCIngressPoint).any(|n| *n == snapshot.ingress_point);
        let single: BTreeSet<_> = targets(PolicyTargetKind::ConnectorAttachment).collect();
        if !whole && single.is_empty() {
            return None;
        }
        // Thousands of policies meet thousands of attachments here, and most rules are for all.
        let all = whole && policy.rules.iter().all(|rule| rule.connectors.is_none());
        let attachments = snapshot.attachments.iter().filter(|_| !all);
        let members: Vec<_> = attachments
            .filter(|attachment| attachment.name.namespace == policy.name.namespace)
            .filter(|attachment| whole || single.contains(&attachment.name))
            .map(|attachment| {
                let connector = ObjectName::new(&policy.name.namespace, &attachment.connector);
                let connector = connectors
                    .get(&connector)
                    .map(|found| &found.object.metadata);
                Member {
                    attachment: &attachment.name,
                    connector: &attachment.connector,
                    labels: connector.map(|meta| meta.labels.as_ref().unwrap_or(&NO_LABELS)),
                }
            })
            .collect();
        (whole || !members.is_empty()).then_some(Self {
            policy: &policy.name,
            whole,
            members,
        })
    }

    /// The attachments that a rule is about. Of a connector that cannot be read at present, it is
    /// about those that it was about before (`old`): a Deny by label must not open meanwhile.
    fn attachments(&self, rule: &CheckedRule, old: &[Rule]) -> AttachmentSet {
        let Some((names, selector)) = &rule.connectors else {
            if self.whole {
                return AttachmentSet::All;
            }
            return self.some(|_| true);
        };
        let old = old
            .iter()
            .find(|old| old.policy == *self.policy && old.name == rule.name);
        let before = |member: &Member<'_>| match old.map(|old| &old.attachments) {
            Some(AttachmentSet::All) => true,
            Some(AttachmentSet::Some(names)) => names.binary_search(member.attachment).is_ok(),
            None => false,
        };
        self.some(|member| {
            let by_label = || match (selector, member.labels) {
                (None, _) => false,
                (Some(selector), Some(labels)) => labels::matches(selector, labels),
                (Some(_), None) => before(member),
            };
            names.iter().any(|name| name == member.connector) || by_label()
        })
    }

    fn some(&self, matches: impl Fn(&Member<'_>) -> bool) -> AttachmentSet {
        let members = self.members.iter().filter(|member| matches(member));
        AttachmentSet::Some(members.map(|member| member.attachment.clone()).collect())
    }
}

/// A rule about prefixes that the ingress point does not offer has no effect there.
fn warn_outside(policy: &CheckedPolicy, snapshot: &Snapshot, report: &mut Report<'_>) {
    for rule in &policy.rules {
        for (i, matched) in rule.prefixes.iter().enumerate() {
            let prefix = std::slice::from_ref(&matched.prefix);
            if prefixes::intersect(&snapshot.routes, prefix).is_empty() {
                let field = format!("spec.rules[{}].prefixes[{i}].cidr", rule.index);
                let message = format_args!(
                    "{} is not in the routes of {}",
                    matched.prefix, snapshot.ingress_point
                );
                let hint = "the rule has no effect there; add the route, or remove the prefix";
                report.warn(&field, Reason::RouteOutsideVPC, message, hint);
            }
        }
    }
}
