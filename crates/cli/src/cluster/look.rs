//! What the conditions of an attachment mean to somebody who waits for it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use masque_api::{ConditionType, Reason};

use super::{
    choose::{Endpoint, endpoint},
    objects::{Admission, Point, admission_conditions, condition, holds, name, point_conditions},
};
use crate::failure::{Exit, Failure};

/// Reasons that say that something is missing which was seen or made a moment ago: the operator has
/// not looked again yet.
const OUTDATED: [Reason; 4] = [
    Reason::ConnectorNotFound,
    Reason::ConnectorKeyMissing,
    Reason::ConnectorKeyMalformed,
    Reason::NoIngressPoint,
];

/// Reasons that are somebody's decision.
const DECIDED: [Reason; 3] = [
    Reason::Suspended,
    Reason::NotAllowedByIngressPoint,
    Reason::RefNotPermitted,
];

/// How far it is.
#[derive(Debug)]
pub(crate) enum Look {
    /// Gateways expect this machine, here.
    Ready(Endpoint),
    /// Not yet: what it waits for, in words.
    Waiting(String),
    /// It waits for nothing: somebody has to change something.
    Over(Failure),
}

/// Looks at an attachment and the point that it goes through. Without `need_address` the gateway was
/// named otherwise.
pub(crate) fn look(point: &Point, admission: &Admission, need_address: bool) -> Look {
    let conditions = admission_conditions(admission);
    let admitted = holds(&admission.metadata, conditions, ConditionType::Ready);
    let endpoint = match endpoint(point) {
        Ok(endpoint) => endpoint,
        Err(failure) => return Look::Over(failure),
    };
    if admitted && (endpoint.gateway.is_some() || !need_address) {
        return Look::Ready(endpoint);
    }
    if let Some(failure) = stalled("VPCIngressPoint", &point.metadata, point_conditions(point)) {
        return Look::Over(failure);
    }
    if let Some(failure) = stalled("ConnectorAttachment", &admission.metadata, conditions) {
        return Look::Over(failure);
    }
    if admitted {
        let name = name(&point.metadata);
        return Look::Waiting(format!("VPCIngressPoint {name} has no address yet"));
    }
    let name = name(&admission.metadata);
    let words = match condition(&admission.metadata, conditions, ConditionType::Ready) {
        Some(ready) => words(ready),
        // Until then conditions say what the definition fills in.
        None if conditions.iter().all(|c| c.observed_generation.is_none()) => {
            "no operator has looked at it yet".to_owned()
        }
        None => "the operator has not seen the last change yet".to_owned(),
    };
    Look::Waiting(format!("ConnectorAttachment {name}: {words}"))
}

/// A condition as a sentence.
fn words(condition: &Condition) -> String {
    match condition.message.as_str() {
        "" => condition.reason.clone(),
        message => format!("{}: {message}", condition.reason),
    }
}

/// Why nothing more happens (kstatus), unless that is outdated.
fn stalled(kind: &str, metadata: &ObjectMeta, conditions: &[Condition]) -> Option<Failure> {
    let stalled = condition(metadata, conditions, ConditionType::Stalled)?;
    let is = |reason: &Reason| stalled.reason == reason.as_str();
    if stalled.status != "True" || OUTDATED.iter().any(is) {
        return None;
    }
    let exit = match () {
        () if DECIDED.iter().any(is) => Exit::NoPermission,
        () if is(&Reason::PoolExhausted) => Exit::TemporaryFailure,
        () => Exit::Config,
    };
    Some(Failure::new(
        exit,
        format!("{kind} {}: {}", name(metadata), words(stalled)),
        format!(
            "what to do about {} is in docs/kubernetes/failures.md",
            stalled.reason
        ),
    ))
}

#[cfg(test)]
mod tests;
