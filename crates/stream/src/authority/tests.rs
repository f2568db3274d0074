use std::sync::Arc;

use rustls::{ClientConnection, ServerConnection};

use super::*;
use crate::{ServerTls, session::fixture::point, tls};

/// The certificates are checked by the clock of the machine.
fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn operator() -> Subject {
    Subject::Server(vec!["masque-operator".to_owned(), "127.0.0.1".to_owned()])
}

fn pods() -> Subject {
    Subject::Pods(point("a"))
}

/// Whether a pod that trusts `pod_trusts` and the operator that trusts `operator_trusts` can talk.
fn handshake(
    (server, operator_trusts): (&Issued, &str),
    (client, pod_trusts): (&Issued, &str),
) -> Result<(), rustls::Error> {
    let server = ServerTls::new(server, operator_trusts).unwrap().current();
    let (client, _) = tls::client(
        client.certificate_pem.as_bytes(),
        client.key_pem.as_bytes(),
        pod_trusts.as_bytes(),
    )
    .unwrap();
    let name = "masque-operator".try_into().unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn both_ends_know_each_other() {
    let ca = Authority::generate(now()).unwrap();
    let (server, client) = (ca.issue(&operator(), now()), ca.issue(&pods(), now()));
    let (server, client) = (server.unwrap(), client.unwrap());
    let bundle = ca.bundle();
    handshake((&server, &bundle), (&client, &bundle)).unwrap();
    let other = Authority::generate(now()).unwrap();
    assert!(handshake((&server, &other.bundle()), (&client, &bundle)).is_err());
    assert!(handshake((&server, &bundle), (&client, &other.bundle())).is_err());
    // A pod's certificate is not good for a server, nor a server's for a pod.
    assert!(handshake((&client, &bundle), (&client, &bundle)).is_err());
    assert!(
        tls::client(
            server.certificate_pem.as_bytes(),
            server.key_pem.as_bytes(),
            bundle.as_bytes()
        )
        .is_err()
    );
}

#[test]
fn rotation_has_no_gap_in_any_order() {
    let old = Authority::generate(now()).unwrap();
    let new = old.rotate(now()).unwrap();
    let new = Authority::from_pem(new.pem().clone()).unwrap();
    let issue = |ca: &Authority, subject| ca.issue(&subject, now()).unwrap();
    // Whatever has arrived already: certificates of the old or new CA on either side, and on the
    // pod's side the old or new bundle. The operator has the new bundle at once: it made it.
    for server_ca in [&old, &new] {
        for client_ca in [&old, &new] {
            for pod_trusts in [old.bundle(), new.bundle()] {
                let server = issue(server_ca, operator());
                let client = issue(client_ca, pods());
                handshake((&server, &new.bundle()), (&client, &pod_trusts)).unwrap();
            }
        }
    }
    let after = new.retire_previous().unwrap();
    let (server, client) = (issue(&after, operator()), issue(&after, pods()));
    handshake((&server, &after.bundle()), (&client, &after.bundle())).unwrap();
    let late = issue(&old, pods());
    assert!(handshake((&server, &after.bundle()), (&late, &after.bundle())).is_err());
}

#[test]
fn rotation_is_due_in_time() {
    let start = now();
    let ca = Authority::generate(start).unwrap();
    assert_eq!(ca.due(start), RotationStep::Keep);
    let last = ca.expires_unix_s() - CA_LIFETIME_S / 3;
    assert_eq!(ca.due(last - 1), RotationStep::Keep);
    assert_eq!(ca.due(last), RotationStep::Rotate);
    let next = ca.rotate(last).unwrap();
    assert_eq!(next.due(last + LEAF_LIFETIME_S - 1), RotationStep::Keep);
    let over = last + LEAF_LIFETIME_S;
    assert_eq!(next.due(over), RotationStep::RetirePrevious);
    assert_eq!(
        next.retire_previous().unwrap().due(over),
        RotationStep::Keep
    );
    assert!(
        over < ca.expires_unix_s(),
        "the old CA lives until its last certificate is gone"
    );
}

#[test]
fn what_is_issued_is_current_until_something_changes() {
    let (start, subject) = (now(), operator());
    let ca = Authority::generate(start).unwrap();
    let issued = ca.issue(&subject, start).unwrap();
    assert!(ca.is_current(&issued, &subject, start));
    assert!(ca.is_current(&issued, &subject, start + LEAF_LIFETIME_S / 2));
    assert!(!ca.is_current(&issued, &subject, start + LEAF_LIFETIME_S * 2 / 3));
    assert!(!ca.is_current(&issued, &pods(), start));
    let more = Subject::Server(vec!["masque-operator".to_owned()]);
    assert!(!ca.is_current(&issued, &more, start));
    assert!(
        !ca.rotate(start)
            .unwrap()
            .is_current(&issued, &subject, start)
    );
    let other_key = Issued {
        key_pem: ca.issue(&subject, start).unwrap().key_pem,
        ..issued.clone()
    };
    assert!(!ca.is_current(&other_key, &subject, start));
    let broken = Issued {
        certificate_pem: "x".to_owned(),
        ..issued
    };
    assert!(!ca.is_current(&broken, &subject, start));
}

#[test]
fn what_is_stored_is_checked() {
    let (a, b) = (
        Authority::generate(now()).unwrap(),
        Authority::generate(now()).unwrap(),
    );
    let mixed = AuthorityPem {
        ca_key: b.pem().ca_key.clone(),
        ..a.pem().clone()
    };
    assert!(matches!(
        Authority::from_pem(mixed),
        Err(CertificateError::OtherKey)
    ));
    let broken = AuthorityPem {
        previous_crt: Some("nothing".to_owned()),
        ..a.pem().clone()
    };
    let refused = Authority::from_pem(broken).unwrap_err();
    assert!(refused.to_string().contains("previous.crt"), "{refused}");
    assert!(!format!("{a:?} {:?}", a.pem()).contains("PRIVATE"));
}

#[test]
fn names_are_checked() {
    let ca = Authority::generate(now()).unwrap();
    for name in ["", "a b", "a..b", "é", &"x".repeat(64)] {
        let subject = Subject::Server(vec![name.to_owned()]);
        assert!(ca.issue(&subject, now()).is_err(), "{name:?}");
    }
    let names = ["*.example", "2001:DB8::1", "MiXed.example"].map(str::to_owned);
    let subject = Subject::Server(names.to_vec());
    let issued = ca.issue(&subject, now()).unwrap();
    assert!(ca.is_current(&issued, &subject, now()));
}
