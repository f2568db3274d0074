//! Random conversations.

use proptest::prelude::*;

use super::*;

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
                    let list: Vec<_> =
                        list.iter().map(|n| net(&format!("10.0.0.{n}/32"))).collect();
                    proxy.assign(&list).unwrap();
                }
                Command::Advertise(list) => {
                    let list: Vec<_> =
                        list.iter().map(|n| net(&format!("10.{n}.0.0/16"))).collect();
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
                    let pending: Vec<u64> =
                        proxy.pending_requests().map(|r| r.request_id).collect();
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
