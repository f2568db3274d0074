//! The definitions on a real API server: what it accepts, refuses, fills in and shows.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod ownership;
mod refused;
mod shown;

use serde_json::{Value, json};

/// A Static attachment with every list filled.
fn attachment() -> Value {
    json!({
        "connectorRef": {"name": "laptop"},
        "vpcRef": {"name": "prod"},
        "ipAllocation": {"mode": "Static", "addresses": ["10.1.0.9", "fd20::9"]},
        "allowedRoutes": ["10.1.0.0/16"],
    })
}

/// An ingress point with the Static fabric, autoscaling and a load balancer.
fn point() -> Value {
    json!({
        "vpcRef": {"name": "prod"},
        "listeners": [{"name": "quic", "port": 443}],
        "addressPools": [
            {"cidr": "10.1.8.0/24", "reserved": ["10.1.8.0/29"]},
            {"cidr": "fd20:0:0:8::/64"},
        ],
        "fabric": {"provider": "Static", "static": {
            "localSID": "fd00:0:1:1::", "localSIDIPv4": "fd00:0:1:2::",
            "sourceAddress": "fd00::1",
            "routes": [{"prefix": "10.1.0.0/16", "sid": "fd00:0:2::"}],
        }},
        "autoscaling": {"minReplicas": 1, "maxReplicas": 3},
        "service": {"type": "LoadBalancer", "loadBalancerClass": "example.com/metal"},
    })
}

/// A policy with a prefix that has a hole, and ports.
fn policy() -> Value {
    json!({
        "targetRefs": [{"kind": "VPCIngressPoint", "name": "edge"}],
        "rules": [{
            "name": "web",
            "prefixes": [{"cidr": "10.1.0.0/16", "except": ["10.1.255.0/24"]}],
            "ports": [{"protocol": "TCP", "port": 8000, "endPort": 8080}],
        }],
    })
}
