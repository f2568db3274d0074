//! The requests of a connection.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::{
    closed::{ClosedStreams, TooManyGaps},
    request::Request,
};

/// Open requests by their Quarter Stream ID, and which ones are over.
///
/// The hasher needs no random seed: the peer can choose the keys only among the streams QUIC lets
/// it open, and no more of them are in the table than may be open at one time.
#[derive(Debug)]
pub(crate) struct RequestTable {
    open: HashMap<u64, Request, FixedState>,
    closed: ClosedStreams,
}

impl RequestTable {
    /// None yet; `max_open` may be open at one time.
    pub(crate) fn new(max_open: usize) -> Self {
        Self {
            open: HashMap::default(),
            closed: ClosedStreams::new(max_open),
        }
    }

    /// An open request.
    pub(crate) fn get(&self, number: u64) -> Option<&Request> {
        self.open.get(&number)
    }

    /// An open request, to change it.
    pub(crate) fn get_mut(&mut self, number: u64) -> Option<&mut Request> {
        self.open.get_mut(&number)
    }

    /// A new request.
    pub(crate) fn insert(&mut self, number: u64, request: Request) {
        self.open.insert(number, request);
    }

    /// A request is over, whether it was open or not.
    pub(crate) fn remove(&mut self, number: u64) -> Result<Option<Request>, TooManyGaps> {
        self.closed.insert(number)?;
        Ok(self.open.remove(&number))
    }

    /// Whether a request is over.
    pub(crate) fn is_closed(&self, number: u64) -> bool {
        self.closed.contains(number)
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// The open ones with this number and above, ascending.
    pub(crate) fn from(&self, first: u64) -> Vec<u64> {
        let mut numbers: Vec<u64> = self
            .open
            .keys()
            .copied()
            .filter(|number| *number >= first)
            .collect();
        numbers.sort_unstable();
        numbers
    }

    /// The counts of useless frames start anew.
    pub(crate) fn reset_load(&mut self) {
        for request in self.open.values_mut() {
            request.reset_load();
        }
    }

    /// Forgets every open request.
    pub(crate) fn clear(&mut self) {
        self.open.clear();
    }

    /// Bytes kept on the heap.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.open.capacity() * size_of::<(u64, Request)>()
            + self
                .open
                .values()
                .map(Request::retained_bytes)
                .sum::<usize>()
            + self.closed.retained_bytes()
    }
}
