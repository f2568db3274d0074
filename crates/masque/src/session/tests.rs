use masque_http3::Code;

use super::*;
use crate::{CapsuleError, from_prefixes};

mod properties;
mod requests;

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
