//! Our view of the upstream Connector. Read-only and open: unknown capability types and fields are
//! fine, and none of its fields is required.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use serde::{Deserialize, Serialize};

/// What the connector's owner asked for.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "networking.datumapis.com",
    version = "v1alpha1",
    kind = "Connector",
    plural = "connectors",
    namespaced,
    status = "ConnectorStatus",
    schema = "disabled",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectorSpec {
    /// The ConnectorClass that serves it.
    pub connector_class_name: String,
    /// What it can do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
}

/// One thing that a connector can do.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Capability {
    /// `ConnectTCP`, `MASQUE`, `CONNECT-IP`, `CONNECT-UDP` or anything else.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it is on; absent means yes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// What the connector reported.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectorStatus {
    /// How to reach and recognize it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_details: Option<ConnectionDetails>,
    /// Upstream's conditions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How to reach and recognize a connector.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionDetails {
    /// `PublicKey`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Present when the type is `PublicKey`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_key: Option<PublicKeyDetails>,
}

/// A connector that is known by its Ed25519 key.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PublicKeyDetails {
    /// The key: 64 hexadecimal digits, or 52 characters of z-base-32 or base32.
    pub id: String,
    /// The relay it stays connected to.
    pub home_relay: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As upstream's controllers and agents write it, and as a later upstream might.
    #[test]
    fn what_is_not_known_is_no_obstacle() {
        let connector: Connector = serde_json::from_value(json!({
            "apiVersion": "networking.datumapis.com/v1alpha1",
            "kind": "Connector",
            "metadata": {"name": "laptop", "annotations": {"networking.datum.org/connector-name": "x"}},
            "spec": {
                "connectorClassName": "datum-connect",
                "capabilities": [
                    {"type": "ConnectTCP", "connectTCP": {"disabled": false}},
                    {"type": "CONNECT-IP", "enabled": true, "connectIP": {"mtu": 1400}},
                    {"type": "SomethingNew", "level": 3},
                ],
                "hibernation": {"after": "1h"},
            },
            "status": {
                "capabilities": [{"type": "ConnectTCP", "conditions": []}],
                "leaseRef": {"name": "laptop"},
                "connectionDetails": {
                    "type": "PublicKey",
                    "publicKey": {
                        "id": "a5", "discoveryMode": "DNS", "homeRelay": "https://relay.example",
                        "addresses": [{"address": "192.0.2.1", "port": 4433}], "rotated": true,
                    },
                    "ticket": {"x": 1},
                },
                "conditions": [{
                    "type": "IrohDNSPublished", "status": "False", "reason": "DeferredToOwner",
                    "message": "", "lastTransitionTime": "2026-08-21T00:00:00Z",
                }],
            },
        }))
        .unwrap();
        assert_eq!(connector.spec.capabilities.len(), 3);
        let details = connector.status.unwrap().connection_details.unwrap();
        assert_eq!(details.public_key.unwrap().id, "a5");
        // Of another kind of identity, there is no key, and no error either.
        let other: Connector = serde_json::from_value(json!({
            "metadata": {"name": "phone"},
            "spec": {},
            "status": {"connectionDetails": {"type": "SPIFFE", "spiffe": {"id": "x"}}},
        }))
        .unwrap();
        let details = other.status.unwrap().connection_details.unwrap();
        assert_eq!(
            (details.type_.as_str(), details.public_key),
            ("SPIFFE", None)
        );
    }
}
