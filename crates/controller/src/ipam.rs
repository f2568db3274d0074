//! Addresses of attachments: given by the operator, stored in `status.assignedIPs`, read back from
//! there by every operator that comes after.
//!
//! # How one address never gets two owners
//!
//! Leader election alone does not do it: a leader that was paused goes on where it stopped, and every
//! watch shows the past. So giving an address takes two conditional writes:
//!
//! 1. [`assign`] notes what it wants to give as [`Claim`]s in the ingress point's [`Ledger`], a small
//!    object that is *replaced with the `resourceVersion` it was read at*. Of two operators that
//!    start from the same ledger, one fails and begins again.
//! 2. Then the addresses are written to the attachment's status, *with the `resourceVersion` that the
//!    claim names*. Any operator may do this write for any claim: it continues what a crashed one
//!    began, and of two that try, one succeeds.
//!
//! An address is in force, that is in a [`Snapshot`], once it was read back from a status. A claim
//! leaves the ledger when its attachment was seen at a newer version, whose number the ledger then
//! remembers ([`Ledger::as_of`]): an operator whose view of the attachments is older gives nothing.
//!
//! An address whose attachment is gone rests for `spec.sessions.addressQuarantine`, noted in the
//! ledger too, so that flows to its former owner do not reach the next one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use kube::ResourceExt as _;
use masque_api::{ConnectorAttachment, Reason};
use masque_model::{ObjectName, Snapshot};

use crate::{resources::object_name, validate::vpc_name};

mod ledger;
mod point;
mod pool;

pub use ledger::{Claim, Ledger, LedgerError, MAX_CLAIMS, MAX_RESTING, Resting, ledger_name};

use point::Point;

/// What attachments hold, as their statuses say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Every attachment there is, in force or not.
    pub holders: BTreeMap<ObjectName, Holder>,
    /// The newest `resourceVersion` of any attachment that was ever seen. The caller keeps the
    /// largest one: an attachment that is gone was seen nonetheless.
    pub seen_version: u64,
}

/// One attachment's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its VPC. Addresses are unique in a VPC only.
    pub vpc: ObjectName,
    /// Its `resourceVersion`; 0 when that is not a number.
    pub version: u64,
    /// `status.assignedIPs`.
    pub addresses: Vec<IpAddr>,
}

impl Held {
    /// Reads the statuses of all attachments. `seen_version` is that of the former call.
    pub fn new<'a>(
        attachments: impl IntoIterator<Item = &'a ConnectorAttachment>,
        seen_version: u64,
    ) -> Self {
        let mut held = Self {
            holders: BTreeMap::new(),
            seen_version,
        };
        for attachment in attachments {
            let name = object_name(attachment);
            let version = attachment.resource_version();
            let version = version.and_then(|text| text.parse().ok()).unwrap_or(0);
            held.seen_version = held.seen_version.max(version);
            let status = attachment.status.as_ref();
            let texts = status.map_or(&[][..], |status| &status.assigned_ips);
            let holder = Holder {
                vpc: vpc_name(&attachment.spec.vpc_ref, &name.namespace),
                version,
                addresses: texts.iter().filter_map(|text| text.parse().ok()).collect(),
            };
            held.holders.insert(name, holder);
        }
        held
    }
}

/// What is to be done about addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// One per attachment of each snapshot, in order.
    pub outcomes: Vec<AssignOutcome>,
    /// Ledgers that changed, by ingress point: write these first, each with the `resourceVersion`
    /// at which it was read (create it when there was none).
    pub ledgers: BTreeMap<ObjectName, Ledger>,
    /// Then these, as far as the ledgers they need were written.
    pub writes: BTreeMap<ObjectName, AddressWrite>,
}

/// New `status.assignedIP` and `status.assignedIPs` of one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressWrite {
    /// The `resourceVersion` that the write must name.
    pub version: u64,
    /// All addresses from now on.
    pub addresses: Vec<IpAddr>,
    /// Ingress points whose changed ledger must have been written before.
    pub after: BTreeSet<ObjectName>,
}

/// What became of one attachment at one ingress point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignOutcome {
    /// The ingress point.
    pub ingress_point: ObjectName,
    /// The attachment.
    pub attachment: ObjectName,
    /// What became of it.
    pub state: AssignState,
}

/// What became of an attachment's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AssignState {
    /// These are in the snapshot.
    InForce(Vec<IpAddr>),
    /// These are in the snapshot, and one more was wanted.
    Partly(Vec<IpAddr>, Refusal),
    /// Addresses were chosen and are not stored yet, or this operator's view is too old to choose.
    Pending,
    /// There is no address; the attachment is not in the snapshot.
    Refused(Refusal),
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`Reason::AddressUnavailable`] or [`Reason::PoolExhausted`].
    pub reason: Reason,
    /// What is wrong and what helps.
    pub message: String,
}

/// Fills the addresses of `snapshots` with what attachments hold, leaves attachments without any
/// out, and says which addresses to give next.
///
/// `before` is what was held at the last call whose ledgers could be written: addresses that nobody
/// holds any more begin to rest. `now_unix_s` says which of them have rested enough. Deterministic;
/// with everything stored, the same call changes nothing.
pub fn assign(
    snapshots: &mut [Snapshot],
    held: &Held,
    before: &Held,
    ledgers: &BTreeMap<ObjectName, Ledger>,
    now_unix_s: u64,
) -> Assigned {
    let mut assigned = Assigned::default();
    let mut wishes: BTreeMap<ObjectName, Wish> = BTreeMap::new();
    let mut pools: BTreeMap<ObjectName, Vec<(ObjectName, Vec<ipnet::IpNet>)>> = BTreeMap::new();
    for snapshot in snapshots {
        let name = snapshot.ingress_point.clone();
        let prefixes = snapshot.pools.iter().map(|pool| pool.prefix).collect();
        let of_vpc = pools.entry(snapshot.vpc.clone()).or_default();
        of_vpc.push((name.clone(), prefixes));
        let old = ledgers.get(&name).cloned().unwrap_or_default();
        let mut point = Point::new(snapshot, held, old.clone());
        point.rest(before, now_unix_s);
        assigned.outcomes.extend(point.attachments());
        let (ledger, addresses) = point.finish();
        for (attachment, addresses) in addresses {
            let wish = wishes.entry(attachment).or_default();
            wish.points.insert(name.clone(), addresses);
        }
        if ledger != old {
            assigned.ledgers.insert(name, ledger);
        }
    }
    for (attachment, wish) in wishes {
        let Some(holder) = held.holders.get(&attachment) else {
            continue;
        };
        let of_vpc = pools.get(&holder.vpc).map_or(&[][..], Vec::as_slice);
        let addresses = wish.addresses(holder, of_vpc);
        if addresses == holder.addresses {
            continue;
        }
        let changed = wish.points.into_keys();
        let after = changed.filter(|point| assigned.ledgers.contains_key(point));
        let write = AddressWrite {
            version: holder.version,
            addresses,
            after: after.collect(),
        };
        assigned.writes.insert(attachment, write);
    }
    assigned
}

/// The addresses that one attachment shall have, by ingress point.
#[derive(Default)]
struct Wish {
    points: BTreeMap<ObjectName, Vec<IpAddr>>,
}

impl Wish {
    /// All addresses of the attachment: what it shall have, and what it has at other ingress points
    /// of its VPC. An attachment that has all this keeps its order.
    fn addresses(&self, holder: &Holder, pools: &[(ObjectName, Vec<ipnet::IpNet>)]) -> Vec<IpAddr> {
        let elsewhere = holder.addresses.iter().filter(|address| {
            pools.iter().any(|(point, prefixes)| {
                !self.points.contains_key(point)
                    && prefixes.iter().any(|prefix| prefix.contains(*address))
            })
        });
        let wished = self.points.values().flatten();
        let all: BTreeSet<IpAddr> = wished.chain(elsewhere).copied().collect();
        let kept: BTreeSet<IpAddr> = holder.addresses.iter().copied().collect();
        if all == kept && kept.len() == holder.addresses.len() {
            return holder.addresses.clone();
        }
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
