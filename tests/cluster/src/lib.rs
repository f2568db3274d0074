//! A real API server and controller manager ([`Cluster`]), a namespace for each test ([`Space`]),
//! operators as processes ([`Operator`]), a proxy between them that answers with faults
//! ([`FaultProxy`]), and real gateways as the pods of an ingress point, each in a network namespace of
//! its own ([`Site`], [`GatewayPod`]).
//!
//! The cluster is that of `KUBECONFIG` when it is on loopback, else one that `scripts/kube.sh`
//! starts and ends with the test program. Where neither can be had, tests say so in a line
//! `SKIPPED:` and pass.
#![allow(
    clippy::panic,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "test support: whatever cannot be set up fails the test that asked for it"
)]

mod cluster;
mod kubelet;
mod operator;
mod pod_files;
mod programs;
mod proxy;
mod site;
mod space;
mod wait;

pub use cluster::Cluster;
pub use kubelet::GatewayPod;
pub use masque_testkit::free_port;
pub use operator::Operator;
pub(crate) use programs::program;
pub use proxy::{Fault, FaultProxy};
pub use site::Site;
pub use space::{ATTACHMENT, CONNECTOR, POINT, POLICY, Space};
pub use wait::{SOON, TAKEOVER, eventually, within};
