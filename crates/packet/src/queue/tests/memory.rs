//! The bound on memory, and who loses packets for it.

use super::*;

#[test]
fn memory_is_bounded_and_the_longest_flow_pays() {
    let mut queue = queue();
    let [bulk, sparse] = flows(2)[..] else {
        unreachable!()
    };
    push(&mut queue, 0, 1, &sparse, &[1; 100]);
    push(&mut queue, 0, 2, &sparse, &[1; 100]);
    for _ in 0..10_000 {
        push(&mut queue, 0, 2, &bulk, &[0; 1400]);
        assert!(queue.memory_bytes() <= MEMORY_BYTES);
    }
    let stats = queue.stats();
    assert_eq!(stats.queued, 10_002);
    assert_eq!(queue.len() as u64 + stats.overflowed, stats.queued);
    let mut sparse_left = 0;
    while let Some((_, packet, _)) = pop(&mut queue, 0) {
        sparse_left += usize::from(packet[0]);
    }
    assert_eq!(sparse_left, 2, "the short flows lost nothing");
}

/// All memory of a queue and its books.
fn all_bytes(queue: &FairQueue<u32>) -> usize {
    let flows = queue.flows.capacity() * size_of::<Flow>() + queue.free_flows.capacity() * 4;
    queue.memory_bytes() + queue.store.books_bytes() + flows
}

#[test]
fn flows_that_burst_in_turn_leave_no_memory_behind_each() {
    let mut queue = queue();
    let mut burst = |number| {
        for _ in 0..400 {
            push(&mut queue, 0, 1, &flow(number), &[0; 1400]);
        }
        while pop(&mut queue, 0).is_some() {}
        all_bytes(&queue)
    };
    let first = burst(0);
    assert!(first < MEMORY_BYTES * 11 / 10, "{first}");
    let last = (1..1000).map(burst).max();
    assert_eq!(last, Some(first));
}

/// A page is of use to any packet, so no mix of lengths wants more memory, or another allocation.
#[test]
fn long_and_short_packets_use_the_same_memory() {
    let mut queue = queue();
    let pages = MEMORY_BYTES / 2048;
    let mut fill = |bytes: usize| {
        let before = queue.stats().overflowed;
        while queue.stats().overflowed == before {
            push(&mut queue, 0, 1, &flow(1), &vec![3; bytes]);
        }
        let held = queue.sessions[0].held_pages;
        // Too few were free for the last one, and room was made for some more.
        let free = OVERFLOW_PAGES + 2 * store::LONGEST_BYTES.div_ceil(2048);
        assert!(held <= pages && held + free >= pages, "{bytes}: {held}");
        (queue.memory_bytes(), queue.store.address())
    };
    let first = fill(1);
    assert_eq!(first.0, MEMORY_BYTES);
    for bytes in [65_535, 100, 9_000, 65_535, 1_500, 20_000] {
        assert_eq!(fill(bytes), first);
    }
    while let Some((_, packet, _)) = pop(&mut queue, 0) {
        assert!(packet.iter().all(|byte| *byte == 3));
    }
}

/// Every session has some packets: to look through all of them for each packet to come would take
/// more than to carry it.
#[test]
fn one_overflow_makes_room_for_many_packets() {
    let pages = MEMORY_BYTES / 2048;
    for (sessions, flows_of_each) in [(pages / 4, 4), (pages / 8, 2), (4, 128), (1, 200)] {
        let mut queue = queue();
        let keys = flows(flows_of_each);
        for number in 0..pages {
            let (session, flow) = (number % sessions, number / sessions % flows_of_each);
            push(&mut queue, 0, session as u32, &keys[flow], &[0; 1400]);
        }
        assert_eq!((queue.len(), queue.stats().overflowed), (pages, 0));
        push(&mut queue, 0, 0, &keys[0], &[0; 1400]);
        assert_eq!(queue.stats().overflowed as usize, OVERFLOW_PAGES);
        let fair = pages / sessions / 2;
        let least = queue
            .sessions
            .iter()
            .map(|session| session.held_pages)
            .min();
        assert!(least >= Some(fair), "{least:?} of {sessions}");
        for _ in 1..OVERFLOW_PAGES {
            push(&mut queue, 0, 0, &keys[0], &[0; 1400]);
        }
        assert_eq!(queue.stats().overflowed as usize, OVERFLOW_PAGES);
        assert_eq!(queue.len(), pages, "full again");
    }
}

#[test]
fn sessions_that_are_about_as_full_share_the_loss() {
    let pages = MEMORY_BYTES / 2048;
    let mut queue = queue();
    // One with a little more than the others, and one with a single packet.
    let most = 40;
    let others = (pages - most - 1) / 30;
    push(&mut queue, 0, 999, &flow(1), &[0; 1400]);
    for _ in 0..most {
        push(&mut queue, 0, 0, &flow(1), &[0; 1400]);
    }
    for number in 0..pages - most - 1 {
        push(
            &mut queue,
            0,
            1 + (number / 30) as u32,
            &flow(1),
            &[0; 1400],
        );
    }
    push(&mut queue, 0, 999, &flow(1), &[0; 1400]);
    let held = |session: u32| {
        let at = queue.places[&session];
        queue.sessions[at as usize].held_pages
    };
    assert_eq!(held(0), most / 2, "the fullest one first");
    assert_eq!(held(999), 2, "who has little loses nothing");
    for session in 1..=others as u32 {
        assert!(held(session) >= 15, "at most half of {session}");
    }
}

#[test]
fn a_short_flow_loses_nothing_while_another_one_is_twice_as_long() {
    let mut queue = queue();
    let pages = MEMORY_BYTES / 2048;
    let [long, short] = flows(2)[..] else {
        unreachable!()
    };
    let shorter = pages / 3 - 10;
    for number in 0..pages {
        let key = if number < shorter { &short } else { &long };
        push(&mut queue, 0, 1, key, &[u8::from(number < shorter); 1400]);
    }
    push(&mut queue, 0, 1, &long, &[0; 1400]);
    assert!(queue.stats().overflowed > 0);
    let mut left = 0;
    while let Some((_, packet, _)) = pop(&mut queue, 0) {
        left += usize::from(packet[0]);
    }
    assert_eq!(left, shorter);
}

/// The longest one gives half of what is wanted, and the others have little.
#[test]
fn short_flows_lose_nothing_for_what_the_longest_cannot_free_alone() {
    let mut queue = queue();
    let pages = MEMORY_BYTES / 2048;
    let keys = flows(31);
    let (long, short, shorts) = (60, 10, 30);
    for _ in 0..long {
        push(&mut queue, 0, 1, &keys[shorts], &[0; 1400]);
    }
    for number in 0..short * shorts {
        push(&mut queue, 0, 1, &keys[number % shorts], &[1; 1400]);
    }
    for _ in 0..pages - long - short * shorts {
        push(&mut queue, 0, 2, &keys[0], &[2; 1400]);
    }
    push(&mut queue, 0, 2, &keys[0], &[2; 1400]);
    assert_eq!(queue.stats().overflowed, 30);
    let mut left = [0; 3];
    while let Some((_, packet, _)) = pop(&mut queue, 0) {
        left[usize::from(packet[0])] += 1;
    }
    assert_eq!(
        left,
        [30, short * shorts, pages + 1 - long - short * shorts]
    );
}

#[test]
fn what_no_packet_is_as_long_as_is_dropped_alone() {
    let mut queue = queue();
    push(&mut queue, 0, 1, &flow(1), &[0; 100]);
    push(
        &mut queue,
        0,
        1,
        &flow(1),
        &vec![0; store::LONGEST_BYTES + 1],
    );
    assert_eq!((queue.len(), queue.stats().overflowed), (1, 1));
}

#[test]
fn an_empty_queue_gives_its_memory_back_after_a_second() {
    let mut queue = queue();
    push(&mut queue, 0, 1, &flow(1), &[0; 100]);
    queue.trim(2 * KEEP_EMPTY_US);
    assert_eq!(queue.len(), 1, "not empty");
    pop(&mut queue, 10).unwrap();
    queue.trim(9 + KEEP_EMPTY_US);
    assert!(queue.memory_bytes() > 0, "not yet");
    queue.trim(10 + KEEP_EMPTY_US);
    assert_eq!(queue.memory_bytes(), 0);
    assert_eq!(queue.stats().queued, 1, "counters stay");
}
