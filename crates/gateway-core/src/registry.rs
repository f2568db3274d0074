//! The control half: which Snapshots run, who is connected, and who has which address.
//!
//! One registry serves the whole gateway. Nothing here is called per packet.

mod admit;
mod apply;
mod check;
mod grant;
mod refusal;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use masque_model::{Attachment, ConnectorKey, ObjectName, Snapshot};

use crate::address::{AddressBook, AddressBookState, Owner, Site, gateway_addresses};
use crate::id::{AttachmentId, Now, SessionId, SessionRef, VpcIndex};
use crate::tables::{Tables, VpcTables};

pub use crate::address::PoolUsage;
pub use apply::{Changes, Conflict};
pub use check::{MAX_ATTACHMENTS, MAX_FIXED_ADDRESSES, MAX_POOLS, MAX_RULES, SnapshotError};
pub use grant::{AdmitRequest, Admitted, EndReason, Ended, Grant, Released, Scope, SessionInfo};
pub use refusal::Refusal;

/// Bounds of a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// Most ingress points at one time; Snapshots beyond are refused.
    pub snapshots_max: usize,
    /// Most sessions at one time over all ingress points.
    pub sessions_max: usize,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            snapshots_max: 1024,
            sessions_max: 65_536,
        }
    }
}

/// The control half of a gateway.
///
/// # Contract
/// Call [`apply`](Self::apply) first and on every change of Snapshots, [`admit`](Self::admit) when a
/// client has proven its key, and [`release`](Self::release) exactly when its tunnel has ended for
/// any reason, also after the registry itself ended it (then it does nothing). Carry out what the
/// return values say: they name sessions of every shard. `now` must not go back.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    points: BTreeMap<ObjectName, Point>,
    sessions: BTreeMap<SessionId, Session>,
    /// The sessions of each attachment, oldest first.
    by_attachment: BTreeMap<AttachmentId, Vec<SessionId>>,
    book: AddressBook,
    tables: Arc<Tables>,
    next_session: u64,
    next_vpc: u32,
    next_attachment: u32,
    next_epoch: u64,
}

/// One ingress point that runs.
#[derive(Debug)]
struct Point {
    snapshot: Arc<Snapshot>,
    index: VpcIndex,
    ids: Arc<BTreeMap<ObjectName, AttachmentId>>,
    /// Places in `snapshot.attachments`.
    by_key: BTreeMap<ConnectorKey, usize>,
    tables: Arc<VpcTables>,
    /// How many sessions it has.
    sessions: u32,
}

#[derive(Debug)]
struct Session {
    grant: Grant,
    owner: Owner,
    /// The families that the client can use.
    ipv4: bool,
    ipv6: bool,
    since_unix_s: u64,
}

impl Registry {
    /// A registry that runs nothing and remembers no address.
    #[must_use]
    pub fn new(config: RegistryConfig) -> Self {
        Self::with_addresses(config, Now::default(), &AddressBookState::default())
    }

    /// A registry that runs nothing and remembers the addresses that an earlier process exported.
    #[must_use]
    pub fn with_addresses(config: RegistryConfig, now: Now, state: &AddressBookState) -> Self {
        Self {
            config,
            points: BTreeMap::new(),
            sessions: BTreeMap::new(),
            by_attachment: BTreeMap::new(),
            book: AddressBook::import(now, state),
            tables: Arc::new(Tables::default()),
            next_session: 1,
            next_vpc: 0,
            next_attachment: 0,
            next_epoch: 1,
        }
    }

    /// The tables that the shards are to run now.
    #[must_use]
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// What a restart must not forget; write it whenever
    /// [`addresses_version`](Self::addresses_version) has changed.
    #[must_use]
    pub fn export_addresses(&self, now: Now) -> AddressBookState {
        self.book.export(now)
    }

    /// Grows with every change of [`export_addresses`](Self::export_addresses).
    #[must_use]
    pub fn addresses_version(&self) -> u64 {
        self.book.version()
    }

    /// Every session, oldest first.
    pub fn sessions(&self) -> impl Iterator<Item = SessionInfo<'_>> {
        self.sessions.values().map(|session| SessionInfo {
            grant: &session.grant,
            since_unix_s: session.since_unix_s,
        })
    }

    /// How many sessions there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many sessions an ingress point has; costs the same however many there are.
    #[must_use]
    pub fn session_count_of(&self, ingress_point: &ObjectName) -> usize {
        let point = self.points.get(ingress_point);
        point.map_or(0, |point| {
            usize::try_from(point.sessions).unwrap_or(usize::MAX)
        })
    }

    /// One session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<&Grant> {
        self.sessions.get(&id).map(|session| &session.grant)
    }

    /// The Snapshots that run, by ingress point.
    pub fn snapshots(&self) -> impl Iterator<Item = &Arc<Snapshot>> {
        self.points.values().map(|point| &point.snapshot)
    }

    /// Whether a key has an attachment at an ingress point.
    #[must_use]
    pub fn has_attachment(&self, ingress_point: &ObjectName, key: &ConnectorKey) -> bool {
        let point = self.points.get(ingress_point);
        point.is_some_and(|point| point.by_key.contains_key(key))
    }

    /// The addresses that the gateway itself answers on in the VPC of an ingress point, one a pool.
    #[must_use]
    pub fn gateway_addresses(&self, ingress_point: &ObjectName) -> Vec<IpAddr> {
        let point = self.points.get(ingress_point);
        point.map_or_else(Vec::new, |point| gateway_addresses(&point.snapshot.pools))
    }

    /// How full the pools of an ingress point are.
    #[must_use]
    pub fn pools(&self, ingress_point: &ObjectName) -> Vec<PoolUsage> {
        let Some(point) = self.points.get(ingress_point) else {
            return Vec::new();
        };
        self.book.usage(&point.snapshot.vpc, ingress_point)
    }

    /// Takes a session out of every table. The next newest one of its attachment becomes active.
    fn remove(&mut self, now: Now, id: SessionId) -> Option<(Session, Option<Grant>)> {
        let session = self.sessions.remove(&id)?;
        let attachment = session.grant.attachment;
        let mut newest = None;
        if let Some(ids) = self.by_attachment.get_mut(&attachment) {
            ids.retain(|other| *other != id);
            newest = ids.last().copied();
            if ids.is_empty() {
                self.by_attachment.remove(&attachment);
            }
        }
        if let Some(point) = self.points.get_mut(&session.grant.ingress_point) {
            point.sessions = point.sessions.saturating_sub(1);
        }
        let activated = match newest {
            Some(newest) => self.activate(newest),
            None => {
                self.book
                    .set_present(now, &session.grant.vpc, &session.owner, false);
                None
            }
        };
        Some((session, activated))
    }

    /// Makes a session the one that carries traffic; `None` if it is already.
    fn activate(&mut self, id: SessionId) -> Option<Grant> {
        let session = self.sessions.get_mut(&id)?;
        if session.grant.active {
            return None;
        }
        session.grant.active = true;
        session.grant.generation += 1;
        Some(session.grant.clone())
    }
}

impl Point {
    fn attachment(&self, key: &ConnectorKey) -> Option<&Attachment> {
        self.snapshot.attachments.get(*self.by_key.get(key)?)
    }

    fn site(&self) -> Site<'_> {
        Site {
            pools: &self.snapshot.pools,
            resume_window_ms: self.snapshot.sessions.resume_window_ms,
            quarantine_ms: self.snapshot.sessions.address_quarantine_ms,
        }
    }

    fn owner(&self, attachment: &Attachment) -> Owner {
        Owner {
            ingress_point: self.snapshot.ingress_point.clone(),
            attachment: attachment.name.clone(),
            key: attachment.key,
        }
    }
}

impl Session {
    fn reference(&self) -> SessionRef {
        SessionRef {
            session: self.grant.session,
            shard: self.grant.shard,
        }
    }

    fn ended(&self, reason: EndReason) -> Ended {
        Ended {
            session: self.reference(),
            attachment: self.grant.name.clone(),
            reason,
        }
    }
}
