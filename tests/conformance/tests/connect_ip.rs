//! CONNECT-IP (numbers 36 to 66), against the real gateway.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use std::{net::IpAddr, time::Duration};

use masque_conformance::{
    Dialer, RawClient, Shape,
    frames::{
        self, ADDRESS_ASSIGN, ADDRESS_REQUEST, PATH, ROUTE_ADVERTISEMENT, USUAL, capsule,
        connect_ip, control,
    },
    with_fabric, with_gateway,
};
use masque_netns_tests::{Fabric, Links, eventually};
use masque_packet::{
    build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp},
    ip,
};
use masque_protocol::{Capsule, CapsuleDecoder, Scope};
use masque_testkit::Capture;

const H3_NO_ERROR: u64 = 0x100;
const H3_INTERNAL_ERROR: u64 = 0x102;
const H3_MESSAGE_ERROR: u64 = 0x10e;

fn parsed(kind: u64, value: &[u8]) -> Capsule {
    let mut decoder = CapsuleDecoder::new();
    decoder.push(frames::frame(kind, value).into());
    decoder.poll().unwrap().unwrap()
}

/// The addresses of an ADDRESS_ASSIGN: IPv4, IPv6.
fn addresses(capsules: &[(u64, Vec<u8>)]) -> (IpAddr, IpAddr) {
    let Capsule::AddressAssign(list) = parsed(capsules[0].0, &capsules[0].1) else {
        panic!("{capsules:?}")
    };
    let of = |ipv4: bool| {
        let found = list
            .iter()
            .find(|entry| entry.prefix.addr().is_ipv4() == ipv4);
        found.expect("both families").prefix.addr()
    };
    (of(true), of(false))
}

/// Sends a packet in context 0 of the first request stream.
fn send(client: &RawClient, packet: &[u8]) {
    let datagram = [&[0, 0][..], packet].concat();
    client.connection.send_datagram(datagram.into()).unwrap();
}

/// The next packet of the first request stream.
async fn receive(client: &RawClient) -> Vec<u8> {
    let datagram = tokio::time::timeout(Duration::from_secs(5), client.connection.read_datagram());
    let datagram = datagram.await.expect("a packet in time").unwrap();
    assert_eq!(&datagram[..2], [0, 0], "quarter stream id and context");
    datagram[2..].to_vec()
}

#[test]
fn n37_n39_n40_paths_and_the_answer() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        for path in [
            PATH,
            "/vpc/default/production-vpc/masque/ip/%2A/%2a/",
            "/.well-known/masque/ip/*/*/",
        ] {
            let (_send, mut reader) = client.request(&connect_ip(path)).await;
            let head = reader.head().await;
            assert_eq!(frames::status(&head), 200, "{path}");
            assert_eq!(
                frames::field(&head, "capsule-protocol").as_deref(),
                Some("?1")
            );
        }
    });
}

#[test]
fn n38_n42_malformed_variables_are_refused() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        for variables in [
            "10.0.0.1%2F8/*",
            "10.0.0.0%2F33/*",
            "fe80%3A%3A1%25eth0/*",
            "fd00::1/*",
            "*/256",
            "*/tcp",
            "*/-1",
            "*/0",
            "*/43",
            "%zz/*",
        ] {
            let path = format!("/vpc/production-vpc/masque/ip/{variables}/");
            let (_send, mut reader) = client.request(&connect_ip(&path)).await;
            let status = reader.status().await;
            assert!(matches!(status, 400 | 404), "{variables}: {status}");
            assert_ne!(status, 200);
        }
        let path = "/vpc/production-vpc/masque/ip///";
        let (_send, mut reader) = client.request(&connect_ip(path)).await;
        assert!(matches!(reader.status().await, 400 | 404));
    });
}

#[test]
fn n43_a_name_that_does_not_resolve_is_told() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let path = "/vpc/production-vpc/masque/ip/nothing.invalid/*/";
        let (_send, mut reader) = client.request(&connect_ip(path)).await;
        let head = reader.head().await;
        assert!(matches!(frames::status(&head), 502 | 504));
        let why = frames::field(&head, "proxy-status").expect("Proxy-Status");
        assert!(why.contains("error=dns_"), "{why}");
    });
}

#[test]
fn n43_a_target_outside_the_routes_is_prohibited() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        for target in ["203.0.113.0%2F24", "203.0.113.7", "2001%3Adb8%3A%3A1"] {
            let path = format!("/vpc/production-vpc/masque/ip/{target}/*/");
            let (_send, mut reader) = client.request(&connect_ip(&path)).await;
            let head = reader.head().await;
            assert_eq!(frames::status(&head), 403, "{target}");
            let why = frames::field(&head, "proxy-status").expect("Proxy-Status");
            assert!(why.contains("error=destination_ip_prohibited"), "{why}");
        }
    });
}

/// RFC 9484 §4.1: a proxy that gives up a tunnel closes its stream; until then the addresses stay.
#[test]
fn n13_n44_an_idle_tunnel_ends_and_its_address_is_free_again() {
    let Some(mut fabric) = Fabric::with_laptop(Links::default()) else {
        return;
    };
    fabric.connector("phone");
    fabric.manifests.attach("phone", "production-vpc");
    let production = fabric.manifests.production();
    production.pools = vec!["10.0.100.4/32".into()];
    for field in ["idleTimeout", "resumeWindow", "addressQuarantine"] {
        production.sessions.push(format!("{field}: 1s"));
    }
    let phone = Dialer::new(&fabric, "phone");
    with_fabric(&fabric, |dial, gateway| async move {
        let client = dial.ready().await;
        let (_send, mut reader, mine) = client.tunnel().await;
        assert_eq!(mine[0], (ADDRESS_ASSIGN, vec![0, 4, 10, 0, 100, 4, 32]));
        assert_eq!(reader.reset_code().await, H3_NO_ERROR);
        let ends = || {
            let metrics = gateway.metrics();
            let idle = ["reason=\"idle_timeout\""];
            metrics.sum("masque_gateway_session_ends_total", &idle)
        };
        eventually("the end is counted", || ends() == 1);
        assert_eq!(gateway.sessions(), 0);
        assert_eq!(client.connection.close_reason(), None, "the tunnel alone");
        // The one address there is rests, and is another client's then.
        let other = phone.ready().await;
        let theirs = loop {
            let (_send, mut reader) = other.request(&connect_ip(PATH)).await;
            match reader.status().await {
                200 => break reader.capsules(1).await,
                status => assert_eq!(status, 503),
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        assert_eq!(theirs[0], mine[0]);
    });
}

#[test]
fn n45_n46_a_scope_limits_routes_and_packets() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let path = "/vpc/production-vpc/masque/ip/10.0.1.0%2F24/17/";
        let (_send, mut reader) = client.request(&connect_ip(path)).await;
        assert_eq!(reader.status().await, 200);
        let capsules = reader.capsules(2).await;
        let (ipv4, _) = addresses(&capsules);
        let Capsule::RouteAdvertisement(ranges) = parsed(capsules[1].0, &capsules[1].1) else {
            panic!("{capsules:?}")
        };
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].protocol(), 17);
        assert_eq!(ranges[0].start(), "10.0.1.0".parse::<IpAddr>().unwrap());
        // TCP is out of scope: administratively prohibited. ICMP always passes.
        let workload = "10.0.1.10".parse().unwrap();
        send(
            &client,
            &build_tcp(ipv4, workload, 1, 80, &TcpFields::default(), &[]),
        );
        let answer = receive(&client).await;
        assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 13));
        send(&client, &build_icmp_echo(ipv4, workload, 7, 1, b"hello"));
        let answer = receive(&client).await;
        assert_eq!((answer[9], answer[20]), (1, 0), "an echo reply");
    });
}

/// A scope is refused exactly if no packet could ever be within it.
#[test]
fn n55_a_scope_names_what_packets_are() {
    let host = "2001:db8::1".parse().unwrap();
    for number in 0..=255 {
        let packet = build_ip(host, host, number, &[59, 0, 0, 0, 0, 0, 0, 0]);
        let is_of_it = ip::parse(&packet).is_ok_and(|header| header.protocol == number);
        let scope = Scope::parse(None, Some(&number.to_string()));
        assert_eq!(scope.is_ok(), is_of_it, "{number}");
    }
}

#[test]
fn n47_n50_n53_malformed_configuration_ends_the_stream() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let wrong = [
            capsule(ADDRESS_REQUEST, &[]),
            capsule(ADDRESS_REQUEST, &[0, 4, 0, 0, 0, 0, 32]),
            capsule(ADDRESS_REQUEST, &[1, 5, 0, 0, 0, 0, 32]),
            capsule(ADDRESS_ASSIGN, &[0, 4, 10, 0, 0, 1, 24]),
            capsule(ADDRESS_ASSIGN, &[0, 4, 10, 0, 0, 0, 33]),
            capsule(ROUTE_ADVERTISEMENT, &[4, 10, 0, 0, 2, 10, 0, 0, 1, 0]),
            capsule(
                ROUTE_ADVERTISEMENT,
                &[
                    4, 10, 0, 0, 9, 10, 0, 0, 9, 0, 4, 10, 0, 0, 1, 10, 0, 0, 1, 0,
                ],
            ),
        ];
        for bytes in wrong {
            let (mut send, mut reader, _) = client.tunnel().await;
            send.write_all(&bytes).await.unwrap();
            assert_eq!(reader.reset_code().await, H3_MESSAGE_ERROR, "{bytes:?}");
        }
    });
}

#[test]
fn n49_n51_addresses_come_unasked_and_when_asked() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (mut send, mut reader, capsules) = client.tunnel().await;
        assert_eq!(
            capsules.iter().map(|c| c.0).collect::<Vec<_>>(),
            [ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT]
        );
        let (ipv4, ipv6) = addresses(&capsules);
        let any_v4 = [1, 4, 0, 0, 0, 0, 32];
        let any_v6 = [&[2, 6][..], &[0; 16], &[128]].concat();
        send.write_all(&capsule(ADDRESS_REQUEST, &[&any_v4[..], &any_v6].concat()))
            .await
            .unwrap();
        let answer = reader.capsules(1).await;
        let Capsule::AddressAssign(list) = parsed(answer[0].0, &answer[0].1) else {
            panic!("{answer:?}")
        };
        let of = |id: u64| {
            list.iter()
                .find(|e| e.request_id == id)
                .map(|e| e.prefix.addr())
        };
        assert_eq!((of(1), of(2)), (Some(ipv4), Some(ipv6)));
    });
}

#[test]
fn n56_other_contexts_are_dropped() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (_send, _reader, capsules) = client.tunnel().await;
        let (ipv4, _) = addresses(&capsules);
        let workload = "10.0.1.10".parse().unwrap();
        let ping = |sequence| build_icmp_echo(ipv4, workload, 7, sequence, b"x");
        for context in [&[2][..], &[3], &[0x40, 0x02], &[]] {
            let datagram = [&[0][..], context, &ping(1)].concat();
            let datagram = if context.is_empty() {
                vec![0]
            } else {
                datagram
            };
            client.connection.send_datagram(datagram.into()).unwrap();
        }
        // A non-minimal varint of 0 is context 0.
        let datagram = [&[0, 0x40, 0x00][..], &ping(2)].concat();
        client.connection.send_datagram(datagram.into()).unwrap();
        let answer = receive(&client).await;
        assert_eq!(
            (answer[20], answer[27]),
            (0, 2),
            "only sequence 2 was answered"
        );
    });
}

#[test]
fn n58_n63_bad_packets_are_dropped_or_answered_never_fatal() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (_send, _reader, capsules) = client.tunnel().await;
        let (ipv4, ipv6) = addresses(&capsules);
        let workload: IpAddr = "10.0.1.10".parse().unwrap();
        let good = build_udp(ipv4, workload, 1, 9, b"x");
        for cut in [0, 1, 19, good.len() - 1] {
            send(&client, &good[..cut]);
        }
        let mut checksum = good.clone();
        checksum[10] ^= 1;
        send(&client, &checksum);
        send(&client, &[0x50; 40]);
        // A forged source: RFC 9484 §7.2.1, code 13 (IPv4) and 5 (IPv6).
        send(
            &client,
            &build_udp("10.0.100.200".parse().unwrap(), workload, 1, 80, b"x"),
        );
        let answer = receive(&client).await;
        assert_eq!((answer[9], answer[20], answer[21]), (1, 3, 13));
        let forged = "fd20:10:0:100::dead".parse().unwrap();
        let v6 = "fd20:10:0:1::10".parse().unwrap();
        send(&client, &build_udp(forged, v6, 1, 80, b"x"));
        let answer = receive(&client).await;
        assert_eq!((answer[6], answer[40], answer[41]), (58, 1, 5));
        // No route: code 0.
        send(
            &client,
            &build_udp(ipv6, "2001:db8::1".parse().unwrap(), 1, 80, b"x"),
        );
        let answer = receive(&client).await;
        assert_eq!((answer[6], answer[40], answer[41]), (58, 1, 0));
        // A used-up hop limit.
        let mut used_up = build_icmp_echo(ipv6, v6, 7, 1, b"x");
        used_up[7] = 1;
        send(&client, &used_up);
        let answer = receive(&client).await;
        assert_eq!((answer[6], answer[40], answer[41]), (58, 3, 0));
        assert!(ip::parse(&answer).is_ok());
    });
}

#[test]
fn n60_n61_the_probe_of_1280_bytes_is_answered() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (_send, _reader, capsules) = client.tunnel().await;
        let (_, ipv6) = addresses(&capsules);
        let probe = build_icmp_echo(ipv6, "ff02::1".parse().unwrap(), 7, 1, &[0; 1232]);
        assert_eq!(probe.len(), 1280);
        send(&client, &probe);
        let answer = receive(&client).await;
        assert_eq!((answer.len(), answer[40]), (1280, 129));
    });
}

/// Longer than what any session over links of 1500 carries, and not too long for the fabric.
const TOO_BIG_BYTES: usize = 1460;

/// RFC 9484 §10.1: a packet that no datagram holds is dropped and reported, and not sent as a capsule.
#[test]
fn n64_a_packet_too_big_is_reported_and_no_capsule() {
    let Some(mut fabric) = Fabric::with_laptop(Links::default()) else {
        return;
    };
    let ping_back = "{name: ping-back, direction: FromVPC, ports: [{protocol: ICMP}]}";
    let production = fabric.manifests.production();
    production.rules.push(ping_back.into());
    let workload = fabric.work_1p.clone();
    with_fabric(&fabric, |dial, gateway| async move {
        let client = dial.ready().await;
        let (mut send, mut reader, capsules) = client.tunnel().await;
        let (ipv4, ipv6) = addresses(&capsules);
        let wire = Capture::open(&workload, "eth0");
        let ping = |to: IpAddr, bytes: usize| {
            let (to, data) = (to.to_string(), (bytes - headers(to)).to_string());
            let args = ["-c", "1", "-W", "1", "-M", "do", "-s", &data, &to];
            let _unanswered = workload.command("ping", &args).output().unwrap();
        };
        ping(ipv4, TOO_BIG_BYTES);
        // Fragmentation needed: type 3, code 4.
        let icmp = |p: &[u8]| p[0] >> 4 == 4 && p[9] == 1 && p[20..22] == [3, 4];
        let told = wire.next(Duration::from_secs(2), icmp).expect("IPv4");
        let mtu = usize::from(u16::from_be_bytes([told[26], told[27]]));
        assert!((1280..TOO_BIG_BYTES).contains(&mtu), "{mtu}");
        ping(ipv6, TOO_BIG_BYTES);
        // Packet too big: type 2.
        let icmp = |p: &[u8]| p[0] >> 4 == 6 && p[6] == 58 && p[40] == 2;
        let told = wire.next(Duration::from_secs(2), icmp).expect("IPv6");
        let mtu = usize::from(u16::from_be_bytes([told[46], told[47]]));
        assert!((1280..TOO_BIG_BYTES).contains(&mtu), "{mtu}");
        assert_eq!(gateway.dropped("production-vpc", "packet_too_big"), 2);

        // Capsules keep their order: there was none before the answer to this.
        let any_ipv4 = [1, 4, 0, 0, 0, 0, 32];
        let request = capsule(ADDRESS_REQUEST, &any_ipv4);
        send.write_all(&request).await.unwrap();
        let answer = reader.capsules(1).await;
        assert_eq!((answer.len(), answer[0].0), (1, ADDRESS_ASSIGN));
        // And no datagram before a packet that fits, which waits for no other.
        ping(ipv4, 84);
        let packet = receive(&client).await;
        assert_eq!((packet.len(), packet[9], packet[20]), (84, 1, 8));
    });
}

/// Of IP and of an ICMP echo.
fn headers(to: IpAddr) -> usize {
    if to.is_ipv4() { 28 } else { 48 }
}

#[test]
fn n66_strangers_see_no_tunnel() {
    with_gateway(|dial| async move {
        let mut client = dial
            .connect(Shape {
                certificate: false,
                ..Shape::default()
            })
            .await;
        client.open_control(&control(&USUAL)).await;
        let get = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "192.0.2.1:4433"),
            (":path", "/nothing"),
        ];
        let (_send, mut reader) = client.request(&frames::headers(&get)).await;
        let nothing = reader.head().await;
        // Existing and missing VPCs, right and wrong variables: all look like a missing page.
        for path in [
            PATH,
            "/vpc/other/masque/ip/*/*/",
            "/vpc/production-vpc/masque/ip/x%/*/",
        ] {
            let (_send, mut reader) = client.request(&connect_ip(path)).await;
            let head = reader.head().await;
            assert_eq!(frames::status(&head), 404, "{path}");
            assert_eq!(head, nothing, "{path}");
        }
    });
}

/// A client that takes field sections of so many bytes (RFC 9114 §4.2.2), which the gateway knows.
async fn with_limit(dial: &Dialer, limit_bytes: u64) -> RawClient {
    let mut client = dial.connect(Shape::default()).await;
    let settings = [(0x33, 1), (0x6, limit_bytes)];
    client.open_control(&control(&settings)).await;
    // An answer of any kind to what was sent after them says that the settings were read.
    let unknown = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "192.0.2.1:4433"),
        (":path", "/"),
    ];
    let (_send, mut reader) = client.request(&frames::headers(&unknown)).await;
    let _answer = reader.frame().await;
    client
}

#[test]
fn n12_answers_shrink_to_what_the_client_takes() {
    with_gateway(|dial| async move {
        // :status has 42 bytes as a limit counts them, capsule-protocol 50, x-datum-ip-mtu as many.
        let client = with_limit(&dial, 100).await;
        let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
        let head = reader.head().await;
        assert_eq!(frames::status(&head), 200);
        assert_eq!(frames::field(&head, "x-datum-ip-mtu"), None);
        assert!(frames::field(&head, "capsule-protocol").is_some());
        let malformed = "/vpc/production-vpc/masque/ip/x%/*/";
        let (_send, mut reader) = client.request(&connect_ip(malformed)).await;
        let head = reader.head().await;
        assert_eq!(frames::status(&head), 400);
        assert_eq!(frames::field(&head, "proxy-status"), None);
        // To one that takes no answer at all, the end of the stream is the answer.
        let client = with_limit(&dial, 41).await;
        for path in [malformed, PATH] {
            let (_send, mut reader) = client.request(&connect_ip(path)).await;
            assert_eq!(reader.reset_code().await, H3_INTERNAL_ERROR);
        }
    });
}

/// Tunnels of an attachment at one time, unless its manifest says otherwise.
const SESSIONS_OF_AN_ATTACHMENT: u8 = 4;

#[test]
fn n12_a_tunnel_that_cannot_be_answered_displaces_none() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let mut tunnels = Vec::new();
        for _ in 0..SESSIONS_OF_AN_ATTACHMENT {
            tunnels.push(client.tunnel().await);
        }
        let small = with_limit(&dial, 60).await;
        let (_send, mut refused) = small.request(&connect_ip(PATH)).await;
        assert_eq!(refused.reset_code().await, H3_INTERNAL_ERROR);
        // The newest still carries the traffic, and the oldest was not ended for its place.
        let newest = SESSIONS_OF_AN_ATTACHMENT - 1;
        let (ipv4, _) = addresses(&tunnels[usize::from(newest)].2);
        let ping = build_icmp_echo(ipv4, "10.0.1.10".parse().unwrap(), 7, 1, b"still");
        let datagram = [&[newest, 0][..], &ping].concat();
        client.connection.send_datagram(datagram.into()).unwrap();
        let answer =
            tokio::time::timeout(Duration::from_secs(5), client.connection.read_datagram());
        let answer = answer.await.expect("a packet in time").unwrap();
        assert_eq!((answer[0], answer[22]), (newest, 0), "an echo reply");
        let oldest = &mut tunnels[0].1;
        let quiet = tokio::time::timeout(Duration::from_millis(300), oldest.frame());
        assert!(quiet.await.is_err(), "the oldest tunnel is still open");
    });
}
