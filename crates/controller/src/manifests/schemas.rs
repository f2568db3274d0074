//! The schemas that documents are checked against.

use std::{collections::BTreeMap, sync::LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use masque_api::{LABEL_PATTERN, NAME_PATTERN};
use serde_json::json;

use crate::Kind;

/// The whole-document schema of each kind of ours, and of the other kinds that are read.
static SCHEMAS: LazyLock<BTreeMap<&'static str, JSONSchemaProps>> = LazyLock::new(|| {
    let mut schemas = BTreeMap::new();
    for crd in masque_api::crds() {
        let kind = Kind::OURS
            .iter()
            .find(|kind| kind.as_str() == crd.spec.names.kind);
        let version = crd.spec.versions.into_iter().next();
        let schema = version.and_then(|version| version.schema?.open_api_v3_schema);
        if let (Some(kind), Some(schema)) = (kind, schema) {
            schemas.insert(kind.as_str(), document(schema));
        }
    }
    schemas.insert(Kind::Secret.as_str(), secret());
    schemas.insert(Kind::Connector.as_str(), open(connector()));
    schemas.insert(Kind::Vpc.as_str(), open(json!({})));
    schemas
});

/// The schema of a kind's whole document.
pub(crate) fn of(kind: Kind) -> Option<&'static JSONSchemaProps> {
    SCHEMAS.get(kind.as_str())
}

/// A CRD's schema says nothing of apiVersion, kind and metadata, and the status is not ours to read.
fn document(mut schema: JSONSchemaProps) -> JSONSchemaProps {
    let properties = schema.properties.get_or_insert_default();
    properties.insert("apiVersion".into(), props(json!({"type": "string"})));
    properties.insert("kind".into(), props(json!({"type": "string"})));
    properties.insert("metadata".into(), metadata(63));
    properties.insert("status".into(), JSONSchemaProps::default());
    let required = schema.required.get_or_insert_default();
    required.push("metadata".into());
    schema
}

/// A kind of somebody else's: only what we read of it is checked.
fn open(properties: serde_json::Value) -> JSONSchemaProps {
    let mut schema = props(json!({
        "type": "object",
        "properties": properties,
        "required": ["metadata"],
        "x-kubernetes-preserve-unknown-fields": true,
    }));
    schema
        .properties
        .get_or_insert_default()
        .insert("metadata".into(), metadata(253));
    schema
}

fn connector() -> serde_json::Value {
    let text = json!({"type": "string", "maxLength": 1024});
    json!({
        "spec": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"connectorClassName": text},
        },
        "status": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "properties": {
                "connectionDetails": {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "type": text,
                        "publicKey": {
                            "type": "object",
                            "x-kubernetes-preserve-unknown-fields": true,
                            "properties": {"id": text, "homeRelay": text},
                        },
                    },
                },
            },
        },
    })
}

fn secret() -> JSONSchemaProps {
    let map = json!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {"type": "string"},
    });
    let mut schema = props(json!({
        "type": "object",
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "type": {"type": "string"},
            "immutable": {"type": "boolean"},
            "data": map,
            "stringData": map,
        },
        "required": ["metadata"],
    }));
    schema
        .properties
        .get_or_insert_default()
        .insert("metadata".into(), metadata(253));
    schema
}

/// ObjectMeta: what people write is checked, what the API server adds is left alone.
fn metadata(max_name: i64) -> JSONSchemaProps {
    let labels = json!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": {"type": "string"},
    });
    props(json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {
                "type": "string", "minLength": 1, "maxLength": max_name, "pattern": NAME_PATTERN,
            },
            "namespace": {
                "type": "string", "minLength": 1, "maxLength": 63, "pattern": LABEL_PATTERN,
            },
            "labels": labels,
            "annotations": labels,
            "creationTimestamp": {"type": "string", "format": "date-time"},
            "generation": {"type": "integer"},
            "deletionTimestamp": {}, "deletionGracePeriodSeconds": {}, "finalizers": {},
            "generateName": {}, "managedFields": {}, "ownerReferences": {}, "resourceVersion": {},
            "selfLink": {}, "uid": {},
        },
    }))
}

fn props(json: serde_json::Value) -> JSONSchemaProps {
    // The values above are constant; a test reads them all.
    serde_json::from_value(json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_schema() {
        for kind in Kind::ALL {
            let schema = of(*kind).unwrap();
            let properties = schema.properties.as_ref().unwrap();
            let metadata = &properties["metadata"];
            assert_eq!(
                metadata.required.as_deref(),
                Some(&["name".to_owned()][..]),
                "{kind}"
            );
            assert_eq!(schema.type_.as_deref(), Some("object"), "{kind}");
        }
        assert!(
            of(Kind::VPCIngressPoint)
                .unwrap()
                .required
                .as_ref()
                .unwrap()
                .len()
                == 2
        );
    }
}
