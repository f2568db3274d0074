//! Names and labels of children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
pub use masque_api::{child_name, client_ca_name, label_value};
use masque_model::ObjectName;

/// The label that names a child's ingress point.
pub const INGRESS_POINT_LABEL: &str = "networking.datumapis.com/ingress-point";

/// Labels of every child, besides [`INGRESS_POINT_LABEL`].
pub const LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "masque-gateway"),
    ("app.kubernetes.io/managed-by", "masque-operator"),
];

/// The Secret with the pods' certificate for the stream: `ca.crt`, `tls.crt`, `tls.key`.
pub fn stream_secret_name(point_name: &str) -> String {
    format!("{}-stream", child_name(point_name))
}

/// The Secret with the certificate that the operator issues to listeners without
/// `certificateRefs`.
pub fn listener_secret_name(point_name: &str) -> String {
    format!("{}-listener", child_name(point_name))
}

/// The URI in the certificate of an ingress point's pods.
pub fn stream_uri(point: &ObjectName) -> String {
    format!(
        "spiffe://masque-gateway/ns/{}/vpcingresspoint/{}",
        point.namespace, point.name
    )
}

/// The labels of every child of an ingress point.
pub fn labels(point_name: &str) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = LABELS
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    labels.insert(INGRESS_POINT_LABEL.to_owned(), label_value(point_name));
    labels
}

/// Selects the gateway pods of an ingress point.
pub fn selector(point_name: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selected(point_name)),
        match_expressions: None,
    }
}

/// [`selector`] as a query has it, for the scale subresource.
pub fn selector_text(point_name: &str) -> String {
    let labels = selected(point_name);
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

/// The labels that never change: a Deployment's selector is immutable.
pub(super) fn selected(point_name: &str) -> BTreeMap<String, String> {
    let mut labels = labels(point_name);
    labels.remove(LABELS[1].0);
    labels
}
