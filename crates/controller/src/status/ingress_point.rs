//! The status of a VPCIngressPoint.

use k8s_openapi::jiff::Timestamp;
use masque_api::{
    AttachmentCounts, ConditionType, Reason, SnapshotStatus, VPCIngressPoint, VPCIngressPointStatus,
};
use masque_model::Snapshot;

use super::{
    Observed,
    conditions::{Conditions, Verdict, fails, verdict},
    connected, endpoint,
    pods::{programmed, refused, trouble_of},
    pools,
};
use crate::{
    Problem,
    children::{selector_text, wanted_replicas},
};

/// The status of an ingress point.
///
/// `problems` are those about it, `snapshot` the one in force (published), and the former status is
/// read from `point`.
pub fn ingress_point_status(
    point: &VPCIngressPoint,
    problems: &[&Problem],
    snapshot: Option<&Snapshot>,
    observed: &Observed,
    now: Timestamp,
) -> VPCIngressPointStatus {
    let name = point.metadata.name.as_deref().unwrap_or_default();
    let generation = point.metadata.generation;
    let former = point
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions);
    let addresses = endpoint::addresses(observed);
    let acked = |snapshot: &Snapshot| {
        let acked = observed.pods.iter().filter(|pod| {
            pod.ready && !pod.terminating && pod.acked_version == Some(snapshot.version)
        });
        count(acked.count())
    };
    VPCIngressPointStatus {
        observed_generation: generation,
        endpoints: endpoint::endpoints(point, observed, &addresses),
        addresses,
        replicas: Some(observed.replicas),
        ready_replicas: Some(observed.ready_replicas),
        selector: Some(selector_text(name)),
        snapshot: snapshot.map(|snapshot| SnapshotStatus {
            version: i64::try_from(snapshot.version).unwrap_or(i64::MAX),
            hash: observed.snapshot_hash.clone().unwrap_or_default(),
            acked: acked(snapshot),
        }),
        attachments: snapshot.map(|snapshot| AttachmentCounts {
            accepted: count(snapshot.attachments.len()),
            connected: count(connected(snapshot, &observed.pods)),
        }),
        pools: snapshot.map(pools::usage).unwrap_or_default(),
        conditions: {
            let mut conditions = Conditions::new(former, generation, now);
            judge(point, problems, snapshot, observed, &mut conditions);
            conditions.finish()
        },
    }
}

fn judge(
    point: &VPCIngressPoint,
    problems: &[&Problem],
    snapshot: Option<&Snapshot>,
    observed: &Observed,
    conditions: &mut Conditions<'_>,
) {
    let mut accepted = verdict(problems, ConditionType::Accepted, Reason::Accepted);
    // A warning about the spec does not keep it from being in force.
    if !accepted.good && !fails(problems, ConditionType::Accepted) {
        accepted = Verdict::good(Reason::Accepted, accepted.message);
    }
    if !accepted.good && snapshot.is_some() {
        accepted.message += ". The gateways go on with the spec before";
    }
    let refs = verdict(problems, ConditionType::ResolvedRefs, Reason::ResolvedRefs);
    let refs_fail = fails(problems, ConditionType::ResolvedRefs);
    let first = if accepted.good { &refs } else { &accepted };
    let blocked = !accepted.good || refs_fail;
    let programmed = programmed_here(
        point,
        problems,
        snapshot,
        observed,
        blocked.then_some(first),
    );
    let mut fabric = verdict(problems, ConditionType::FabricReady, Reason::FabricReady);
    if fabric.good {
        fabric.message = "the SIDs are those of spec.fabric.static".to_owned();
    }
    conditions.set(ConditionType::Accepted, &accepted);
    conditions.set(ConditionType::ResolvedRefs, &refs);
    conditions.set(ConditionType::FabricReady, &fabric);
    conditions.set(ConditionType::Programmed, &programmed);
    if let Some(draining) = draining(observed) {
        conditions.set(ConditionType::Draining, &draining);
    }
    if let Some(degraded) = degraded(point, observed) {
        conditions.set(ConditionType::Degraded, &degraded);
    }
    let blocking = match blocked {
        true => Some(first),
        false => [&programmed, &fabric]
            .into_iter()
            .find(|verdict| !verdict.good),
    };
    let stalled = blocked
        || matches!(
            programmed.reason,
            Reason::SnapshotTooLarge
                | Reason::PodSecurityForbidden
                | Reason::FailedCreate
                | Reason::RejectedByGateway
        );
    conditions.summarize(blocking, stalled);
}

fn programmed_here(
    point: &VPCIngressPoint,
    problems: &[&Problem],
    snapshot: Option<&Snapshot>,
    observed: &Observed,
    blocked: Option<&Verdict>,
) -> Verdict {
    if let Some(blocked) = blocked {
        return Verdict::bad(blocked.reason, "this generation is not in force");
    }
    let large: Vec<_> = problems
        .iter()
        .filter(|problem| problem.reason == Reason::SnapshotTooLarge || problem.is_error())
        .copied()
        .collect();
    let own = verdict(&large, ConditionType::Programmed, Reason::Programmed);
    if !own.good {
        return own;
    }
    let Some(snapshot) = snapshot else {
        return Verdict::bad(Reason::Pending, "no Snapshot was made of it yet");
    };
    let by_pods = programmed(snapshot, &observed.pods);
    if point.spec.replicas == Some(0) && by_pods.reason == Reason::WaitingForPods {
        return Verdict::bad(by_pods.reason, "spec.replicas is 0: no gateway runs");
    }
    match &observed.failed_create {
        Some(message) if by_pods.reason == Reason::WaitingForPods => refused(message),
        _ => by_pods,
    }
}

fn draining(observed: &Observed) -> Option<Verdict> {
    let names = observed.pods.iter().filter(|pod| pod.terminating);
    let names: Vec<_> = names.map(|pod| pod.pod.as_str()).collect();
    let message = format!("{} moves its sessions away", names.join(", "));
    (!names.is_empty()).then(|| Verdict::good(Reason::Draining, message))
}

/// Fewer pods than were asked for, and why, as far as it is known.
fn degraded(point: &VPCIngressPoint, observed: &Observed) -> Option<Verdict> {
    let wanted = wanted_replicas(point);
    if let Some(message) = &observed.failed_create {
        let refused = refused(message);
        return Some(Verdict::good(refused.reason, refused.message));
    }
    if let Some(trouble) = trouble_of(&observed.pods) {
        return Some(Verdict::good(trouble.reason, &*trouble.message));
    }
    (observed.ready_replicas < wanted).then(|| {
        let ready = observed.ready_replicas;
        let message = format!("{ready} of {wanted} gateway pods are ready");
        Verdict::good(Reason::PodsNotReady, message)
    })
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}
