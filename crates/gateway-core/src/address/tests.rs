//! The invariants of the address book, by cases and by random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use masque_model::{AddressPool, ObjectName};
use proptest::prelude::*;

use super::pool::Pool;
use super::*;
use crate::fixture::{ip, key, name, net, pool};
use crate::id::Now;

const RESUME_MS: u64 = 30_000;
const QUARANTINE_MS: u64 = 10_000;

fn at(mono_ms: u64) -> Now {
    Now {
        mono_ms,
        unix_s: mono_ms / 1000,
    }
}

fn owner(number: u32) -> Owner {
    let attachment = name(&format!("a{number}"));
    Owner {
        ingress_point: name("point"),
        attachment,
        key: key(number),
    }
}

const BOTH: Demand<'static> = Demand {
    fixed: &[],
    ipv4: true,
    ipv6: true,
};

struct Fixture {
    book: AddressBook,
    vpc: ObjectName,
}

impl Fixture {
    fn new(pools: &[AddressPool]) -> Self {
        let mut fixture = Self {
            book: AddressBook::default(),
            vpc: name("vpc"),
        };
        fixture.set_pools(0, pools);
        fixture
    }

    fn set_pools(&mut self, now_ms: u64, pools: &[AddressPool]) {
        let site = Site {
            pools,
            resume_window_ms: RESUME_MS,
            quarantine_ms: QUARANTINE_MS,
        };
        self.book
            .set_sites(at(now_ms), &self.vpc, &[(&name("point"), site)]);
    }

    fn bind(&mut self, now_ms: u64, number: u32) -> Result<Vec<IpAddr>, AddressError> {
        self.book.bind(at(now_ms), &self.vpc, &owner(number), &BOTH)
    }

    fn fixed(&mut self, number: u32, address: &str) -> Result<Vec<IpAddr>, AddressError> {
        let demand = Demand {
            fixed: &[ip(address)],
            ..BOTH
        };
        self.book.bind(at(0), &self.vpc, &owner(number), &demand)
    }

    fn present(&mut self, now_ms: u64, number: u32, present: bool) {
        self.book
            .set_present(at(now_ms), &self.vpc, &owner(number), present);
    }
}

#[test]
fn never_gives_network_broadcast_gateway_or_reserved_addresses() {
    let mut pools = [pool("10.0.0.0/29"), pool("fd00::/125")];
    pools[0].reserved = vec![net("10.0.0.4/31")];
    pools[1].reserved = vec![net("fd00::4/126")];
    let mut fixture = Fixture::new(&pools);
    let mut given = BTreeSet::new();
    for number in 0..20 {
        given.extend(fixture.bind(0, number).unwrap_or_default());
    }
    let expected = ["10.0.0.2", "10.0.0.3", "10.0.0.6", "fd00::2", "fd00::3"].map(ip);
    assert_eq!(given, BTreeSet::from(expected));
    assert_eq!(gateway_addresses(&pools), ["10.0.0.1", "fd00::1"].map(ip));
}

#[test]
fn tiny_pools_follow_the_rfcs() {
    let table = [
        ("10.0.0.0/32", None, &["10.0.0.0"][..]),
        ("10.0.0.0/31", Some("10.0.0.0"), &["10.0.0.1"]),
        ("fd00::2/127", Some("fd00::2"), &["fd00::3"]),
        ("fd00::/128", None, &["fd00::"]),
        ("10.0.0.0/30", Some("10.0.0.1"), &["10.0.0.2"]),
        ("fd00::/126", Some("fd00::1"), &["fd00::2", "fd00::3"]),
    ];
    for (prefix, gateway, clients) in table {
        assert_eq!(gateway_address(&net(prefix)), gateway.map(ip), "{prefix}");
        let mut free = Pool::new(&pool(prefix));
        let mut given = Vec::new();
        while let Some(address) = free.next_free(0) {
            free.take(address);
            given.push(address);
        }
        given.sort();
        assert_eq!(
            given,
            clients.iter().copied().map(ip).collect::<Vec<_>>(),
            "{prefix}"
        );
    }
}

#[test]
fn an_attachment_keeps_its_addresses() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/24"), pool("fd00::/64")]);
    let first = fixture.bind(0, 7).unwrap();
    assert_eq!(first, ["10.0.0.7", "fd00::7"].map(ip));
    fixture.present(0, 7, true);
    fixture.present(1, 7, false);
    assert_eq!(fixture.bind(1_000_000, 7), Ok(first));
}

#[test]
fn a_freed_address_rests_but_its_owner_may_return() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/30")]);
    assert_eq!(fixture.bind(0, 1), Ok(vec![ip("10.0.0.2")]));
    fixture.book.free(at(5_000), &name("vpc"), &owner(1));
    assert_eq!(fixture.bind(14_999, 2), Err(AddressError::PoolExhausted));
    assert_eq!(fixture.bind(14_999, 1), Ok(vec![ip("10.0.0.2")]));
    fixture.book.free(at(20_000), &name("vpc"), &owner(1));
    assert_eq!(fixture.bind(29_999, 2), Err(AddressError::PoolExhausted));
    assert_eq!(fixture.bind(30_000, 2), Ok(vec![ip("10.0.0.2")]));
}

#[test]
fn the_same_attachment_with_another_key_is_another_owner() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/30")]);
    fixture.bind(0, 1).unwrap();
    let imposter = Owner {
        key: key(99),
        ..owner(1)
    };
    let answer = fixture.book.bind(at(0), &name("vpc"), &imposter, &BOTH);
    assert_eq!(answer, Err(AddressError::PoolExhausted));
}

#[test]
fn an_exhausted_pool_takes_back_what_was_left_long_ago() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/29")]);
    for number in 0..5 {
        fixture.bind(0, number).unwrap();
        fixture.present(0, number, true);
    }
    fixture.present(1_000, 3, false);
    let lost = fixture.book.addresses(&name("vpc"), &owner(3));
    let due_ms = 1_000 + RESUME_MS + QUARANTINE_MS;
    assert_eq!(
        fixture.bind(due_ms - 1, 9),
        Err(AddressError::PoolExhausted)
    );
    assert_eq!(fixture.bind(due_ms, 9), Ok(lost));
    assert_eq!(
        fixture.book.addresses(&name("vpc"), &owner(3)),
        Vec::<IpAddr>::new()
    );
    // A present one is never taken.
    fixture.present(due_ms, 9, true);
    assert_eq!(
        fixture.bind(u64::MAX / 2, 3),
        Err(AddressError::PoolExhausted)
    );
}

#[test]
fn one_exhausted_family_leaves_the_other() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/30"), pool("fd00::/64")]);
    fixture.bind(0, 1).unwrap();
    assert_eq!(fixture.bind(0, 2), Ok(vec![ip("fd00::3")]));
}

#[test]
fn fixed_addresses_are_checked_and_never_taken_back() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/29")]);
    assert_eq!(fixture.fixed(1, "10.0.0.5"), Ok(vec![ip("10.0.0.5")]));
    assert_eq!(
        fixture.fixed(2, "10.0.0.5"),
        Err(AddressError::Taken(ip("10.0.0.5")))
    );
    for outside in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.1.0.1", "fd00::5"] {
        assert_eq!(
            fixture.fixed(2, outside),
            Err(AddressError::OutsidePools(ip(outside)))
        );
    }
    for number in 10..20 {
        let _ = fixture.bind(u64::MAX / 2, number);
    }
    assert_eq!(
        fixture.book.holder(&name("vpc"), ip("10.0.0.5")),
        Some(&owner(1))
    );
}

#[test]
fn a_pool_that_goes_frees_its_addresses() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/24")]);
    fixture.bind(0, 2).unwrap();
    fixture.set_pools(1_000, &[pool("10.1.0.0/24")]);
    assert_eq!(
        fixture.book.addresses(&name("vpc"), &owner(2)),
        Vec::<IpAddr>::new()
    );
    // It comes back before the rest is over: still nobody else's.
    fixture.set_pools(2_000, &[pool("10.0.0.0/30")]);
    assert_eq!(fixture.bind(2_000, 1), Err(AddressError::PoolExhausted));
    assert_eq!(fixture.bind(2_000, 2), Ok(vec![ip("10.0.0.2")]));
}

#[test]
fn a_vpc_that_went_is_forgotten_once_its_addresses_have_rested() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/24")]);
    fixture.bind(0, 2).unwrap();
    fixture.book.set_sites(at(0), &name("vpc"), &[]);
    fixture.book.sweep(at(QUARANTINE_MS - 1));
    assert_eq!(fixture.book.export(at(0)).holdings.len(), 1);
    fixture.book.sweep(at(QUARANTINE_MS));
    assert_eq!(fixture.book.export(at(0)).holdings, []);
}

#[test]
fn a_restart_forgets_nothing() {
    let mut fixture = Fixture::new(&[pool("10.0.0.0/29")]);
    for number in 1..=5 {
        fixture.bind(0, number).unwrap();
        fixture.present(0, number, true);
    }
    fixture.book.free(at(0), &name("vpc"), &owner(5));
    let text = serde_json::to_string(&fixture.book.export(at(4_000))).unwrap();

    let state = serde_json::from_str(&text).unwrap();
    // Another monotonic clock; two seconds later on the wall.
    let now = Now {
        mono_ms: 77,
        unix_s: 6,
    };
    let mut restarted = Fixture {
        book: AddressBook::import(now, &state),
        vpc: name("vpc"),
    };
    restarted.set_pools(77, &[pool("10.0.0.0/29")]);
    for number in 1..=4 {
        let before = fixture.book.addresses(&name("vpc"), &owner(number));
        assert_eq!(
            restarted.book.addresses(&name("vpc"), &owner(number)),
            before
        );
    }
    // Four seconds of the rest are left.
    assert_eq!(
        restarted.bind(77 + 3_999, 9),
        Err(AddressError::PoolExhausted)
    );
    assert!(restarted.bind(77 + 4_000, 9).is_ok());
}

#[test]
fn the_number_of_holders_is_bounded() {
    let holding = |number: u32| Holding {
        vpc: name("vpc"),
        address: std::net::Ipv6Addr::from_bits(0xfd << 120 | u128::from(number)).into(),
        owner: owner(0),
        bound: false,
        remaining_ms: u64::MAX,
    };
    let count = u32::try_from(MAX_HOLDERS).unwrap();
    let holdings = (0..count + 10).map(holding).collect();
    let state = AddressBookState {
        exported_unix_s: 0,
        holdings,
    };
    let mut fixture = Fixture {
        book: AddressBook::import(at(0), &state),
        vpc: name("vpc"),
    };
    fixture.set_pools(0, &[pool("10.0.0.0/24")]);
    assert_eq!(fixture.book.export(at(0)).holdings.len(), MAX_HOLDERS);
    assert_eq!(fixture.bind(0, 1), Err(AddressError::PoolExhausted));
}

#[derive(Clone, Debug)]
enum Step {
    Bind(u32),
    Present(u32, bool),
    Free(u32),
    Wait(u64),
    Pools(usize),
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0u32..12;
    prop_oneof![
        6 => who.clone().prop_map(Step::Bind),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, present)| Step::Present(who, present)),
        2 => who.prop_map(Step::Free),
        2 => (0u64..20_000).prop_map(Step::Wait),
        1 => (0usize..3).prop_map(Step::Pools),
        1 => (0u64..20).prop_map(Step::Restart),
    ]
}

/// Written without a look at the book: who used an address last, and when.
#[derive(Default)]
struct Reference {
    last: BTreeMap<IpAddr, (Owner, u64)>,
    present: BTreeSet<IpAddr>,
}

impl Reference {
    /// Takes note that `who` has `addresses`.
    fn bound(&mut self, now_ms: u64, who: &Owner, addresses: &[IpAddr]) -> Result<(), String> {
        for address in addresses {
            if let Some((last, used_ms)) = self.last.get(address)
                && last != who
                && (now_ms < used_ms + QUARANTINE_MS || self.present.contains(address))
            {
                return Err(format!(
                    "{address} of {last:?} given to {who:?} without a rest"
                ));
            }
            self.last.insert(*address, (who.clone(), now_ms));
        }
        Ok(())
    }

    /// Compares with who holds what after a step.
    fn compare(&mut self, now_ms: u64, book: &AddressBook) -> Result<(), String> {
        let mut held = BTreeMap::new();
        for who in (0..12).map(owner) {
            for address in book.addresses(&name("vpc"), &who) {
                if let Some(other) = held.insert(address, who.clone()) {
                    return Err(format!("{address} is held by {who:?} and {other:?}"));
                }
            }
        }
        self.present.retain(|address| held.contains_key(address));
        for (address, (last, used_ms)) in &mut self.last {
            if book.holder(&name("vpc"), *address) != held.get(address) {
                return Err(format!("the book disagrees with itself about {address}"));
            }
            if self.present.contains(address) {
                if held.get(address) != Some(last) {
                    return Err(format!("{address} was taken from {last:?}, who is present"));
                }
                *used_ms = now_ms;
            }
        }
        Ok(())
    }
}

fn run(steps: Vec<Step>) -> Result<(), String> {
    let choices = [
        vec![pool("10.0.0.0/29"), pool("fd00::/125")],
        vec![pool("10.0.0.0/30"), pool("10.0.0.8/29")],
        vec![pool("10.0.0.0/28")],
    ];
    let mut fixture = Fixture::new(&choices[0]);
    let (mut now_ms, mut pools, mut reference) = (0, 0, Reference::default());
    for step in steps {
        match step {
            Step::Bind(who) => {
                let addresses = fixture.bind(now_ms, who).unwrap_or_default();
                reference.bound(now_ms, &owner(who), &addresses)?;
                let inside = |address| choices[pools].iter().any(|p| p.prefix.contains(address));
                if !addresses.iter().all(inside) {
                    return Err(format!("{addresses:?} are outside the pools"));
                }
            }
            Step::Present(who, present) => {
                fixture.present(now_ms, who, present);
                for address in fixture.book.addresses(&name("vpc"), &owner(who)) {
                    if present {
                        reference.present.insert(address);
                    } else {
                        reference.present.remove(&address);
                    }
                }
            }
            Step::Free(who) => {
                for address in fixture.book.addresses(&name("vpc"), &owner(who)) {
                    reference.present.remove(&address);
                }
                fixture.book.free(at(now_ms), &name("vpc"), &owner(who));
            }
            Step::Wait(ms) => now_ms += ms,
            Step::Pools(choice) => {
                pools = choice;
                fixture.set_pools(now_ms, &choices[choice]);
            }
            Step::Restart(seconds) => {
                let state = fixture.book.export(at(now_ms));
                reference.present.clear();
                now_ms += seconds * 1000;
                fixture.book = AddressBook::import(at(now_ms), &state);
                fixture.set_pools(now_ms, &choices[pools]);
            }
        }
        if let Step::Pools(_) = step {
            let holder = |address: &IpAddr| fixture.book.holder(&name("vpc"), *address).is_some();
            reference.present.retain(holder);
        }
        reference.compare(now_ms, &fixture.book)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_address_has_two_holders_and_freed_ones_rest(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(steps).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn free_intervals_agree_with_a_set(
        operations in prop::collection::vec((any::<bool>(), 0u8..64, any::<u64>()), 1..200),
    ) {
        let mut pool_of_64 = Pool::new(&pool("10.0.0.0/26"));
        let mut free: BTreeSet<IpAddr> = (2..63).map(|n| ip(&format!("10.0.0.{n}"))).collect();
        for (take, host, seed) in operations {
            let address = ip(&format!("10.0.0.{host}"));
            if take {
                pool_of_64.take(address);
                free.remove(&address);
            } else {
                pool_of_64.put(address);
                if (2..63).contains(&host) {
                    free.insert(address);
                }
            }
            prop_assert_eq!(pool_of_64.free_count(), free.len() as u64);
            let wanted = ip(&format!("10.0.0.{}", seed % 64));
            let expected = free.range(wanted..).next().or_else(|| free.first()).copied();
            prop_assert_eq!(pool_of_64.next_free(seed), expected);
        }
    }
}
