//! One deadline a connection, the earliest first.

use std::time::Instant;

const ABSENT: u32 = u32::MAX;

/// A binary heap that knows where each index sits, so an entry moves instead of being doubled: it
/// never holds more entries than there are connections, and one that does nothing costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    heap: Vec<(Instant, u32)>,
    /// Where in `heap` an index is, or `ABSENT`.
    position: Vec<u32>,
}

impl Deadlines {
    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.0)
    }

    /// Sets, moves or removes the deadline of `index`.
    pub(crate) fn set(&mut self, index: u32, deadline: Option<Instant>) {
        let slot = index as usize;
        if slot >= self.position.len() {
            self.position.resize(slot + 1, ABSENT);
        }
        match (self.position[slot], deadline) {
            (ABSENT, None) => {}
            (ABSENT, Some(deadline)) => {
                self.position[slot] = self.heap.len() as u32;
                self.heap.push((deadline, index));
                self.up(self.heap.len() - 1);
            }
            (at, None) => self.remove_at(at as usize),
            (at, Some(deadline)) => {
                let at = at as usize;
                let earlier = deadline < self.heap[at].0;
                self.heap[at].0 = deadline;
                if earlier { self.up(at) } else { self.down(at) }
            }
        }
    }

    /// Takes the earliest entry if it is due at `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<u32> {
        let &(deadline, index) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        self.remove_at(0);
        Some(index)
    }

    fn remove_at(&mut self, at: usize) {
        self.position[self.heap[at].1 as usize] = ABSENT;
        self.heap.swap_remove(at);
        if at < self.heap.len() {
            self.position[self.heap[at].1 as usize] = at as u32;
            self.up(at);
            self.down(at);
        }
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent].0 <= self.heap[at].0 {
                break;
            }
            self.swap(at, parent);
            at = parent;
        }
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let left = 2 * at + 1;
            let Some(first) = (left..self.heap.len().min(left + 2)).min_by_key(|i| self.heap[*i].0)
            else {
                return;
            };
            if self.heap[at].0 <= self.heap[first].0 {
                return;
            }
            self.swap(at, first);
            at = first;
        }
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.position[self.heap[one].1 as usize] = one as u32;
        self.position[self.heap[other].1 as usize] = other as u32;
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(
            steps in prop::collection::vec((0u32..20, prop::option::of(0u64..50), 0u64..50), 1..200)
        ) {
            let start = Instant::now();
            let mut deadlines = Deadlines::default();
            let mut model = BTreeMap::new();
            for (index, deadline, now) in steps {
                deadlines.set(index, deadline.map(|d| start + Duration::from_secs(d)));
                match deadline {
                    Some(deadline) => model.insert(index, deadline),
                    None => model.remove(&index),
                };
                prop_assert_eq!(deadlines.heap.len(), model.len());
                let earliest = model.values().min().copied();
                prop_assert_eq!(
                    deadlines.earliest(),
                    earliest.map(|d| start + Duration::from_secs(d))
                );
                let due = deadlines.pop_due(start + Duration::from_secs(now));
                match due {
                    Some(index) => {
                        let deadline = model.remove(&index).unwrap();
                        prop_assert!(Some(deadline) == earliest && deadline <= now);
                    }
                    None => prop_assert!(earliest.is_none_or(|d| d > now)),
                }
            }
        }
    }
}
