//! The WRAP_UP capsule (number 77), from a gateway that drains.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use masque_conformance::{frames::capsule, with_gateway, with_gateway_process};

/// draft-ietf-httpbis-wrap-up §5.
const WRAP_UP: u64 = 0x272d_da5e;
const ADDRESS_ASSIGN: u64 = 1;
const ADDRESS_REQUEST: u64 = 2;
const H3_MESSAGE_ERROR: u64 = 0x10e;
/// A reserved type (RFC 9297 §5.4): who sends it copes with unknown ones.
const GREASE: u64 = 0x17;

fn request(id: u8) -> Vec<u8> {
    capsule(ADDRESS_REQUEST, &[id, 4, 0, 0, 0, 0, 32])
}

#[test]
fn n77_a_drain_wraps_up_the_tunnels_of_those_who_cope() {
    with_gateway_process(|dial, gateway| async move {
        let client = dial.ready().await;
        let (mut copes, mut copes_reader, _) = client.tunnel().await;
        copes.write_all(&capsule(GREASE, b"x")).await.unwrap();
        // Capsules are read in order: once this is answered, the first one was seen.
        copes.write_all(&request(1)).await.unwrap();
        assert_eq!(copes_reader.capsules(1).await[0].0, ADDRESS_ASSIGN);
        let (mut silent, mut silent_reader, _) = client.tunnel().await;
        gateway.drain();
        assert_eq!(copes_reader.capsules(1).await, [(WRAP_UP, Vec::new())]);
        silent.write_all(&request(1)).await.unwrap();
        assert_eq!(silent_reader.capsules(1).await[0].0, ADDRESS_ASSIGN);
        // Who shows it later hears it then, and everybody once.
        silent.write_all(&capsule(GREASE, b"")).await.unwrap();
        assert_eq!(silent_reader.capsules(1).await, [(WRAP_UP, Vec::new())]);
        copes.write_all(&capsule(GREASE, b"")).await.unwrap();
        copes.write_all(&request(2)).await.unwrap();
        assert_eq!(copes_reader.capsules(1).await[0].0, ADDRESS_ASSIGN);
    });
}

#[test]
fn n77_a_client_may_not_wrap_up() {
    with_gateway(|dial| async move {
        let client = dial.ready().await;
        let (mut send, mut reader, _) = client.tunnel().await;
        send.write_all(&capsule(WRAP_UP, &[])).await.unwrap();
        assert_eq!(reader.reset_code().await, H3_MESSAGE_ERROR);
    });
}
