//! ADDRESS_REQUEST and its answers.

use super::*;

fn request(request_id: u64) -> RequestedAddress {
    RequestedAddress {
        request_id,
        prefix: net("0.0.0.0/32"),
    }
}

#[test]
fn n51_each_request_is_answered() {
    let (mut client, mut proxy) = pair();
    proxy.assign(&[net("192.0.2.0/28")]).unwrap();
    carry(&mut proxy, &mut client);
    let asked = client
        .request_addresses(&[net("0.0.0.0/32"), net("::/128"), net("2001:db8::/64")])
        .unwrap();
    assert_eq!(
        carry(&mut client, &mut proxy),
        [Event::AddressRequested(asked.clone())]
    );
    assert_eq!(proxy.pending_requests().copied().collect::<Vec<_>>(), asked);
    let [v4, v6, prefix] = [0, 1, 2].map(|index| asked[index].request_id);
    let granted = net("10.0.100.50/32");
    proxy
        .answer_requests(&[(v6, None), (v4, Some(granted))])
        .unwrap();
    let answer = AssignedAddress {
        request_id: v4,
        prefix: granted,
    };
    let expected = vec![
        AssignedAddress::refusal(&asked[1]),
        answer,
        AssignedAddress::unprompted(net("192.0.2.0/28")),
    ];
    assert_eq!(
        carry(&mut proxy, &mut client),
        [Event::Assigned(expected.clone())]
    );
    assert_eq!(
        client.assigned(),
        &expected[1..],
        "a refusal assigns nothing"
    );
    assert_eq!(proxy.pending_requests().count(), 1);
    // The refusal does not come again, the granted address keeps its id.
    proxy.answer_requests(&[(prefix, None)]).unwrap();
    proxy.assign(&[granted]).unwrap();
    let expected = [AssignedAddress::refusal(&asked[2]), answer];
    assert_eq!(
        sent(&mut proxy),
        [Capsule::AddressAssign(expected.to_vec())]
    );
    proxy.assign(&[]).unwrap();
    proxy.assign(&[granted]).unwrap();
    let now = vec![AssignedAddress::unprompted(granted)];
    assert_eq!(sent(&mut proxy), [Capsule::AddressAssign(now)]);
}

#[test]
fn n51_a_grant_withdrawn_before_it_was_sent_is_a_refusal() {
    let (mut client, mut proxy) = pair();
    let asked = client
        .request_addresses(&[net("0.0.0.0/32"), net("::/128")])
        .unwrap();
    carry(&mut client, &mut proxy);
    let grants = [net("10.0.0.1/32"), net("2001:db8::1/128")];
    let answers: Vec<_> = asked
        .iter()
        .zip(grants)
        .map(|(r, p)| (r.request_id, Some(p)))
        .collect();
    proxy.answer_requests(&answers).unwrap();
    proxy.assign(&grants[1..]).unwrap();
    let expected = [
        AssignedAddress::refusal(&asked[0]),
        AssignedAddress {
            request_id: asked[1].request_id,
            prefix: grants[1],
        },
    ];
    assert_eq!(
        carry(&mut proxy, &mut client),
        [Event::Assigned(expected.to_vec())]
    );
    // Once it was sent, a withdrawal is just that.
    proxy.assign(&[]).unwrap();
    assert_eq!(
        carry(&mut proxy, &mut client),
        [Event::Assigned(Vec::new())]
    );
}

/// A peer may ask four times a second for as long as the tunnel lives.
#[test]
fn n51_requests_without_end_are_answered_by_a_list_that_does_not_grow() {
    let (_, mut proxy) = pair();
    let (v4, v6) = (net("10.0.0.1/32"), net("2001:db8::1/128"));
    proxy.assign(&[v4, v6]).unwrap();
    sent(&mut proxy);
    for id in 1..=2000 {
        let asked = Capsule::AddressRequest(vec![request(id)]);
        give(&mut proxy, &asked, id * bounds::CHURN_REFILL_MS).unwrap();
        proxy.answer_requests(&[(id, Some(v4))]).unwrap();
        let answer = AssignedAddress {
            request_id: id,
            prefix: v4,
        };
        let list = vec![answer, AssignedAddress::unprompted(v6)];
        assert_eq!(sent(&mut proxy), [Capsule::AddressAssign(list)]);
    }
}

#[test]
fn n51_no_answer_is_replaced_before_it_was_sent() {
    let (_, mut proxy) = pair();
    let prefix = net("10.0.0.1/32");
    let asked = Capsule::AddressRequest((1..=4).map(request).collect());
    give(&mut proxy, &asked, 0).unwrap();
    let grant = |id| (id, Some(prefix));
    let answer = |request_id| AssignedAddress { request_id, prefix };
    proxy.answer_requests(&[grant(1), grant(2)]).unwrap();
    proxy.answer_requests(&[grant(3)]).unwrap();
    let list = [1, 2, 3].map(answer).to_vec();
    assert_eq!(sent(&mut proxy), [Capsule::AddressAssign(list)]);
    proxy.answer_requests(&[grant(4)]).unwrap();
    assert_eq!(
        sent(&mut proxy),
        [Capsule::AddressAssign(vec![answer(4)])],
        "the newest id stays"
    );
}

#[test]
fn n51_wrong_answers_change_nothing() {
    let (mut client, mut proxy) = pair();
    let asked = client.request_addresses(&[net("0.0.0.0/32")]).unwrap();
    carry(&mut client, &mut proxy);
    let id = asked[0].request_id;
    let v6 = net("2001:db8::1/128");
    let wrong_family = CommandError::WrongFamily {
        request_id: id,
        prefix: v6,
    };
    assert_eq!(proxy.answer_requests(&[(id, Some(v6))]), Err(wrong_family));
    let both = [(id, None), (id + 1, None)];
    assert_eq!(
        proxy.answer_requests(&both),
        Err(CommandError::UnknownRequest(id + 1))
    );
    assert_eq!(
        (proxy.pending_requests().count(), proxy.poll_transmit()),
        (1, None)
    );
    // The address that was assigned unprompted answers the request: listed once.
    proxy.assign(&[net("10.0.0.1/32")]).unwrap();
    proxy
        .answer_requests(&[(id, Some(net("10.0.0.1/32")))])
        .unwrap();
    assert_eq!(
        proxy.granted(),
        [AssignedAddress {
            request_id: id,
            prefix: net("10.0.0.1/32")
        }]
    );
}

#[test]
fn n50_request_ids_are_never_reused() {
    let (_, mut proxy) = pair();
    give(&mut proxy, &Capsule::AddressRequest(vec![request(7)]), 0).unwrap();
    proxy.answer_requests(&[(7, None)]).unwrap();
    sent(&mut proxy);
    let again = give(
        &mut proxy,
        &Capsule::AddressRequest(vec![request(8), request(7)]),
        0,
    );
    let error = again.unwrap_err();
    assert_eq!(
        error,
        SessionError::Capsule(CapsuleError::RequestIdReused(7))
    );
    assert_eq!(error.code(), Code::H3_MESSAGE_ERROR);
    let (_, mut proxy) = pair();
    let twice = Capsule::AddressRequest(vec![request(1), request(1)]);
    assert!(give(&mut proxy, &twice, 0).is_err());
}

#[test]
fn n50_pending_requests_are_bounded() {
    let list = |from: u64, count: usize| {
        Capsule::AddressRequest((from..).take(count).map(request).collect())
    };
    let (_, mut proxy) = pair();
    give(&mut proxy, &list(1, bounds::MAX_PENDING_REQUESTS), 0).unwrap();
    let error = give(&mut proxy, &list(100, 1), 0).unwrap_err();
    assert_eq!(error, SessionError::PendingRequests);
    assert_eq!(error.code(), Code::H3_EXCESSIVE_LOAD);
    assert_eq!(proxy.poll_event(), Err(error), "it stays");
    // Refusals that nobody fetched count too.
    let (_, mut proxy) = pair();
    give(&mut proxy, &list(1, 60), 0).unwrap();
    proxy
        .answer_requests(&(1..=60).map(|id| (id, None)).collect::<Vec<_>>())
        .unwrap();
    assert_eq!(
        give(&mut proxy, &list(100, 5), 0),
        Err(SessionError::PendingRequests)
    );
    // The window of ids moves on, it does not grow.
    let (_, mut proxy) = pair();
    for id in 1..=2000 {
        give(&mut proxy, &list(id, 1), id * bounds::CHURN_REFILL_MS).unwrap();
        proxy.answer_requests(&[(id, None)]).unwrap();
        sent(&mut proxy);
    }
}

#[test]
fn n50_our_own_requests_are_bounded_and_numbered() {
    let (mut client, mut proxy) = pair();
    let all = vec![net("0.0.0.0/32"); bounds::MAX_PENDING_REQUESTS];
    let first = client.request_addresses(&all).unwrap();
    assert!(matches!(
        client.request_addresses(&all[..1]),
        Err(CommandError::TooMany {
            count: 65,
            max: 64,
            ..
        })
    ));
    carry(&mut client, &mut proxy);
    proxy
        .answer_requests(&[(first[0].request_id, None)])
        .unwrap();
    carry(&mut proxy, &mut client);
    let next = client.request_addresses(&all[..1]).unwrap();
    assert!(
        first
            .iter()
            .all(|request| request.request_id < next[0].request_id)
    );
    assert_eq!(client.request_addresses(&[]), Ok(Vec::new()));
    assert_eq!(
        sent(&mut client),
        [Capsule::AddressRequest(next)],
        "never an empty request"
    );
}
