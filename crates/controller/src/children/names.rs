//! Names and labels of children.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use masque_model::ObjectName;

/// The label that names a child's ingress point.
pub const INGRESS_POINT_LABEL: &str = "networking.datumapis.com/ingress-point";

/// Labels of every child, besides [`INGRESS_POINT_LABEL`].
pub const LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "masque-gateway"),
    ("app.kubernetes.io/managed-by", "masque-operator"),
];

/// The longest name of a child: a pod's name adds 17 characters to its Deployment's and stays a
/// host name (63 characters), and Secrets add a suffix.
const MAX_NAME: usize = 52;

/// The longest value of a label.
const MAX_LABEL: usize = 63;

const SUFFIX: &str = "-masque-gateway";

/// The name of most children of an ingress point: `<point>-masque-gateway`. A Service's name begins
/// with a letter and has no dots, so that names which do not fit are cut and get a hash.
pub fn child_name(point_name: &str) -> String {
    let plain = point_name.len() + SUFFIX.len() <= MAX_NAME
        && point_name.starts_with(|c: char| c.is_ascii_lowercase())
        && !point_name.contains('.');
    if plain {
        return format!("{point_name}{SUFFIX}");
    }
    let label = point_name.replace('.', "-");
    let letter = label.starts_with(|c: char| c.is_ascii_lowercase());
    let label = if letter { label } else { format!("p{label}") };
    cut(&label, point_name, MAX_NAME)
}

/// The Secret with the pods' certificate for the stream: `ca.crt`, `tls.crt`, `tls.key`.
pub fn stream_secret_name(point_name: &str) -> String {
    format!("{}-stream", child_name(point_name))
}

/// The Secret with the certificate that the operator issues to listeners without
/// `certificateRefs`.
pub fn listener_secret_name(point_name: &str) -> String {
    format!("{}-listener", child_name(point_name))
}

/// The ConfigMap with the CA that clients trust (`ca.crt`).
pub fn client_ca_name(point_name: &str) -> String {
    format!("{}-ca", child_name(point_name))
}

/// The URI in the certificate of an ingress point's pods.
pub fn stream_uri(point: &ObjectName) -> String {
    format!(
        "spiffe://masque-gateway/ns/{}/vpcingresspoint/{}",
        point.namespace, point.name
    )
}

/// An ingress point's name as a label's value.
pub fn label_value(point_name: &str) -> String {
    if point_name.len() <= MAX_LABEL {
        return point_name.to_owned();
    }
    cut(point_name, point_name, MAX_LABEL)
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

/// The beginning of `text` and a hash of `whole`, in at most `most` characters.
fn cut(text: &str, whole: &str, most: usize) -> String {
    let hash = format!("{:012x}", hash(whole.as_bytes()) & 0xffff_ffff_ffff);
    let keep = most - hash.len() - 1;
    // Names are ASCII; anything else is left to the API server to refuse.
    let start: String = text.chars().filter(char::is_ascii).take(keep).collect();
    format!("{}-{hash}", start.trim_end_matches(['-', '.', '_']))
}

/// FNV-1a, 64 bits: the same everywhere and for ever, unlike the standard library's hasher.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
