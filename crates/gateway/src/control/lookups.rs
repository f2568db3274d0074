//! Names of targets that are being resolved: how many at one time, and for whom.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use masque_model::{ConnectorKey, ObjectName};
use masque_protocol::ProxyError;

/// Lookups of the whole process. Each holds a thread for as long as the system's resolver takes,
/// and what its client sends meanwhile.
pub(crate) const LOOKUPS_MAX: usize = 128;
/// Lookups for one connector's key.
pub(crate) const LOOKUPS_PER_KEY_MAX: usize = 4;
/// A VPC holds fewer lookups than this part of those that are free: alone 26 of 128, and whatever
/// some VPCs do, others find room.
const FREE_PER_VPC_DIVISOR: usize = 4;

/// The lookups under way.
#[derive(Debug, Default)]
pub(crate) struct Lookups(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_key: BTreeMap<ConnectorKey, usize>,
    by_point: BTreeMap<ObjectName, usize>,
}

/// The place of one lookup; free again when the last owner drops it: both the request that waits
/// and the thread that looks up.
#[derive(Debug)]
pub(crate) struct Lookup {
    lookups: Arc<Lookups>,
    key: ConnectorKey,
    points: BTreeSet<ObjectName>,
}

impl Lookups {
    /// A place for a lookup of `key`, which may enter these ingress points: it counts for each.
    /// `None` when there are too many for the key, for one of the VPCs, or in all.
    pub(crate) fn begin(
        self: &Arc<Self>,
        key: ConnectorKey,
        points: BTreeSet<ObjectName>,
    ) -> Option<Arc<Lookup>> {
        let mut counts = self.counts();
        let free = LOOKUPS_MAX.checked_sub(counts.all + 1)? + 1;
        let held = |count: Option<&usize>| count.copied().unwrap_or(0);
        let within_share = |point| held(counts.by_point.get(point)) * FREE_PER_VPC_DIVISOR < free;
        if held(counts.by_key.get(&key)) >= LOOKUPS_PER_KEY_MAX || !points.iter().all(within_share)
        {
            return None;
        }
        counts.all += 1;
        *counts.by_key.entry(key).or_default() += 1;
        for point in &points {
            *counts.by_point.entry(point.clone()).or_default() += 1;
        }
        drop(counts);
        Some(Arc::new(Lookup {
            lookups: Arc::clone(self),
            key,
            points,
        }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let mut counts = self.lookups.counts();
        counts.all -= 1;
        leave(&mut counts.by_key, &self.key);
        for point in &self.points {
            leave(&mut counts.by_point, point);
        }
    }
}

/// One fewer; nothing is kept of those that have none.
fn leave<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Runs `find`, which may block, on a thread of its own. After `within` nobody waits for it any more,
/// but it cannot be cancelled, so `lookup` is held until it returns.
///
/// # Errors
/// [`ProxyError::DnsTimeout`] or [`ProxyError::DnsError`].
pub(crate) async fn look_up(
    lookup: Arc<Lookup>,
    within: Duration,
    find: impl FnOnce() -> io::Result<BTreeSet<IpAddr>> + Send + 'static,
) -> Result<Vec<IpAddr>, ProxyError> {
    let looked_up = tokio::task::spawn_blocking(move || {
        let found = find();
        drop(lookup);
        found
    });
    match tokio::time::timeout(within, looked_up).await {
        Err(_) => Err(ProxyError::DnsTimeout),
        Ok(Ok(Ok(found))) => Ok(found.into_iter().collect()),
        Ok(Ok(Err(error))) => {
            tracing::debug!(%error, "a target does not resolve");
            Err(ProxyError::DnsError)
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "the resolver failed");
            Err(ProxyError::DnsError)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn key(number: usize) -> ConnectorKey {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        ConnectorKey::from_bytes(bytes)
    }

    fn points(names: &[&str]) -> BTreeSet<ObjectName> {
        names
            .iter()
            .map(|name| ObjectName::new("default", *name))
            .collect()
    }

    /// As many as one VPC gets, each for another key.
    fn fill(lookups: &Arc<Lookups>, vpc: usize) -> Vec<Arc<Lookup>> {
        let name = format!("vpc-{vpc}");
        let begin = |n| lookups.begin(key(1000 * vpc + n), points(&[&name]));
        (0..=LOOKUPS_MAX).map_while(begin).collect()
    }

    #[test]
    fn a_key_has_four_lookups() {
        let lookups = Arc::new(Lookups::default());
        let begin = |number, vpc| lookups.begin(key(number), points(&[vpc]));
        let mut held: Vec<_> = (0..LOOKUPS_PER_KEY_MAX)
            .map(|_| begin(1, "a").unwrap())
            .collect();
        assert!(begin(1, "a").is_none());
        assert!(begin(1, "b").is_none(), "nor in another VPC");
        assert!(begin(2, "a").is_some(), "another key");
        held.pop();
        assert!(begin(1, "a").is_some());
    }

    #[test]
    fn vpcs_that_take_all_they_get_leave_room_for_others() {
        let lookups = Arc::new(Lookups::default());
        let first = fill(&lookups, 0);
        assert_eq!(first.len(), 26, "alone");
        let others: Vec<_> = (1..8).flat_map(|vpc| fill(&lookups, vpc)).collect();
        assert!(first.len() + others.len() < LOOKUPS_MAX * 9 / 10);
        let shared = points(&["vpc-0", "vpc-8"]);
        let begun = lookups.begin(key(9000), shared);
        assert!(begun.is_none(), "one of them has enough");
        assert_eq!(fill(&lookups, 8).len(), 4);
    }

    #[test]
    fn the_process_has_a_limit_and_forgets_those_who_left() {
        let lookups = Arc::new(Lookups::default());
        let begin = |n: usize| lookups.begin(key(n), points(&[&format!("vpc-{n}")]));
        let held: Vec<_> = (0..2 * LOOKUPS_MAX).map_while(begin).collect();
        assert_eq!(held.len(), LOOKUPS_MAX);
        drop(held);
        let counts = lookups.counts();
        assert_eq!(counts.all, 0);
        assert!(counts.by_key.is_empty() && counts.by_point.is_empty());
    }

    /// The resolver's thread is still there after the timeout, and so it still counts.
    #[tokio::test]
    async fn a_lookup_counts_until_its_thread_is_done() {
        let lookups = Arc::new(Lookups::default());
        let (answer, waits) = mpsc::channel::<()>();
        let lookup = lookups.begin(key(1), points(&["a"])).unwrap();
        let find = move || {
            let _answered = waits.recv();
            Ok(BTreeSet::new())
        };
        let found = look_up(lookup, Duration::from_millis(1), find).await;
        assert_eq!(found, Err(ProxyError::DnsTimeout));
        assert_eq!(lookups.counts().all, 1);
        drop(answer);
        while lookups.counts().all > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_was_found_is_told() {
        let lookups = Arc::new(Lookups::default());
        let begin = || lookups.begin(key(1), points(&["a"])).unwrap();
        let patience = Duration::from_secs(60);
        let address: IpAddr = "10.0.1.10".parse().unwrap();
        let found = look_up(begin(), patience, move || Ok([address].into())).await;
        assert_eq!(found, Ok(vec![address]));
        let none = || Err(io::Error::other("no such name"));
        let found = look_up(begin(), patience, none).await;
        assert_eq!(found, Err(ProxyError::DnsError));
    }
}
