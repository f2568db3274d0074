//! Where clients arrive and how they prove who they are.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{HOSTNAME_PATTERN, LABEL_PATTERN, PATH_TEMPLATE_PATTERN, SecretRef};

/// One address and port that clients dial.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Names the listener in status and metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub name: String,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// The UDP port (HTTP3, Iroh) or TCP port (HTTP2).
    #[schemars(with = "i32", range(min = 1, max = 65535))]
    pub port: u16,
    /// The host name clients use; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = HOSTNAME_PATTERN))]
    pub hostname: Option<String>,
    /// Paths of URI templates served besides the default of RFC 9484; the variables are `{target}`
    /// and `{ipproto}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 255), regex(pattern = PATH_TEMPLATE_PATTERN)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub path_templates: Vec<String>,
    /// Certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// A listener's protocol.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum ListenerProtocol {
    /// HTTP/3 over QUIC.
    #[default]
    HTTP3,
    /// HTTP/2 over TLS.
    HTTP2,
    /// HTTP/3 over iroh.
    Iroh,
}

impl ListenerProtocol {
    /// The protocol as written in a manifest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HTTP3 => "HTTP3",
            Self::HTTP2 => "HTTP2",
            Self::Iroh => "Iroh",
        }
    }
}

/// Certificates of a listener.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ListenerTls {
    /// Secrets of type `kubernetes.io/tls`, best first; a self-signed certificate when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub certificate_refs: Vec<SecretRef>,
    /// Secrets with the CAs that client certificates must come from.
    #[serde(
        default,
        rename = "clientCARefs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub client_ca_refs: Vec<SecretRef>,
}

/// How a client may prove its key.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// Methods that are accepted; ConcealedKey and ClientCertificate when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<AuthMethod>,
}

/// A way to prove a key.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// Concealed HTTP authentication (RFC 9729).
    ConcealedKey,
    /// A TLS client certificate whose key is the connector's.
    ClientCertificate,
    /// A bearer token.
    Bearer,
}
