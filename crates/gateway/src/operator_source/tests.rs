use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Parser as _;

use super::*;
use crate::args::Cli;

fn parse(more: &[&str]) -> Result<Cli, clap::Error> {
    let all = [
        "masque-gateway",
        "--operator",
        "https://masque-operator:9443",
        "--operator-ca=/s/ca.crt",
        "--operator-cert=/s/tls.crt",
        "--operator-key=/s/tls.key",
        "--operator-token=/t/token",
        "--pod-name=edge-0",
        "--tls-dir=/l",
        "--state-dir=/v",
    ];
    Cli::try_parse_from(all.iter().chain(more))
}

#[test]
fn the_arguments_of_a_pod_are_taken() {
    let args = parse(&[]).unwrap().run.operator;
    let config = args.config(Kept::new("/v/snapshot")).unwrap();
    assert_eq!(config.server_name, "masque-operator");
    assert_eq!(
        (config.pod.as_str(), config.ca.as_path()),
        ("edge-0", Path::new("/s/ca.crt"))
    );
    let (client, _driver) = Client::new(config, None).unwrap();
    drop(client);
}

#[test]
fn an_operator_alone_or_with_manifests_is_refused() {
    assert!(parse(&["--manifests=/m"]).is_err());
    let alone = Cli::try_parse_from(["masque-gateway", "--operator=https://x:1"]).unwrap_err();
    assert!(alone.to_string().contains("--operator-ca"), "{alone}");
}

/// A gateway starts without what it cannot read, and waits for its operator.
#[test]
fn a_kept_snapshot_of_no_use_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(KEPT);
    let mut config = parse(&[])
        .unwrap()
        .run
        .operator
        .config(Kept::new(&file))
        .unwrap();
    let path = |name: &str| dir.path().join(name);
    (config.certificate, config.key) = (path("tls.crt"), path("tls.key"));
    config.ca = path("ca.crt");
    // Whose pod this is is not known yet: nothing is thrown away.
    std::fs::write(&file, "masque-snapshot 1 1 00\n{}").unwrap();
    assert!(kept(&config).is_none());
    assert!(file.exists());
    let point = masque_model::ObjectName::new("team", "edge");
    let authority = masque_stream::Authority::generate(0).unwrap();
    let issued = authority
        .issue(&masque_stream::Subject::Pods(point), 0)
        .unwrap();
    std::fs::write(&config.ca, authority.bundle()).unwrap();
    std::fs::write(&config.certificate, issued.certificate_pem).unwrap();
    std::fs::write(&config.key, issued.key_pem).unwrap();
    assert!(kept(&config).is_none());
    assert!(!file.exists() && file.with_extension("unreadable").exists());
    // Nor is a folder in its place, or none at all.
    std::fs::create_dir(&file).unwrap();
    assert!(kept(&config).is_none());
    std::fs::remove_dir(&file).unwrap();
    assert!(kept(&config).is_none());
}

#[test]
fn addresses_come_from_the_operator_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("starter");
    crate::init::ready(&dir);
    let mut snapshot = crate::source::load(&dir, &[])
        .unwrap()
        .compiled
        .snapshots
        .remove(0);
    let attachment = snapshot.attachments[0].clone();
    let with = |addresses: Vec<IpAddr>| masque_model::Attachment {
        ipv4: true,
        ipv6: true,
        addresses,
        ..attachment.clone()
    };
    let (v4, v6) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
    snapshot.attachments = vec![
        with(vec![]),
        with(vec![v4]),
        with(vec![v6]),
        with(vec![v4, v6]),
    ];
    snapshot.sessions.address_quarantine_ms = 60_000;
    let given = as_given(snapshot);
    let families: Vec<_> = given.attachments.iter().map(|a| (a.ipv4, a.ipv6)).collect();
    let wanted = [(false, false), (true, false), (false, true), (true, true)];
    assert_eq!(families, wanted);
    assert_eq!(given.sessions.address_quarantine_ms, 0);
}
