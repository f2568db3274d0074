//! The operator process on a real API server and controller manager, and what goes wrong around it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bad_input;
mod children;
mod every_write;
mod faults;
mod others;
mod pods;
mod upgrade;

use masque_cluster_tests::{POINT, Space};
use serde_json::{Value, json};

/// What the operator makes for the ingress point `edge`.
const CHILD: &str = "edge-masque-gateway";

/// An ingress point with one pool; a test changes what it is about.
fn point() -> Value {
    json!({
        "vpcRef": {"name": "prod"},
        "listeners": [{"name": "quic", "port": 443}],
        "addressPools": [{"cidr": "10.1.8.0/24"}],
        "routes": ["10.1.0.0/16"],
        "replicas": 1,
        "service": {"type": "ClusterIP", "externalTrafficPolicy": "Cluster"},
        "fabric": {"provider": "Static", "static": {
            "localSID": "fd00:0:1:1::", "sourceAddress": "fd00::1",
            "routes": [{"prefix": "10.1.0.0/16", "sid": "fd00:0:2::"}],
        }},
    })
}

/// The ingress point `edge` with these attachments; keys count from 1.
async fn populate(space: &Space, attachments: &[&str]) {
    space.apply(POINT, "edge", &point()).await;
    for (key, name) in (1..).zip(attachments) {
        space.attach(name, key).await;
    }
}

/// The addresses of these attachments; `None` while one has none.
async fn addresses(space: &Space, attachments: &[&str]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for name in attachments {
        all.push(space.address(name).await?);
    }
    Some(all)
}
