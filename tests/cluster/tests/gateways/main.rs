//! Real gateways as the pods of an ingress point: operator, API server, stream, sessions.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod follow;
mod refused;
mod rights;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::api::{Patch, PatchParams};
use masque_client::{AttachConfig, ConnectorIdentity, PacketAttachment, ServerTrust, attach};
use masque_cluster_tests::{
    ATTACHMENT, Cluster, GatewayPod, Operator, POINT, Site, Space, eventually, free_port,
};
use masque_testkit::DevelopmentCa;
use serde_json::{Value, json};

/// The Secret of the listener's certificate.
const CERTIFICATE: &str = "edge-tls";
/// A tunnel that opens at all is open by then, on a loaded machine.
const UP: Duration = Duration::from_secs(15);

/// One namespace with the ingress point `edge`, its operator and its one gateway.
struct World {
    space: Space,
    operator: Option<Operator>,
    how: How,
    ca: DevelopmentCa,
    pod: GatewayPod,
    site: Site,
}

/// How the operators of a world are started.
struct How {
    kubeconfig: PathBuf,
    lease_namespace: String,
    /// It serves every namespace, and not only that of the world.
    everywhere: bool,
    stream_port: u16,
}

/// A session of a client outside.
struct Session {
    attached: PacketAttachment,
    address: String,
}

impl World {
    /// An ingress point whose one pod is not started yet; `None` after a line `SKIPPED:`.
    async fn new(name: &str) -> Option<Self> {
        let cluster = Cluster::shared().await?;
        let space = cluster.space(name).await;
        let how = How {
            kubeconfig: cluster.kubeconfig().to_owned(),
            lease_namespace: space.name.clone(),
            everywhere: false,
            stream_port: free_port(),
        };
        Self::run(space, how).await
    }

    /// [`World::new`] with an operator that is started in another way.
    async fn run(space: Space, how: How) -> Option<Self> {
        let site = Site::new()?;
        let ca = DevelopmentCa::new();
        put_certificate(&space, &ca).await;
        site.forward(how.stream_port);
        let operator = how.start(&space);
        space.apply(POINT, "edge", &point()).await;
        let pod = GatewayPod::of(&space, "edge").await;
        Some(Self {
            space,
            operator: Some(operator),
            how,
            ca,
            pod,
            site,
        })
    }

    /// [`World::new`] with the gateway running what the operator says.
    async fn programmed(name: &str) -> Option<Self> {
        let mut world = Self::new(name).await?;
        world.program().await;
        Some(world)
    }

    /// Starts the gateway and waits until it runs what the operator says.
    async fn program(&mut self) {
        self.pod.start(&self.site).await;
        self.pod.become_ready(&self.site).await;
        eventually("the pod runs it", async || {
            self.programmed_is().await == "True/Programmed"
        })
        .await;
    }

    async fn programmed_is(&self) -> String {
        self.space.condition(POINT, "edge", "Programmed").await
    }

    /// Version and acknowledgements of the ingress point's Snapshot.
    async fn snapshot(&self) -> (i64, i64) {
        let object = self.space.get(POINT, "edge").await;
        let snapshot = &object["status"]["snapshot"];
        let number = |key: &str| snapshot[key].as_i64().unwrap_or_default();
        (number("version"), number("acked"))
    }

    /// A connector of this name with its attachment, known to the gateway.
    async fn connector(&self, name: &str) -> Arc<ConnectorIdentity> {
        let identity = Arc::new(ConnectorIdentity::generate().unwrap());
        let key = identity.public_id().hex();
        self.space.attach_key(name, &key).await;
        eventually("the attachment is programmed", async || {
            self.space.condition(ATTACHMENT, name, "Programmed").await == "True/Programmed"
        })
        .await;
        identity
    }

    /// A client's tunnel. An attempt that fails is followed by another at once: a client that waits
    /// for somebody to mend a certificate takes its time.
    fn session(&self, identity: &Arc<ConnectorIdentity>, ca: &DevelopmentCa) -> Session {
        let vpc = format!("{}/prod", self.space.name).parse().unwrap();
        let url = "https://192.0.2.1:443".parse().unwrap();
        let mut config = AttachConfig::new(url, vpc, Arc::clone(identity));
        config.trust = ServerTrust::RootsPem(ca.pem().as_bytes().to_vec());
        let begun = Instant::now();
        loop {
            let attached = self.site.outside.enter(|| attach(&config)).unwrap();
            match attached.events.wait_up(UP) {
                Ok(up) => {
                    let address = up.addresses[0].addr().to_string();
                    return Session { attached, address };
                }
                Err(error) => assert!(begun.elapsed() < UP, "no tunnel: {error}"),
            }
        }
    }

    async fn phase(&self, attachment: &str) -> String {
        let object = self.space.get(ATTACHMENT, attachment).await;
        let phase = object["status"]["phase"].as_str();
        phase.unwrap_or_default().to_owned()
    }

    async fn becomes(&self, attachment: &str, phase: &str) {
        let what = format!("{attachment} is {phase}");
        eventually(&what, async || self.phase(attachment).await == phase).await;
    }

    /// Starts an operator where the former one was.
    fn start_operator(&mut self) {
        self.operator = Some(self.how.start(&self.space));
    }
}

impl How {
    fn start(&self, space: &Space) -> Operator {
        let serves = (!self.everywhere).then_some(space.name.as_str());
        let lease = &self.lease_namespace;
        Operator::start_at(&self.kubeconfig, lease, serves, "a", self.stream_port)
    }
}

/// One listener with a certificate of its own, and a fabric that needs no VRF.
fn point() -> Value {
    json!({
        "vpcRef": {"name": "prod"},
        "listeners": [{"name": "quic", "port": 443,
            "tls": {"certificateRefs": [{"name": CERTIFICATE}]}}],
        "addressPools": [{"cidr": "10.1.8.0/24"}],
        "routes": ["10.1.0.0/16"],
        "replicas": 1,
        "service": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster"},
        "fabric": {"provider": "Static", "static": {
            "localSID": "fd00:0:1:1::", "localSIDIPv4": "fd00:0:1:2::",
            "sourceAddress": "fd00:0:0:a::1",
            "routes": [{"prefix": "10.1.0.0/16", "sid": "fd00:0:2::"}],
        }},
    })
}

/// A certificate of the pod's address, signed by `ca`.
async fn put_certificate(space: &Space, ca: &DevelopmentCa) {
    let server = ca.server(&["192.0.2.1"]);
    let secret = Secret {
        metadata: kube::api::ObjectMeta {
            name: Some(CERTIFICATE.to_owned()),
            ..Default::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(
            [("tls.crt", server.cert_pem), ("tls.key", server.key_pem)]
                .map(|(key, pem)| (key.to_owned(), ByteString(pem.into_bytes())))
                .into(),
        ),
        ..Secret::default()
    };
    let params = PatchParams::apply("cert-manager").force();
    let secrets = space.api::<Secret>();
    let patch = Patch::Apply(&secret);
    let applied = secrets.patch(CERTIFICATE, &params, &patch).await;
    applied.unwrap();
}
