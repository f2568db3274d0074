use masque_protocol::bounds::MAX_ASSIGNED;

use super::*;

/// What the client hears after it asked for `asked`, of a session that has `addresses`.
fn answered(addresses: &[IpNet], asked: &[&str]) -> Vec<(u64, IpNet)> {
    let (mut client, mut proxy) = (Session::new(Role::Client), Session::new(Role::Proxy));
    proxy.assign(addresses).unwrap();
    while proxy.poll_transmit().is_some() {}
    let asked: Vec<IpNet> = asked.iter().map(|prefix| prefix.parse().unwrap()).collect();
    let requests = client.request_addresses(&asked).unwrap();
    proxy.handle_data(client.poll_transmit().unwrap(), 0);
    proxy.poll_event().unwrap();
    answer(&mut proxy, addresses, &requests);
    client.handle_data(proxy.poll_transmit().unwrap(), 0);
    let Ok(Some(Event::Assigned(list))) = client.poll_event() else {
        panic!("no ADDRESS_ASSIGN")
    };
    let answers = list.iter().filter(|entry| entry.request_id != 0);
    answers.map(|e| (e.request_id, e.prefix)).collect()
}

#[test]
fn n51_a_request_gets_what_the_session_has_of_its_family() {
    let mine: IpNet = "10.0.0.1/32".parse().unwrap();
    assert_eq!(
        answered(&[mine], &["0.0.0.0/32", "::/128", "10.9.9.9/32"]),
        [(2, "::/128".parse().unwrap()), (1, mine), (3, mine)]
    );
}

/// Two answers with one address are two entries, and one is too many.
#[test]
fn n51_what_cannot_be_granted_is_refused() {
    let addresses: Vec<IpNet> = (0..MAX_ASSIGNED)
        .map(|n| format!("10.0.{}.{}/32", n / 256, n % 256).parse().unwrap())
        .collect();
    let none: IpNet = "0.0.0.0/32".parse().unwrap();
    assert_eq!(
        answered(&addresses, &["0.0.0.0/32", "0.0.0.0/32"]),
        [(1, none), (2, none)]
    );
}

#[test]
fn only_ipv6_keeps_the_mtu_above_the_path() {
    let v4: IpNet = "10.0.100.50/32".parse().unwrap();
    let v6: IpNet = "fd20::1/128".parse().unwrap();
    for (room_bytes, addresses, wanted) in [
        (1400, vec![v4, v6], 1400),
        (1161, vec![v4, v6], 1280),
        // A longer packet with DF is then answered by Fragmentation Needed.
        (1161, vec![v4], 1161),
        (0, vec![v4], 68),
        (100_000, vec![v4], u16::MAX),
    ] {
        assert_eq!(inner_mtu_bytes(room_bytes, &addresses), wanted);
    }
}
