//! What is read of the resources: no more than is needed, so that a command that is older than the
//! operator still understands them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, ObjectMeta};
use kube::core::Object;
use masque_api::{
    ConditionType, Connector, ConnectorRef, SecretRef, VPCIngressPointStatus, VpcRef,
};
use masque_client::VpcName;
use masque_model::ConnectorKey;
use serde::{Deserialize, Serialize};

/// A VPCIngressPoint.
pub(crate) type Point = Object<PointSpec, VPCIngressPointStatus>;
/// A ConnectorAttachment.
pub(crate) type Admission = Object<AdmissionSpec, AdmissionStatus>;

/// Where clients of which VPC arrive.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PointSpec {
    pub(crate) vpc_ref: VpcRef,
    #[serde(default)]
    pub(crate) listeners: Vec<ListenerView>,
    #[serde(default)]
    pub(crate) attachment_selector: Option<LabelSelector>,
}

/// A listener; its protocol may be one that this command has never heard of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerView {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    #[serde(default)]
    pub(crate) tls: Option<TlsView>,
}

/// Where a listener's certificate comes from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsView {
    pub(crate) certificate_refs: Vec<SecretRef>,
}

/// Which connector may enter which VPC.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AdmissionSpec {
    pub(crate) connector_ref: ConnectorRef,
    pub(crate) vpc_ref: VpcRef,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct AdmissionStatus {
    #[serde(rename = "assignedIPs")]
    pub(crate) assigned_ips: Vec<String>,
    pub(crate) conditions: Vec<Condition>,
}

/// An object's name; every object that was read has one.
pub(crate) fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// A condition about the object as it is now, not as it was before an edit.
pub(crate) fn condition<'a>(
    metadata: &ObjectMeta,
    conditions: &'a [Condition],
    type_: ConditionType,
) -> Option<&'a Condition> {
    conditions
        .iter()
        .find(|one| one.type_ == type_.as_str() && one.observed_generation == metadata.generation)
}

/// Whether a condition holds.
pub(crate) fn holds(metadata: &ObjectMeta, conditions: &[Condition], type_: ConditionType) -> bool {
    condition(metadata, conditions, type_).is_some_and(|one| one.status == "True")
}

/// The conditions of a point.
pub(crate) fn point_conditions(point: &Point) -> &[Condition] {
    point
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions)
}

/// The conditions of an attachment.
pub(crate) fn admission_conditions(admission: &Admission) -> &[Condition] {
    admission
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.conditions)
}

/// The order in which objects of the same rank are taken: what is Ready, then the oldest.
pub(crate) fn rank(metadata: &ObjectMeta, conditions: &[Condition]) -> (bool, Age, String) {
    let ready = holds(metadata, conditions, ConditionType::Ready);
    (!ready, age(metadata), name(metadata).to_owned())
}

/// When an object was made.
pub(crate) type Age = Option<k8s_openapi::jiff::Timestamp>;

/// When an object was made.
pub(crate) fn age(metadata: &ObjectMeta) -> Age {
    metadata.creation_timestamp.as_ref().map(|time| time.0)
}

/// Whether a reference of an object in `namespace` is to this VPC. A name without a namespace is that
/// of a VPC beside the object.
pub(crate) fn is_vpc(reference: &VpcRef, namespace: &str, vpc: &VpcName) -> bool {
    let of = reference.namespace.as_deref().unwrap_or(namespace);
    reference.name == vpc.name() && vpc.namespace().unwrap_or(namespace) == of
}

/// A reference to a VPC as `--vpc` takes it.
pub(crate) fn vpc_text(reference: &VpcRef, namespace: &str) -> String {
    match reference.namespace.as_deref() {
        Some(other) if other != namespace => format!("{other}/{}", reference.name),
        _ => reference.name.clone(),
    }
}

/// The text that a Connector publishes as its key; none when there is no key yet.
pub(crate) fn key_text(connector: &Connector) -> Option<&str> {
    let details = connector.status.as_ref()?.connection_details.as_ref()?;
    let id = details.public_key.as_ref()?.id.trim();
    (!id.is_empty()).then_some(id)
}

/// Whether a Connector has this key, in whatever form it is written.
pub(crate) fn has_key(connector: &Connector, key: &ConnectorKey) -> bool {
    key_text(connector).is_some_and(|text| text.parse().as_ref() == Ok(key))
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;

    /// A point as an API server sends it.
    pub(crate) fn point_of(value: Value) -> Point {
        serde_json::from_value(value).unwrap()
    }

    /// An attachment as an API server sends it.
    pub(crate) fn admission_of(value: Value) -> Admission {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_key_is_one_in_every_form() {
        let id = masque_client::ConnectorIdentity::generate()
            .unwrap()
            .public_id();
        let key = ConnectorKey::from_bytes(*id.as_bytes());
        let of = |id: &str| -> Connector {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": "c"}, "spec": {},
                "status": {"connectionDetails": {"publicKey": {"id": id}}},
            }))
            .unwrap()
        };
        for text in [id.hex(), id.hex().to_uppercase(), id.z_base_32()] {
            assert!(has_key(&of(&text), &key), "{text}");
        }
        assert!(!has_key(&of(&"0".repeat(64)), &key));
        assert_eq!(key_text(&of(" ")), None);
    }
}
