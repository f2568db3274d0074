//! Deficit round robin with a head start for who sends little (RFC 8290 §4.2), the same for
//! sessions and for flows.

use std::collections::VecDeque;

/// Which list somebody is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum List {
    #[default]
    None,
    New,
    Old,
}

/// Somebody's part in the rounds.
#[derive(Debug, Default)]
pub(super) struct Turn {
    list: List,
    /// Bytes left before the next one's turn.
    deficit_bytes: i64,
}

impl Turn {
    /// Whether its turn will come.
    pub(super) fn is_in_rounds(&self) -> bool {
        self.list != List::None
    }

    /// Whether something is left of the quantum.
    pub(super) fn is_due(&self) -> bool {
        self.deficit_bytes > 0
    }

    /// Counts what was sent.
    pub(super) fn spend(&mut self, bytes: usize) {
        self.deficit_bytes -= i64::try_from(bytes).unwrap_or(i64::MAX);
    }
}

/// Who is in the rounds, by place: those that just came, then those that keep having packets.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    new: VecDeque<u32>,
    old: VecDeque<u32>,
}

impl Rounds {
    pub(super) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.old.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.new.iter().chain(&self.old).copied()
    }

    /// Whose turn it is.
    pub(super) fn head(&self) -> Option<u32> {
        self.new.front().or_else(|| self.old.front()).copied()
    }

    fn take_head(&mut self) {
        if self.new.pop_front().is_none() {
            self.old.pop_front();
        }
    }

    /// The head waits outside for a while, and keeps its deficit.
    pub(super) fn park_head(&mut self, turn: &mut Turn) {
        self.take_head();
        turn.list = List::None;
    }

    /// Somebody who had nothing comes, with a whole quantum.
    pub(super) fn enter_new(&mut self, at: u32, turn: &mut Turn, quantum_bytes: i64) {
        *turn = Turn {
            list: List::New,
            deficit_bytes: quantum_bytes,
        };
        self.new.push_back(at);
    }

    /// Somebody comes back.
    pub(super) fn enter_old(&mut self, at: u32, turn: &mut Turn) {
        turn.list = List::Old;
        self.old.push_back(at);
    }

    /// The head has used its quantum up: it gets another, behind all others.
    pub(super) fn rotate(&mut self, turn: &mut Turn, quantum_bytes: i64) {
        if let Some(at) = self.head() {
            self.take_head();
            turn.deficit_bytes += quantum_bytes;
            self.enter_old(at, turn);
        }
    }

    /// The head has nothing left. Who was new goes through the old list once, lest it comes back as
    /// new again and again in front of those that wait there (RFC 8290 §4.2); says whether it stays.
    pub(super) fn retire_head(&mut self, turn: &mut Turn) -> bool {
        let Some(at) = self.head() else { return false };
        self.take_head();
        let stays = turn.list == List::New && !self.old.is_empty();
        if stays {
            self.enter_old(at, turn);
        } else {
            turn.list = List::None;
        }
        stays
    }
}
