//! Validates resources and compiles them into [`Snapshot`]s; the operator and the standalone gateway
//! share it, so both say the same about the same manifest.
//!
//! [`manifests`] turns texts into typed [`Resources`] and knows on which line everything stood;
//! [`compile`] turns [`Resources`] into one [`Snapshot`] per VPCIngressPoint; [`children`] builds the
//! Kubernetes objects that run it. None of them talks to an API
//! server, reads a clock or draws random numbers; only [`manifests::read_folder`] reads files.
#![forbid(unsafe_code)]

pub mod children;
pub mod ipam;
pub mod manifests;
pub mod status;

mod compile;
mod labels;
mod prefixes;
mod problem;
mod resources;
mod suggest;
mod validate;

pub use compile::{
    Built, Compiled, MAX_ATTACHMENTS, MAX_RULE_ATTACHMENTS, MAX_RULES, Options, Points, compile,
};
pub use masque_api::{ConditionType, Reason};
pub use masque_model::Snapshot;
pub use problem::{Kind, Location, ObjectRef, Problem, Severity};
pub use resources::{Origin, Resources, Secret, Sourced};
