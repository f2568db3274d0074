//! The network between clients and gateway: packets in flight, ordered by arrival.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A small generator whose whole state is a number: xorshift64*.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Any seed but 0 gives another sequence.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 32 bytes, say of a key.
    pub fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.number().to_le_bytes());
        }
        bytes
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound.max(1)
    }

    /// True in `permille` of 1,000 cases.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

/// How the network misbehaves.
#[derive(Clone, Debug)]
pub struct Weather {
    /// Every packet takes at least so long.
    pub latency: Duration,
    /// And up to so much longer: more than the gap between packets reorders them.
    pub jitter: Duration,
    /// Packets lost, of 1,000.
    pub loss_permille: u64,
    /// Packets delivered twice, of 1,000.
    pub duplicate_permille: u64,
    /// Longer UDP payloads are lost without a word.
    pub udp_payload_max: usize,
}

impl Weather {
    /// Nothing goes wrong.
    pub fn calm() -> Self {
        Self {
            latency: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss_permille: 0,
            duplicate_permille: 0,
            udp_payload_max: 1472,
        }
    }

    /// A link of 1280 bytes, which has no room for a tunnel; small packets pass.
    pub fn narrow() -> Self {
        Self {
            udp_payload_max: 1280 - 28,
            ..Self::calm()
        }
    }

    /// Anything goes wrong, as the seed has it.
    pub fn storm(random: &mut Random) -> Self {
        Self {
            latency: Duration::from_millis(1 + random.below(60)),
            jitter: Duration::from_micros(random.below(20_000)),
            loss_permille: random.below(80),
            duplicate_permille: random.below(40),
            // Never below what a tunnel needs: that is `Weather::narrow`.
            udp_payload_max: 1340 + usize::try_from(random.below(160)).unwrap_or(0),
        }
    }
}

/// A UDP datagram in flight.
#[derive(Clone, Debug)]
pub struct Flying {
    /// Who sent it.
    pub from: SocketAddr,
    /// Whom it is for.
    pub to: SocketAddr,
    /// Its payload.
    pub data: Vec<u8>,
}

/// Everything in flight.
#[derive(Debug)]
pub struct Network {
    /// How it misbehaves now.
    pub weather: Weather,
    flying: BTreeMap<(Instant, u64), Flying>,
    sequence: u64,
    began: Instant,
    trace: u64,
}

impl Network {
    /// A calm one.
    pub fn new(now: Instant) -> Self {
        Self {
            weather: Weather::calm(),
            flying: BTreeMap::new(),
            sequence: 0,
            began: now,
            trace: 0,
        }
    }

    /// A digest of every datagram that was sent so far: when, by whom, to whom and how long. Two
    /// runs with the same one went the same way.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn note(&mut self, now: Instant, datagram: &Flying) {
        let mut hash = DefaultHasher::new();
        let at = now.saturating_duration_since(self.began);
        (self.trace, at, datagram.from, datagram.to).hash(&mut hash);
        datagram.data.len().hash(&mut hash);
        self.trace = hash.finish();
    }

    /// Takes a datagram, or loses it.
    pub fn send(&mut self, now: Instant, random: &mut Random, datagram: Flying) {
        self.note(now, &datagram);
        let weather = self.weather.clone();
        if datagram.data.len() > weather.udp_payload_max || random.chance(weather.loss_permille) {
            return;
        }
        let copies = 1 + u64::from(random.chance(weather.duplicate_permille));
        for _ in 0..copies {
            let jitter = random.below(weather.jitter.as_nanos() as u64 + 1);
            let at = now + weather.latency + Duration::from_nanos(jitter);
            self.sequence += 1;
            self.flying.insert((at, self.sequence), datagram.clone());
        }
    }

    /// When the next datagram arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// A datagram that has arrived.
    pub fn arrived(&mut self, now: Instant) -> Option<Flying> {
        let first = self.flying.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
