//! The CustomResourceDefinitions, as `crds/` and the chart carry them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{ConditionType, ConnectorAttachment, Reason, VPCAccessPolicy, VPCIngressPoint};

/// The definitions of our three kinds, ready for an API server of Kubernetes 1.31 or newer (CEL
/// functions for addresses). The upstream Connector is not ours to define.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![
        ConnectorAttachment::crd(),
        VPCIngressPoint::crd(),
        VPCAccessPolicy::crd(),
    ];
    for crd in &mut crds {
        let pending = crd.spec.names.kind != "VPCAccessPolicy";
        for version in &mut crd.spec.versions {
            let Some(schema) = version
                .schema
                .as_mut()
                .and_then(|schema| schema.open_api_v3_schema.as_mut())
            else {
                continue;
            };
            bound_names(schema);
            if pending {
                default_status(schema);
            }
        }
    }
    crds
}

/// Object names are at most 63 characters, because labels and names of owned objects carry them.
fn bound_names(schema: &mut JSONSchemaProps) {
    let rule = json!([{
        "rule": "size(self.metadata.name) <= 63",
        "message": "the name must not be longer than 63 characters",
    }]);
    schema.x_kubernetes_validations = serde_json::from_value(rule).ok();
}

/// A new object must not look current to kstatus before a controller saw it, so it is born with
/// conditions that say Unknown.
fn default_status(schema: &mut JSONSchemaProps) {
    let conditions = [ConditionType::Accepted, ConditionType::Ready].map(pending_condition);
    let status = schema
        .properties
        .as_mut()
        .and_then(|properties| properties.get_mut("status"));
    if let Some(status) = status {
        status.default = Some(JSON(json!({ "conditions": conditions })));
    }
}

fn pending_condition(type_: ConditionType) -> Value {
    json!({
        "type": type_.as_str(),
        "status": "Unknown",
        "reason": Reason::Pending.as_str(),
        "message": "Waiting for controller",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    })
}

#[cfg(test)]
mod tests;
