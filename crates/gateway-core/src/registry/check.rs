//! What a Snapshot must satisfy before a gateway runs it.

use std::collections::BTreeSet;

use ipnet::IpNet;
use masque_model::{ObjectName, Snapshot};

use super::Registry;
use crate::prefix::range;

/// Most rules of one Snapshot.
pub const MAX_RULES: usize = 16_384;

/// Most attachments of one Snapshot.
pub const MAX_ATTACHMENTS: usize = 65_536;

/// Most pools of one Snapshot (`addressPools`).
pub const MAX_POOLS: usize = 16;

/// Most fixed addresses of one attachment (`ipAllocation.addresses`).
pub const MAX_FIXED_ADDRESSES: usize = 4;

/// Why a gateway does not run a Snapshot; the former one of the ingress point goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// The gateway runs as many as it can.
    #[error("the gateway runs {0} ingress points already; start another gateway")]
    TooManySnapshots(usize),
    /// More rules than [`MAX_RULES`].
    #[error("{0} rules, at most 16384 can run; merge rules")]
    TooManyRules(usize),
    /// More attachments than [`MAX_ATTACHMENTS`].
    #[error("{0} attachments, at most 65536 can run; use a second ingress point")]
    TooManyAttachments(usize),
    /// More pools than [`MAX_POOLS`].
    #[error("{0} address pools, at most 16 can run; merge pools")]
    TooManyPools(usize),
    /// More fixed addresses than [`MAX_FIXED_ADDRESSES`].
    #[error("attachment {0} has more than 4 fixed addresses")]
    TooManyAddresses(ObjectName),
    /// Two attachments with one key.
    #[error("attachment {0} has the key of another one; a key is bound to a VPC once")]
    DuplicateKey(ObjectName),
    /// Two attachments with one name.
    #[error("attachment {0} is listed twice")]
    DuplicateAttachment(ObjectName),
    /// Two pools share addresses.
    #[error("the address pools {0} and {1} overlap; make them disjoint")]
    PoolsOverlap(IpNet, IpNet),
}

impl Registry {
    /// Says whether [`apply`](Self::apply) would run `snapshot`, apart from the number of ingress
    /// points: ask before it is acknowledged.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn check(snapshot: &Snapshot) -> Result<(), SnapshotError> {
        let (rules, attachments) = (snapshot.rules.len(), snapshot.attachments.len());
        if rules > MAX_RULES {
            return Err(SnapshotError::TooManyRules(rules));
        }
        if attachments > MAX_ATTACHMENTS {
            return Err(SnapshotError::TooManyAttachments(attachments));
        }
        if snapshot.pools.len() > MAX_POOLS {
            return Err(SnapshotError::TooManyPools(snapshot.pools.len()));
        }
        for (number, pool) in snapshot.pools.iter().enumerate() {
            for other in snapshot.pools.iter().take(number) {
                if overlap(&pool.prefix, &other.prefix) {
                    return Err(SnapshotError::PoolsOverlap(other.prefix, pool.prefix));
                }
            }
        }
        let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
        for attachment in &snapshot.attachments {
            let name = || attachment.name.clone();
            if attachment.addresses.len() > MAX_FIXED_ADDRESSES {
                return Err(SnapshotError::TooManyAddresses(name()));
            }
            if !keys.insert(attachment.key) {
                return Err(SnapshotError::DuplicateKey(name()));
            }
            if !names.insert(&attachment.name) {
                return Err(SnapshotError::DuplicateAttachment(name()));
            }
        }
        Ok(())
    }
}

fn overlap(left: &IpNet, right: &IpNet) -> bool {
    let ((left_first, left_last), (right_first, right_last)) = (range(left), range(right));
    left.addr().is_ipv4() == right.addr().is_ipv4()
        && left_first <= right_last
        && right_first <= left_last
}
