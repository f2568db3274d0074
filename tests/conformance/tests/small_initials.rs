//! Clients that pad their Initials to no more than QUIC asks for (numbers 61 and 62): what their path
//! carries shows only after their request.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use std::time::Duration;

use masque_conformance::{
    Dialer, Links, RawClient, Shape,
    frames::{self, PATH, capsule, connect_ip},
    with_gateway, with_gateway_over,
};

const H3_REQUEST_CANCELLED: u64 = 0x10c;
const ADDRESS_ASSIGN: u64 = 1;
const ADDRESS_REQUEST: u64 = 2;

/// A path on which no tunnel fits, though QUIC does.
const NARROW: Links = Links {
    access_mtu: 1280,
    underlay_mtu: 1500,
};

async fn small(dial: &Dialer, initial_bytes: u16) -> RawClient {
    let shape = Shape {
        initial_bytes,
        ..Shape::default()
    };
    dial.ready_as(shape).await
}

#[test]
fn n61_small_initials_on_a_wide_path_get_a_tunnel() {
    with_gateway(|dial| async move {
        // The defaults of quinn and of quic-go.
        for bytes in [1200, 1280] {
            let client = small(&dial, bytes).await;
            let (mut send, mut reader) = client.request(&connect_ip(PATH)).await;
            // What is sent before the answer is kept: a request for any IPv4 address, with id 9.
            let ask = capsule(ADDRESS_REQUEST, &[9, 4, 0, 0, 0, 0, 32]);
            send.write_all(&ask).await.unwrap();
            assert_eq!(reader.status().await, 200, "{bytes}");
            let capsules = reader.capsules(3).await;
            let answers =
                |(kind, value): &(u64, Vec<u8>)| *kind == ADDRESS_ASSIGN && value.contains(&9);
            assert!(capsules.iter().any(answers), "{capsules:?}");
        }
    });
}

#[test]
fn n62_small_initials_on_a_narrow_path_are_refused_when_that_is_known() {
    with_gateway_over(NARROW, |dial| async move {
        let client = small(&dial, 1200).await;
        let (_send, mut reader) = client.request(&connect_ip(PATH)).await;
        let head = reader.head().await;
        assert_eq!(frames::status(&head), 502);
        let why = frames::field(&head, "proxy-status").expect("it says why");
        assert!(why.contains("1280"), "{why}");
    });
}

#[test]
fn n62_a_request_that_ends_while_it_is_held_is_over() {
    with_gateway_over(NARROW, |dial| async move {
        let client = small(&dial, 1200).await;
        let (mut finished, mut reader) = client.request(&connect_ip(PATH)).await;
        finished.finish().unwrap();
        assert_eq!(reader.reset_code().await, H3_REQUEST_CANCELLED);
        let (mut abandoned, _reader) = client.request(&connect_ip(PATH)).await;
        abandoned.reset(0x10cu32.into()).unwrap();
        let (mut talkative, mut reader) = client.request(&connect_ip(PATH)).await;
        // Capsules of an unknown type: more than is kept for a request without an answer.
        let much = capsule(0x1f, &[0; 70_000]);
        // The gateway may end the stream while this is being written.
        let _ended = talkative.write_all(&much).await;
        assert_eq!(reader.reset_code().await, 0x107, "H3_EXCESSIVE_LOAD");
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.close().await;
    });
}
