use super::*;

fn state(pod: &str, connected: bool) -> PodState {
    PodState {
        pod: pod.to_owned(),
        gateway_version: "0.1.0".to_owned(),
        held_version: 3,
        acked: Some(3),
        rejected: None,
        sessions: vec![masque_stream::SessionInfo {
            id: 1,
            attachment: ObjectName::new("ns", "laptop"),
            transport: "h3".to_owned(),
            since_unix_s: 9,
        }],
        connected,
    }
}

#[test]
fn sessions_count_only_while_the_pod_is_connected() {
    let mut report = PodReport::default();
    say(&mut report, state("a", false));
    assert!(report.sessions.is_empty() && report.acked_version == Some(3));
    say(&mut report, state("a", true));
    assert_eq!(report.sessions.len(), 1);
}

#[test]
fn an_unreadable_object_is_told_so_in_its_conditions() {
    let status = invalid(Some(4), "unknown variant `QUIC`", Timestamp::UNIX_EPOCH);
    let status: masque_api::VPCIngressPointStatus = serde_json::from_value(status).unwrap();
    assert_eq!(status.observed_generation, Some(4));
    assert!(
        status
            .conditions
            .iter()
            .all(|c| c.status == "False" && c.reason == "Invalid")
    );
    assert!(status.conditions[0].message.contains("QUIC"));
}

#[test]
fn a_pod_that_said_nothing_yet_is_known_from_one_that_did() {
    let pod = |ready: bool, acked_version: Option<u64>| PodReport {
        ready,
        acked_version,
        ..PodReport::default()
    };
    assert!(unheard(&[pod(true, Some(3)), pod(true, None)]));
    // One that is not ready is waited for in any case.
    assert!(!unheard(&[pod(true, Some(3)), pod(false, None)]));
    let refused = PodReport {
        rejected: Some("no route".to_owned()),
        ..pod(true, None)
    };
    assert!(!unheard(&[refused]));
}
