//! Names of things inside one gateway process, and its time.

use std::fmt;

/// What time it is. The caller reads the clocks, once per batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never goes back; its start does not matter.
    pub mono_ms: u64,
    /// Seconds since the Unix epoch; for rules that end at a time.
    pub unix_s: u64,
}

/// A session of this gateway process. Grows with every session and is never used twice, so of two
/// sessions of one attachment the greater one is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session and the shard that carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    /// The session.
    pub session: SessionId,
    /// The shard.
    pub shard: u16,
}

/// An ingress point, that is one VPC as this gateway serves it. Never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VpcIndex(pub u32);

/// An attachment of an ingress point with one key. Never used again for another one, so a stale
/// one finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttachmentId(pub u32);

/// A session's place in one shard's [`Dataplane`](crate::Dataplane). A place is used again, the
/// identifier is not: after [`detach`](crate::Dataplane::detach) it finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SlotId {
    /// The place, for tables by slot; an older holder of the place had another `SlotId`.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}
