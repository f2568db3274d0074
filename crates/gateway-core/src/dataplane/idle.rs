//! Sessions without packets, found by a slow scan: packets only leave a stamp.

use super::Dataplane;
use crate::id::{Now, SlotId};

/// How often the scan goes on. A session may outlive its idle timeout by this and a full round.
pub(crate) const TICK_MS: u64 = 1_000;

/// Slots that one call looks at.
pub(crate) const SLOTS_PER_TICK: usize = 8_192;

/// Where the scan is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scan {
    next: usize,
    due_ms: u64,
}

impl Dataplane {
    /// When [`expired`](Self::expired) wants to be called, on the clock of
    /// [`Now::mono_ms`]; `None` if there is no session.
    #[must_use]
    pub fn poll_timeout(&self, now: Now) -> Option<u64> {
        (!self.by_session.is_empty()).then(|| self.idle.due_ms.max(now.mono_ms))
    }

    /// Appends the sessions that have had no packet for the idle timeout of their ingress point.
    /// They stay, and are appended again, until they are [detached](Self::detach). Looks at a
    /// bounded number of sessions and goes on with the others in the next call.
    pub fn expired(&mut self, now: Now, slots: &mut Vec<SlotId>) {
        if now.mono_ms < self.idle.due_ms {
            return;
        }
        self.idle.due_ms = now.mono_ms.saturating_add(TICK_MS);
        let count = self.slots.len();
        for _ in 0..count.min(SLOTS_PER_TICK) {
            let index = self.idle.next % count;
            self.idle.next = index + 1;
            let Some(slot) = self.slots.get(index).filter(|slot| slot.used) else {
                continue;
            };
            let timeout_ms = self
                .tables
                .vpc(slot.vpc)
                .and_then(|vpc| vpc.idle_timeout_ms());
            let idle_ms = now.mono_ms.saturating_sub(slot.seen_ms);
            if timeout_ms.is_some_and(|timeout_ms| idle_ms >= timeout_ms)
                && let Ok(index) = u32::try_from(index)
            {
                slots.push(SlotId {
                    index,
                    generation: slot.generation,
                });
            }
        }
    }
}
