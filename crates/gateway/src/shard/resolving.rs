//! Requests that wait for the addresses of their target (RFC 9484 §4.1).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_http3::RequestHead;

use crate::{auth::Identity, control::Lookup};

/// How long a name may take to resolve.
pub(crate) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Capsules that a client may send before its request is answered: its address requests and routes,
/// which are a few hundred bytes, and some packets.
pub(super) const EARLY_CAPSULES_MAX_BYTES: usize = 64 * 1024;

/// A request that waits for its target's addresses. Their number is bounded by the lookups', whose
/// places they hold.
pub(super) struct Resolving {
    pub(super) identity: Identity,
    pub(super) head: RequestHead,
    pub(super) since: Instant,
    /// What the client sent behind its request. Copied: a slice would hold whole packets.
    early: Vec<u8>,
    _lookup: Arc<Lookup>,
}

impl Resolving {
    pub(super) fn new(
        identity: Identity,
        head: RequestHead,
        since: Instant,
        lookup: Arc<Lookup>,
    ) -> Self {
        Self {
            identity,
            head,
            since,
            early: Vec::new(),
            _lookup: lookup,
        }
    }

    /// Keeps bytes of the request stream for the tunnel; `false` if they are too many.
    #[must_use]
    pub(super) fn keep(&mut self, data: &[u8]) -> bool {
        let fits = self.early.len() + data.len() <= EARLY_CAPSULES_MAX_BYTES;
        if fits {
            self.early.extend_from_slice(data);
        }
        fits
    }

    /// What was kept, in order.
    pub(super) fn take_early(&mut self) -> Bytes {
        std::mem::take(&mut self.early).into()
    }
}
