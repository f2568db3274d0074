//! Targets that are names (number 43): what happens until they are resolved, against the real gateway.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "helpers of tests: a broken assumption ends the test"
)]

use masque_conformance::{
    frames::{self, DATA, connect_ip, frame},
    with_names,
};

const H3_EXCESSIVE_LOAD: u64 = 0x107;
const ADDRESS_ASSIGN: u64 = 1;
const ADDRESS_REQUEST: u64 = 2;
const ROUTE_ADVERTISEMENT: u64 = 3;
/// What the gateway keeps of one request's stream.
const EARLY_MAX_BYTES: usize = 64 * 1024;
/// Names that are resolved for one key at one time.
const LOOKUPS_PER_KEY_MAX: usize = 4;

fn production(name: &str) -> Vec<u8> {
    connect_ip(&format!("/vpc/production-vpc/masque/ip/{name}/*/"))
}

#[test]
fn n51_what_comes_behind_a_request_for_a_name_is_answered() {
    with_names(|dial, _, mut names| async move {
        let client = dial.ready().await;
        let first = frame(ADDRESS_REQUEST, &[1, 4, 0, 0, 0, 0, 32]);
        let second = frame(ADDRESS_REQUEST, &[&[2, 6][..], &[0; 16], &[128]].concat());
        // One capsule whole, and one that straddles the answer.
        let (early, late) = second.split_at(9);
        let early = frame(DATA, &[&first[..], early].concat());
        let request = [production("db.test"), early].concat();
        let (mut send, mut reader) = client.request(&request).await;
        names.asked("db.test").await;
        names.answer();
        assert_eq!(reader.status().await, 200);
        let capsules = reader.capsules(3).await;
        let kinds: Vec<u64> = capsules.iter().map(|capsule| capsule.0).collect();
        assert_eq!(kinds, [ADDRESS_ASSIGN, ROUTE_ADVERTISEMENT, ADDRESS_ASSIGN]);
        assert_eq!(capsules[2].1[..2], [1, 4], "the answer to request 1");
        send.write_all(&frame(DATA, late)).await.unwrap();
        let (kind, value) = reader.capsules(1).await.remove(0);
        assert_eq!(kind, ADDRESS_ASSIGN);
        let entry = value.len() - 19;
        assert_eq!(value[entry..entry + 2], [2, 6], "the answer to request 2");
    });
}

#[test]
fn n43_what_comes_behind_a_request_for_a_name_is_bounded() {
    with_names(|dial, _, mut names| async move {
        let client = dial.ready().await;
        let (mut send, mut reader) = client.request(&production("db.test")).await;
        names.asked("db.test").await;
        let chunk = frame(DATA, &[0x17; 1024]);
        for _ in 0..EARLY_MAX_BYTES / 1024 {
            send.write_all(&chunk).await.unwrap();
        }
        send.write_all(&frame(DATA, &[0])).await.unwrap();
        assert_eq!(reader.reset_code().await, H3_EXCESSIVE_LOAD);
        names.answer();
        // The place of the one that was reset is free again, and no answer to it does harm.
        let (_send, mut reader) = client.request(&production("web.test")).await;
        assert_eq!(reader.status().await, 200);
    });
}

#[test]
fn n43_one_key_does_not_keep_others_from_having_names_resolved() {
    with_names(|dial, dial_other, mut names| async move {
        let (client, other) = (dial.ready().await, dial_other.ready().await);
        let mut waiting = Vec::new();
        for n in 0..LOOKUPS_PER_KEY_MAX {
            let name = format!("n{n}.test");
            waiting.push(client.request(&production(&name)).await);
            names.asked(&name).await;
        }
        let (_send, mut reader) = client.request(&production("more.test")).await;
        let head = reader.head().await;
        assert_eq!(frames::status(&head), 503);
        let why = frames::field(&head, "proxy-status").unwrap();
        assert!(why.contains("connection_limit_reached"), "{why}");
        let path = "/vpc/staging-vpc/masque/ip/other.test/*/";
        let (_other_send, mut other_reader) = other.request(&connect_ip(path)).await;
        names.asked("other.test").await;
        names.answer();
        assert_eq!(other_reader.status().await, 200);
        for (_send, reader) in &mut waiting {
            assert_eq!(reader.status().await, 200);
        }
        let (_send, mut reader) = client.request(&production("more.test")).await;
        assert_eq!(reader.status().await, 200);
    });
}
