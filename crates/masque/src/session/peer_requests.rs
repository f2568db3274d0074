//! The peer's address requests.

use std::collections::{BTreeMap, VecDeque};

use super::{SessionError, bounds};
use crate::{CapsuleError, RequestedAddress};

/// Requests without an answer, and the ids that may not come again.
#[derive(Debug, Default)]
pub(super) struct PeerRequests {
    pending: BTreeMap<u64, RequestedAddress>,
    /// Oldest first.
    used_ids: VecDeque<u64>,
}

impl PeerRequests {
    /// Takes one ADDRESS_REQUEST. `unsent_answers` count as unanswered.
    pub(super) fn handle(
        &mut self,
        list: &[RequestedAddress],
        unsent_answers: usize,
    ) -> Result<(), SessionError> {
        if self.pending.len() + unsent_answers + list.len() > bounds::MAX_PENDING_REQUESTS {
            return Err(SessionError::PendingRequests);
        }
        for request in list {
            let request_id = request.request_id;
            // RFC 9484 §4.7.2: "Request IDs MUST NOT be reused by an endpoint".
            if self.pending.contains_key(&request_id) || self.used_ids.contains(&request_id) {
                return Err(CapsuleError::RequestIdReused(request_id).into());
            }
            if self.used_ids.len() == bounds::MAX_TRACKED_REQUEST_IDS {
                self.used_ids.pop_front();
            }
            self.used_ids.push_back(request_id);
            self.pending.insert(request_id, *request);
        }
        Ok(())
    }

    pub(super) fn pending(&self, request_id: u64) -> Option<&RequestedAddress> {
        self.pending.get(&request_id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RequestedAddress> {
        self.pending.values()
    }

    pub(super) fn answered(&mut self, request_id: u64) {
        self.pending.remove(&request_id);
    }
}
