//! References from one resource to another.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{LABEL_PATTERN, NAME_PATTERN};

/// A Connector in the same namespace.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorRef {
    /// The Connector's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("connectorRef.name is immutable: make a new attachment instead"))]
    pub name: String,
}

/// The VPC. Group and kind can be changed because the kind of a VPC has moved between groups.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct VpcRef {
    /// The API group of the VPC's kind.
    #[serde(default = "VpcRef::default_group")]
    #[schemars(length(max = 253))]
    pub group: String,
    /// The VPC's kind.
    #[serde(default = "VpcRef::default_kind")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// The VPC's name.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    pub name: String,
    /// The VPC's namespace; the namespace of the referring object when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = LABEL_PATTERN))]
    pub namespace: Option<String>,
}

impl VpcRef {
    /// A VPC of the usual group and kind in the same namespace.
    pub fn named(name: &str) -> Self {
        Self {
            group: Self::default_group(),
            kind: Self::default_kind(),
            name: name.to_owned(),
            namespace: None,
        }
    }

    fn default_group() -> String {
        "cloud.datumapis.com".to_owned()
    }

    fn default_kind() -> String {
        "VPC".to_owned()
    }
}

/// A Secret in the same namespace.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The Secret's name; `kubernetes.io/tls` for a certificate.
    #[schemars(length(min = 1, max = 253), regex(pattern = NAME_PATTERN))]
    pub name: String,
}
