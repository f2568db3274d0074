//! Snapshots come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use masque_model::{ObjectName, Snapshot};

use super::admit::{demand, host_prefixes, routes};
use super::{EndReason, Ended, Grant, Point, Registry, SnapshotError};
use crate::address::AddressError;
use crate::id::{AttachmentId, Now, SessionId, VpcIndex};
use crate::tables::{Tables, VpcTables};

/// What [`Registry::apply`] changed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The tables that every shard is to run from now on. What did not change is the same
    /// [`Arc`] inside.
    pub tables: Arc<Tables>,
    /// Sessions that must end. They are released already.
    pub ended: Vec<Ended>,
    /// Sessions whose addresses, routes or limits are others now: tell the client by
    /// ADDRESS_ASSIGN and ROUTE_ADVERTISEMENT, and the shards by
    /// [`update`](crate::Dataplane::update) and
    /// [`attach_elsewhere`](crate::Dataplane::attach_elsewhere).
    pub updated: Vec<Grant>,
    /// Attachments whose fixed addresses they cannot have now.
    pub conflicts: Vec<Conflict>,
    /// Snapshots that do not run, and why; the former one of the same ingress point goes on.
    pub refused: Vec<(ObjectName, SnapshotError)>,
    /// The ingress points whose tables changed, came or went.
    pub touched: Vec<ObjectName>,
}

/// An attachment that cannot have its fixed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The VPCIngressPoint.
    pub ingress_point: ObjectName,
    /// The ConnectorAttachment.
    pub attachment: ObjectName,
    /// Why.
    pub error: AddressError,
}

impl Registry {
    /// Runs exactly these Snapshots, of two of one ingress point the one with the greater version.
    /// What did not change is not touched: its sessions, flows and tables stay.
    pub fn apply(&mut self, now: Now, snapshots: Vec<Arc<Snapshot>>) -> Changes {
        let mut changes = Changes {
            tables: self.tables.clone(),
            ended: Vec::new(),
            updated: Vec::new(),
            conflicts: Vec::new(),
            refused: Vec::new(),
            touched: Vec::new(),
        };
        let wanted = self.choose(snapshots, &mut changes);
        let gone: Vec<_> = self
            .points
            .iter()
            // Another VPC under the same name is another ingress point.
            .filter(|(name, point)| {
                wanted
                    .get(*name)
                    .is_none_or(|next| next.vpc != point.snapshot.vpc)
            })
            .map(|(name, _)| name.clone())
            .collect();
        let (mut vpcs, mut rejudged) = (BTreeSet::new(), BTreeSet::new());
        for name in gone {
            vpcs.extend(self.remove_point(now, &name, &mut changes));
        }
        for (name, snapshot) in wanted {
            let same = self.points.get(&name).is_some_and(|point| {
                Arc::ptr_eq(&point.snapshot, &snapshot) || point.snapshot == snapshot
            });
            if same {
                continue;
            }
            if self.rejudge(&snapshot) {
                rejudged.insert(name.clone());
            } else {
                vpcs.insert(snapshot.vpc.clone());
                self.replace_point(now, &snapshot, &mut changes);
            }
            changes.touched.push(name);
        }
        for vpc in &vpcs {
            self.refresh_book(now, vpc);
        }
        for name in changes.touched.clone() {
            let sessions_too = !rejudged.contains(&name);
            self.refresh_sessions(now, &name, sessions_too, &mut changes);
        }
        self.book.sweep(now);
        if !changes.touched.is_empty() {
            self.publish();
            changes.tables = self.tables.clone();
        }
        changes
    }

    /// The Snapshots to run: valid ones, and the former one where the new one is not.
    fn choose(
        &self,
        snapshots: Vec<Arc<Snapshot>>,
        changes: &mut Changes,
    ) -> BTreeMap<ObjectName, Arc<Snapshot>> {
        let mut newest: BTreeMap<ObjectName, Arc<Snapshot>> = BTreeMap::new();
        for snapshot in snapshots {
            let other = newest.get(&snapshot.ingress_point);
            if other.is_none_or(|other| other.version < snapshot.version) {
                newest.insert(snapshot.ingress_point.clone(), snapshot);
            }
        }
        let mut wanted = BTreeMap::new();
        // Those that run already come first, so that a new one never pushes one out.
        let (running, new): (Vec<_>, Vec<_>) = newest
            .into_iter()
            .partition(|(name, _)| self.points.contains_key(name));
        for (name, snapshot) in running.into_iter().chain(new) {
            let checked = if wanted.len() < self.config.snapshots_max {
                Self::check(&snapshot)
            } else {
                Err(SnapshotError::TooManySnapshots(self.config.snapshots_max))
            };
            match (checked, self.points.get(&name)) {
                (Ok(()), _) => {
                    wanted.insert(name, snapshot);
                }
                (Err(error), former) => {
                    if let Some(former) = former {
                        wanted.insert(name.clone(), former.snapshot.clone());
                    }
                    changes.refused.push((name, error));
                }
            }
        }
        wanted
    }

    fn remove_point(
        &mut self,
        now: Now,
        name: &ObjectName,
        changes: &mut Changes,
    ) -> Option<ObjectName> {
        let sessions = self.sessions_of(name, |_| true);
        changes
            .ended
            .extend(self.end_all(now, &sessions, EndReason::IngressPointRemoved));
        let point = self.points.remove(name)?;
        changes.touched.push(name.clone());
        Some(point.snapshot.vpc.clone())
    }

    /// Swaps the Snapshot of an ingress point where only what packets are judged by is another: that
    /// costs no walk over addresses and sessions, during which no session could begin. False if more is
    /// another, and nothing has changed. A session that lacks an address because a pool was full is given
    /// one by the next edit of more than that, or when it comes again.
    fn rejudge(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        let Some(point) = self.points.get_mut(&snapshot.ingress_point) else {
            return false;
        };
        if !serves_the_same(&point.snapshot, snapshot) {
            return false;
        }
        let tables = VpcTables::new(point.index, self.next_epoch, snapshot, point.ids.clone());
        self.next_epoch += 1;
        point.tables = Arc::new(tables);
        point.snapshot = snapshot.clone();
        true
    }

    /// Swaps the Snapshot of one ingress point and ends the sessions of attachments that are gone
    /// or suspended.
    fn replace_point(&mut self, now: Now, snapshot: &Arc<Snapshot>, changes: &mut Changes) {
        let name = &snapshot.ingress_point;
        let former = self.points.get(name);
        let index = former.map(|point| point.index);
        let sessions = former.map_or(0, |point| point.sessions);
        let (ids, new_ids) = self.intern(former, snapshot);
        let ids = Arc::new(ids);
        self.next_attachment += new_ids;
        let index = index.unwrap_or_else(|| {
            let index = VpcIndex(self.next_vpc);
            self.next_vpc += 1;
            index
        });
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let tables = Arc::new(VpcTables::new(index, epoch, snapshot, ids.clone()));
        let by_key = snapshot
            .attachments
            .iter()
            .enumerate()
            .map(|(at, a)| (a.key, at))
            .collect();
        let point = Point {
            snapshot: snapshot.clone(),
            index,
            ids,
            by_key,
            tables,
            sessions,
        };

        let live: BTreeSet<AttachmentId> = point.ids.values().copied().collect();
        let suspended: BTreeSet<AttachmentId> = snapshot
            .attachments
            .iter()
            .filter(|attachment| attachment.suspended)
            .filter_map(|attachment| point.ids.get(&attachment.name).copied())
            .collect();
        let owners: BTreeSet<_> = snapshot
            .attachments
            .iter()
            .map(|attachment| point.owner(attachment))
            .collect();
        self.points.insert(name.clone(), point);

        let removed = self.sessions_of(name, |grant| !live.contains(&grant.attachment));
        changes
            .ended
            .extend(self.end_all(now, &removed, EndReason::AttachmentRemoved));
        let suspended = self.sessions_of(name, |grant| suspended.contains(&grant.attachment));
        changes
            .ended
            .extend(self.end_all(now, &suspended, EndReason::Suspended));
        for owner in self.book.owners(&snapshot.vpc, name) {
            if !owners.contains(&owner) {
                self.book.free(now, &snapshot.vpc, &owner);
            }
        }
        self.mark_suspended(now, snapshot);
    }

    /// A suspended attachment's addresses stay its own: it may not come to keep them.
    fn mark_suspended(&mut self, now: Now, snapshot: &Snapshot) {
        let Some(point) = self.points.get(&snapshot.ingress_point) else {
            return;
        };
        for attachment in &snapshot.attachments {
            let owner = point.owner(attachment);
            let suspended = attachment.suspended;
            self.book
                .set_suspended(now, &snapshot.vpc, &owner, suspended);
        }
    }

    /// The identifiers of the attachments of `snapshot`, and how many of them are new. An
    /// attachment with another key is another one.
    fn intern(
        &self,
        former: Option<&Point>,
        snapshot: &Snapshot,
    ) -> (BTreeMap<ObjectName, AttachmentId>, u32) {
        let mut new = 0;
        let ids = snapshot.attachments.iter().map(|attachment| {
            let known = former
                .filter(|point| {
                    point
                        .attachment(&attachment.key)
                        .is_some_and(|a| a.name == attachment.name)
                })
                .and_then(|point| point.ids.get(&attachment.name).copied());
            let id = known.unwrap_or_else(|| {
                new += 1;
                AttachmentId(self.next_attachment + new - 1)
            });
            (attachment.name.clone(), id)
        });
        let ids = ids.collect();
        (ids, new)
    }

    /// Tells the address book the pools of one VPC.
    fn refresh_book(&mut self, now: Now, vpc: &ObjectName) {
        let sites: Vec<_> = self
            .points
            .iter()
            .filter(|(_, point)| point.snapshot.vpc == *vpc)
            .map(|(name, point)| (name, point.site()))
            .collect();
        self.book.set_sites(now, vpc, &sites);
    }

    /// Brings fixed addresses of one ingress point up to date, and with `sessions_too` the grants of
    /// its sessions.
    fn refresh_sessions(
        &mut self,
        now: Now,
        name: &ObjectName,
        sessions_too: bool,
        changes: &mut Changes,
    ) {
        let Some(snapshot) = self.points.get(name).map(|point| point.snapshot.clone()) else {
            return;
        };
        for attachment in &snapshot.attachments {
            if !sessions_too && attachment.addresses.is_empty() {
                continue;
            }
            let Some(point) = self.points.get(name) else {
                return;
            };
            let Some(id) = point.ids.get(&attachment.name).copied() else {
                continue;
            };
            let sessions = self.by_attachment.get(&id).cloned().unwrap_or_default();
            if sessions.is_empty() && attachment.addresses.is_empty() {
                continue;
            }
            let owner = point.owner(attachment);
            let bound = self
                .book
                .bind(now, &snapshot.vpc, &owner, &demand(attachment));
            if let Err(error) = &bound {
                let (ingress_point, attachment) = (name.clone(), attachment.name.clone());
                changes.conflicts.push(Conflict {
                    ingress_point,
                    attachment,
                    error: *error,
                });
            }
            if !sessions.is_empty() && bound.is_ok() {
                self.book.set_present(now, &snapshot.vpc, &owner, true);
            }
            let addresses = bound.unwrap_or_default();
            let surplus_of = usize::try_from(attachment.limits.sessions.max(1)).unwrap_or(1);
            let surplus = sessions.len().saturating_sub(surplus_of);
            for (place, session) in sessions.into_iter().enumerate() {
                if place < surplus {
                    changes
                        .ended
                        .extend(self.end_all(now, &[session], EndReason::Replaced));
                    continue;
                }
                let Some(entry) = self.sessions.get_mut(&session) else {
                    continue;
                };
                let grant = Grant {
                    addresses: host_prefixes(&addresses, entry.ipv4, entry.ipv6),
                    routes: routes(attachment, entry.grant.scope.targets.as_deref()),
                    bits_per_second: attachment.limits.bits_per_second,
                    mtu_bytes: snapshot.mtu_bytes,
                    connector: attachment.connector.clone(),
                    ..entry.grant.clone()
                };
                if grant.addresses.is_empty() {
                    let reason = EndReason::AddressUnavailable;
                    changes.ended.extend(self.end_all(now, &[session], reason));
                } else if grant != entry.grant {
                    entry.grant = Grant {
                        generation: grant.generation + 1,
                        ..grant
                    };
                    changes.updated.push(entry.grant.clone());
                }
            }
        }
    }

    fn sessions_of(&self, name: &ObjectName, which: impl Fn(&Grant) -> bool) -> Vec<SessionId> {
        self.sessions
            .values()
            .filter(|session| session.grant.ingress_point == *name && which(&session.grant))
            .map(|session| session.grant.session)
            .collect()
    }

    fn publish(&mut self) {
        let size = usize::try_from(self.next_vpc).unwrap_or(usize::MAX);
        let mut vpcs = vec![None; size];
        for point in self.points.values() {
            if let Some(place) = vpcs.get_mut(point.index.0 as usize) {
                *place = Some(point.tables.clone());
            }
        }
        self.tables = Arc::new(Tables::new(vpcs, self.tables.generation() + 1));
    }
}

/// Whether two Snapshots of an ingress point give the same attachments the same addresses and grants.
fn serves_the_same(former: &Snapshot, next: &Snapshot) -> bool {
    // A new field has to be judged here as well.
    let Snapshot {
        version: _,
        ingress_point: _,
        vpc,
        listeners: _,
        auth: _,
        pools,
        routes: _,
        fabric: _,
        bridge: _,
        mtu_bytes,
        sessions,
        attachments,
        rules: _,
        drain_deadline_ms: _,
    } = next;
    former.vpc == *vpc
        && former.pools == *pools
        && former.mtu_bytes == *mtu_bytes
        && former.sessions == *sessions
        && former.attachments == *attachments
}
