//! A gateway that an operator runs: Snapshots over the stream instead of manifests.

use std::{
    fs,
    net::{IpAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use masque_controller::{Options, compile, manifests};
use masque_model::{ObjectName, Snapshot};
use masque_netns_tests::{Client, Fabric, Gateway, Process, connects, eventually, ping, program};
use masque_stream::{
    AuthError, Authenticator, Authority, Hub, PodIdentity, PodState, ServerTls, Subject,
    async_trait, point_of_uri, serve,
};
use tokio::{runtime::Runtime, sync::oneshot};

use crate::{WEB, WORK_V4, WORK_V6, address, at, connects_not, with_laptop};

const VPC: &str = "production-vpc";
const POD: &str = "edge-0";
const LISTENER: &str = "edge-listener";
/// Where the operator listens, in the gateway's namespace.
const ADDRESS: &str = "127.0.0.1:9443";
const SOON: Duration = Duration::from_secs(3);

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// The one pod there is has the one token there is.
struct OnePod;

#[async_trait]
impl Authenticator for OnePod {
    async fn authenticate(&self, token: &str, uri: &str) -> Result<PodIdentity, AuthError> {
        if token != "the-token" {
            return Err(AuthError::Refused("another token".to_owned()));
        }
        let ingress_point = point_of_uri(uri).map_err(|e| AuthError::Refused(e.to_string()))?;
        Ok(PodIdentity {
            ingress_point,
            pod: POD.to_owned(),
        })
    }
}

/// An operator's stream in the gateway's namespace; gone when dropped.
struct Operator {
    hub: Hub,
    _stop: oneshot::Sender<()>,
    _runtime: Runtime,
}

impl Operator {
    fn start(fabric: &Fabric, authority: &Authority) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let names = Subject::Server(vec!["masque-operator".to_owned()]);
        let issued = authority.issue(&names, now()).unwrap();
        let tls = ServerTls::new(&issued, &authority.bundle()).unwrap();
        let listener = fabric.gateway.enter(|| TcpListener::bind(ADDRESS).unwrap());
        listener.set_nonblocking(true).unwrap();
        let hub = Hub::new();
        let (stop, stopped) = oneshot::channel::<()>();
        let for_pods = hub.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let stopped = async {
                let _ = stopped.await;
            };
            serve(listener, tls, Arc::new(OnePod), for_pods, stopped).await
        });
        Self {
            hub,
            _stop: stop,
            _runtime: runtime,
        }
    }

    fn pod(&self, point: &ObjectName) -> Option<PodState> {
        self.hub.reports(point).pop()
    }

    #[track_caller]
    fn wait_acked(&self, snapshot: &Snapshot) {
        let acked = || self.pod(&snapshot.ingress_point).and_then(|pod| pod.acked);
        let what = format!("version {} is acknowledged", snapshot.version);
        eventually(&what, || acked() == Some(snapshot.version));
    }
}

/// What a pod has mounted.
struct Mounts(PathBuf);

impl Mounts {
    fn new(fabric: &Fabric, authority: &Authority, point: &ObjectName) -> Self {
        let mounts = Self(fabric.folder().join("pod"));
        let pods = authority
            .issue(&Subject::Pods(point.clone()), now())
            .unwrap();
        mounts.write("stream/ca.crt", &authority.bundle());
        mounts.write("stream/tls.crt", &pods.certificate_pem);
        mounts.write("stream/tls.key", &pods.key_pem);
        mounts.write("token", "the-token\n");
        fs::create_dir_all(mounts.0.join("listeners")).unwrap();
        // Where the clients of the fabric look for it.
        let ca = fabric.manifests.development_ca();
        fs::create_dir_all(ca.parent().unwrap()).unwrap();
        fs::write(ca, authority.bundle()).unwrap();
        mounts
    }

    fn listener(&self, authority: &Authority, name: &str) {
        let names = Subject::Server(vec!["192.0.2.1".to_owned()]);
        let issued = authority.issue(&names, now()).unwrap();
        self.write(&format!("listeners/{name}/tls.key"), &issued.key_pem);
        self.write(
            &format!("listeners/{name}/tls.crt"),
            &issued.certificate_pem,
        );
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn gateway(&self, fabric: &Fabric) -> Gateway {
        let at = |name: &str| format!("{}/{name}", self.0.display());
        let (ca, cert) = (at("stream/ca.crt"), at("stream/tls.crt"));
        let (key, token) = (at("stream/tls.key"), at("token"));
        let (listeners, state) = (at("listeners"), at("state"));
        let url = format!("https://{ADDRESS}");
        let args = [
            "--operator",
            &url,
            "--operator-ca",
            &ca,
            "--operator-cert",
            &cert,
            "--operator-key",
            &key,
            "--operator-token",
            &token,
            "--pod-name",
            POD,
            "--tls-dir",
            &listeners,
            "--state-dir",
            &state,
        ];
        let log = fabric.folder().join("gateway.log");
        let program: &Path = program("masque-gateway");
        Gateway::adopt(
            fabric,
            Process::start(&fabric.gateway, program, &args, &log),
        )
    }
}

/// The Snapshot of production, as an operator makes it: addresses given, certificate named.
fn production(fabric: &Fabric) -> Snapshot {
    fabric.manifests.write();
    let resources = manifests::read_folder(&fabric.manifests.dir).resources;
    let compiled = compile(&resources, now(), &Options::standalone(), &[]);
    let is_production = |s: &Snapshot| s.ingress_point.name == "production";
    let mut snapshot = compiled.snapshots.into_iter().find(is_production).unwrap();
    let given = snapshot
        .pools
        .iter()
        .map(|pool| pool.prefix.hosts().nth(40).unwrap());
    snapshot.attachments[0].addresses = given.collect();
    snapshot.listeners[0].certificates = vec![LISTENER.to_owned()];
    snapshot
}

fn given(snapshot: &Snapshot) -> (IpAddr, IpAddr) {
    let addresses = &snapshot.attachments[0].addresses;
    let one = |ipv4| *addresses.iter().find(|a| a.is_ipv4() == ipv4).unwrap();
    (one(true), one(false))
}

#[test]
fn a_gateway_follows_its_operator() {
    let Some(fabric) = with_laptop() else { return };
    let authority = Authority::generate(now()).unwrap();
    let mut snapshot = production(&fabric);
    let point = snapshot.ingress_point.clone();
    let mounts = Mounts::new(&fabric, &authority, &point);
    let operator = Operator::start(&fabric, &authority);
    let gateway = mounts.gateway(&fabric);
    eventually("the pod is there", || {
        operator.pod(&point).is_some_and(|pod| pod.connected)
    });
    let waits = gateway.http("/readyz").unwrap();
    assert!(
        waits.contains("503") && waits.contains("waiting for the first Snapshot"),
        "{waits}"
    );

    // Its certificate is mounted a moment later than the Snapshot comes.
    operator.hub.publish(&snapshot).unwrap();
    let rejected = || operator.pod(&point).and_then(|pod| pod.rejected);
    eventually("it is rejected", || rejected().is_some());
    assert!(rejected().unwrap().1.contains(LISTENER), "{:?}", rejected());
    assert!(!gateway.is_ready());
    mounts.listener(&authority, LISTENER);
    operator.wait_acked(&snapshot);
    gateway.wait_ready();

    let client = fabric.attach(&fabric.laptop, "laptop", VPC);
    assert_eq!((client.ipv4(), client.ipv6()), given(&snapshot));
    ping(&fabric.laptop, address(WORK_V4), &[]);
    ping(&fabric.laptop, address(WORK_V6), &[]);
    let sessions = || operator.pod(&point).unwrap().sessions;
    eventually("the session is reported", || sessions().len() == 1);
    assert_eq!(sessions()[0].attachment, snapshot.attachments[0].name);
    assert_eq!(sessions()[0].transport, "h3");

    // Nothing is allowed, and then everything again.
    let rules = std::mem::take(&mut snapshot.rules);
    let _web = masque_netns_tests::Echo::start(&fabric.work_1p, at(WORK_V4, WEB));
    for (version, rules) in [(2, Vec::new()), (3, rules)] {
        snapshot.version = version;
        let open = !rules.is_empty();
        snapshot.rules = rules;
        operator.hub.publish(&snapshot).unwrap();
        operator.wait_acked(&snapshot);
        if open {
            connects(&fabric.laptop, at(WORK_V4, WEB), SOON).unwrap();
        } else {
            connects_not(&fabric.laptop, at(WORK_V4, WEB));
        }
    }

    // Without its operator it forwards, and starts.
    stops(operator, &gateway);
    ping(&fabric.laptop, address(WORK_V4), &[]);
    gateway.kill();
    let gateway = mounts.gateway(&fabric);
    gateway.wait_ready();
    comes_back(&fabric, &client);
    assert_eq!((client.ipv4(), client.ipv6()), given(&snapshot));

    // Another operator takes over: it hears what runs, and what is connected.
    let operator = Operator::start(&fabric, &authority);
    operator.hub.publish(&snapshot).unwrap();
    operator.wait_acked(&snapshot);
    eventually("the session is reported", || {
        operator
            .pod(&point)
            .is_some_and(|pod| pod.sessions.len() == 1)
    });
    let ended = gateway.terminate();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    eventually("the pod is gone", || {
        !operator.pod(&point).unwrap().connected
    });
}

/// The operator goes away, and the gateway says so and serves all the same.
fn stops(operator: Operator, gateway: &Gateway) {
    let connected = || {
        let samples = gateway.metrics();
        samples.sum("masque_gateway_operator_connected", &[])
    };
    assert_eq!(connected(), 1);
    drop(operator);
    eventually("the gateway says so", || connected() == 0);
    assert!(gateway.is_ready());
}

/// The client is attached to the new gateway, and its packets pass.
fn comes_back(fabric: &Fabric, client: &Client) {
    let log = fabric.folder().join("ping.log");
    let pings = ["-i", "0.1", "-c", "100", WORK_V4];
    let _traffic = Process::start(&fabric.laptop, Path::new("ping"), &pings, &log);
    eventually("the client is back", || {
        client.log().contains("connected again")
    });
    ping(&fabric.laptop, address(WORK_V4), &[]);
}
