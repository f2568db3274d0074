//! One CONNECT-IP tunnel: the state machine of its request stream (RFC 9484 §4.7 to §6).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use ipnet::IpNet;

use crate::capsule::encode_raw;
use crate::{
    AssignedAddress, Capsule, CapsuleDecoder, IpRange, RequestedAddress, capsule_type, context,
    normalize,
};

pub mod bounds;
mod error;
mod event;
mod peer_requests;
mod wrap_up;

use bounds::Churn;
pub use error::{CommandError, SessionError};
pub use event::{DatagramDrop, Event, SessionStats};
use peer_requests::PeerRequests;
use wrap_up::WrapUp;

/// Which end of the tunnel we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Sent the request.
    Client,
    /// Answered it.
    Proxy,
}

/// One tunnel.
///
/// From the 2xx answer on, the driver gives the stream's bytes to
/// [`handle_data`](Self::handle_data) and the stream's datagrams to
/// [`handle_datagram`](Self::handle_datagram). After `handle_data`, `handle_finished` or a command
/// it drains [`poll_event`](Self::poll_event), which does the parsing, and
/// [`poll_transmit`](Self::poll_transmit), whose bytes go into DATA frames. An error of
/// `poll_event` ends the tunnel: abort the stream with its code.
///
/// What we say to the peer is kept as state, not as a queue: a list that changes twice before
/// `poll_transmit` is sent once.
#[derive(Debug)]
pub struct Session {
    role: Role,
    decoder: CapsuleDecoder,
    churn: Churn,
    now_ms: u64,
    stream: Stream,
    stats: SessionStats,

    // What the peer said.
    assigned: Vec<AssignedAddress>,
    routes: Vec<IpRange>,
    peer_requests: PeerRequests,
    peer_copes_with_unknown: bool,

    // What we say; `None` until the first command.
    granted: Option<Vec<AssignedAddress>>,
    granted_changed: bool,
    refusals: Vec<AssignedAddress>,
    /// Ids of entries in `granted` whose answer the peer has not been told.
    unsent_answers: BTreeSet<u64>,
    advertised: Option<Vec<IpRange>>,
    advertised_changed: bool,
    requested: BTreeMap<u64, IpNet>,
    unsent_requests: Vec<RequestedAddress>,
    next_request_id: u64,
    extensions: VecDeque<Bytes>,
    wrap_up: WrapUp,
}

#[derive(Debug)]
enum Stream {
    Open,
    /// The peer finished; what it sent may still be unread.
    Finishing,
    Finished,
    Failed(SessionError),
}

impl Session {
    /// A tunnel in which nothing was said yet.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            decoder: CapsuleDecoder::new(),
            churn: Churn::new(),
            now_ms: 0,
            stream: Stream::Open,
            stats: SessionStats::default(),
            assigned: Vec::new(),
            routes: Vec::new(),
            peer_requests: PeerRequests::default(),
            peer_copes_with_unknown: false,
            granted: None,
            granted_changed: false,
            refusals: Vec::new(),
            unsent_answers: BTreeSet::new(),
            advertised: None,
            advertised_changed: false,
            requested: BTreeMap::new(),
            unsent_requests: Vec::new(),
            next_request_id: 1,
            extensions: VecDeque::new(),
            wrap_up: WrapUp::default(),
        }
    }

    /// Speaks the wrap-up capsule under this type; without it the capsule is unknown.
    pub const fn with_wrap_up_capsule(mut self, capsule_type: u64) -> Self {
        self.wrap_up.capsule_type = Some(capsule_type);
        self
    }

    /// In-order bytes of the request stream's DATA frames. `now_ms` is any monotonic millisecond
    /// count.
    pub fn handle_data(&mut self, data: Bytes, now_ms: u64) {
        if !matches!(self.stream, Stream::Open) {
            return;
        }
        self.now_ms = now_ms;
        if self.decoder.buffered_bytes().saturating_add(data.len()) > bounds::MAX_UNREAD_BYTES
            && self.decoder.has_unread()
        {
            self.stream = Stream::Failed(SessionError::Unread);
            return;
        }
        self.decoder.push(data);
    }

    /// The peer finished its side of the stream.
    pub fn handle_finished(&mut self) {
        if matches!(self.stream, Stream::Open) {
            self.stream = Stream::Finishing;
        }
    }

    /// The IP packet in an HTTP Datagram Payload: a slice of it. Nothing of the packet is checked.
    ///
    /// # Errors
    /// [`DatagramDrop`]: count it; the tunnel goes on.
    pub fn handle_datagram(&self, payload: Bytes) -> Result<Bytes, DatagramDrop> {
        match context::split(payload) {
            Some((context::IP_PACKET, packet)) if !packet.is_empty() => Ok(packet),
            Some((context::IP_PACKET, _)) | None => Err(DatagramDrop::Empty),
            Some((other, _)) => Err(DatagramDrop::UnknownContext(other)),
        }
    }

    /// The next thing the peer did.
    ///
    /// # Errors
    /// [`SessionError`]: abort the stream with its code. It is given again at every further call.
    pub fn poll_event(&mut self) -> Result<Option<Event>, SessionError> {
        let step = self.next_event();
        if let Err(error) = &step {
            self.stream = Stream::Failed(error.clone());
        }
        step
    }

    /// The next whole capsule to send. Extension capsules precede the ADDRESS_ASSIGN and
    /// ROUTE_ADVERTISEMENT that they go with (RFC 9484 §9).
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if let Stream::Failed(_) = self.stream {
            return None;
        }
        if let Some(capsule) = self.extensions.pop_front() {
            return Some(capsule);
        }
        if !self.unsent_requests.is_empty() {
            let list = std::mem::take(&mut self.unsent_requests);
            return Some(Capsule::AddressRequest(list).encode());
        }
        if std::mem::take(&mut self.granted_changed) {
            // RFC 9484 §4.7.2: rejections "SHOULD NOT be included in subsequent ADDRESS_ASSIGN
            // capsules".
            let mut list = std::mem::take(&mut self.refusals);
            self.unsent_answers.clear();
            list.extend(self.granted.iter().flatten());
            return Some(Capsule::AddressAssign(list).encode());
        }
        if std::mem::take(&mut self.advertised_changed) {
            let list = self.advertised.clone().unwrap_or_default();
            return Some(Capsule::RouteAdvertisement(list).encode());
        }
        if !self.peer_copes_with_unknown {
            return None;
        }
        self.wrap_up
            .poll_transmit(self.role)
            .map(|capsule_type| encode_raw(capsule_type, &[]))
    }

    /// Assigns exactly `prefixes` to the peer. Says so only if that changes something, or if
    /// nothing was assigned before: a client may wait for the first list, be it empty. A prefix
    /// that answered a request keeps its request id, the others have 0.
    ///
    /// # Errors
    /// [`CommandError::TooMany`] above [`bounds::MAX_ASSIGNED`].
    pub fn assign(&mut self, prefixes: &[IpNet]) -> Result<(), CommandError> {
        let mut wanted: Vec<IpNet> = prefixes.iter().map(IpNet::trunc).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let former = self.granted.as_deref().unwrap_or_default();
        let mut list = Vec::with_capacity(wanted.len());
        for prefix in wanted {
            let unchanged = list.len();
            list.extend(former.iter().filter(|entry| entry.prefix == prefix));
            if list.len() == unchanged {
                list.push(AssignedAddress::unprompted(prefix));
            }
        }
        check_bound("assigned prefixes", list.len(), bounds::MAX_ASSIGNED)?;
        // A request whose grant is withdrawn before it was sent still gets its answer.
        for &AssignedAddress { request_id, prefix } in former {
            let kept = list.iter().any(|entry| entry.request_id == request_id);
            if !kept && self.unsent_answers.remove(&request_id) {
                let request = RequestedAddress { request_id, prefix };
                self.refusals.push(AssignedAddress::refusal(&request));
            }
        }
        if self.granted.as_ref() != Some(&list) {
            self.granted = Some(list);
            self.granted_changed = true;
        }
        Ok(())
    }

    /// Advertises exactly `ranges`, after [`normalize`]. Says so only if that changes something, or
    /// if nothing was advertised before.
    ///
    /// # Errors
    /// [`CommandError::TooMany`] above [`bounds::MAX_ROUTES`].
    pub fn advertise(&mut self, ranges: Vec<IpRange>) -> Result<(), CommandError> {
        let ranges = normalize(ranges);
        check_bound("route ranges", ranges.len(), bounds::MAX_ROUTES)?;
        if self.advertised.as_ref() != Some(&ranges) {
            self.advertised = Some(ranges);
            self.advertised_changed = true;
        }
        Ok(())
    }

    /// Asks the peer for prefixes, and gives the requests with their ids, which are never used
    /// twice. An all-zero address asks for any prefix of its length.
    ///
    /// # Errors
    /// [`CommandError::TooMany`] above [`bounds::MAX_PENDING_REQUESTS`] unanswered requests.
    pub fn request_addresses(
        &mut self,
        prefixes: &[IpNet],
    ) -> Result<Vec<RequestedAddress>, CommandError> {
        let count = self.requested.len() + prefixes.len();
        check_bound(
            "unanswered address requests",
            count,
            bounds::MAX_PENDING_REQUESTS,
        )?;
        let mut requests = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            let prefix = prefix.trunc();
            let request = RequestedAddress {
                request_id: self.next_request_id,
                prefix,
            };
            self.next_request_id += 1;
            self.requested.insert(request.request_id, prefix);
            requests.push(request);
        }
        self.unsent_requests.extend(&requests);
        Ok(requests)
    }

    /// Answers pending requests of the peer: with the prefix assigned, which joins those assigned
    /// already, or with `None` to refuse. Requests that are not named stay pending.
    ///
    /// A prefix that answers again is listed once for each answer not sent yet; of those that the
    /// peer knows, none stays beside a newer one. So the list does not grow with the requests.
    ///
    /// # Errors
    /// [`CommandError`]: nothing is answered. Refusals never exceed a bound.
    pub fn answer_requests(
        &mut self,
        answers: &[(u64, Option<IpNet>)],
    ) -> Result<(), CommandError> {
        let mut granted = self.granted.clone().unwrap_or_default();
        let mut refusals = Vec::new();
        let mut told_by_grant = BTreeSet::new();
        for (request_id, answer) in answers {
            let unknown = CommandError::UnknownRequest(*request_id);
            let request = self.peer_requests.pending(*request_id).ok_or(unknown)?;
            let Some(prefix) = answer else {
                refusals.push(AssignedAddress::refusal(request));
                continue;
            };
            let prefix = prefix.trunc();
            if prefix.max_prefix_len() != request.prefix.max_prefix_len() {
                let request_id = *request_id;
                return Err(CommandError::WrongFamily { request_id, prefix });
            }
            // The answer takes the place of the same prefix assigned unprompted, or as an answer
            // that was sent.
            granted.retain(|entry| {
                entry.prefix != prefix
                    || self.unsent_answers.contains(&entry.request_id)
                    || told_by_grant.contains(&entry.request_id)
            });
            told_by_grant.insert(*request_id);
            granted.push(AssignedAddress {
                request_id: *request_id,
                prefix,
            });
        }
        check_bound("assigned prefixes", granted.len(), bounds::MAX_ASSIGNED)?;
        granted.sort_unstable_by_key(|entry| (entry.prefix, entry.request_id));
        for (request_id, _) in answers {
            self.peer_requests.answered(*request_id);
        }
        if !answers.is_empty() {
            self.granted = Some(granted);
            self.refusals.append(&mut refusals);
            self.unsent_answers.extend(told_by_grant);
            self.granted_changed = true;
        }
        Ok(())
    }

    /// Says that the peer announced an extension, so that it copes with capsules it does not know.
    pub const fn allow_extensions(&mut self) {
        self.peer_copes_with_unknown = true;
    }

    /// Sends a capsule of an extension, before the next ADDRESS_ASSIGN and ROUTE_ADVERTISEMENT.
    ///
    /// # Errors
    /// [`CommandError`]: the peer may not cope, or [`bounds::MAX_QUEUED_EXTENSIONS`] are waiting.
    pub fn send_extension(&mut self, capsule_type: u64, value: &[u8]) -> Result<(), CommandError> {
        if !self.peer_copes_with_unknown {
            return Err(CommandError::ExtensionsUnknownToPeer);
        }
        self.queue_extension(capsule_type, value)
    }

    /// Sends an empty capsule of a reserved type, which shows the peer that we cope with unknown
    /// capsules. Some peers close the tunnel at one: for those who know theirs does not.
    ///
    /// # Errors
    /// [`CommandError::TooMany`] when [`bounds::MAX_QUEUED_EXTENSIONS`] are waiting.
    pub fn send_grease(&mut self, seed: u64) -> Result<(), CommandError> {
        self.queue_extension(capsule_type::grease(seed), &[])
    }

    /// Announces to the client that this tunnel will end. The capsule leaves once the client has
    /// shown that it copes with unknown ones, and once only; without
    /// [`with_wrap_up_capsule`](Self::with_wrap_up_capsule), or at a client, never.
    pub const fn wrap_up(&mut self) {
        self.wrap_up.wanted = true;
    }

    /// What is assigned to us, without refusals.
    pub fn assigned(&self) -> &[AssignedAddress] {
        &self.assigned
    }

    /// What the peer routes, in the order of RFC 9484 §4.7.3.
    pub fn routes(&self) -> &[IpRange] {
        &self.routes
    }

    /// What we assigned to the peer.
    pub fn granted(&self) -> &[AssignedAddress] {
        self.granted.as_deref().unwrap_or_default()
    }

    /// What we route, as advertised.
    pub fn advertised(&self) -> &[IpRange] {
        self.advertised.as_deref().unwrap_or_default()
    }

    /// The peer's requests that wait for an answer, by id.
    pub fn pending_requests(&self) -> impl Iterator<Item = &RequestedAddress> {
        self.peer_requests.iter()
    }

    /// Whether extension capsules may be sent.
    pub const fn peer_copes_with_unknown(&self) -> bool {
        self.peer_copes_with_unknown
    }

    /// What was dropped so far.
    pub const fn stats(&self) -> SessionStats {
        let oversized_datagram_capsules = self.decoder.discarded_datagrams();
        SessionStats {
            oversized_datagram_capsules,
            ..self.stats
        }
    }

    fn next_event(&mut self) -> Result<Option<Event>, SessionError> {
        match &self.stream {
            Stream::Failed(error) => return Err(error.clone()),
            Stream::Finished => return Ok(None),
            Stream::Open | Stream::Finishing => {}
        }
        while let Some(capsule) = self.decoder.poll()? {
            if let Some(event) = self.handle_capsule(capsule)? {
                return Ok(Some(event));
            }
        }
        if matches!(self.stream, Stream::Finishing) {
            self.decoder.finish()?;
            self.stream = Stream::Finished;
            return Ok(Some(Event::Finished));
        }
        Ok(None)
    }

    fn handle_capsule(&mut self, capsule: Capsule) -> Result<Option<Event>, SessionError> {
        match capsule {
            Capsule::Datagram(payload) => {
                let packet = self.handle_datagram(payload).ok();
                if packet.is_none() {
                    self.stats.dropped_datagram_capsules += 1;
                }
                Ok(packet.map(Event::DatagramCapsule))
            }
            Capsule::AddressAssign(list) => {
                self.take_churn()?;
                for entry in &list {
                    self.requested.remove(&entry.request_id);
                }
                self.assigned = list.iter().filter(|e| !e.is_refusal()).copied().collect();
                Ok(Some(Event::Assigned(list)))
            }
            Capsule::AddressRequest(list) => {
                self.take_churn()?;
                let unsent = self.refusals.len() + self.unsent_answers.len();
                self.peer_requests.handle(&list, unsent)?;
                Ok(Some(Event::AddressRequested(list)))
            }
            Capsule::RouteAdvertisement(list) => {
                self.take_churn()?;
                self.routes.clone_from(&list);
                Ok(Some(Event::Routes(list)))
            }
            Capsule::Unknown {
                capsule_type,
                length_bytes,
            } => self.handle_unknown(capsule_type, length_bytes),
        }
    }

    fn handle_unknown(
        &mut self,
        capsule_type: u64,
        length_bytes: u64,
    ) -> Result<Option<Event>, SessionError> {
        if self.wrap_up.capsule_type == Some(capsule_type) {
            self.wrap_up.handle(self.role, length_bytes)?;
            return Ok(Some(Event::WrapUp));
        }
        self.stats.unknown_capsules += 1;
        if self.stats.unknown_capsules > 1 {
            return Ok(None);
        }
        self.peer_copes_with_unknown = true;
        Ok(Some(Event::UnknownCapsule { capsule_type }))
    }

    fn take_churn(&mut self) -> Result<(), SessionError> {
        if self.churn.take(self.now_ms) {
            Ok(())
        } else {
            Err(SessionError::Churn)
        }
    }

    fn queue_extension(&mut self, capsule_type: u64, value: &[u8]) -> Result<(), CommandError> {
        let count = self.extensions.len() + 1;
        check_bound(
            "queued extension capsules",
            count,
            bounds::MAX_QUEUED_EXTENSIONS,
        )?;
        self.extensions.push_back(encode_raw(capsule_type, value));
        Ok(())
    }
}

const fn check_bound(what: &'static str, count: usize, max: usize) -> Result<(), CommandError> {
    if count > max {
        Err(CommandError::TooMany { what, count, max })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
