use super::*;

const NONE: Live = Live {
    unanswered: 0,
    answered: 0,
    has_tunnel: false,
};

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4433))
}

fn unanswered(count: usize) -> Live {
    Live {
        unanswered: count,
        ..NONE
    }
}

fn silent() -> AttachError {
    AttachError::NoAnswer {
        gateway: address(1),
        waited: Duration::from_secs(5),
    }
}

fn refused() -> AttachError {
    AttachError::Unreachable {
        gateway: address(1),
        reason: "connection refused".into(),
    }
}

fn dialer(keep_trying: bool) -> Dialer {
    Dialer::new(Some(address(1)), keep_trying, 7)
}

#[test]
fn two_addresses_are_raced() {
    let start = Instant::now();
    let mut dialer = Dialer::new(None, false, 7);
    dialer.begin(start);
    assert_eq!(dialer.poll(start, NONE), Some(Action::Resolve));
    assert_eq!(dialer.poll(start, NONE), None, "waits for the resolver");
    dialer.resolved(Ok(vec![address(1), address(2)]));
    assert_eq!(dialer.poll(start, NONE), Some(Action::Dial(address(1))));
    assert_eq!(dialer.poll(start, unanswered(1)), None);
    assert_eq!(dialer.deadline(unanswered(1)), Some(start + STAGGER));
    assert_eq!(
        dialer.poll(start + STAGGER, unanswered(1)),
        Some(Action::Dial(address(2)))
    );
    let much_later = start + Duration::from_secs(9);
    assert_eq!(
        dialer.poll(much_later, unanswered(2)),
        None,
        "QUIC repeats by itself"
    );
}

#[test]
fn the_first_round_decides_unless_told_to_keep_trying() {
    let start = Instant::now();
    let mut once = dialer(false);
    once.begin(start);
    assert!(matches!(once.poll(start, NONE), Some(Action::Dial(_))));
    once.failed(silent());
    assert_eq!(once.poll(start, NONE), Some(Action::GiveUp(silent())));
    assert_eq!(once.poll(start + Duration::from_secs(99), NONE), None);

    let mut persistent = dialer(true);
    persistent.begin(start);
    assert!(matches!(
        persistent.poll(start, NONE),
        Some(Action::Dial(_))
    ));
    persistent.failed(silent());
    let Some(Action::Failed { error, retry_in }) = persistent.poll(start, NONE) else {
        panic!("it gave up");
    };
    assert_eq!(error, silent());
    assert_eq!(persistent.deadline(NONE), Some(start + retry_in));
    assert!(matches!(
        persistent.poll(start + retry_in, NONE),
        Some(Action::Dial(_))
    ));
}

#[test]
fn a_gateway_that_was_up_is_dialled_again_and_again() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.succeeded(address(1), start);
    let wait = dialer.lost(Retry::Helps, start);
    assert!(wait <= Duration::from_millis(50), "{wait:?}");
    let (mut now, mut dials) = (start + wait, 0);
    // Nothing answers and nothing refuses: the host is down.
    for _ in 0..100 {
        now += Duration::from_millis(50);
        if let Some(action) = dialer.poll(now, unanswered(dials.min(DIALS_MAX))) {
            assert_eq!(action, Action::Dial(address(1)));
            dials += 1;
        }
    }
    assert!((6..=8).contains(&dials), "{dials} dials in 5 s");
    assert_eq!(
        dialer.poll(
            now + REDIAL,
            Live {
                unanswered: 1,
                answered: 1,
                ..NONE
            }
        ),
        None,
        "an answer is not disturbed"
    );
}

#[test]
fn a_tunnel_of_hours_that_falls_silent_is_dialled_again_and_again() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.succeeded(address(1), start);
    let now = start + Duration::from_secs(3600);
    dialer.suspect(now);
    let dial = Some(Action::Dial(address(1)));
    assert_eq!(dialer.poll(now, NONE), dial);
    assert_eq!(dialer.deadline(unanswered(1)), Some(now + REDIAL));
    assert_eq!(dialer.poll(now + REDIAL, unanswered(1)), dial);
}

#[test]
fn a_round_beside_a_draining_tunnel_hurries_when_that_is_lost() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.succeeded(address(1), start);
    let now = start + Duration::from_secs(3600);
    dialer.begin_soon(now);
    let dial = Some(Action::Dial(address(1)));
    let now = dialer.deadline(NONE).unwrap();
    let has_tunnel = true;
    let live = Live {
        has_tunnel,
        ..unanswered(1)
    };
    assert_eq!(dialer.poll(now, live), dial);
    assert_eq!(dialer.deadline(live), None, "no hurry");
    assert_eq!(dialer.lost(Retry::Helps, now), Duration::ZERO);
    assert_eq!(dialer.poll(now + REDIAL, unanswered(1)), dial);
}

#[test]
fn the_error_that_says_most_is_reported() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.begin(start);
    let _ = dialer.poll(start, NONE);
    let waited = Duration::from_secs(10);
    dialer.failed(AttachError::PoolExhausted);
    dialer.failed(AttachError::NoAnswer {
        gateway: address(2),
        waited,
    });
    assert_eq!(
        dialer.poll(start, NONE),
        Some(Action::GiveUp(AttachError::PoolExhausted))
    );
}

#[test]
fn an_address_that_the_name_lost_is_not_dialled_but_the_one_that_worked_is() {
    let start = Instant::now();
    let mut dialer = Dialer::new(None, false, 7);
    dialer.resolved(Ok(vec![address(1), address(2)]));
    dialer.succeeded(address(2), start);
    dialer.resolved(Ok((3..=20).map(address).collect()));
    assert_eq!(dialer.candidates[..2], [address(2), address(3)]);
    assert_eq!(dialer.candidates.len(), CANDIDATES_MAX);
}

#[test]
fn a_name_without_an_address_is_an_error() {
    let start = Instant::now();
    let mut dialer = Dialer::new(None, false, 7);
    dialer.begin(start);
    assert_eq!(dialer.poll(start, NONE), Some(Action::Resolve));
    let error = AttachError::NameResolution {
        host: "gw".into(),
        reason: "no such host".into(),
    };
    dialer.resolved(Err(error.clone()));
    assert_eq!(dialer.poll(start, NONE), Some(Action::GiveUp(error)));
}

#[test]
fn while_a_tunnel_still_works_a_draining_gateway_is_not_stormed() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.succeeded(address(1), start);
    dialer.begin_soon(start);
    let until = dialer.deadline(NONE).unwrap();
    assert!(until <= start + SPREAD, "{:?}", until - start);
    let live = Live {
        has_tunnel: true,
        ..NONE
    };
    let (mut now, mut dials) = (until, 0);
    while now < start + Duration::from_secs(30) {
        match dialer.poll(now, live) {
            Some(Action::Dial(_)) => {
                dials += 1;
                dialer.failed(AttachError::GoingAway);
            }
            Some(_) => {}
            None => now = dialer.deadline(live).unwrap(),
        }
    }
    assert!(dials <= 12, "{dials} dials in 30 s");
    // It is gone at last: now it is worth hurrying.
    assert!(dialer.lost(Retry::Helps, now) <= Duration::from_millis(50));
}

#[test]
fn a_gateway_that_asks_for_patience_gets_it_within_bounds() {
    let start = Instant::now();
    for (asked_s, wanted_s) in [(7, 7), (86_400, 60)] {
        let mut dialer = dialer(true);
        dialer.begin(start);
        let _ = dialer.poll(start, NONE);
        let retry_after = Some(Duration::from_secs(asked_s));
        dialer.failed(AttachError::Unavailable {
            details: None,
            retry_after,
        });
        let Some(Action::Failed { retry_in, .. }) = dialer.poll(start, NONE) else {
            panic!("it gave up")
        };
        assert_eq!(retry_in, Duration::from_secs(wanted_s));
    }
}

#[test]
fn a_first_attempt_that_is_refused_is_not_the_last() {
    let mut now = Instant::now();
    let mut once = dialer(false);
    once.begin(now);
    for _ in 0..LEAVING_MAX {
        assert!(matches!(once.poll(now, NONE), Some(Action::Dial(_))));
        once.failed(refused());
        let Some(Action::Failed { retry_in, .. }) = once.poll(now, NONE) else {
            panic!("a rollout's last packets may still reach the pod that ended");
        };
        assert!(retry_in <= LEAVING_PAUSE);
        now += retry_in;
    }
    assert!(matches!(once.poll(now, NONE), Some(Action::Dial(_))));
    once.failed(refused());
    assert_eq!(once.poll(now, NONE), Some(Action::GiveUp(refused())));
}

#[test]
fn a_first_attempt_that_meets_gateways_that_leave_begins_again() {
    let mut now = Instant::now();
    let mut once = dialer(false);
    once.begin(now);
    for round in 0..LEAVING_MAX {
        assert!(matches!(once.poll(now, NONE), Some(Action::Dial(_))));
        once.failed(match round {
            1 => refused(),
            _ => AttachError::GoingAway,
        });
        let Some(Action::Failed { retry_in, .. }) = once.poll(now, NONE) else {
            panic!("it gave up");
        };
        assert!(retry_in <= LEAVING_PAUSE);
        now += retry_in;
    }
    assert!(matches!(once.poll(now, NONE), Some(Action::Dial(_))));
    once.failed(AttachError::GoingAway);
    let last = Action::GiveUp(AttachError::GoingAway);
    assert_eq!(once.poll(now, NONE), Some(last), "not for ever");
}

#[test]
fn what_does_not_pass_by_itself_is_dialled_once_a_round_until_the_network_changes() {
    let start = Instant::now();
    let mut dialer = dialer(false);
    dialer.succeeded(address(1), start);
    let wait = dialer.lost(Retry::AfterChange, start);
    assert!(wait >= Duration::from_secs(2), "{wait:?}");
    let round = start + wait;
    assert_eq!(dialer.poll(round, NONE), Some(Action::Dial(address(1))));
    let later = round + 3 * REDIAL;
    assert_eq!(dialer.poll(later, unanswered(1)), None, "no hurry");

    dialer.hurry(later);
    assert!(matches!(
        dialer.poll(later, NONE),
        Some(Action::Failed { .. })
    ));
    dialer.hurry(later);
    assert_eq!(dialer.poll(later, NONE), Some(Action::Dial(address(1))));
    let again = later + REDIAL;
    assert_eq!(
        dialer.poll(again, unanswered(1)),
        Some(Action::Dial(address(1)))
    );
}
