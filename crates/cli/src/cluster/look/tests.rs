use serde_json::{Value, json};

use super::*;
use crate::cluster::objects::tests::{admission_of, point_of};

const TIME: &str = "2026-01-01T00:00:00Z";

fn condition_of(type_: &str, status: &str, reason: &str, message: &str, generation: i64) -> Value {
    json!({
        "type": type_, "status": status, "reason": reason, "message": message,
        "observedGeneration": generation, "lastTransitionTime": TIME,
    })
}

/// The conditions of something that waits or, when stalled, does not.
fn blocked(reason: &str, stalled: bool) -> Value {
    let more = if stalled { "Stalled" } else { "Reconciling" };
    json!([
        condition_of("Ready", "False", reason, "because", 2),
        condition_of(more, "True", reason, "because", 2),
    ])
}

fn ready() -> Value {
    json!([condition_of("Ready", "True", "Ready", "", 2)])
}

fn point(conditions: &Value, uri: Option<&str>) -> Point {
    point_of(json!({
        "metadata": {"name": "edge", "generation": 2},
        "spec": {"vpcRef": {"name": "prod"}, "listeners": [{"name": "quic"}]},
        "status": {
            "conditions": conditions,
            "endpoints": [{"listener": "quic", "uri": uri}],
        },
    }))
}

fn admission(conditions: &Value) -> Admission {
    admission_of(json!({
        "metadata": {"name": "laptop", "generation": 2},
        "spec": {"connectorRef": {"name": "laptop"}, "vpcRef": {"name": "prod"}},
        "status": {"conditions": conditions},
    }))
}

/// Ready, the words of what it waits for, or exit status and words of its end.
fn seen(
    point: &Point,
    admission: &Admission,
    need_address: bool,
) -> Result<String, (Exit, String)> {
    match look(point, admission, need_address) {
        Look::Ready(endpoint) => Ok(format!("ready {:?}", endpoint.gateway.map(|g| g.port()))),
        Look::Waiting(what) => Ok(what),
        Look::Over(failure) => Err((failure.exit, failure.to_string())),
    }
}

const URI: Option<&str> = Some("https://192.0.2.1:4433/{target}/{ipproto}/");

#[test]
fn ready_needs_an_address_to_dial() {
    let admitted = admission(&ready());
    assert_eq!(
        seen(&point(&ready(), URI), &admitted, true).unwrap(),
        "ready Some(4433)"
    );
    let without = point(&blocked("WaitingForPods", false), None);
    assert_eq!(
        seen(&without, &admitted, true).unwrap(),
        "VPCIngressPoint edge has no address yet"
    );
    assert_eq!(seen(&without, &admitted, false).unwrap(), "ready None");
}

#[test]
fn who_is_let_in_does_not_mind_a_bad_edit_of_the_point() {
    // Gateways go on with the former spec.
    let edited = point(&blocked("Invalid", true), URI);
    assert_eq!(
        seen(&edited, &admission(&ready()), true).unwrap(),
        "ready Some(4433)"
    );
    let pending = admission(&blocked("WaitingForAck", false));
    let (exit, text) = seen(&edited, &pending, true).unwrap_err();
    assert_eq!(exit, Exit::Config);
    assert!(
        text.starts_with("VPCIngressPoint edge: Invalid: because"),
        "{text}"
    );
}

#[test]
fn waits_for_what_comes_by_itself() {
    let good = point(&ready(), URI);
    assert_eq!(
        seen(&good, &admission(&blocked("WaitingForAck", false)), true).unwrap(),
        "ConnectorAttachment laptop: WaitingForAck: because"
    );
    let filled_in = json!([{
        "type": "Ready", "status": "Unknown", "reason": "Pending",
        "message": "Waiting for controller", "lastTransitionTime": TIME,
    }]);
    for untouched in [json!([]), filled_in] {
        assert_eq!(
            seen(&good, &admission(&untouched), true).unwrap(),
            "ConnectorAttachment laptop: no operator has looked at it yet"
        );
    }
    let of_before = json!([condition_of("Ready", "True", "Ready", "", 1)]);
    assert_eq!(
        seen(&good, &admission(&of_before), true).unwrap(),
        "ConnectorAttachment laptop: the operator has not seen the last change yet"
    );
}

#[test]
fn a_verdict_about_what_was_made_a_moment_ago_is_waited_out() {
    let good = point(&ready(), URI);
    for reason in OUTDATED {
        let before = admission(&blocked(reason.as_str(), true));
        assert!(seen(&good, &before, true).is_ok(), "{reason}");
    }
}

#[test]
fn ends_at_once_when_nothing_more_happens() {
    let good = point(&ready(), URI);
    for (reason, wanted) in [
        ("Suspended", Exit::NoPermission),
        ("NotAllowedByIngressPoint", Exit::NoPermission),
        ("PoolExhausted", Exit::TemporaryFailure),
        ("Conflicted", Exit::Config),
        ("ANewReason", Exit::Config),
    ] {
        let stalled = admission(&blocked(reason, true));
        let (exit, text) = seen(&good, &stalled, true).unwrap_err();
        assert_eq!(exit, wanted, "{reason}");
        let words = format!("ConnectorAttachment laptop: {reason}: because");
        assert!(text.starts_with(&words), "{text}");
    }
}
