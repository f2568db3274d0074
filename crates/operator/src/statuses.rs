//! Statuses of every object.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::jiff::Timestamp;
use masque_controller::{Problem, ipam::AssignOutcome};
use masque_model::ObjectName;
use masque_stream::Hub;

use crate::{status_writer::StatusWriter, versions::Versions, view::View, writer::Writer};

/// What statuses are made of, besides the objects.
pub(crate) struct Facts<'a> {
    /// What is wrong.
    pub(crate) problems: &'a [Problem],
    /// What became of addresses.
    pub(crate) outcomes: &'a [AssignOutcome],
    /// The Snapshots in force.
    pub(crate) versions: &'a Versions,
    /// What pods say.
    pub(crate) hub: &'a Hub,
    /// Children that the API server refused, by ingress point.
    pub(crate) refused: &'a BTreeMap<ObjectName, String>,
    /// Now.
    pub(crate) now: Timestamp,
}

/// Keeps statuses true.
pub(crate) struct Statuses {
    writer: Writer,
    statuses: StatusWriter,
}

impl Statuses {
    pub(crate) fn new(writer: Writer, pod: &str) -> Self {
        Self {
            statuses: StatusWriter::new(writer.clone(), pod),
            writer,
        }
    }

    pub(crate) async fn write(&self, _view: &View, _facts: &Facts<'_>) -> (Option<Instant>, usize) {
        self.statuses.tidy();
        (None, 0)
    }
}
