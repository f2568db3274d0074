//! Connection ids that name their shard.
//!
//! The kernel picks a socket of the SO_REUSEPORT group by the first byte of the destination
//! connection id modulo the number of shards (see `sockets::steering`), so every id a shard issues
//! has a first byte that leads back to it: a client that changes its address (RFC 9000 §9) stays
//! on its shard, and a Retry's id brings the client's next Initial to the shard that sent it.

use quinn_proto::{ConnectionId, ConnectionIdGenerator};
use ring::hmac;

/// Bytes of every connection id we issue. RFC 9000 §5.2 sets no minimum for a server; eight bytes
/// leave 56 bits that nobody can guess.
pub const CONNECTION_ID_BYTES: usize = 8;

/// Which shard of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardId {
    index: u8,
    count: u8,
}

impl ShardId {
    /// The only shard.
    pub const SINGLE: Self = Self { index: 0, count: 1 };

    /// Shard `index` of `count`; `None` unless `index < count`.
    pub const fn new(index: u8, count: u8) -> Option<Self> {
        if index < count {
            Some(Self { index, count })
        } else {
            None
        }
    }

    /// This shard's number, from 0.
    pub const fn index(self) -> u8 {
        self.index
    }

    /// How many shards there are.
    pub const fn count(self) -> u8 {
        self.count
    }

    /// The shard that a connection id beginning with `first` belongs to, of `count`.
    pub const fn of_byte(first: u8, count: u8) -> u8 {
        first % count
    }

    /// `byte`, moved by less than `count` so that it leads to this shard.
    const fn steer(self, byte: u8) -> u8 {
        let aligned = byte - byte % self.count;
        match aligned.checked_add(self.index) {
            Some(steered) => steered,
            None => aligned - self.count + self.index,
        }
    }
}

/// Issues the connection ids of one shard: HMAC-SHA256 over a counter, so that ids are
/// unpredictable without the key ("They MUST NOT contain any information that can be used by an
/// external observer … to correlate them", RFC 9000 §5.1) and a simulation repeats with its seed.
pub(crate) struct ShardIdGenerator {
    shard: ShardId,
    key: hmac::Key,
    issued: u64,
}

impl ShardIdGenerator {
    pub(crate) fn new(shard: ShardId, seed: &[u8; 32]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
        Self {
            shard,
            key,
            issued: 0,
        }
    }
}

impl ConnectionIdGenerator for ShardIdGenerator {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut message = *b"connection id shard 0 \0\0\0\0\0\0\0\0";
        let length = message.len();
        message[length - 9] = self.shard.index;
        message[length - 8..].copy_from_slice(&self.issued.to_be_bytes());
        self.issued += 1;
        let tag = hmac::sign(&self.key, &message);
        let mut id = [0; CONNECTION_ID_BYTES];
        id.copy_from_slice(&tag.as_ref()[..CONNECTION_ID_BYTES]);
        id[0] = self.shard.steer(id[0]);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_is_steered_to_every_shard() {
        for count in 1..=u8::MAX {
            for index in [0, count / 2, count - 1] {
                let shard = ShardId::new(index, count).unwrap();
                for byte in 0..=u8::MAX {
                    assert_eq!(
                        ShardId::of_byte(shard.steer(byte), count),
                        index,
                        "{byte}/{count}"
                    );
                }
            }
        }
        assert_eq!(ShardId::new(2, 2), None);
        assert_eq!(ShardId::new(0, 0), None);
    }

    #[test]
    fn ids_are_distinct_per_shard_and_repeat_with_the_seed() {
        let mut seen = HashSet::new();
        for index in 0..3 {
            let shard = ShardId::new(index, 3).unwrap();
            let mut generator = ShardIdGenerator::new(shard, &[7; 32]);
            let mut again = ShardIdGenerator::new(shard, &[7; 32]);
            for _ in 0..200 {
                let id = generator.generate_cid();
                assert_eq!(id.len(), CONNECTION_ID_BYTES);
                assert_eq!(id[0] % 3, index);
                assert_eq!(id, again.generate_cid());
                assert!(seen.insert(id.to_vec()), "an id was issued twice");
            }
        }
        let first_bytes: HashSet<u8> = seen.iter().map(|id| id[0]).collect();
        assert!(
            first_bytes.len() > 100,
            "the first byte must not give away more than the shard"
        );
    }
}
