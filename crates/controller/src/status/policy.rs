//! The status of a VPCAccessPolicy.

use k8s_openapi::jiff::Timestamp;
use masque_api::{
    ConditionType, PolicyAncestorRef, PolicyAncestorStatus, PolicyTargetKind, PolicyTargetRef,
    Reason, VPCAccessPolicy, VPCAccessPolicyStatus,
};
use masque_model::ObjectName;

use super::{
    PointState,
    attachment::waits,
    conditions::{Conditions, Verdict, fails, verdict},
    pods::programmed,
};
use crate::{Problem, resources::object_name};

/// Who writes our entries in a policy's status.
pub const CONTROLLER_NAME: &str = "networking.datumapis.com/masque-gateway";

/// Entries of a policy's status (as in Gateway API).
const MAX_ANCESTORS: usize = 16;

/// The status of a policy: one entry per target. Entries of other controllers stay as they are.
///
/// `problems` are those about it, and `points` the ingress points of its namespace.
pub fn policy_status(
    policy: &VPCAccessPolicy,
    problems: &[&Problem],
    points: &[PointState<'_>],
    now: Timestamp,
) -> VPCAccessPolicyStatus {
    let former = policy
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.ancestors);
    let foreign = former
        .iter()
        .filter(|entry| entry.controller_name != CONTROLLER_NAME);
    let mut ancestors: Vec<_> = foreign.cloned().collect();
    for (i, target) in policy.spec.target_refs.iter().enumerate() {
        if ancestors.len() >= MAX_ANCESTORS {
            break;
        }
        let ancestor_ref = ancestor_ref(target);
        let was = former.iter().find(|entry| {
            entry.controller_name == CONTROLLER_NAME && entry.ancestor_ref == ancestor_ref
        });
        let was = was.map_or(&[][..], |entry| &entry.conditions);
        let mut conditions = Conditions::new(was, policy.metadata.generation, now);
        judge(policy, i, problems, points, &mut conditions);
        ancestors.push(PolicyAncestorStatus {
            ancestor_ref,
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: conditions.finish(),
        });
    }
    VPCAccessPolicyStatus { ancestors }
}

fn ancestor_ref(target: &PolicyTargetRef) -> PolicyAncestorRef {
    let kind = match target.kind {
        PolicyTargetKind::VPCIngressPoint => "VPCIngressPoint",
        PolicyTargetKind::ConnectorAttachment => "ConnectorAttachment",
    };
    PolicyAncestorRef {
        group: target.group.clone(),
        kind: kind.to_owned(),
        name: target.name.clone(),
    }
}

fn judge(
    policy: &VPCAccessPolicy,
    target: usize,
    problems: &[&Problem],
    points: &[PointState<'_>],
    conditions: &mut Conditions<'_>,
) {
    let field = format!("spec.targetRefs[{target}]");
    let about = |problem: &&&Problem| {
        !problem.field.starts_with("spec.targetRefs[") || problem.field.starts_with(&field)
    };
    let problems: Vec<&Problem> = problems.iter().filter(about).copied().collect();
    let mut accepted = verdict(&problems, ConditionType::Accepted, Reason::Accepted);
    if !accepted.good && !fails(&problems, ConditionType::Accepted) {
        accepted = Verdict::good(Reason::Accepted, accepted.message);
    }
    let refs = verdict(&problems, ConditionType::ResolvedRefs, Reason::ResolvedRefs);
    let programmed = if accepted.good {
        programmed_here(policy, target, &problems, points, conditions)
    } else {
        Verdict::bad(accepted.reason, "this generation is not in force")
    };
    conditions.set(ConditionType::Accepted, &accepted);
    conditions.set(ConditionType::ResolvedRefs, &refs);
    conditions.set(ConditionType::Programmed, &programmed);
}

fn programmed_here(
    policy: &VPCAccessPolicy,
    target: usize,
    problems: &[&Problem],
    points: &[PointState<'_>],
    conditions: &Conditions<'_>,
) -> Verdict {
    let own = verdict(problems, ConditionType::Programmed, Reason::Programmed);
    if fails(problems, ConditionType::Programmed) {
        return own;
    }
    let target = &policy.spec.target_refs[target];
    let name = ObjectName::new(object_name(policy).namespace, &target.name);
    let concerned: Vec<_> = points
        .iter()
        .filter(|point| match target.kind {
            PolicyTargetKind::VPCIngressPoint => point.snapshot.ingress_point == name,
            PolicyTargetKind::ConnectorAttachment => {
                let list = &point.snapshot.attachments;
                list.binary_search_by(|attachment| attachment.name.cmp(&name))
                    .is_ok()
            }
        })
        .collect();
    if concerned.is_empty() {
        let missing = problems
            .iter()
            .find(|problem| problem.reason == Reason::TargetNotFound);
        return match missing {
            Some(problem) => Verdict::bad(problem.reason, &*problem.message),
            None => Verdict::bad(Reason::Pending, "the target itself is not in force yet"),
        };
    }
    // A rule about prefixes outside the VPC has no effect, which is worth saying.
    let message = match own.good {
        true => "every ready gateway pod runs it".to_owned(),
        false => own.message,
    };
    let good = Verdict::good(Reason::Programmed, message);
    let verdicts = concerned
        .into_iter()
        .map(|point| programmed(point.snapshot, point.pods));
    match verdicts.into_iter().find(|verdict| !verdict.good) {
        // As with attachments: an edit of something else does not concern this policy.
        Some(bad) if waits(bad.reason) && conditions.was(ConditionType::Programmed, &good) => good,
        Some(bad) => bad,
        None => good,
    }
}
