//! Who may begin a handshake.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
};

/// Bounds on handshakes and connections of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Connections at one time, handshakes included; for one more the oldest that is not in use
    /// ([`unused`](Self::unused)) makes room, and if there is none it is refused.
    pub max_connections: usize,
    /// Connections of one address (IPv6: one /64) at one time that are not in use. Those in use
    /// belong to clients that showed who they are, of whom any number may share a NAT's address.
    pub max_connections_per_address: usize,
    /// Handshakes of addresses that have not been validated at one time. Beyond it a client is
    /// sent a Retry (RFC 9000 §8.1.2): it costs one round trip and shows that it is there.
    pub retry_above: usize,
    /// Handshakes at one time, validated or not; more are left unanswered, and the client's
    /// retransmission tries again.
    pub max_handshakes: usize,
    /// How long a connection may be there without being in use; `None` for a driver that does not
    /// tell by [`Machine::set_in_use`](crate::Machine::set_in_use), whose connections are all kept.
    pub unused: Option<UnusedBounds>,
}

/// How long a connection that nobody uses may take a place. RFC 9114 §5.1: servers "are permitted to
/// terminate idle connections if necessary"; this server keeps its connections alive itself, so QUIC's
/// idle timeout ends none of a peer that only answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnusedBounds {
    /// Milliseconds from the handshake to the first use.
    pub after_handshake_ms: u32,
    /// Milliseconds from one use to the next.
    pub after_use_ms: u32,
}

impl Default for UnusedBounds {
    fn default() -> Self {
        Self {
            after_handshake_ms: 10_000,
            after_use_ms: 30_000,
        }
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_connections_per_address: 2_000,
            retry_above: 64,
            max_handshakes: 1_024,
            unused: None,
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

/// The connections that count against [`Admission`]. Its tables have one entry for each address with
/// a connection not in use and two for each connection out of use, so at most `max_connections` of each.
#[derive(Debug, Default)]
pub(crate) struct Register {
    connections: usize,
    handshakes: usize,
    unvalidated: usize,
    per_address: HashMap<AddressKey, OfAddress>,
    /// Connections out of use, the oldest first, by their slots.
    unused: BTreeMap<u64, u32>,
    next_unused: u64,
}

/// The connections of one address that are not in use.
#[derive(Debug, Default)]
struct OfAddress {
    connections: usize,
    /// Those that were told to be out of use, the oldest first, by their slots.
    unused: BTreeMap<u64, u32>,
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
    usage: Usage,
}

/// Whether a connection is in use, as far as the driver told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Untold,
    InUse,
    /// With its place among those out of use.
    Unused(u64),
}

impl Register {
    pub(crate) const fn handshakes(&self) -> usize {
        self.handshakes
    }

    /// Judges an Initial; `validated` when it carries a token that shows its address.
    pub(crate) fn judge(&self, bounds: &Admission, from: &SocketAddr, validated: bool) -> Verdict {
        let of_address = self.of_address(from);
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

    /// The connection to close for another one from `from` that [`judge`](Self::judge) refuses: of
    /// the address if the address has too many, else of all.
    pub(crate) fn oldest_unused(&self, bounds: &Admission, from: &SocketAddr) -> Option<u32> {
        let unused = if self.of_address(from) >= bounds.max_connections_per_address {
            &self.per_address.get(&AddressKey::of(from))?.unused
        } else {
            &self.unused
        };
        unused.first_key_value().map(|(_, slot)| *slot)
    }

    fn of_address(&self, from: &SocketAddr) -> usize {
        self.per_address
            .get(&AddressKey::of(from))
            .map_or(0, |of_address| of_address.connections)
    }

    pub(crate) fn admit(&mut self, from: &SocketAddr, validated: bool) -> Admitted {
        let address = AddressKey::of(from);
        self.connections += 1;
        self.handshakes += 1;
        self.unvalidated += usize::from(!validated);
        self.per_address.entry(address).or_default().connections += 1;
        Admitted {
            address,
            handshaking: true,
            validated,
            usage: Usage::Untold,
        }
    }

    /// The connection in `slot` went out of use, after all others that are.
    pub(crate) fn unused(&mut self, admitted: &mut Admitted, slot: u32) {
        if matches!(admitted.usage, Usage::Unused(_)) {
            return;
        }
        let place = self.next_unused;
        self.next_unused += 1;
        self.unused.insert(place, slot);
        let of_address = self.per_address.entry(admitted.address).or_default();
        of_address.connections += usize::from(admitted.usage == Usage::InUse);
        of_address.unused.insert(place, slot);
        admitted.usage = Usage::Unused(place);
    }

    /// A connection is in use.
    pub(crate) fn used(&mut self, admitted: &mut Admitted) {
        let place = match std::mem::replace(&mut admitted.usage, Usage::InUse) {
            Usage::InUse => return,
            Usage::Untold => None,
            Usage::Unused(place) => Some(place),
        };
        if let Entry::Occupied(mut entry) = self.per_address.entry(admitted.address) {
            let of_address = entry.get_mut();
            of_address.connections -= 1;
            if let Some(place) = place {
                self.unused.remove(&place);
                of_address.unused.remove(&place);
            }
            if of_address.connections == 0 {
                entry.remove();
            }
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
        self.used(&mut admitted);
        self.connections -= 1;
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
        unused: None,
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
        assert!(register.per_address.is_empty() && register.unused.is_empty());
        assert_eq!(
            (
                register.connections,
                register.handshakes,
                register.unvalidated
            ),
            (0, 0, 0)
        );
    }

    #[test]
    fn the_oldest_out_of_use_makes_room() {
        let mut register = Register::default();
        let [one, other, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(at);
        let places = [&one, &other, &one, &other, &one, &other];
        let mut admitted = places.map(|from| register.admit(from, true));
        for (slot, one) in (0..).zip(&mut admitted) {
            register.handshake_done(one);
            register.unused(one, slot);
        }
        let oldest = |register: &Register, from| register.oldest_unused(&BOUNDS, from);
        assert_eq!(register.judge(&BOUNDS, &third, true), Verdict::Refuse);
        assert_eq!(oldest(&register, &third), Some(0), "the table is full");
        assert_eq!(oldest(&register, &other), Some(1), "the address is");
        register.used(&mut admitted[0]);
        assert_eq!(oldest(&register, &third), Some(1));
        register.unused(&mut admitted[0], 0);
        register.unused(&mut admitted[1], 1);
        assert_eq!(oldest(&register, &one), Some(2), "0 is the youngest now");
        assert_eq!(oldest(&register, &other), Some(1), "said twice");
        admitted.iter_mut().for_each(|one| register.used(one));
        assert_eq!(oldest(&register, &third), None);
        assert_eq!(oldest(&register, &one), None);
        assert!(register.per_address.is_empty(), "nothing is out of use");
        register.used(&mut admitted[0]);
        register.unused(&mut admitted[0], 0);
        register.unused(&mut admitted[0], 0);
        assert_eq!(register.of_address(&one), 1, "said twice");
        admitted.into_iter().for_each(|one| register.closed(one));
        assert!(register.per_address.is_empty() && register.unused.is_empty());
    }
}
