//! What the compiler reads: typed objects, and where each of them stood.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use masque_api::{Connector, ConnectorAttachment, VPCAccessPolicy, VPCIngressPoint};
use masque_model::ObjectName;

use crate::{Kind, Location};

/// The namespace of an object that names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Every object the compiler looks at. Each list may be in any order.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    /// Ingress points.
    pub ingress_points: Vec<Sourced<VPCIngressPoint>>,
    /// Attachments.
    pub attachments: Vec<Sourced<ConnectorAttachment>>,
    /// Policies.
    pub policies: Vec<Sourced<VPCAccessPolicy>>,
    /// Connectors.
    pub connectors: Vec<Sourced<Connector>>,
    /// Secrets, by name.
    pub secrets: BTreeMap<ObjectName, Secret>,
    /// Names of VPCs. When absent, nobody knows which VPCs there are and every name is taken as
    /// good.
    pub vpcs: Option<Arc<BTreeSet<ObjectName>>>,
    /// Objects that exist but could not be read. Where they were in force before, they stay so.
    pub unreadable: BTreeSet<(Kind, ObjectName)>,
    /// Some text could not be read as any object, so that an object that is not here may still
    /// exist. What was in force before and is not here stays in force.
    pub incomplete: bool,
}

/// An object and where it stood.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    /// The object, which whoever read it may keep as well.
    pub object: Arc<T>,
    /// Its place in a file; `None` when it came from an API server.
    pub origin: Option<Arc<Origin>>,
}

impl<T> Sourced<T> {
    /// An object that did not come from a file.
    pub fn new(object: impl Into<Arc<T>>) -> Self {
        Self {
            object: object.into(),
            origin: None,
        }
    }
}

impl<T: Resource> Sourced<T> {
    /// Namespace and name; the namespace `default` when the object names none.
    pub fn name(&self) -> ObjectName {
        object_name(&*self.object)
    }

    /// The order in which conflicts are settled: the oldest object first, then by namespace and
    /// name. Objects without a creation time come last.
    pub(crate) fn precedence(&self) -> (Timestamp, ObjectName) {
        let created = self.object.meta().creation_timestamp.as_ref();
        (created.map_or(Timestamp::MAX, |time| time.0), self.name())
    }
}

/// Namespace and name; the namespace `default` when the object names none.
pub(crate) fn object_name(object: &impl Resource) -> ObjectName {
    let meta = object.meta();
    let namespace = meta
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty());
    ObjectName::new(
        namespace.unwrap_or(DEFAULT_NAMESPACE),
        meta.name.as_deref().unwrap_or_default(),
    )
}

/// Where an object and its fields stood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file's name.
    pub file: String,
    /// The line on which the object begins, counted from 1.
    pub line: u32,
    /// The line of every field, by its path.
    pub lines: BTreeMap<String, u32>,
}

impl Origin {
    /// The place of a field, or of the nearest thing around it that is written down.
    pub fn locate(&self, field: &str) -> Location {
        let mut path = field;
        let line = loop {
            if let Some(line) = self.lines.get(path) {
                break *line;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => break self.line,
            }
        };
        Location {
            file: self.file.clone(),
            line,
        }
    }
}

/// A Secret's type and content. Never shows its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// `kubernetes.io/tls`, `Opaque` or another type.
    pub type_: String,
    /// The content, decoded.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.data.keys().collect();
        f.debug_struct("Secret")
            .field("type_", &self.type_)
            .field("keys", &keys)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locates_the_nearest_written_field() {
        let origin = Origin {
            file: "a.yaml".into(),
            line: 3,
            lines: [("spec", 7), ("spec.routes", 9), ("spec.routes[1]", 11)]
                .map(|(path, line)| (path.to_owned(), line))
                .into(),
        };
        let line = |field| origin.locate(field).line;
        assert_eq!(line("spec.routes[1]"), 11);
        assert_eq!(line("spec.routes[1].x.y"), 11);
        assert_eq!(line("spec.routes[0]"), 9);
        assert_eq!(line("spec.mtu"), 7);
        assert_eq!(line("metadata.name"), 3);
        assert_eq!(line(""), 3);
    }

    #[test]
    fn a_secret_keeps_its_content_to_itself() {
        let secret = Secret {
            type_: "Opaque".into(),
            data: [("token".to_owned(), b"hunter2".to_vec())].into(),
        };
        assert_eq!(
            format!("{secret:?}"),
            r#"Secret { type_: "Opaque", keys: ["token"] }"#
        );
    }
}
