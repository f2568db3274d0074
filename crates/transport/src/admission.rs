//! Who may begin a handshake.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

/// Bounds on handshakes and connections of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Connections at one time, handshakes included; more are refused.
    pub max_connections: usize,
    /// Connections of one address (IPv6: one /64) at one time. Many clients behind one NAT share
    /// an address.
    pub max_connections_per_address: usize,
    /// Handshakes of addresses that have not been validated at one time. Beyond it a client is
    /// sent a Retry (RFC 9000 §8.1.2): it costs one round trip and shows that it is there.
    pub retry_above: usize,
    /// Handshakes at one time, validated or not; more are left unanswered, and the client's
    /// retransmission tries again.
    pub max_handshakes: usize,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_address: 2_000,
            retry_above: 64,
            max_handshakes: 1_024,
        }
    }
}

/// What to do with a new Initial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Retry,
    Refuse,
    Ignore,
}

/// The connections that count against [`Admission`]. Its table has one entry for each address with
/// a connection, so at most `max_connections`.
#[derive(Debug, Default)]
pub(crate) struct Register {
    connections: usize,
    handshakes: usize,
    unvalidated: usize,
    per_address: HashMap<AddressKey, usize>,
}

/// An IPv4 address, or the /64 of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AddressKey(u128);

impl AddressKey {
    fn of(address: &SocketAddr) -> Self {
        Self(match address.ip().to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        })
    }
}

/// One connection's place in the register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted {
    address: AddressKey,
    handshaking: bool,
    validated: bool,
}

impl Register {
    pub(crate) const fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Judges an Initial; `validated` when it carries a token that shows its address.
    pub(crate) fn judge(&self, bounds: &Admission, from: &SocketAddr, validated: bool) -> Verdict {
        let of_address = self
            .per_address
            .get(&AddressKey::of(from))
            .copied()
            .unwrap_or(0);
        if !validated && self.unvalidated >= bounds.retry_above {
            return Verdict::Retry;
        }
        if self.handshakes >= bounds.max_handshakes {
            return if validated {
                Verdict::Ignore
            } else {
                Verdict::Retry
            };
        }
        let full = self.connections >= bounds.max_connections
            || of_address >= bounds.max_connections_per_address;
        match (full, validated) {
            (false, _) => Verdict::Accept,
            (true, true) => Verdict::Refuse,
            // An address that may be forged must not learn, nor use up, another's allowance.
            (true, false) => Verdict::Retry,
        }
    }

    pub(crate) fn admit(&mut self, from: &SocketAddr, validated: bool) -> Admitted {
        let address = AddressKey::of(from);
        self.connections += 1;
        self.handshakes += 1;
        self.unvalidated += usize::from(!validated);
        *self.per_address.entry(address).or_insert(0) += 1;
        Admitted {
            address,
            handshaking: true,
            validated,
        }
    }

    pub(crate) fn handshake_done(&mut self, admitted: &mut Admitted) {
        if std::mem::replace(&mut admitted.handshaking, false) {
            self.handshakes -= 1;
            self.unvalidated -= usize::from(!admitted.validated);
        }
    }

    pub(crate) fn closed(&mut self, mut admitted: Admitted) {
        self.handshake_done(&mut admitted);
        self.connections -= 1;
        if let Entry::Occupied(mut entry) = self.per_address.entry(admitted.address) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Admission = Admission {
        max_connections: 6,
        max_connections_per_address: 3,
        retry_above: 2,
        max_handshakes: 4,
    };

    fn at(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 4433)
    }

    #[test]
    fn unvalidated_handshakes_are_sent_a_retry_beyond_the_bound() {
        let mut register = Register::default();
        let mut first = register.admit(&at("192.0.2.1"), false);
        register.admit(&at("192.0.2.2"), false);
        assert_eq!(
            register.judge(&BOUNDS, &at("192.0.2.3"), false),
            Verdict::Retry
        );
        assert_eq!(
            register.judge(&BOUNDS, &at("192.0.2.3"), true),
            Verdict::Accept
        );
        register.handshake_done(&mut first);
        register.handshake_done(&mut first);
        assert_eq!(
            register.judge(&BOUNDS, &at("192.0.2.3"), false),
            Verdict::Accept
        );
    }

    #[test]
    fn addresses_and_the_whole_are_bounded() {
        let mut register = Register::default();
        let mut admitted: Vec<_> = (0..3)
            .map(|host| register.admit(&at(&format!("2001:db8::{host}")), true))
            .collect();
        assert_eq!(
            register.judge(&BOUNDS, &at("2001:db8::99"), true),
            Verdict::Refuse,
            "addresses of one /64 are one"
        );
        assert_eq!(
            register.judge(&BOUNDS, &at("2001:db8::99"), false),
            Verdict::Retry
        );
        assert_eq!(
            register.judge(&BOUNDS, &at("2001:db8:1::1"), true),
            Verdict::Accept
        );
        admitted.push(register.admit(&at("::ffff:192.0.2.1"), true));
        assert_eq!(
            register.judge(&BOUNDS, &at("192.0.2.1"), true),
            Verdict::Ignore
        );
        admitted
            .iter_mut()
            .for_each(|one| register.handshake_done(one));
        admitted.extend((0..2).map(|_| register.admit(&at("192.0.2.1"), true)));
        assert_eq!(
            register.judge(&BOUNDS, &at("198.51.100.1"), true),
            Verdict::Refuse
        );
        admitted.into_iter().for_each(|one| register.closed(one));
        assert!(register.per_address.is_empty());
        assert_eq!(
            (
                register.connections,
                register.handshakes,
                register.unvalidated
            ),
            (0, 0, 0)
        );
    }
}
