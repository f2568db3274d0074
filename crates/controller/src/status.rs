//! Status: what became of each object, from what the compiler said and what pods acknowledged.
//!
//! Every function here gives the same status for the same input, so that a caller who compares finds
//! nothing to write at rest: a condition's `lastTransitionTime` moves only when its status flips, and
//! no message holds a time or a number that changes by itself.
//!
//! The addresses of an attachment (`assignedIP`, `assignedIPs`) belong to [`ipam`](crate::ipam) and
//! its field manager alone: [`attachment_status`] leaves them empty, and they must not be part of
//! what is applied with it. A stale writer could otherwise bring an old address back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::Service, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};
use masque_api::{AttachmentSession, SessionTransport};
use masque_model::{ObjectName, Snapshot};

use crate::{ObjectRef, Problem};

mod attachment;
mod conditions;
mod endpoint;
mod ingress_point;
mod pods;
mod policy;
mod pools;

pub use attachment::attachment_status;
pub use ingress_point::ingress_point_status;
pub use pods::{PodReport, PodTrouble, SessionReport, failed_create};
pub use policy::{CONTROLLER_NAME, policy_status};

/// Sessions that the status of an attachment lists.
pub const MAX_SESSIONS: usize = 16;

/// Addresses that the status of an ingress point lists.
pub const MAX_ADDRESSES: usize = 16;

/// What was seen of one ingress point besides its resources.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Its pods, ready or not.
    pub pods: Vec<PodReport>,
    /// Pods there are, of the Deployment's status.
    pub replicas: i32,
    /// Pods that are ready, of the Deployment's status.
    pub ready_replicas: i32,
    /// Why pods or other children could not be made; see [`failed_create`].
    pub failed_create: Option<String>,
    /// Its Service.
    pub service: Option<Service>,
    /// Addresses of nodes by their names, for a Service of type NodePort.
    pub nodes: Arc<BTreeMap<String, Vec<IpAddr>>>,
    /// The hash of its Snapshot.
    pub snapshot_hash: Option<String>,
    /// SHA-256 of the certificate (hexadecimal) by listener, where it is known.
    pub certificate_sha256: BTreeMap<String, String>,
}

/// A Snapshot and the pods that should run it.
#[derive(Clone, Copy, Debug)]
pub struct PointState<'a> {
    /// The Snapshot as published.
    pub snapshot: &'a Snapshot,
    /// The pods.
    pub pods: &'a [PodReport],
}

/// Problems by the object they are about.
pub fn by_object<'a>(
    problems: impl IntoIterator<Item = &'a Problem>,
) -> BTreeMap<ObjectRef, Vec<&'a Problem>> {
    let mut by_object: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for problem in problems {
        if let Some(object) = &problem.object {
            by_object.entry(object.clone()).or_default().push(problem);
        }
    }
    by_object
}

/// Open sessions by attachment, the newest first, [`MAX_SESSIONS`] of each at most.
pub fn sessions<'a>(
    pods: impl IntoIterator<Item = &'a PodReport>,
) -> BTreeMap<ObjectName, Vec<AttachmentSession>> {
    let mut sessions: BTreeMap<ObjectName, Vec<AttachmentSession>> = BTreeMap::new();
    for pod in pods {
        for report in &pod.sessions {
            let since = i64::try_from(report.since_unix_s).ok();
            let since = since.and_then(|since| Timestamp::from_second(since).ok());
            let session = AttachmentSession {
                gateway: pod.pod.clone(),
                transport: transport(&report.transport),
                since: Time(since.unwrap_or(Timestamp::UNIX_EPOCH)),
            };
            sessions
                .entry(report.attachment.clone())
                .or_default()
                .push(session);
        }
    }
    for sessions in sessions.values_mut() {
        sessions.sort_by(|a, b| {
            b.since
                .0
                .cmp(&a.since.0)
                .then_with(|| a.gateway.cmp(&b.gateway))
        });
        sessions.truncate(MAX_SESSIONS);
    }
    sessions
}

fn transport(word: &str) -> SessionTransport {
    match word {
        "iroh" => SessionTransport::Iroh,
        "h2" => SessionTransport::H2,
        _ => SessionTransport::H3,
    }
}

/// Attachments of a snapshot that have a session.
fn connected(snapshot: &Snapshot, pods: &[PodReport]) -> usize {
    let reports = pods.iter().flat_map(|pod| &pod.sessions);
    let names: BTreeSet<_> = reports.map(|report| &report.attachment).collect();
    let attachments = snapshot.attachments.iter();
    attachments
        .filter(|attachment| names.contains(&attachment.name))
        .count()
}

#[cfg(test)]
mod tests;
