//! Buffers that come back: large chunks cut into datagrams, taken again when every piece is gone.

use std::collections::VecDeque;

use bytes::BytesMut;

/// How many waiting chunks one `take` looks at. Chunks come back roughly in the order they went
/// out, so the oldest few are the likely ones; the rest wait for the next call.
const RECLAIM_TRIES: usize = 4;

/// What a pool did; counters only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Chunks taken from the allocator because none had come back.
    pub fresh: u64,
    /// Chunks used again.
    pub reused: u64,
    /// Chunks given up because the pool already kept as many as it may.
    pub abandoned: u64,
}

/// A bounded set of equally large chunks.
///
/// A chunk is a [`BytesMut`] whose pieces are split off its front and frozen or handed on; `bytes`
/// counts the pieces, and `try_reclaim` gives the whole allocation back once the last of them was
/// dropped. Nothing is allocated while chunks come back as fast as they are taken.
#[derive(Debug)]
pub(crate) struct ChunkPool {
    chunk_bytes: usize,
    max_waiting: usize,
    waiting: VecDeque<BytesMut>,
    stats: PoolStats,
}

impl ChunkPool {
    pub(crate) fn new(chunk_bytes: usize, max_waiting: usize) -> Self {
        Self {
            chunk_bytes,
            max_waiting,
            waiting: VecDeque::new(),
            stats: PoolStats::default(),
        }
    }

    pub(crate) const fn stats(&self) -> PoolStats {
        self.stats
    }

    /// A chunk of exactly `chunk_bytes` initialised bytes; their content is whatever was there.
    pub(crate) fn take(&mut self) -> BytesMut {
        for _ in 0..RECLAIM_TRIES.min(self.waiting.len()) {
            let Some(mut chunk) = self.waiting.pop_front() else {
                break;
            };
            if self.refill(&mut chunk) {
                self.stats.reused += 1;
                return chunk;
            }
            self.waiting.push_back(chunk);
        }
        self.stats.fresh += 1;
        BytesMut::zeroed(self.chunk_bytes)
    }

    /// Gives the whole of `chunk` back to its holder when no piece of it is alive any more.
    pub(crate) fn refill(&self, chunk: &mut BytesMut) -> bool {
        chunk.clear();
        if !chunk.try_reclaim(self.chunk_bytes) {
            return false;
        }
        debug_assert!(chunk.capacity() >= self.chunk_bytes);
        // SAFETY: `try_reclaim` succeeded, so the handle owns at least `chunk_bytes` of capacity
        // that nothing else refers to. Chunks are made by `take` with `BytesMut::zeroed`, which
        // initialises the whole of them, and no later write makes a byte uninitialised.
        unsafe { chunk.set_len(self.chunk_bytes) };
        true
    }

    /// Keeps what is left of a chunk until its pieces come back.
    pub(crate) fn keep(&mut self, chunk: BytesMut) {
        if self.waiting.len() < self.max_waiting {
            self.waiting.push_back(chunk);
        } else {
            self.stats.abandoned += 1;
        }
    }
}

/// Cuts small writable pieces from the chunks of a pool.
#[derive(Debug)]
pub(crate) struct PieceAllocator {
    pool: ChunkPool,
    current: BytesMut,
}

impl PieceAllocator {
    pub(crate) fn new(chunk_bytes: usize, max_waiting: usize) -> Self {
        Self {
            pool: ChunkPool::new(chunk_bytes, max_waiting),
            current: BytesMut::new(),
        }
    }

    pub(crate) const fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// `length` writable bytes; their content is whatever was there.
    pub(crate) fn piece(&mut self, length: usize) -> BytesMut {
        if self.current.len() < length {
            if length > self.pool.chunk_bytes {
                return BytesMut::zeroed(length);
            }
            self.next_chunk();
        }
        self.current.split_to(length)
    }

    fn next_chunk(&mut self) {
        // What was cut from the current chunk is often gone already; then it stays the current
        // one, which keeps the memory in use small enough for the processor's caches.
        if self.pool.refill(&mut self.current) {
            self.pool.stats.reused += 1;
            return;
        }
        let next = self.pool.take();
        let used = std::mem::replace(&mut self.current, next);
        self.pool.keep(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_use_takes_nothing_fresh() {
        let mut pieces = PieceAllocator::new(4096, 8);
        let mut queue = VecDeque::new();
        for _ in 0..10_000 {
            queue.push_back(pieces.piece(100).freeze());
            if queue.len() > 60 {
                queue.pop_front();
            }
        }
        let stats = pieces.stats();
        assert!(
            stats.fresh <= 4,
            "60 pieces of 100 bytes need two chunks, {stats:?}"
        );
        assert!(stats.reused > 200, "{stats:?}");
    }

    #[test]
    fn pieces_never_overlap_while_held() {
        let mut pieces = PieceAllocator::new(1024, 4);
        let mut held = VecDeque::new();
        for round in 0..2_000u32 {
            let mut piece = pieces.piece(1 + (round as usize * 37) % 300);
            piece.fill(round as u8);
            held.push_back((round as u8, piece.freeze()));
            if held.len() > (round as usize % 23) {
                let (tag, piece) = held.pop_front().unwrap();
                assert!(piece.iter().all(|byte| *byte == tag));
            }
        }
    }

    #[test]
    fn held_chunks_are_bounded() {
        let mut pieces = PieceAllocator::new(1024, 4);
        let held: Vec<_> = (0..100).map(|_| pieces.piece(1000).freeze()).collect();
        assert!(pieces.pool.waiting.len() <= 4);
        assert_eq!(pieces.stats().fresh, 100);
        assert_eq!(pieces.stats().abandoned, 100 - 4 - 1 + 1);
        drop(held);
        assert_eq!(
            pieces.piece(5000).len(),
            5000,
            "larger than a chunk: an allocation of its own"
        );
    }
}
