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
        sources.sort_by_key(|sourced| sourced.precedence());
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
            for (i, kind, target) in &policy.targets {
                let (word, known) = match kind {
                    PolicyTargetKind::VPCIngressPoint => ("VPCIngressPoint", &points),
                    PolicyTargetKind::ConnectorAttachment => ("ConnectorAttachment", &attachments),
                };
                let retained =
                    *kind == PolicyTargetKind::VPCIngressPoint && drafts.contains_key(target);
                if !known.contains(target) && !retained {
                    let hint = connectors::meant(target, known.iter(), "correct the name");
                    let field = format!("spec.targetRefs[{i}].name");
                    let message = format_args!("there is no {word} {target}");
                    report.warn(&field, Reason::TargetNotFound, message, hint);
                }
            }
            check_connectors(&policy, &connectors, &mut report);
            for (point, draft) in drafts.iter_mut() {
                let total = names.entry(point.clone()).or_default();
                add(
                    &policy,
                    &connectors,
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

    /// The rules of a policy that cannot be read now stay as they were: leaving out a Deny would
    /// open what it closed.
    fn retain_rules(&self, refused: &BTreeSet<ObjectName>, drafts: &mut Drafts) {
        for (point, draft) in drafts {
            let old = self.previous.get(point).map_or(&[][..], |old| &old.rules);
            for rule in old {
                let there = self
                    .resources
                    .policies
                    .iter()
                    .any(|s| s.name() == rule.policy);
                let keep = refused.contains(&rule.policy)
                    || !there && self.unread(Kind::VPCAccessPolicy, &rule.policy);
                if keep && draft.snapshot.rules.len() < MAX_RULES {
                    draft.snapshot.rules.push(rule.clone());
                }
            }
        }
    }
}

/// Names of connectors that do not exist match nothing, which is rarely meant.
fn check_connectors(policy: &CheckedPolicy, connectors: &Connectors<'_>, report: &mut Report<'_>) {
    for rule in &policy.rules {
        let names = rule.connectors.as_ref().map_or(&[][..], |(names, _)| names);
        for (i, name) in names.iter().enumerate() {
            let name = ObjectName::new(&policy.name.namespace, name);
            if !connectors.contains_key(&name) {
                let field = format!("spec.rules[{}].connectors.names[{i}]", rule.index);
                let message = format_args!("there is no Connector {name}");
                let hint = connectors::meant(&name, connectors.keys(), "correct the name");
                report.warn(&field, Reason::ConnectorNotFound, message, hint);
            }
        }
    }
}

/// Adds the policy's rules to a snapshot that it targets.
fn add(
    policy: &CheckedPolicy,
    connectors: &Connectors<'_>,
    snapshot: &mut Snapshot,
    total_names: &mut usize,
    report: &mut Report<'_>,
) {
    let whole = policy.targets.iter().any(|(_, kind, name)| {
        *kind == PolicyTargetKind::VPCIngressPoint && *name == snapshot.ingress_point
    });
    let single: BTreeSet<_> = policy
        .targets
        .iter()
        .filter(|(_, kind, _)| *kind == PolicyTargetKind::ConnectorAttachment)
        .map(|(_, _, name)| name)
        .collect();
    let targeted = whole
        || snapshot
            .attachments
            .iter()
            .any(|a| single.contains(&a.name));
    if !targeted {
        return;
    }
    let rules: Vec<_> = policy
        .rules
        .iter()
        .map(|rule| Rule {
            policy: policy.name.clone(),
            name: rule.name.clone(),
            mode: policy.mode,
            action: rule.action,
            direction: rule.direction,
            attachments: attachment_set(rule, policy, whole, &single, connectors, snapshot),
            prefixes: rule.prefixes.clone(),
            ports: rule.ports.clone(),
            not_after_unix_s: rule.not_after_unix_s,
        })
        .collect();
    let names: usize = rules.iter().map(|rule| set_size(&rule.attachments)).sum();
    if snapshot.rules.len() + rules.len() > MAX_RULES || *total_names + names > MAX_RULE_ATTACHMENTS
    {
        let message = format_args!(
            "{} would have more than {MAX_RULES} rules, or {MAX_RULE_ATTACHMENTS} names in them",
            snapshot.ingress_point
        );
        let hint = "use fewer rules, or selectors that cover every attachment";
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

fn attachment_set(
    rule: &CheckedRule,
    policy: &CheckedPolicy,
    whole: bool,
    single: &BTreeSet<&ObjectName>,
    connectors: &Connectors<'_>,
    snapshot: &Snapshot,
) -> AttachmentSet {
    if whole && rule.connectors.is_none() {
        return AttachmentSet::All;
    }
    let matches = |name: &ObjectName| match &rule.connectors {
        None => true,
        Some((names, selector)) => {
            let labels = connectors
                .get(name)
                .map(|connector| connector.object.metadata.labels.clone().unwrap_or_default());
            names.contains(&name.name)
                || labels
                    .zip(selector.as_ref())
                    .is_some_and(|(l, s)| labels::matches(s, &l))
        }
    };
    // Attachments are sorted by name already, and so is the set.
    let attachments = snapshot.attachments.iter().filter(|attachment| {
        let connector = ObjectName::new(&policy.name.namespace, &attachment.connector);
        let here = attachment.name.namespace == policy.name.namespace;
        here && (whole || single.contains(&attachment.name)) && matches(&connector)
    });
    AttachmentSet::Some(
        attachments
            .map(|attachment| attachment.name.clone())
            .collect(),
    )
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
