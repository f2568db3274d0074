//! What everybody who writes needs.

use std::sync::Arc;

use kube::Client;

use crate::{index::SharedIndex, lease::Leadership, metrics::Metrics};

/// A way to write, while leading.
#[derive(Clone)]
pub(crate) struct Writer {
    /// The API server.
    pub(crate) client: Client,
    /// Where the results of writes go, so that the next pass sees them before the watch tells.
    pub(crate) index: SharedIndex,
    /// Where writes are counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Whether writing is allowed.
    pub(crate) leadership: Leadership,
}
