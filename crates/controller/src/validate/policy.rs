//! VPCAccessPolicy by itself.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use masque_api::{
    ConnectorMatch, GROUP, PolicyMode, PolicyPort, PolicyRule, PolicyTargetKind, PortProtocol,
    ProtocolName, Reason, RuleAction, RuleDirection, VPCAccessPolicy,
};
use masque_model::{Action, Direction, Mode, ObjectName, PortMatch, PrefixMatch, ProtocolMatch};

use super::{Report, net};
use crate::{Sourced, labels, prefixes};

/// IANA numbers of the protocols with ports.
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// A policy that makes sense by itself.
#[derive(Clone, Debug)]
pub(crate) struct CheckedPolicy {
    pub(crate) name: ObjectName,
    /// Its targets, with the index of each in the manifest.
    pub(crate) targets: Vec<(usize, PolicyTargetKind, ObjectName)>,
    pub(crate) mode: Mode,
    /// Sorted by name.
    pub(crate) rules: Vec<CheckedRule>,
}

/// A rule of such a policy.
#[derive(Clone, Debug)]
pub(crate) struct CheckedRule {
    /// The rule's index in the manifest.
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) action: Action,
    pub(crate) direction: Direction,
    /// `None` means every attachment of the targets.
    pub(crate) connectors: Option<(Vec<String>, Option<LabelSelector>)>,
    pub(crate) prefixes: Vec<PrefixMatch>,
    pub(crate) ports: Vec<PortMatch>,
    pub(crate) not_after_unix_s: Option<u64>,
}

/// Checks a policy by itself. `None` when it cannot be in force.
pub(crate) fn policy(
    sourced: &Sourced<VPCAccessPolicy>,
    now_unix_s: u64,
    report: &mut Report<'_>,
) -> Option<CheckedPolicy> {
    let name = sourced.name();
    let spec = &sourced.object.spec;
    let mut targets = Vec::new();
    for (i, target) in spec.target_refs.iter().enumerate() {
        if target.group != GROUP {
            let field = format!("spec.targetRefs[{i}].group");
            report.invalid(
                &field,
                format_args!("{:?} is another group", target.group),
                GROUP,
            );
        }
        targets.push((
            i,
            target.kind,
            ObjectName::new(&name.namespace, &target.name),
        ));
    }
    if targets.is_empty() {
        let hint = "name a VPCIngressPoint or a ConnectorAttachment";
        report.invalid("spec.targetRefs", "there is no target", hint);
    }
    let mut rules: Vec<CheckedRule> = Vec::new();
    let mut names = BTreeSet::new();
    for (i, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        if !names.insert(&rule.name) {
            let message = format_args!("{:?} is there twice", rule.name);
            report.invalid(&format!("{field}.name"), message, "give it another name");
        }
        rules.push(check_rule(i, rule, &field, now_unix_s, report));
    }
    if report.failed() {
        return None;
    }
    rules.sort_by(|a, b| a.name.cmp(&b.name));
    let mode = match spec.mode {
        PolicyMode::Enforce => Mode::Enforce,
        PolicyMode::Audit => Mode::Audit,
    };
    Some(CheckedPolicy {
        name,
        targets,
        mode,
        rules,
    })
}

fn check_rule(
    index: usize,
    rule: &PolicyRule,
    field: &str,
    now_unix_s: u64,
    report: &mut Report<'_>,
) -> CheckedRule {
    let ports = rule.ports.iter().enumerate();
    CheckedRule {
        index,
        name: rule.name.clone(),
        action: match rule.action {
            RuleAction::Allow => Action::Allow,
            RuleAction::Deny => Action::Deny,
        },
        direction: match rule.direction {
            RuleDirection::ToVPC => Direction::ToVpc,
            RuleDirection::FromVPC => Direction::FromVpc,
        },
        connectors: connectors(rule.connectors.as_ref(), field, report),
        prefixes: prefix_matches(rule, field, report),
        ports: ports
            .map(|(i, port)| port_match(port, &format!("{field}.ports[{i}]"), report))
            .collect(),
        not_after_unix_s: not_after(rule, field, now_unix_s, report),
    }
}

/// An empty match is no restriction, as in the schema's words.
fn connectors(
    connectors: Option<&ConnectorMatch>,
    field: &str,
    report: &mut Report<'_>,
) -> Option<(Vec<String>, Option<LabelSelector>)> {
    let connectors = connectors?;
    if let Some(Err((below, message))) = connectors.selector.as_ref().map(labels::check) {
        let hint = "operators are In and NotIn with values, Exists and DoesNotExist without";
        report.invalid(
            &format!("{field}.connectors.selector.{below}"),
            message,
            hint,
        );
    }
    let empty = connectors.names.is_empty() && connectors.selector.is_none();
    (!empty).then(|| (connectors.names.clone(), connectors.selector.clone()))
}

fn prefix_matches(rule: &PolicyRule, field: &str, report: &mut Report<'_>) -> Vec<PrefixMatch> {
    let mut matches = Vec::new();
    for (i, prefix) in rule.prefixes.iter().enumerate() {
        let field = format!("{field}.prefixes[{i}]");
        let except = net::prefixes(&prefix.except, &format!("{field}.except"), report);
        let Some(cidr) = net::prefix(&prefix.cidr, &format!("{field}.cidr"), report) else {
            continue;
        };
        for (j, hole) in except.iter().enumerate() {
            if !prefixes::contains(&cidr, hole) {
                let message = format_args!("{hole} is not inside {cidr}");
                report.invalid(&format!("{field}.except[{j}]"), message, "remove it");
            }
        }
        matches.push(PrefixMatch {
            prefix: cidr,
            except: prefixes::normalize(&except),
        });
    }
    matches
}

fn port_match(port: &PolicyPort, field: &str, report: &mut Report<'_>) -> PortMatch {
    let protocol = match port.protocol {
        PortProtocol::Name(ProtocolName::TCP) => ProtocolMatch::Number(TCP),
        PortProtocol::Name(ProtocolName::UDP) => ProtocolMatch::Number(UDP),
        PortProtocol::Name(ProtocolName::SCTP) => ProtocolMatch::Number(SCTP),
        PortProtocol::Name(ProtocolName::ICMP) => ProtocolMatch::Icmp,
        PortProtocol::Name(ProtocolName::Any) => ProtocolMatch::Any,
        PortProtocol::Number(number) => ProtocolMatch::Number(number),
    };
    let has_ports = matches!(protocol, ProtocolMatch::Number(TCP | UDP | SCTP));
    if port.port.is_some() && !has_ports {
        let message = "only TCP, UDP and SCTP have ports";
        report.invalid(&format!("{field}.port"), message, "remove it");
    }
    if port.port == Some(0) || port.end_port == Some(0) {
        report.invalid(field, "0 is not a port", "leave port out for all ports");
    }
    let ports = match (port.port, port.end_port) {
        (None, Some(_)) => {
            let message = "endPort needs port";
            report.invalid(&format!("{field}.endPort"), message, "add the first port");
            None
        }
        (Some(first), Some(last)) if last < first => {
            let message = format_args!("{last} is less than port {first}");
            report.invalid(&format!("{field}.endPort"), message, "swap them");
            None
        }
        (first, last) => first.map(|first| (first, last.unwrap_or(first))),
    };
    PortMatch { protocol, ports }
}

fn not_after(
    rule: &PolicyRule,
    field: &str,
    now_unix_s: u64,
    report: &mut Report<'_>,
) -> Option<u64> {
    let time = rule.not_after.as_ref()?;
    // A time before 1970 is over in any case.
    let unix_s = u64::try_from(time.0.as_second()).unwrap_or(0);
    if unix_s <= now_unix_s {
        let message = format_args!("the rule ended at {}", time.0);
        let hint = "remove the rule, or give it a later time";
        report.warn(
            &format!("{field}.notAfter"),
            Reason::Accepted,
            message,
            hint,
        );
    }
    Some(unix_s)
}
