//! What does not run although the manifests say so, and when it is tried again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use masque_model::ObjectName;
use masque_srv6::Slot;

/// What failed is tried again so soon: a port may be free in a moment.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Each try that fails doubles the wait, up to this one.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// One sentence for each thing that is missing. Whatever is here, the gateway does not serve all that
/// it should.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// TUN devices that cannot be opened.
    pub(super) devices: BTreeMap<ObjectName, String>,
    /// UDP ports that cannot be opened.
    pub(super) ports: BTreeMap<u16, String>,
    /// Ingress points of which the kernel has not everything.
    pub(super) points: BTreeMap<ObjectName, String>,
    /// What VPCs that are gone have left in the kernel, and the kernel keeps.
    pub(super) left_over: BTreeMap<Slot, String>,
    /// What the kernel refuses to all.
    pub(super) kernel: Option<String>,
}

impl Trouble {
    /// A line for each, those first that concern most.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let kernel = self.kernel.iter().cloned();
        let points = self.devices.iter().chain(&self.points);
        let left_over = self.left_over.values();
        kernel
            .chain(self.ports.values().cloned())
            .chain(points.map(|(name, sentence)| format!("VPCIngressPoint {name}: {sentence}")))
            .chain(left_over.map(|sentence| format!("left of a VPC that was removed: {sentence}")))
    }

    /// What the kernel lacks for one ingress point.
    pub(super) fn of_kernel(&self, name: &ObjectName) -> Option<String> {
        let point = self.points.get(name);
        let kernel = self.kernel.clone();
        kernel.or_else(|| point.map(|sentence| format!("VPCIngressPoint {name}: {sentence}")))
    }
}

/// When the next try is due.
#[derive(Debug, Default)]
pub(super) struct Retry {
    due: Option<Instant>,
    wait: Duration,
}

impl Retry {
    /// A try is over, or something else happened; `left` says whether trouble is left.
    pub(super) fn settle(&mut self, now: Instant, left: bool) {
        if !left {
            *self = Self::default();
        } else if self.due.is_none() {
            self.wait = RETRY_FIRST;
            self.due = Some(now + self.wait);
        }
    }

    /// Whether it is time; the next one is later.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let due = self.due.is_some_and(|due| due <= now);
        if due {
            self.wait = (2 * self.wait).min(RETRY_MAX);
            self.due = Some(now + self.wait);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_removed_vpc_left_is_told_and_no_other_vpcs_trouble() {
        let mut trouble = Trouble::default();
        trouble.left_over.insert(Slot(3), "refused".to_owned());
        let lines: Vec<String> = trouble.lines().collect();
        assert_eq!(lines, ["left of a VPC that was removed: refused"]);
        assert_eq!(trouble.of_kernel(&ObjectName::new("default", "a")), None);
    }

    #[test]
    fn the_wait_grows_to_its_bound_and_begins_anew() {
        let (mut retry, start) = (Retry::default(), Instant::now());
        assert!(!retry.is_due(start), "nothing to try");
        let mut waits = Vec::new();
        let (mut now, mut last) = (start, start);
        retry.settle(now, true);
        while waits.len() < 7 {
            now += Duration::from_millis(200);
            if retry.is_due(now) {
                waits.push((now - last).as_secs());
                last = now;
            }
            // Whatever else is settled meanwhile changes nothing.
            retry.settle(now, true);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        retry.settle(now, false);
        assert!(!retry.is_due(now + RETRY_MAX), "nothing is left");
        retry.settle(now, true);
        assert!(retry.is_due(now + RETRY_FIRST));
    }
}
