//! One object at a time: does it make sense by itself, and what does it say in the model's terms?

mod attachment;
mod fabric;
mod ingress_point;
mod listener;
mod net;
mod policy;
mod report;

pub(crate) use attachment::{CheckedAttachment, attachment};
pub(crate) use ingress_point::{Draft, Selection, has_family, ingress_point};
pub(crate) use listener::same_port;
pub(crate) use policy::{CheckedPolicy, CheckedRule, policy};
pub(crate) use report::Report;

use masque_api::VpcRef;
use masque_model::ObjectName;

/// The VPC that an object in `namespace` means.
pub(crate) fn vpc_name(vpc_ref: &VpcRef, namespace: &str) -> ObjectName {
    ObjectName::new(
        vpc_ref.namespace.as_deref().unwrap_or(namespace),
        &vpc_ref.name,
    )
}
