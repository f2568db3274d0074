use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use super::*;

fn condition(type_: &str, status: &str, reason: &str) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: "why".to_owned(),
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        observed_generation: None,
    }
}

#[test]
fn a_flapping_object_is_written_at_a_bounded_rate() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let mut written = 0;
    for tenth in 0..600_u32 {
        if pace
            .take(start + Duration::from_millis(100) * tenth)
            .is_ok()
        {
            written += 1;
        }
    }
    // A minute: the burst, and one in five seconds.
    assert_eq!(written, BURST + 11);
}

#[test]
fn a_write_that_waits_says_until_when() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    for _ in 0..BURST {
        assert!(pace.take(start).is_ok());
    }
    let at = pace.take(start).unwrap_err();
    assert_eq!(at, start + WRITE_EVERY);
    assert!(pace.take(at).is_ok());
}

#[test]
fn events_follow_changes_only() {
    let old = [condition("Ready", "Unknown", "Pending")];
    let invalid = [
        condition("Accepted", "False", "Invalid"),
        condition("Ready", "False", "Invalid"),
    ];
    let heard = events(&old, &invalid);
    assert_eq!(heard.len(), 1);
    assert_eq!(
        (heard[0].type_, heard[0].reason.as_str()),
        (EventType::Warning, "Invalid")
    );
    assert!(events(&invalid, &invalid).is_empty());
    let ready = [
        condition("Accepted", "True", "Accepted"),
        condition("Ready", "True", "Programmed"),
    ];
    let heard = events(&invalid, &ready);
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].type_, EventType::Normal);
}

#[test]
fn notes_are_cut_at_a_character() {
    let long = "ü".repeat(MAX_NOTE_BYTES);
    assert!(cut(&long).len() <= MAX_NOTE_BYTES);
}

#[test]
fn a_thousand_objects_cause_a_bounded_number_of_events() {
    let start = Instant::now();
    let mut events = Allowance::new(EVENT_BURST, EVENT_EVERY, start);
    let told = (0..1000)
        .filter(|ms| events.take(start + Duration::from_millis(*ms)).is_ok())
        .count();
    assert_eq!(told, 54);
    assert!(!events.full_again(start + Duration::from_secs(1)));
    assert!(events.full_again(start + Duration::from_secs(60)));
}

#[test]
fn a_round_ends_after_a_share_of_the_pass() {
    assert_eq!(budget(Duration::from_millis(20)), ROUND);
    // Where a pass computes for long, most of the time is for writes.
    let second = Duration::from_secs(1);
    assert!(budget(second) > second * 2 && budget(second) < second * 4);
}
