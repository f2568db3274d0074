//! The tunnels of one shard, found by request stream, by session and by the dataplane's slot.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use masque_gateway_core::{Grant, SessionId, SlotId};
use masque_http3::StreamId;
use masque_protocol::Session;
use masque_transport::ConnId;
use slab::Slab;

use crate::auth::Method;

/// Where a tunnel's packets go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TunnelKey {
    /// The UDP port.
    pub(crate) port: u16,
    /// The connection of that port's machine.
    pub(crate) conn: ConnId,
    /// The request stream.
    pub(crate) stream: StreamId,
}

/// How a tunnel's client came: what must still be allowed for it to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// How it proved its key.
    pub(crate) method: Method,
    /// The request's `:authority`.
    pub(crate) authority: String,
}

/// One accepted CONNECT-IP request.
#[derive(Debug)]
pub(crate) struct Tunnel {
    /// Where it is.
    pub(crate) key: TunnelKey,
    /// Its capsules and contexts.
    pub(crate) protocol: Session,
    /// What it may do.
    pub(crate) grant: Arc<Grant>,
    /// How its client came.
    pub(crate) origin: Origin,
    /// Its place in the dataplane.
    pub(crate) slot: SlotId,
    /// When it was accepted.
    pub(crate) since: Instant,
    /// Inner MTU as the dataplane knows it.
    pub(crate) mtu_bytes: u16,
}

impl Tunnel {
    /// Whether it carries IPv6, and so needs 1280 bytes (RFC 9484 §7.2).
    pub(crate) fn has_ipv6(&self) -> bool {
        self.grant.addresses.iter().any(|a| a.addr().is_ipv6())
    }
}

/// All tunnels of a shard.
#[derive(Debug, Default)]
pub(crate) struct Tunnels {
    slab: Slab<Tunnel>,
    /// By connection index: nearly every connection has one tunnel, so the search is short, and the
    /// packet path hashes nothing.
    by_connection: BTreeMap<u16, Vec<Vec<(TunnelKey, usize)>>>,
    by_slot: Vec<Option<usize>>,
    by_session: BTreeMap<SessionId, usize>,
}

impl Tunnels {
    /// Adds one.
    pub(crate) fn insert(&mut self, tunnel: Tunnel) {
        let (key, slot, session) = (tunnel.key, tunnel.slot, tunnel.grant.session);
        let index = self.slab.insert(tunnel);
        let connections = self.by_connection.entry(key.port).or_default();
        let conn = key.conn.index() as usize;
        if connections.len() <= conn {
            connections.resize_with(conn + 1, Vec::new);
        }
        connections[conn].push((key, index));
        if self.by_slot.len() <= slot.index() {
            self.by_slot.resize(slot.index() + 1, None);
        }
        self.by_slot[slot.index()] = Some(index);
        self.by_session.insert(session, index);
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, key: TunnelKey) -> Option<Tunnel> {
        let index = self.position(key)?;
        let tunnel = self.slab.try_remove(index)?;
        if let Some(streams) = self
            .by_connection
            .get_mut(&key.port)
            .and_then(|connections| connections.get_mut(key.conn.index() as usize))
        {
            streams.retain(|(other, _)| *other != key);
        }
        if let Some(place) = self.by_slot.get_mut(tunnel.slot.index())
            && *place == Some(index)
        {
            *place = None;
        }
        self.by_session.remove(&tunnel.grant.session);
        Some(tunnel)
    }

    /// By request stream.
    pub(crate) fn at(&mut self, key: TunnelKey) -> Option<&mut Tunnel> {
        let index = self.position(key)?;
        self.slab.get_mut(index)
    }

    /// By the dataplane's slot.
    pub(crate) fn by_slot(&self, slot: SlotId) -> Option<&Tunnel> {
        let index = (*self.by_slot.get(slot.index())?)?;
        self.slab.get(index).filter(|tunnel| tunnel.slot == slot)
    }

    /// By session.
    pub(crate) fn by_session(&mut self, session: SessionId) -> Option<&mut Tunnel> {
        self.by_session
            .get(&session)
            .and_then(|index| self.slab.get_mut(*index))
    }

    /// Every tunnel's place.
    pub(crate) fn keys(&self) -> Vec<TunnelKey> {
        self.slab.iter().map(|(_, tunnel)| tunnel.key).collect()
    }

    /// The tunnels of one connection.
    pub(crate) fn keys_of(&self, port: u16, conn: ConnId) -> Vec<TunnelKey> {
        self.streams(port, conn)
            .iter()
            .map(|(key, _)| *key)
            .filter(|k| k.conn == conn)
            .collect()
    }

    /// The dataplane's slots of the tunnels of one connection.
    pub(crate) fn slots_of(&self, port: u16, conn: ConnId) -> impl Iterator<Item = SlotId> {
        let streams = self.streams(port, conn).iter();
        let of_conn = streams.filter(move |(key, _)| key.conn == conn);
        of_conn.filter_map(|(_, index)| Some(self.slab.get(*index)?.slot))
    }

    /// Every tunnel.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Tunnel> {
        self.slab.iter().map(|(_, tunnel)| tunnel)
    }

    fn streams(&self, port: u16, conn: ConnId) -> &[(TunnelKey, usize)] {
        self.by_connection
            .get(&port)
            .and_then(|connections| connections.get(conn.index() as usize))
            .map_or(&[], Vec::as_slice)
    }

    fn position(&self, key: TunnelKey) -> Option<usize> {
        self.streams(key.port, key.conn)
            .iter()
            .find(|(other, _)| *other == key)
            .map(|(_, index)| *index)
    }
}
