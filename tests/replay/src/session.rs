//! Two ends of a tunnel that talk to each other, or one of them with a peer that says anything.

use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use masque_protocol::{Event, Role, Session, SessionError, bounds, from_prefixes};

use crate::input::Input;

const WRAP_UP: u64 = 0x1234;

pub(crate) fn run(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let flags = input.u8();
    let (role, other) = if flags & 1 == 0 {
        (Role::Proxy, Role::Client)
    } else {
        (Role::Client, Role::Proxy)
    };
    let mut us = Session::new(role).with_wrap_up_capsule(WRAP_UP);
    if flags & 2 == 0 {
        let mut peer = Session::new(other).with_wrap_up_capsule(WRAP_UP);
        talk(&mut us, &mut peer, &mut input)
    } else {
        endure(&mut us, &mut input)
    }
}

/// Both ends keep the rules, so neither finds fault with the other, and both know the same.
fn talk(us: &mut Session, peer: &mut Session, input: &mut Input<'_>) -> bool {
    let mut now_ms = 0;
    while !input.is_empty() {
        let op = input.u8();
        let (one, two) = if op & 0x80 == 0 {
            (&mut *us, &mut *peer)
        } else {
            (&mut *peer, &mut *us)
        };
        command(one, op, input);
        // Slow enough that nobody calls it churn: a step says three things at most.
        now_ms += 4 * bounds::CHURN_REFILL_MS;
        carry(one, two, now_ms);
        carry(two, one, now_ms);
    }
    for (one, two) in [(&*us, &*peer), (&*peer, &*us)] {
        let mut granted = one.granted().to_vec();
        // 0.0.0.0/32 and ::/128 say that nothing was assigned, whoever assigns them.
        granted.retain(|entry| !entry.is_refusal());
        let mut assigned = two.assigned().to_vec();
        granted.sort_unstable();
        assigned.sort_unstable();
        assert_eq!(granted, assigned);
        assert_eq!(one.advertised(), two.routes());
    }
    !us.routes().is_empty() || !peer.routes().is_empty() || !us.assigned().is_empty()
}

fn carry(from: &mut Session, to: &mut Session, now_ms: u64) {
    while let Some(capsule) = from.poll_transmit() {
        to.handle_data(capsule, now_ms);
        loop {
            match to.poll_event() {
                Ok(Some(event)) => check(to, &event),
                Ok(None) => break,
                Err(error) => panic!("an honest peer is refused: {error}"),
            }
        }
    }
}

/// A peer that says anything: no panic, bounds kept, silence after an error.
fn endure(us: &mut Session, input: &mut Input<'_>) -> bool {
    let mut now_ms = 0_u64;
    let mut events = 0;
    while !input.is_empty() {
        let op = input.u8();
        match op & 7 {
            0..=3 => us.handle_data(Bytes::copy_from_slice(input.chunk()), now_ms),
            4 => drop(us.handle_datagram(Bytes::copy_from_slice(input.chunk()))),
            5 if op & 8 != 0 => us.handle_finished(),
            5 => now_ms += u64::from(input.u16()),
            _ => command(us, op, input),
        }
        loop {
            match us.poll_event() {
                Ok(Some(event)) => {
                    events += 1;
                    check(us, &event);
                }
                Ok(None) => break,
                Err(error) => {
                    assert_ne!(error, SessionError::Unread, "everything is read at once");
                    assert_eq!(us.poll_transmit(), None);
                    assert_eq!(us.poll_event(), Err(error));
                    return events > 0;
                }
            }
        }
        if op & 0x40 != 0 {
            while us.poll_transmit().is_some() {}
        }
        assert!(us.pending_requests().count() <= bounds::MAX_PENDING_REQUESTS);
    }
    events > 0
}

fn check(session: &Session, event: &Event) {
    match event {
        Event::Assigned(list) => {
            let kept = list.iter().filter(|entry| !entry.is_refusal());
            assert!(kept.eq(session.assigned()));
        }
        Event::Routes(list) => assert_eq!(list, session.routes()),
        Event::AddressRequested(list) => {
            assert!(!list.is_empty());
            for request in list {
                assert!(session.pending_requests().any(|pending| pending == request));
            }
        }
        _ => {}
    }
}

fn command(session: &mut Session, op: u8, input: &mut Input<'_>) {
    match op >> 3 & 7 {
        0 => {
            let _ = session.assign(&prefixes(input));
        }
        1 => {
            let protocol = input.u8();
            let mut ranges = from_prefixes(&prefixes(input), Some(protocol));
            ranges.extend(from_prefixes(&prefixes(input), None));
            let _ = session.advertise(ranges);
        }
        2 => {
            let _ = session.request_addresses(&prefixes(input));
        }
        3 => {
            let ids: Vec<u64> = session
                .pending_requests()
                .map(|request| request.request_id)
                .collect();
            let prefixes = prefixes(input);
            let answers: Vec<_> = ids
                .into_iter()
                .enumerate()
                .filter(|(index, _)| (usize::from(op >> 6) + index).is_multiple_of(2))
                .map(|(index, id)| (id, prefixes.get(index).copied()))
                .collect();
            let _ = session.answer_requests(&answers);
        }
        4 => {
            let _ = session.send_extension(0x1ace_79ec, input.chunk());
        }
        5 => {
            let _ = session.send_grease(input.u16().into());
        }
        6 => session.wrap_up(),
        _ => session.allow_extensions(),
    }
}

fn prefixes(input: &mut Input<'_>) -> Vec<IpNet> {
    let count = input.u8() % 8;
    let prefix = |_| {
        let length = input.u8();
        if length & 0x80 == 0 {
            let mut octets = [0; 4];
            octets.iter_mut().for_each(|octet| *octet = input.u8());
            IpNet::new(IpAddr::from(octets), length % 33)
        } else {
            let mut octets = [0; 16];
            octets[..4].iter_mut().for_each(|octet| *octet = input.u8());
            octets[15] = input.u8();
            IpNet::new(IpAddr::from(octets), (length & 0x7f).wrapping_mul(2) % 129)
        }
    };
    (0..count)
        .map(prefix)
        .map(|prefix| prefix.expect("a length in range"))
        .collect()
}
