use masque_http3::Code;
use proptest::prelude::*;

use super::*;
use crate::{CapsuleError, from_prefixes};

const WRAP_UP: u64 = 0x1234;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ranges(list: &[&str]) -> Vec<IpRange> {
    from_prefixes(&list.iter().map(|text| net(text)).collect::<Vec<_>>(), None)
}

fn pair() -> (Session, Session) {
    let new = |role| Session::new(role).with_wrap_up_capsule(WRAP_UP);
    (new(Role::Client), new(Role::Proxy))
}

/// Everything that `from` has to say, given to `to`; the events there.
fn carry(from: &mut Session, to: &mut Session) -> Vec<Event> {
    while let Some(capsule) = from.poll_transmit() {
        to.handle_data(capsule, 0);
    }
    events(to).unwrap()
}

fn events(session: &mut Session) -> Result<Vec<Event>, SessionError> {
    let mut list = Vec::new();
    while let Some(event) = session.poll_event()? {
        list.push(event);
    }
    Ok(list)
}

/// What `to` makes of one capsule.
fn give(to: &mut Session, capsule: &Capsule, now_ms: u64) -> Result<Vec<Event>, SessionError> {
    to.handle_data(capsule.encode(), now_ms);
    events(to)
}

fn request(request_id: u64) -> RequestedAddress {
    RequestedAddress {
        request_id,
        prefix: net("0.0.0.0/32"),
    }
}

fn sent(session: &mut Session) -> Vec<Capsule> {
    let mut decoder = CapsuleDecoder::new();
    let mut list = Vec::new();
    while let Some(bytes) = session.poll_transmit() {
        decoder.push(bytes);
        list.push(decoder.poll().unwrap().unwrap());
        assert_eq!(decoder.poll(), Ok(None), "one whole capsule at a time");
        decoder.finish().unwrap();
    }
    list
}

#[test]
fn n49_the_proxy_assigns_and_advertises_unasked() {
    let (mut client, mut proxy) = pair();
    proxy.advertise(ranges(&["10.0.0.0/16"])).unwrap();
    proxy
        .assign(&[net("10.0.100.50/32"), net("2001:db8::50/128")])
        .unwrap();
    let assigned = vec![
        AssignedAddress::unprompted(net("10.0.100.50/32")),
        AssignedAddress::unprompted(net("2001:db8::50/128")),
    ];
    let events = carry(&mut proxy, &mut client);
    let expected = [
        Event::Assigned(assigned.clone()),
        Event::Routes(ranges(&["10.0.0.0/16"])),
    ];
    assert_eq!(events, expected);
    assert_eq!(client.assigned(), assigned);
    assert_eq!(client.routes(), ranges(&["10.0.0.0/16"]));
    // And the other way round, for site to site.
    client.advertise(ranges(&["192.0.2.0/24"])).unwrap();
    assert_eq!(
        carry(&mut client, &mut proxy),
        [Event::Routes(ranges(&["192.0.2.0/24"]))]
    );
}

#[test]
fn n48_lists_are_replaced_and_sent_only_when_they_change() {
    let (mut client, mut proxy) = pair();
    let (a, b) = (net("10.0.0.1/32"), net("10.0.0.2/32"));
    proxy.assign(&[b, a, a]).unwrap();
    assert_eq!(carry(&mut proxy, &mut client).len(), 1);
    proxy.assign(&[a, b]).unwrap();
    proxy.advertise(Vec::new()).unwrap();
    assert_eq!(sent(&mut proxy), [Capsule::RouteAdvertisement(Vec::new())]);
    proxy.advertise(Vec::new()).unwrap();
    assert_eq!(proxy.poll_transmit(), None);
    proxy.assign(&[a]).unwrap();
    carry(&mut proxy, &mut client);
    assert_eq!(client.assigned(), [AssignedAddress::unprompted(a)]);
    proxy.assign(&[]).unwrap();
    assert_eq!(
        carry(&mut proxy, &mut client),
        [Event::Assigned(Vec::new())]
    );
    assert_eq!(client.assigned(), []);
    // Changes that nobody fetched are one.
    for last in 1..100u8 {
        proxy.assign(&[net(&format!("10.0.0.{last}/32"))]).unwrap();
        proxy
            .advertise(ranges(&[&format!("10.{last}.0.0/16")]))
            .unwrap();
    }
    assert_eq!(sent(&mut proxy).len(), 2);
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

#[test]
fn configuration_churn_is_bounded() {
    let capsules = [
        Capsule::AddressAssign(Vec::new()),
        Capsule::RouteAdvertisement(Vec::new()),
    ];
    let (mut client, _) = pair();
    for count in 0..bounds::CHURN_BURST {
        give(&mut client, &capsules[count as usize % 2], 1000).unwrap();
    }
    let just_before = 1000 + bounds::CHURN_REFILL_MS - 1;
    let mut other = Session::new(Role::Client);
    for _ in 0..bounds::CHURN_BURST {
        give(&mut other, &capsules[0], 1000).unwrap();
    }
    let error = give(&mut other, &capsules[1], just_before).unwrap_err();
    assert_eq!(error, SessionError::Churn);
    assert_eq!(error.code(), Code::H3_EXCESSIVE_LOAD);
    assert_eq!(other.poll_transmit(), None);
    // At the allowed rate it goes on for ever.
    for step in 1..1000 {
        give(
            &mut client,
            &capsules[0],
            1000 + step * bounds::CHURN_REFILL_MS,
        )
        .unwrap();
    }
}

#[test]
fn n56_datagrams_of_context_zero_only() {
    let (client, _) = pair();
    let packet = Bytes::from_static(&[0, 0x45, 1, 2]);
    let got = client.handle_datagram(packet.clone()).unwrap();
    assert_eq!(
        (&got[..], got.as_ptr()),
        (&packet[1..], packet[1..].as_ptr())
    );
    let drop = |bytes: &'static [u8]| client.handle_datagram(Bytes::from_static(bytes));
    assert_eq!(
        drop(&[0x40, 0, 0x60]).unwrap()[..],
        [0x60],
        "a non-minimal context id"
    );
    assert_eq!(drop(&[]), Err(DatagramDrop::Empty));
    assert_eq!(drop(&[0]), Err(DatagramDrop::Empty));
    assert_eq!(drop(&[0x80, 0]), Err(DatagramDrop::Empty));
    assert_eq!(drop(&[2, 0x45]), Err(DatagramDrop::UnknownContext(2)));
    assert_eq!(drop(&[3]), Err(DatagramDrop::UnknownContext(3)));
}

#[test]
fn n33_datagram_capsules_are_like_datagrams() {
    let (mut client, _) = pair();
    let mut stream = Vec::new();
    for payload in [&[0, 0x45, 9][..], &[2, 0x45], &[0], &[], &[0, 0x60]] {
        stream.extend(Capsule::Datagram(Bytes::copy_from_slice(payload)).encode());
    }
    client.handle_data(stream.into(), 0);
    let packets = [&[0x45, 9][..], &[0x60]].map(|p| Event::DatagramCapsule(Bytes::from_static(p)));
    assert_eq!(events(&mut client).unwrap(), packets);
    assert_eq!(client.stats().dropped_datagram_capsules, 3);
}

#[test]
fn n28_no_unknown_capsule_before_the_peer_sent_one() {
    let (mut client, mut proxy) = pair();
    let refused = Err(CommandError::ExtensionsUnknownToPeer);
    assert_eq!(proxy.send_extension(0x1ace_79ec, b"dns"), refused);
    proxy.wrap_up();
    assert_eq!(proxy.poll_transmit(), None);
    client.send_grease(3).unwrap();
    client.send_grease(4).unwrap();
    let first = Event::UnknownCapsule {
        capsule_type: capsule_type::grease(3),
    };
    assert_eq!(carry(&mut client, &mut proxy), [first], "said once");
    assert_eq!(proxy.stats().unknown_capsules, 2);
    assert!(proxy.peer_copes_with_unknown());
    proxy.send_extension(0x1ace_79ec, b"dns").unwrap();
    let mut announced = Session::new(Role::Proxy);
    announced.allow_extensions();
    announced.send_extension(0x1ace_79ec, b"dns").unwrap();
}

#[test]
fn n54_extensions_precede_what_they_change() {
    let (mut client, mut proxy) = pair();
    proxy.allow_extensions();
    proxy.advertise(ranges(&["10.0.0.0/8"])).unwrap();
    proxy.assign(&[net("10.0.0.1/32")]).unwrap();
    proxy.request_addresses(&[net("::/128")]).unwrap();
    proxy.wrap_up();
    proxy.send_extension(0x1ace_79ec, b"dns").unwrap();
    let kinds: Vec<u8> = std::iter::from_fn(|| proxy.poll_transmit())
        .map(|capsule| {
            let first = capsule[0];
            client.handle_data(capsule, 0);
            first
        })
        .collect();
    assert_eq!(kinds, [0x9a, 2, 1, 3, 0x52]);
    assert_eq!(events(&mut client).unwrap().len(), 5);
}

#[test]
fn extensions_are_bounded() {
    let (mut client, _) = pair();
    for seed in 0..bounds::MAX_QUEUED_EXTENSIONS {
        client.send_grease(seed as u64).unwrap();
    }
    assert!(matches!(
        client.send_grease(0),
        Err(CommandError::TooMany { .. })
    ));
}

#[test]
fn n77_wrap_up_once_from_the_proxy_only() {
    let (mut client, mut proxy) = pair();
    proxy.wrap_up();
    proxy.allow_extensions();
    assert_eq!(carry(&mut proxy, &mut client), [Event::WrapUp]);
    proxy.wrap_up();
    assert_eq!(proxy.poll_transmit(), None);
    client.allow_extensions();
    client.wrap_up();
    assert_eq!(client.poll_transmit(), None, "clients never send it");
    let empty = encode_raw(WRAP_UP, &[]);
    client.handle_data(empty.clone(), 0);
    assert_eq!(client.poll_event(), Err(SessionError::WrapUp), "twice");
    proxy.handle_data(empty, 0);
    assert_eq!(
        proxy.poll_event(),
        Err(SessionError::WrapUp),
        "from a client"
    );
    let mut client = pair().0;
    client.handle_data(encode_raw(WRAP_UP, b"x"), 0);
    let error = client.poll_event().unwrap_err();
    assert_eq!(
        (&error, error.code()),
        (&SessionError::WrapUp, Code::H3_MESSAGE_ERROR)
    );
    let mut plain = Session::new(Role::Proxy);
    plain.allow_extensions();
    plain.wrap_up();
    assert_eq!(plain.poll_transmit(), None, "no type, no capsule");
}

#[test]
fn n44_the_end_of_the_stream() {
    let (mut client, mut proxy) = pair();
    proxy.assign(&[net("10.0.0.1/32")]).unwrap();
    client.handle_data(proxy.poll_transmit().unwrap(), 0);
    client.handle_finished();
    client.handle_data(Bytes::from_static(&[5]), 0);
    let list = events(&mut client).unwrap();
    assert!(
        matches!(list[..], [Event::Assigned(_), Event::Finished]),
        "{list:?}"
    );
    assert_eq!(client.poll_event(), Ok(None));
    let mut cut = Session::new(Role::Client);
    cut.handle_data(Bytes::from_static(&[1, 7, 0]), 0);
    cut.handle_finished();
    let error = cut.poll_event().unwrap_err();
    assert_eq!(
        error,
        SessionError::Capsule(CapsuleError::StreamEnded),
        "n31"
    );
}

#[test]
fn lists_that_we_send_are_bounded() {
    let (_, mut proxy) = pair();
    let many = |count: u32| -> Vec<IpNet> {
        (0..count)
            .map(|n| IpNet::from(std::net::IpAddr::from((n * 2).to_be_bytes())))
            .collect()
    };
    let bound = bounds::MAX_ASSIGNED as u32;
    proxy.assign(&many(bound)).unwrap();
    assert!(matches!(
        proxy.assign(&many(bound + 1)),
        Err(CommandError::TooMany { .. })
    ));
    assert_eq!(
        proxy.granted().len(),
        bounds::MAX_ASSIGNED,
        "nothing changed"
    );
    let bound = bounds::MAX_ROUTES as u32;
    proxy.advertise(from_prefixes(&many(bound), None)).unwrap();
    let more = from_prefixes(&many(bound + 1), None);
    assert!(matches!(
        proxy.advertise(more),
        Err(CommandError::TooMany { .. })
    ));
    assert_eq!(sent(&mut proxy).len(), 2, "and both fit a capsule");
}

#[test]
fn unread_bytes_are_bounded() {
    let mut session = Session::new(Role::Proxy);
    let chunk = Bytes::from(vec![0x17; 64 * 1024]);
    for _ in 0..4 {
        session.handle_data(chunk.clone(), 0);
    }
    session.handle_data(chunk.clone(), 0);
    assert_eq!(session.poll_event(), Err(SessionError::Unread));
    // A driver that reads may give any amount.
    let mut session = Session::new(Role::Proxy);
    let skip = encode_raw(
        capsule_type::grease(0),
        &vec![0; bounds::MAX_UNREAD_BYTES * 2],
    );
    session.handle_data(skip, 0);
    assert_eq!(events(&mut session).unwrap().len(), 1);
}

#[derive(Clone, Debug)]
enum Command {
    Assign(Vec<u8>),
    Advertise(Vec<u8>),
    Request(u8),
    Answer(Vec<bool>),
    Deliver,
}

fn command() -> impl Strategy<Value = Command> {
    let small = || prop::collection::vec(1..20u8, 0..6);
    prop_oneof![
        small().prop_map(Command::Assign),
        small().prop_map(Command::Advertise),
        (0..4u8).prop_map(Command::Request),
        prop::collection::vec(any::<bool>(), 0..4).prop_map(Command::Answer),
        Just(Command::Deliver),
    ]
}

proptest! {
    /// Whatever the proxy says in between, after a delivery the client knows exactly what the proxy
    /// holds, and each request is answered once.
    #[test]
    fn n48_both_ends_agree(commands in prop::collection::vec(command(), 0..40)) {
        let (mut client, mut proxy) = pair();
        let mut open = BTreeSet::new();
        let mut now_ms = 0;
        for command in commands.into_iter().chain([Command::Deliver]) {
            match command {
                Command::Assign(list) => {
                    let list: Vec<_> = list.iter().map(|n| net(&format!("10.0.0.{n}/32"))).collect();
                    proxy.assign(&list).unwrap();
                }
                Command::Advertise(list) => {
                    let list: Vec<_> = list.iter().map(|n| net(&format!("10.{n}.0.0/16"))).collect();
                    proxy.advertise(from_prefixes(&list, None)).unwrap();
                }
                Command::Request(count) => {
                    let wishes = vec![net("0.0.0.0/32"); usize::from(count)];
                    if let Ok(requests) = client.request_addresses(&wishes) {
                        open.extend(requests.iter().map(|request| request.request_id));
                    }
                }
                Command::Answer(yes) => {
                    let answers: Vec<_> = proxy
                        .pending_requests()
                        .zip(&yes)
                        .map(|(r, yes)| (r.request_id, yes.then(|| net("10.9.9.9/32"))))
                        .collect();
                    proxy.answer_requests(&answers).unwrap();
                }
                Command::Deliver => {
                    now_ms += 100 * bounds::CHURN_REFILL_MS;
                    while let Some(capsule) = client.poll_transmit() {
                        proxy.handle_data(capsule, now_ms);
                    }
                    events(&mut proxy).unwrap();
                    while let Some(capsule) = proxy.poll_transmit() {
                        client.handle_data(capsule, now_ms);
                    }
                    for event in events(&mut client).unwrap() {
                        let Event::Assigned(list) = event else { continue };
                        for entry in list {
                            let first = open.remove(&entry.request_id);
                            prop_assert!(first || !entry.is_refusal(), "{:?} comes again", entry);
                        }
                    }
                    prop_assert_eq!(client.assigned(), proxy.granted());
                    prop_assert_eq!(client.routes(), proxy.advertised());
                    let pending: Vec<u64> = proxy.pending_requests().map(|r| r.request_id).collect();
                    prop_assert_eq!(open.iter().copied().collect::<Vec<_>>(), pending);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_survived(
        pieces in prop::collection::vec(prop::collection::vec(0..80u8, 0..500), 0..20),
        proxy in any::<bool>(),
    ) {
        let role = if proxy { Role::Proxy } else { Role::Client };
        let mut session = Session::new(role).with_wrap_up_capsule(5);
        for piece in pieces {
            let _ = session.handle_datagram(piece.clone().into());
            session.handle_data(piece.into(), 0);
            if events(&mut session).is_err() {
                prop_assert_eq!(session.poll_transmit(), None);
                break;
            }
        }
        prop_assert!(session.pending_requests().count() <= bounds::MAX_PENDING_REQUESTS);
        session.handle_finished();
        let _ = events(&mut session);
    }
}
