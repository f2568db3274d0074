//! Both ends, over TLS on loopback.

use std::{net::SocketAddr, time::Duration};

use masque_model::ObjectName;
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};

use super::*;
use crate::{
    Authority, Client, ClientConfig, Issued, Kept, LinkState, PodState, Received, SessionInfo,
    Subject,
    session::fixture::{point, session, snapshot, with_content},
};

const SOON: Duration = Duration::from_secs(10);

/// A token is `POINT/POD`.
struct Tokens;

#[tonic::async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, token: &str, uri: &str) -> Result<PodIdentity, AuthError> {
        assert!(uri.starts_with("spiffe://masque-gateway/ns/team/vpcingresspoint/"));
        let (name, pod) = token
            .split_once('/')
            .ok_or_else(|| AuthError::Refused("unknown token".to_owned()))?;
        Ok(PodIdentity {
            ingress_point: point(name),
            pod: pod.to_owned(),
        })
    }
}

struct Operator {
    hub: Hub,
    tls: ServerTls,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Operator {
    async fn start(authority: &Authority) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), authority, MAX_STREAM_AGE).await
    }

    async fn start_at(address: SocketAddr, authority: &Authority, age: Duration) -> Self {
        let hub = Hub::new();
        let tls = ServerTls::new(&certificate(authority), &authority.bundle()).unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let (auth, for_streams) = (Arc::new(Tokens), (tls.clone(), hub.clone()));
        let serving = tokio::spawn(async move {
            serve_for(age, listener, for_streams.0, auth, for_streams.1, shutdown).await
        });
        Self {
            hub,
            tls,
            address,
            stop: Some(stop),
            serving,
        }
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        timeout(SOON, self.serving).await.unwrap().unwrap().unwrap();
    }

    /// Waits until the reports of `name` are as wanted.
    async fn until(&self, name: &str, wanted: impl Fn(&[PodState]) -> bool) -> Vec<PodState> {
        let mut changed = self.hub.changed();
        let wait = async {
            loop {
                let reports = self.hub.reports(&point(name));
                if wanted(&reports) {
                    return reports;
                }
                changed.changed().await.unwrap();
            }
        };
        let waited = timeout(SOON, wait).await;
        waited.unwrap_or_else(|_| panic!("{:?}", self.hub.reports(&point(name))))
    }
}

fn now() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn certificate(authority: &Authority) -> Issued {
    let names = Subject::Server(vec!["masque-operator".to_owned()]);
    authority.issue(&names, now()).unwrap()
}

/// A pod's mounted files.
struct Pod {
    dir: TempDir,
    config: ClientConfig,
}

impl Pod {
    fn new(operator: &Operator, authority: &Authority, name: &str, token: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |file: &str| dir.path().join(file);
        let config = ClientConfig {
            url: format!("https://{}", operator.address),
            server_name: "masque-operator".to_owned(),
            ca: at("ca.crt"),
            certificate: at("tls.crt"),
            key: at("tls.key"),
            token: at("token"),
            pod: "pod-0".to_owned(),
            gateway_version: "1.2.3".to_owned(),
            kept: Kept::new(at("snapshot")),
        };
        let pod = Self { dir, config };
        pod.mount(authority, &point(name));
        pod.write("token", token);
        pod
    }

    fn mount(&self, authority: &Authority, point: &ObjectName) {
        let issued = authority
            .issue(&Subject::Pods(point.clone()), now())
            .unwrap();
        self.write("ca.crt", &authority.bundle());
        self.write("tls.crt", &issued.certificate_pem);
        self.write("tls.key", &issued.key_pem);
    }

    fn write(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn start(&self, held: Option<&Received>) -> Client {
        let (client, driver) = Client::new(self.config.clone(), held).unwrap();
        tokio::spawn(driver.run());
        client
    }
}

async fn next(client: &mut Client) -> Received {
    timeout(SOON, client.next()).await.unwrap()
}

/// What the client says when it is not connected.
async fn refusal(client: &Client) -> String {
    let mut link = client.link();
    let state = link.wait_for(|state| matches!(state, LinkState::Down(_)));
    let state = timeout(SOON, state).await.unwrap().unwrap().clone();
    match state {
        LinkState::Down(sentence) => sentence,
        other => unreachable!("{other:?}"),
    }
}

async fn connected(client: &Client) {
    let mut link = client.link();
    let state = link.wait_for(|state| *state == LinkState::Connected);
    timeout(SOON, state).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_snapshot_is_run_acked_kept_and_rejected() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    let mut client = pod.start(None);
    operator
        .until("a", |pods| pods.len() == 1 && pods[0].connected)
        .await;
    let published = operator.hub.publish(&snapshot("a", 1)).unwrap();
    let first = next(&mut client).await;
    assert_eq!(
        (&first.snapshot, first.hash),
        (&snapshot("a", 1), published.hash())
    );
    client.ack(&first).await;
    let pods = operator.until("a", |pods| pods[0].acked == Some(1)).await;
    assert_eq!(pods[0].gateway_version, "1.2.3");
    operator.hub.publish(&with_content("a", 2, 2)).unwrap();
    let second = next(&mut client).await;
    client.reject(&second, "no such device");
    let pods = operator.until("a", |pods| pods[0].rejected.is_some()).await;
    assert_eq!(pods[0].rejected, Some((2, "no such device".to_owned())));
    assert_eq!(pods[0].held_version, 1);
    let kept = pod.config.kept.load(&point("a")).unwrap();
    assert_eq!(kept, Some(first), "what was rejected is not kept");
}

#[tokio::test]
async fn a_pod_that_runs_it_already_is_sent_nothing() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    operator.hub.publish(&snapshot("a", 4)).unwrap();
    let mut client = pod.start(None);
    let held = next(&mut client).await;
    client.ack(&held).await;
    operator
        .until("a", |pods| pods.iter().any(|p| p.acked == Some(4)))
        .await;
    drop(client);
    operator.until("a", |pods| !pods[0].connected).await;
    let held = pod.config.kept.load(&point("a")).unwrap();
    let mut client = pod.start(held.as_ref());
    operator
        .until("a", |pods| pods[0].connected && pods[0].acked == Some(4))
        .await;
    let nothing = timeout(Duration::from_millis(200), client.next()).await;
    assert!(nothing.is_err());
}

#[tokio::test]
async fn sessions_are_told_and_forgotten() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    let client = pod.start(None);
    client.report_sessions((0..2_500).map(session));
    let pods = operator
        .until("a", |p| {
            p.first().is_some_and(|p| p.sessions.len() == 2_500)
        })
        .await;
    assert_eq!(pods[0].sessions[7], session(7));
    let left: Vec<SessionInfo> = vec![session(2_400)];
    client.report_sessions(left.clone());
    operator.until("a", |pods| pods[0].sessions == left).await;
    client.report_sessions([]);
    operator
        .until("a", |pods| pods[0].sessions.is_empty())
        .await;
}

#[tokio::test]
async fn who_is_not_who_they_say_gets_nothing() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    operator.hub.publish(&snapshot("a", 1)).unwrap();
    operator.hub.publish(&snapshot("b", 1)).unwrap();
    for (name, token, says) in [
        (
            "a",
            "b/pod-0",
            "the certificate is of VPCIngressPoint team/a, and the token of team/b",
        ),
        (
            "a",
            "a/pod-1",
            "the token is of Pod pod-1, and not of pod-0",
        ),
        ("a", "nonsense", "unknown token"),
        ("a", "", "holds no token"),
    ] {
        let pod = Pod::new(&operator, &ca, name, token);
        let mut client = pod.start(None);
        let sentence = refusal(&client).await;
        assert!(sentence.contains(says), "{sentence}");
        assert!(
            timeout(Duration::from_millis(20), client.next())
                .await
                .is_err()
        );
    }
    let stranger = Authority::generate(now()).unwrap();
    let pod = Pod::new(&operator, &stranger, "a", "a/pod-0");
    assert!(
        refusal(&pod.start(None))
            .await
            .contains("cannot reach the operator")
    );
    pod.write("ca.crt", &ca.bundle());
    assert!(!refusal(&pod.start(None)).await.is_empty());
    assert_eq!(operator.hub.reports(&point("a")), []);
    assert_eq!(operator.hub.reports(&point("b")), []);
    // Each of two gets its own.
    let (pod_a, pod_b) = (
        Pod::new(&operator, &ca, "a", "a/pod-0"),
        Pod::new(&operator, &ca, "b", "b/pod-0"),
    );
    let mut of_a = pod_a.start(None);
    let mut of_b = pod_b.start(None);
    assert_eq!(next(&mut of_a).await.snapshot, snapshot("a", 1));
    assert_eq!(next(&mut of_b).await.snapshot, snapshot("b", 1));
}

#[tokio::test]
async fn a_pod_follows_its_operator_over_a_restart() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    operator.hub.publish(&snapshot("a", 7)).unwrap();
    let mut client = pod.start(None);
    let held = next(&mut client).await;
    client.ack(&held).await;
    client.report_sessions([session(1)]);
    operator
        .until("a", |pods| pods.iter().any(|p| !p.sessions.is_empty()))
        .await;
    let address = operator.address;
    operator.stop().await;
    refusal(&client).await;
    // It counts from one again, and the pod follows: the operator has the say.
    let operator = Operator::start_at(address, &ca, MAX_STREAM_AGE).await;
    operator.hub.publish(&with_content("a", 1, 5)).unwrap();
    let newest = next(&mut client).await;
    assert_eq!(newest.snapshot, with_content("a", 1, 5));
    client.ack(&newest).await;
    let told = |p: &PodState| p.acked == Some(1) && p.sessions == [session(1)];
    operator.until("a", |pods| pods.iter().any(told)).await;
}

#[tokio::test]
async fn the_ca_rotates_under_a_running_pod() {
    let old = Authority::generate(now()).unwrap();
    let operator = Operator::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &old,
        Duration::from_millis(300),
    )
    .await;
    let pod = Pod::new(&operator, &old, "a", "a/pod-0");
    let client = pod.start(None);
    connected(&client).await;
    let new = old.rotate(now()).unwrap();
    operator
        .tls
        .replace(&certificate(&new), &new.bundle())
        .unwrap();
    // Streams are young here: it connects again, with what it had mounted.
    refusal(&client).await;
    connected(&client).await;
    pod.mount(&new, &point("a"));
    let last = new.retire_previous().unwrap();
    operator
        .tls
        .replace(&certificate(&last), &last.bundle())
        .unwrap();
    refusal(&client).await;
    connected(&client).await;
}

#[tokio::test]
async fn an_old_stream_ends_and_begins_anew() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start_at(
        "127.0.0.1:0".parse().unwrap(),
        &ca,
        Duration::from_millis(100),
    )
    .await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    let client = pod.start(None);
    let sentence = refusal(&client).await;
    assert!(sentence.contains("prove who you are again"), "{sentence}");
    connected(&client).await;
}

#[tokio::test]
async fn a_slow_pod_skips_to_the_newest() {
    let ca = Authority::generate(now()).unwrap();
    let operator = Operator::start(&ca).await;
    let pod = Pod::new(&operator, &ca, "a", "a/pod-0");
    let mut client = pod.start(None);
    connected(&client).await;
    for version in 1..=500 {
        let mut large = with_content("a", version, version);
        large.listeners[0].path_templates = vec!["x".repeat(100_000)];
        operator.hub.publish(&large).unwrap();
        tokio::task::yield_now().await;
    }
    let mut seen = 0;
    loop {
        let received = next(&mut client).await;
        client.ack(&received).await;
        seen += 1;
        if received.snapshot.version == 500 {
            break;
        }
    }
    assert!(seen < 500, "versions in between are left out");
    operator.until("a", |pods| pods[0].acked == Some(500)).await;
}
