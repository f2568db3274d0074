//! `datum-connect attach` that cannot succeed says why in words, ends with the documented status
//! and does not try again.

use std::time::Duration;

use masque_netns_tests::{Client, Ended, Fabric, Gateway};
use masque_testkit::{DevelopmentCa, Netns};

use crate::{with_both, with_laptop};

const VPC: &str = "production-vpc";
/// The longest wait for an answer is 10 s.
const END_MAX: Duration = Duration::from_secs(20);

/// `attach` must end so; returns what it said.
#[track_caller]
fn refused(fabric: &Fabric, ns: &Netns, name: &str, vpc: &str, more: &[&str]) -> Ended {
    Client::start(fabric, ns, name, vpc, more).end(END_MAX)
}

#[track_caller]
fn told(ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{}", ended.output);
    let last = ended.output.lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "no {word:?} in:\n{}", ended.output);
    }
    assert!(last.starts_with("datum-connect: "), "{last}");
}

/// How often the gateway refused for this reason.
fn refusals(gateway: &Gateway, result: &str) -> u64 {
    let label = format!("result=\"{result}\"");
    gateway
        .metrics()
        .sum("masque_gateway_session_setups_total", &[&label])
}

#[test]
fn what_the_manifests_do_not_allow() {
    let Some(mut fabric) = with_both() else {
        return;
    };
    let id = Client::public_key(&fabric.laptop, fabric.folder(), "stranger");
    assert_eq!(id.len(), 64);
    let suspended = fabric.manifests.attachments.last_mut().unwrap();
    suspended.more.push("suspend: true".into());
    let gateway = fabric.start_gateway();

    let ended = refused(&fabric, &fabric.laptop, "stranger", VPC, &[]);
    told(&ended, 77, &["HTTP 404", &id, "kubectl apply"]);
    assert_eq!(refusals(&gateway, "unknown_key"), 1, "no retry");

    let ended = refused(&fabric, &fabric.laptop, "laptop", "no-such-vpc", &[]);
    told(&ended, 77, &["HTTP 404", "no-such-vpc"]);
    let ended = refused(&fabric, &fabric.laptop, "laptop", "staging-vpc", &[]);
    told(&ended, 77, &["HTTP 404", "staging-vpc"]);

    let ended = refused(&fabric, &fabric.phone, "phone", VPC, &[]);
    told(&ended, 77, &["HTTP 403", "suspended"]);
    assert_eq!(refusals(&gateway, "suspended"), 1, "no retry");

    let outside = ["--target", "203.0.113.0/24"];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &outside);
    let words = ["HTTP 403", VPC, "target", "outside the routes"];
    told(&ended, 77, &words);
    assert_eq!(refusals(&gateway, "target_outside_routes"), 1, "no retry");
    assert_eq!(gateway.sessions(), 0);
}

#[test]
fn an_exhausted_pool() {
    let Some(mut fabric) = with_both() else {
        return;
    };
    fabric.manifests.production().pools = vec!["10.0.100.4/32".into()];
    let gateway = fabric.start_gateway();
    let first = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert_eq!(first.ipv4().to_string(), "10.0.100.4");
    let ended = refused(&fabric, &fabric.phone, "phone", VPC, &[]);
    told(&ended, 75, &["address"]);
    assert_eq!(gateway.sessions(), 1);
}

#[test]
fn an_authority_the_client_does_not_trust() {
    let Some(fabric) = with_laptop() else { return };
    let _gateway = fabric.start_gateway();
    let other = fabric.folder().join("other-ca.crt");
    std::fs::write(&other, DevelopmentCa::new().pem()).unwrap();
    let ca = ["--ca", other.to_str().unwrap()];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &ca);
    told(&ended, 69, &["no authority", "192.0.2.1", "--ca"]);
    let missing = ["--ca", "/nowhere/ca.crt"];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &missing);
    told(&ended, 66, &["/nowhere/ca.crt"]);
}

#[test]
fn a_gateway_that_cannot_be_reached() {
    let Some(fabric) = with_laptop() else { return };
    let gateway = fabric.start_gateway();
    // Nobody listens there: an ICMP error says so, where silence would read "no answer". No time is
    // asserted: the kernel limits ICMP errors over all namespaces together, and may send a later one.
    let port = ["--gateway", "https://192.0.2.1:4434"];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &port);
    let words = ["192.0.2.1:4434", "cannot be reached", "connection refused"];
    told(&ended, 69, &words);
    // A host that is not there.
    let host = ["--gateway", "https://192.0.2.77:4433"];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &host);
    told(&ended, 69, &["192.0.2.77:4433"]);
    let name = ["--gateway", "https://no-such-name.invalid:4433"];
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &name);
    told(&ended, 69, &["no-such-name.invalid", "no address"]);

    // A network that lets no UDP out.
    fabric.router.run("nft", &["add table inet t"]);
    let chain = "add chain inet t f { type filter hook forward priority 0; }";
    fabric.router.run("nft", &[chain]);
    fabric
        .router
        .run("nft", &["add rule inet t f meta l4proto udp drop"]);
    let ended = refused(&fabric, &fabric.laptop, "laptop", VPC, &[]);
    told(
        &ended,
        69,
        &["no answer from 192.0.2.1:4433 over UDP", "4433"],
    );
    fabric.router.run("nft", &["delete table inet t"]);

    assert_eq!(gateway.sessions(), 0);
    fabric.attach(&fabric.laptop, "laptop", VPC);
}
