use super::*;
use crate::session::fixture::{point, session, snapshot, with_content};

fn config() -> ClientConfig {
    ClientConfig {
        url: "https://masque-operator.masque-system.svc:9443".to_owned(),
        server_name: "masque-operator".to_owned(),
        ca: PathBuf::new(),
        certificate: PathBuf::new(),
        key: PathBuf::new(),
        token: PathBuf::new(),
        pod: "edge-0".to_owned(),
        gateway_version: String::new(),
        kept: Kept::new("/nowhere/snapshot"),
    }
}

fn message(snapshot: &Snapshot) -> wire::Snapshot {
    Document::encode(snapshot).unwrap().message()
}

fn received(snapshot: &Snapshot) -> Received {
    Received::read(&message(snapshot), &snapshot.ingress_point).unwrap()
}

#[test]
fn only_urls_of_a_stream_are_taken() {
    for url in [
        "https://h:1",
        "https://[::1]:9443/",
        "https://127.0.0.1:9443",
    ] {
        let url = url.to_owned();
        assert!(Client::new(ClientConfig { url, ..config() }, None).is_ok());
    }
    for url in [
        "",
        "h:1",
        "http://h:1",
        "https://h",
        "https://h:x",
        "https://h:1/path",
        "https://u@h:1",
    ] {
        let url = url.to_owned();
        let refused = Client::new(ClientConfig { url, ..config() }, None);
        assert!(matches!(refused, Err(ClientError::Url(_))), "{refused:?}");
    }
    let server_name = "not a name".to_owned();
    let refused = Client::new(
        ClientConfig {
            server_name,
            ..config()
        },
        None,
    );
    assert!(matches!(refused, Err(ClientError::ServerName(_))));
}

#[test]
fn what_cannot_be_run_is_refused_before_the_gateway_sees_it() {
    let (mut client, driver) = Client::new(config(), None).unwrap();
    let rejected = |message| match driver.take(&message, &point("a")) {
        Some(wire::from_pod::Message::Reject(reject)) => reject.reason,
        other => panic!("{other:?}"),
    };
    let stranger = rejected(message(&snapshot("b", 1)));
    assert!(
        stranger.contains("team/b") && stranger.contains("team/a"),
        "{stranger}"
    );
    let damaged = wire::Snapshot {
        hash: vec![0; 32],
        ..message(&snapshot("a", 1))
    };
    assert!(rejected(damaged).contains("damaged"));
    assert!(!client.snapshots.has_changed().unwrap());
    assert!(
        driver
            .take(&message(&snapshot("a", 1)), &point("a"))
            .is_none()
    );
    assert_eq!(
        *client.snapshots.borrow_and_update(),
        Some(received(&snapshot("a", 1)))
    );
}

#[tokio::test]
async fn what_runs_already_is_acked_at_once() {
    let held = received(&snapshot("a", 3));
    let (client, driver) = Client::new(config(), Some(&held)).unwrap();
    let sent_again = driver.take(&message(&snapshot("a", 3)), &point("a"));
    assert!(matches!(sent_again, Some(wire::from_pod::Message::Ack(ack)) if ack.version == 3));
    assert_eq!(driver.hello().held_version, 3);
    // The disk is no reason not to run: the folder of the kept file does not exist.
    let next = received(&with_content("a", 4, 4));
    client.ack(&next).await;
    assert_eq!(driver.hello().held_hash, next.hash.as_bytes());
    assert!(
        driver
            .take(&message(&snapshot("a", 3)), &point("a"))
            .is_none()
    );
}

#[test]
fn the_same_sessions_are_no_news() {
    let (client, mut driver) = Client::new(config(), None).unwrap();
    client.report_sessions([session(2), session(1)]);
    assert!(driver.sessions.has_changed().unwrap());
    driver.sessions.mark_unchanged();
    client.report_sessions([session(1), session(2)]);
    assert!(!driver.sessions.has_changed().unwrap());
    client.report_sessions([session(1)]);
    assert!(driver.sessions.has_changed().unwrap());
}

/// A Service hands connections to the leader and to standbys, which do not listen.
#[tokio::test]
async fn a_dial_that_meets_a_standby_is_made_again() {
    use std::io;
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    let mut made = 0;
    let reached = link::dial(|| {
        made += 1;
        let answer = if made == 5 { Ok(made) } else { Err(refused()) };
        std::future::ready(answer)
    });
    assert_eq!(reached.await.unwrap(), 5);
    let mut made = 0;
    let nobody: io::Result<()> = link::dial(|| {
        made += 1;
        std::future::ready(Err(refused()))
    })
    .await;
    assert_eq!(nobody.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(made, crate::bounds::DIALS);
    // What takes its time is not tried again here.
    let mut made = 0;
    let lost: io::Result<()> = link::dial(|| {
        made += 1;
        std::future::ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await;
    assert_eq!(
        (lost.unwrap_err().kind(), made),
        (io::ErrorKind::TimedOut, 1)
    );
}
