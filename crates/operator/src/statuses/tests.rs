use super::{scene::unheard, *};

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
        away: (!connected).then_some(REDIAL),
    }
}

#[test]
fn sessions_count_until_the_pod_stays_away() {
    let mut report = PodReport::default();
    say(&mut report, state("a", false));
    assert!(report.sessions.is_empty() && report.acked_version == Some(3));
    say(&mut report, state("a", true));
    assert_eq!(report.sessions.len(), 1);
    // Every stream ends after half an hour, and another begins at once.
    let mut report = PodReport::default();
    let redials = PodState {
        away: Some(Duration::from_millis(80)),
        ..state("a", false)
    };
    say(&mut report, redials);
    assert_eq!(report.sessions.len(), 1);
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
