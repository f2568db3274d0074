//! Requests that came before it was known what their path carries.
//!
//! A client whose Initials are small (1200 bytes are usual) has shown nothing about its path, and sends
//! its request within the first round trip. MTU discovery takes a few more; a refusal before would be
//! false on nearly every path.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use masque_gateway_core::Now;
use masque_http3::{Code, RequestHead};
use masque_model::ObjectName;
use masque_protocol::ProxyError;
use masque_transport::ConnId;

use super::{
    Shard,
    requests::{CONTEXT_BYTES, Decision, MIN_MTU_BYTES, refuse},
    resolving::EARLY_CAPSULES_MAX_BYTES,
    tunnels::TunnelKey,
};
use crate::auth::Identity;

/// Requests that one shard holds at one time.
const HELD_MAX: usize = 64;
/// Requests held of one connection: a client waits for one, and may try it again.
const HELD_PER_CONNECTION_MAX: usize = 2;
/// Requests held of one connector's key, on whatever connections.
const HELD_PER_KEY_MAX: usize = 4;
/// An ingress point has fewer requests held than this part of the places that are free: alone 13 of
/// 64, and whatever some do, the clients of others find room.
const FREE_PER_POINT_DIVISOR: usize = 4;
/// How long one is held: MTU discovery finds 1331 bytes in a few round trips, or after three losses
/// knows that there are fewer.
const HOLD_MAX: Duration = Duration::from_secs(2);

/// A request that waits for its path.
pub(super) struct Held {
    identity: Identity,
    head: RequestHead,
    /// Of the target's name, if it has one.
    addresses: Option<Vec<IpAddr>>,
    /// Where it may lead.
    points: BTreeSet<ObjectName>,
    since: Instant,
    /// What the client sent behind its request. Copied: a slice would hold whole packets.
    early: Vec<u8>,
}

impl Held {
    pub(super) fn new(
        (identity, head): (Identity, RequestHead),
        addresses: Option<Vec<IpAddr>>,
        points: BTreeSet<ObjectName>,
        since: Instant,
    ) -> Self {
        Self {
            identity,
            head,
            addresses,
            points,
            since,
            early: Vec::new(),
        }
    }

    /// With what followed the request already.
    pub(super) fn with_early(mut self, early: Bytes) -> Self {
        self.early = early.into();
        self
    }

    /// Keeps what follows the request; `false` when it is too much.
    fn keep(&mut self, data: &[u8]) -> bool {
        let fits = self.early.len() + data.len() <= EARLY_CAPSULES_MAX_BYTES;
        if fits {
            self.early.extend_from_slice(data);
        }
        fits
    }
}

/// All of a shard.
#[derive(Default)]
pub(super) struct HeldRequests(BTreeMap<TunnelKey, Held>);

impl HeldRequests {
    /// Holds one; `false` when there are too many: in all, of its connection, of its key, or of one
    /// of its ingress points.
    fn insert(&mut self, key: TunnelKey, held: Held) -> bool {
        let fits = self.fits(key, &held);
        if fits {
            self.0.insert(key, held);
        }
        fits
    }

    fn fits(&self, key: TunnelKey, held: &Held) -> bool {
        let free = HELD_MAX.saturating_sub(self.0.len());
        let of_key = self.count(|_, other| other.identity.key == held.identity.key);
        let within_share = |point| {
            let of_point = self.count(|_, other| other.points.contains(point));
            of_point * FREE_PER_POINT_DIVISOR < free
        };
        self.count(|other, _| is_of(other, key.port, key.conn)) < HELD_PER_CONNECTION_MAX
            && of_key < HELD_PER_KEY_MAX
            && free > 0
            && held.points.iter().all(within_share)
    }

    fn count(&self, counts: impl Fn(&TunnelKey, &Held) -> bool) -> usize {
        self.0
            .iter()
            .filter(|(key, held)| counts(key, held))
            .count()
    }

    /// Whether a connection has a request here.
    pub(super) fn has(&self, port: u16, conn: ConnId) -> bool {
        self.0.keys().any(|key| is_of(key, port, conn))
    }

    /// Whether the request was held; it is not any more.
    pub(super) fn remove(&mut self, key: TunnelKey) -> bool {
        self.0.remove(&key).is_some()
    }

    /// A connection is over.
    pub(super) fn remove_connection(&mut self, port: u16, conn: ConnId) {
        self.0.retain(|key, _| !is_of(key, port, conn));
    }

    /// A listener is over.
    pub(super) fn remove_port(&mut self, port: u16) {
        self.0.retain(|key, _| key.port != port);
    }

    fn of(&self, port: u16, conn: ConnId) -> Vec<TunnelKey> {
        let keys = self.0.keys().copied();
        keys.filter(|key| is_of(key, port, conn)).collect()
    }

    fn expired(&self, at: Instant) -> Vec<TunnelKey> {
        let late = |held: &Held| at.saturating_duration_since(held.since) >= HOLD_MAX;
        let held = self.0.iter().filter(|(_, held)| late(held));
        held.map(|(key, _)| *key).collect()
    }
}

fn is_of(key: &TunnelKey, port: u16, conn: ConnId) -> bool {
    key.port == port && key.conn == conn
}

/// RFC 9484 §7.2: a tunnel whose datagrams cannot carry 1280 bytes is no IPv6 link.
pub(super) const fn is_narrow(room_bytes: usize) -> bool {
    room_bytes < MIN_MTU_BYTES + CONTEXT_BYTES
}

fn too_narrow() -> Decision {
    refuse(
        502,
        ProxyError::DestinationUnavailable,
        "the path's MTU is too small for a tunnel of 1280 bytes",
        "mtu_too_low",
    )
}

/// No path helps a client that takes no longer datagrams.
fn small_datagrams() -> Decision {
    refuse(
        400,
        ProxyError::HttpRequestError,
        "the client's max_datagram_frame_size (RFC 9221 §3) is too small for a tunnel of 1280 \
         bytes; it takes 1300, or 65535 for any",
        "small_datagrams",
    )
}

impl Shard {
    /// What becomes of a request that is good but for the room in its datagrams.
    pub(super) fn narrow(
        &self,
        index: usize,
        conn: ConnId,
        points: BTreeSet<ObjectName>,
    ) -> Decision {
        if self.ports[index].machine.peer_limits_datagrams(conn) {
            small_datagrams()
        } else {
            Decision::Hold(points)
        }
    }

    /// Waits for the path of a request that is good otherwise.
    pub(super) fn hold(&mut self, index: usize, key: TunnelKey, held: Held, at: Instant) {
        if !self.held.insert(key, held) {
            let details = "too many requests wait for what their path carries; try again";
            let error = ProxyError::ConnectionLimitReached;
            self.carry_out(index, key, refuse(503, error, details, "held"), at);
        }
        self.tell_use(key);
    }

    /// A connection's datagrams have another size: decides about requests that waited for it.
    pub(super) fn release_held(&mut self, index: usize, conn: ConnId, at: Instant, now: Now) {
        let port = self.ports[index].number();
        for key in self.held.of(port, conn) {
            let machine = &self.ports[index].machine;
            let room = machine.max_datagram_payload(conn, key.stream);
            let limited = machine.peer_limits_datagrams(conn);
            let narrow = room.is_none_or(is_narrow);
            if narrow && !limited {
                continue;
            }
            let Some(held) = self.held.0.remove(&key) else {
                continue;
            };
            let decision = if narrow {
                small_datagrams()
            } else {
                let resolved = held.addresses.as_deref();
                self.decide(index, key, &held.head, held.identity, resolved, now)
            };
            self.carry_out(index, key, decision, at);
            self.tell_use(key);
            if let Some(tunnel) = self.tunnels.at(key) {
                tunnel.protocol.handle_data(held.early.into(), now.mono_ms);
                self.pump_tunnel(key, now);
            }
        }
    }

    /// Refuses requests whose path took too long to show that it is wide enough.
    pub(super) fn refuse_held(&mut self, at: Instant) {
        for key in self.held.expired(at) {
            self.held.remove(key);
            if let Some(index) = self.ports.iter().position(|p| p.number() == key.port) {
                self.carry_out(index, key, too_narrow(), at);
            }
            self.tell_use(key);
        }
    }

    /// Keeps what a client sends behind a request that is held.
    pub(super) fn keep_early(&mut self, key: TunnelKey, data: &[u8]) {
        if let Some(held) = self.held.0.get_mut(&key)
            && !held.keep(data)
        {
            self.held.remove(key);
            self.reset_stream(key, Code::H3_EXCESSIVE_LOAD);
            self.tell_use(key);
        }
    }
}

#[cfg(test)]
mod tests;
