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
