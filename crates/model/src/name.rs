//! A namespaced object's name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The namespace and name of a resource; ordered by namespace, then name (the tie-break of the API).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectName {
    /// The Kubernetes namespace, `default` in a folder of manifests that names none.
    pub namespace: String,
    /// The object's name.
    pub name: String,
}

impl ObjectName {
    /// Builds a name from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
