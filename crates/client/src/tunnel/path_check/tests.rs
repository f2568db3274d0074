use super::*;

const RTT: Duration = Duration::from_millis(20);

fn at(start: Instant, ms: u64) -> Instant {
    start + Duration::from_millis(ms)
}

/// Runs a check to its end, answering what `answers` says; gives the echoes and the last step.
fn run(
    check: &mut PathCheck,
    start: Instant,
    answers: impl Fn(usize) -> bool,
) -> (Vec<usize>, Option<Step>) {
    let (mut echoes, mut now) = (Vec::new(), start);
    for _ in 0..100 {
        match check.poll(now, RTT, 0) {
            Some(Step::Send {
                sequence,
                data_bytes,
            }) => {
                echoes.push(data_bytes);
                if answers(data_bytes) {
                    check.answered(now + RTT, sequence);
                }
            }
            Some(step) => return (echoes, Some(step)),
            None => match check.deadline(0) {
                Some(next) if next > now => now = next,
                _ => return (echoes, None),
            },
        }
    }
    panic!("a check without end: {echoes:?}")
}

fn lost(packets: u64, each: u64) -> ConnectionStats {
    ConnectionStats {
        packets_lost: packets,
        bytes_lost: packets * each,
        ..ConnectionStats::default()
    }
}

#[test]
fn an_answer_to_a_full_echo_ends_the_check() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    assert_eq!(check.poll(start, RTT, 0), None, "nothing changed");
    check.moved(start);
    let (echoes, last) = run(&mut check, start, |_| true);
    assert_eq!((echoes, last), (vec![8, 1232], None));
}

#[test]
fn the_echoes_of_a_check_are_bounded() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    check.told(start, 1280);
    let (echoes, last) = run(&mut check, start, |bytes| bytes == SMALL_DATA_BYTES);
    assert_eq!(echoes.len(), 12);
    let told_mtu_bytes = Some(1280);
    assert_eq!(last, Some(Step::TooNarrow { told_mtu_bytes }));

    let mut silent = PathCheck::new(start);
    silent.moved(start);
    let (echoes, last) = run(&mut silent, start, |_| false);
    assert_eq!((echoes.len(), last), (12, None), "nothing is known");
}

#[test]
fn checks_without_a_move_are_ten_seconds_apart() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    check.losses(start, &lost(3, 1300));
    run(&mut check, start, |_| true);
    let over = at(start, 250) + RTT;
    check.told(over, 1000);
    assert_eq!(check.deadline(0), Some(over + PAUSE));
    check.moved(over);
    assert_eq!(check.deadline(0), Some(over), "a move is tried at once");
}

#[test]
fn losses_of_large_packets_are_a_sign_and_others_are_not() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    check.losses(start, &lost(2, 1400));
    assert_eq!(check.deadline(0), None, "too few");
    check.losses(start, &lost(50, 900));
    assert_eq!(check.deadline(0), None, "too small");
    let mut more = lost(50, 900);
    (more.packets_lost, more.bytes_lost) = (53, more.bytes_lost + 3 * 1300);
    check.losses(start, &more);
    assert_eq!(check.deadline(0), Some(start));
}

#[test]
fn an_echo_of_a_former_check_says_nothing() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    check.moved(start);
    assert!(check.poll(start, RTT, 0).is_some());
    let Some(Step::Send { sequence, .. }) = check.poll(at(start, 250), RTT, 0) else {
        panic!("a full echo")
    };
    check.moved(at(start, 260));
    assert!(check.poll(at(start, 260), RTT, 0).is_some());
    check.answered(at(start, 270), sequence);
    assert!(check.running.is_some(), "it was sent on another path");
}

#[test]
fn a_path_that_carries_packets_is_confirmed() {
    let start = Instant::now();
    let mut check = PathCheck::new(start);
    assert_eq!(check.deadline(0), None, "an idle tunnel has no timer");
    assert_eq!(check.deadline(7), Some(at(start, 30_000)));
    assert_eq!(check.poll(at(start, 29_999), RTT, 7), None);
    assert!(check.poll(at(start, 30_000), RTT, 7).is_some());
}
