use proptest::prelude::*;

use super::{
    fixture::{session, sessions},
    *,
};

/// Carries reports over and gives what the other side then knows.
fn carried(mut other: Sessions, told: Option<&Sessions>, now: &Sessions) -> Sessions {
    for report in reports(told, now) {
        assert!(report.begun.len() + report.ended.len() <= MAX_CHANGES_PER_REPORT);
        take(&mut other, report).unwrap();
    }
    other
}

proptest! {
    #[test]
    fn reports_carry_the_sessions_over(
        before in proptest::collection::btree_set(0u64..40, 0..30),
        now in proptest::collection::btree_set(0u64..40, 0..30),
        first in any::<bool>(),
    ) {
        let (before, now) = (sessions(before), sessions(now));
        let told = (!first).then_some(&before);
        prop_assert_eq!(carried(before.clone(), told, &now), now);
    }
}

#[test]
fn many_sessions_go_in_many_messages() {
    let now = sessions(0..2_500);
    assert_eq!(reports(None, &now).len(), 3);
    assert_eq!(carried(sessions([9_999]), None, &now), now);
    assert_eq!(reports(Some(&now), &now).len(), 0);
    let later = sessions(1_250..3_750);
    assert_eq!(carried(now.clone(), Some(&now), &later), later);
}

#[test]
fn more_than_a_gateway_can_have_is_cut() {
    let most = MAX_SESSIONS_PER_POD as u64;
    let now = sessions(0..most + 10);
    let known = carried(Sessions::new(), None, &now);
    assert_eq!(known, sessions(0..most));
    assert_eq!(known, bounded(now.clone()));
    let later = sessions(5..most + 10);
    assert_eq!(
        carried(known.clone(), Some(&known), &later),
        sessions(5..most + 5)
    );
}

#[test]
fn a_session_that_changed_is_told_again() {
    let before = sessions([1]);
    let mut now = before.clone();
    now.insert(
        1,
        SessionInfo {
            since_unix_s: 99,
            ..session(1)
        },
    );
    assert_eq!(carried(before.clone(), Some(&before), &now), now);
}

#[test]
fn reports_beyond_the_bounds_change_nothing() {
    let most = MAX_SESSIONS_PER_POD as u64;
    let mut known = sessions(0..most);
    let begun = |ids: std::ops::Range<u64>| wire::Sessions {
        begun: ids.map(|id| message(&session(id))).collect(),
        ..wire::Sessions::default()
    };
    assert_eq!(
        take(&mut known, begun(most..most + 1)),
        Err(ReportError::TooManySessions)
    );
    assert_eq!(known.len(), MAX_SESSIONS_PER_POD);
    assert_eq!(
        take(&mut known, begun(0..1_001)),
        Err(ReportError::TooManyChanges)
    );
    type Set = fn(&mut wire::Session, String);
    let longer: [(Set, usize); 3] = [
        (|session, text| session.namespace = text, MAX_NAME_BYTES),
        (|session, text| session.attachment = text, MAX_NAME_BYTES),
        (
            |session, text| session.transport = text,
            MAX_TRANSPORT_BYTES,
        ),
    ];
    for (set, bound) in longer {
        let mut long = begun(0..1);
        set(&mut long.begun[0], "x".repeat(bound + 1));
        assert_eq!(take(&mut known, long), Err(ReportError::LongText));
    }
    assert_eq!(known, sessions(0..most));
}
