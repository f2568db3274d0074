//! The status of a ConnectorAttachment.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use masque_api::{
    AttachmentPhase, AttachmentSession, ConditionType, ConnectorAttachment,
    ConnectorAttachmentStatus, Reason,
};
use masque_model::Attachment;

use super::{
    PointState,
    conditions::{Conditions, Verdict, fails, verdict},
    pods::programmed,
};
use crate::{
    Problem,
    ipam::{AssignOutcome, AssignState},
    resources::object_name,
};

/// Digits of a connector's key that a message shows.
const KEY_DIGITS: usize = 8;

/// The status of an attachment, without its addresses (see [the module](crate::status)).
///
/// `problems` and `outcomes` are those about it, `points` the ingress points of its VPC in its
/// namespace, and `sessions` its own of [`sessions`](super::sessions).
pub fn attachment_status(
    attachment: &ConnectorAttachment,
    problems: &[&Problem],
    outcomes: &[&AssignOutcome],
    points: &[PointState<'_>],
    sessions: &[AttachmentSession],
    now: Timestamp,
) -> ConnectorAttachmentStatus {
    let generation = attachment.metadata.generation;
    let former = attachment.status.as_ref();
    let was = former.map_or(&[][..], |status| &status.conditions);
    let mut conditions = Conditions::new(was, generation, now);

    let suspended = attachment.spec.suspend;
    let mut accepted = verdict(problems, ConditionType::Accepted, Reason::Accepted);
    if !accepted.good && !fails(problems, ConditionType::Accepted) {
        accepted = Verdict::good(Reason::Accepted, accepted.message);
    }
    if accepted.good && suspended {
        let message = "spec.suspend is set: no session may be open, addresses are kept";
        accepted = Verdict::bad(Reason::Suspended, message);
    }
    let refs = verdict(problems, ConditionType::ResolvedRefs, Reason::ResolvedRefs);
    let rejected =
        fails(problems, ConditionType::Accepted) || fails(problems, ConditionType::ResolvedRefs);
    let first = if accepted.good { &refs } else { &accepted };
    let programmed = match rejected {
        true => Verdict::bad(first.reason, "this generation is not in force"),
        false => programmed_here(attachment, problems, outcomes, points, &conditions),
    };
    let connected = match sessions.is_empty() {
        true => Verdict::bad(Reason::NoSession, "no session is open"),
        false => Verdict::good(Reason::SessionEstablished, ""),
    };
    conditions.set(ConditionType::Accepted, &accepted);
    conditions.set(ConditionType::ResolvedRefs, &refs);
    conditions.set(ConditionType::Programmed, &programmed);
    conditions.set(ConditionType::Connected, &connected);
    let blocked = rejected || suspended;
    let blocking = if blocked {
        Some(first)
    } else {
        (!programmed.good).then_some(&programmed)
    };
    let refused = matches!(
        programmed.reason,
        Reason::AddressUnavailable | Reason::PoolExhausted | Reason::SnapshotTooLarge
    ) && !programmed.good;
    conditions.summarize(blocking, rejected || refused || suspended);

    let last_connected_time = last_connected(former, sessions, now);
    let phase = match () {
        () if suspended && !rejected => AttachmentPhase::Suspended,
        () if rejected || refused => AttachmentPhase::Rejected,
        () if connected.good => AttachmentPhase::Connected,
        () if !programmed.good => AttachmentPhase::Pending,
        () if last_connected_time.is_some() => AttachmentPhase::Disconnected,
        () => AttachmentPhase::Ready,
    };
    ConnectorAttachmentStatus {
        observed_generation: generation,
        phase: Some(phase),
        sessions: sessions.iter().take(super::MAX_SESSIONS).cloned().collect(),
        last_connected_time,
        conditions: conditions.finish(),
        ..ConnectorAttachmentStatus::default()
    }
}

fn programmed_here(
    attachment: &ConnectorAttachment,
    problems: &[&Problem],
    outcomes: &[&AssignOutcome],
    points: &[PointState<'_>],
    conditions: &Conditions<'_>,
) -> Verdict {
    let errors: Vec<_> = problems
        .iter()
        .filter(|problem| problem.is_error())
        .copied()
        .collect();
    let own = verdict(&errors, ConditionType::Programmed, Reason::Programmed);
    if !own.good {
        return own;
    }
    let refusal = outcomes.iter().find_map(|outcome| match &outcome.state {
        AssignState::Refused(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(refusal) = refusal {
        return Verdict::bad(refusal.reason, &*refusal.message);
    }
    let name = object_name(attachment);
    let there: Vec<(&PointState<'_>, &Attachment)> = points
        .iter()
        .filter_map(|point| {
            let list = &point.snapshot.attachments;
            let found = list
                .binary_search_by(|attachment| attachment.name.cmp(&name))
                .ok()?;
            Some((point, &list[found]))
        })
        .collect();
    if there.is_empty() {
        return Verdict::bad(Reason::Pending, "its addresses are being stored");
    }
    let texts = there
        .iter()
        .flat_map(|(_, attachment)| &attachment.addresses);
    let texts: Vec<_> = texts.map(ToString::to_string).collect();
    // A new key is not in force before pods acknowledged it: see below.
    let key: String = there[0]
        .1
        .key
        .to_string()
        .chars()
        .take(KEY_DIGITS)
        .collect();
    let mut message = format!("gateways expect key {key}... with {}", texts.join(", "));
    for outcome in outcomes {
        if let AssignState::Partly(_, refusal) = &outcome.state {
            message = format!("{message}. {}", refusal.message);
        }
    }
    let good = Verdict::good(Reason::Programmed, message);
    let bad = there
        .iter()
        .map(|(point, _)| programmed(point.snapshot, point.pods));
    match bad.into_iter().find(|verdict| !verdict.good) {
        // Every edit makes a new Snapshot. Those whom it does not concern were programmed before
        // and stay so, or each edit would be written to the status of every attachment.
        Some(bad) if waits(bad.reason) && conditions.was(ConditionType::Programmed, &good) => good,
        Some(bad) => bad,
        None => good,
    }
}

/// Whether pods still run the Snapshot before.
pub(super) fn waits(reason: Reason) -> bool {
    matches!(reason, Reason::WaitingForAck | Reason::RejectedByGateway)
}

/// When a session was last open: while one is, when the newest began.
fn last_connected(
    former: Option<&ConnectorAttachmentStatus>,
    sessions: &[AttachmentSession],
    now: Timestamp,
) -> Option<Time> {
    if let Some(newest) = sessions.iter().max_by_key(|session| session.since.0) {
        return Some(newest.since.clone());
    }
    let former = former?;
    let just_ended = !former.sessions.is_empty();
    if just_ended {
        Some(Time(now))
    } else {
        former.last_connected_time.clone()
    }
}
