use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Capsule, CapsuleDecoder};

fn range(start: &str, end: &str, protocol: u8) -> IpRange {
    IpRange::new(start.parse().unwrap(), end.parse().unwrap(), protocol).unwrap()
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn decode(ranges: &[IpRange]) -> Result<Option<Capsule>, CapsuleError> {
    let mut decoder = CapsuleDecoder::new();
    decoder.push(Capsule::RouteAdvertisement(ranges.to_vec()).encode());
    decoder.poll()
}

#[test]
fn n52_wire_vectors() {
    let full = range("0.0.0.0", "255.255.255.255", 0);
    let encoded = Capsule::RouteAdvertisement(vec![full]).encode();
    assert_eq!(encoded[..], [3, 10, 4, 0, 0, 0, 0, 255, 255, 255, 255, 0]);
    assert_eq!(
        decode(&[full]),
        Ok(Some(Capsule::RouteAdvertisement(vec![full])))
    );
    assert_eq!(
        decode(&[]),
        Ok(Some(Capsule::RouteAdvertisement(vec![]))),
        "all withdrawn"
    );
}

#[test]
fn n52_malformed_ranges() {
    let poll = |bytes: &[u8]| {
        let mut decoder = CapsuleDecoder::new();
        decoder.push(Bytes::copy_from_slice(bytes));
        decoder.poll().unwrap_err()
    };
    let error = CapsuleError::RangeReversed {
        start: ip("10.0.0.2"),
        end: ip("10.0.0.1"),
    };
    assert_eq!(poll(&[3, 10, 4, 10, 0, 0, 2, 10, 0, 0, 1, 0]), error);
    assert_eq!(poll(&[3, 1, 5]), CapsuleError::IpVersion(5));
    for length in 1..10 {
        let bytes = [
            &[3, length][..],
            &[4, 10, 0, 0, 1, 10, 0, 0, 1][..usize::from(length)],
        ];
        let truncated = CapsuleError::Truncated { capsule_type: 3 };
        assert_eq!(poll(&bytes.concat()), truncated, "{length}");
    }
}

#[test]
fn n53_order_is_version_then_protocol_then_address() {
    let good = [
        range("10.0.0.0", "10.0.0.9", 6),
        range("10.0.1.0", "10.0.1.0", 6),
        range("10.0.0.5", "10.0.0.9", 17),
        range("2001:db8::", "2001:db8::1", 0),
        range("2001:db8::2", "2001:db8::3", 6),
    ];
    assert!(
        decode(&good).is_ok(),
        "single protocols may overlap each other"
    );
    for index in 1..good.len() {
        let mut bad = good;
        bad.swap(index - 1, index);
        let found = decode(&bad).unwrap_err();
        assert!(
            matches!(found, CapsuleError::RangeOrder { .. }),
            "{index}: {found}"
        );
        assert_eq!(found.code(), masque_http3::Code::H3_MESSAGE_ERROR);
    }
    let same = range("10.0.0.0", "10.0.0.9", 6);
    assert_eq!(
        decode(&[same, same]),
        Err(CapsuleError::RangeOrder { index: 1 })
    );
    let touching = [same, range("10.0.0.9", "10.0.0.12", 6)];
    assert_eq!(
        decode(&touching),
        Err(CapsuleError::RangeOrder { index: 1 })
    );
}

#[test]
fn n53_all_protocols_overlap_nothing() {
    let all = range("10.0.0.0", "10.0.0.255", 0);
    let inside = [
        all,
        range("11.0.0.0", "11.0.0.0", 0),
        range("10.0.0.255", "10.0.1.0", 6),
    ];
    assert_eq!(
        decode(&inside),
        Err(CapsuleError::RangeOverlap { index: 2 })
    );
    assert!(decode(&[all, range("10.0.1.0", "10.0.1.0", 6)]).is_ok());
    let one_address = [all, range("9.0.0.0", "10.0.0.0", 6)];
    assert_eq!(
        decode(&one_address),
        Err(CapsuleError::RangeOverlap { index: 1 })
    );
}

#[test]
fn n53_prefixes_become_sorted_merged_ranges() {
    let set = nets(&[
        "2001:db8::/64",
        "10.0.1.0/24",
        "10.0.0.0/24",
        "10.0.0.7/32",
        "192.0.2.0/31",
    ]);
    let expected = [
        range("10.0.0.0", "10.0.1.255", 6),
        range("192.0.2.0", "192.0.2.1", 6),
        range("2001:db8::", "2001:db8::ffff:ffff:ffff:ffff", 6),
    ];
    assert_eq!(from_prefixes(&set, Some(6)), expected);
    let all = from_prefixes(&nets(&["0.0.0.0/1", "128.0.0.0/1", "::/0"]), None);
    let v6_end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(
        all,
        [
            range("0.0.0.0", "255.255.255.255", 0),
            range("::", v6_end, 0)
        ]
    );
    assert_eq!(from_prefixes(&[], None), []);
}

#[test]
fn n53_normalize_cuts_what_all_protocols_cover() {
    let ranges = vec![
        range("10.0.0.0", "10.0.0.99", 6),
        range("10.0.0.10", "10.0.0.19", 0),
        range("10.0.0.90", "10.0.0.120", 0),
    ];
    let expected = [
        range("10.0.0.10", "10.0.0.19", 0),
        range("10.0.0.90", "10.0.0.120", 0),
        range("10.0.0.0", "10.0.0.9", 6),
        range("10.0.0.20", "10.0.0.89", 6),
    ];
    assert_eq!(normalize(ranges), expected);
    let whole = vec![
        range("0.0.0.0", "255.255.255.255", 0),
        range("0.0.0.0", "255.255.255.255", 6),
    ];
    assert_eq!(normalize(whole.clone()), whole[..1]);
}

#[test]
fn n52_icmp_is_always_permitted() {
    let tcp = [
        range("10.0.0.0", "10.0.0.9", 6),
        range("2001:db8::", "2001:db8::9", 6),
    ];
    assert!(covers(&tcp, ip("10.0.0.3"), 6));
    assert!(covers(&tcp, ip("10.0.0.3"), 1));
    assert!(covers(&tcp, ip("2001:db8::3"), 58));
    assert!(!covers(&tcp, ip("10.0.0.3"), 17));
    assert!(!covers(&tcp, ip("10.0.0.10"), 1));
    assert!(
        !covers(&tcp, ip("2001:db8::3"), 1),
        "ICMPv4 is not ICMP in IPv6"
    );
    assert!(covers(
        &[range("10.0.0.0", "10.0.0.9", 0)],
        ip("10.0.0.9"),
        132
    ));
}

#[test]
fn ranges_of_two_families_do_not_exist() {
    let mixed = IpRange::new(ip("10.0.0.1"), ip("::1"), 0);
    assert_eq!(mixed, Err(RangeError::Families(ip("10.0.0.1"), ip("::1"))));
    let reversed = IpRange::new(ip("::2"), ip("::1"), 0);
    assert_eq!(reversed, Err(RangeError::Reversed(ip("::2"), ip("::1"))));
}

#[test]
fn prefixes_of_a_range() {
    let list: Vec<String> = range("10.0.0.1", "10.0.0.6", 0)
        .prefixes()
        .map(|prefix| prefix.to_string())
        .collect();
    assert_eq!(
        list,
        ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/31", "10.0.0.6/32"]
    );
    let full: Vec<IpNet> = range("0.0.0.0", "255.255.255.255", 0).prefixes().collect();
    assert_eq!(full, nets(&["0.0.0.0/0"]));
    let v6_end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    assert_eq!(
        range("::", v6_end, 0).prefixes().collect::<Vec<_>>(),
        nets(&["::/0"])
    );
}

/// A small world, so that random ranges meet: 10.0.0.x and 2001:db8::x.
fn address(v6: bool, low: u8) -> IpAddr {
    if v6 {
        ip(&format!("2001:db8::{low:x}"))
    } else {
        ip(&format!("10.0.0.{low}"))
    }
}

fn small_range() -> impl Strategy<Value = IpRange> {
    (
        any::<bool>(),
        any::<u8>(),
        any::<u8>(),
        prop::sample::select(vec![0, 1, 6, 17]),
    )
        .prop_map(|(v6, a, b, protocol)| {
            IpRange::new(address(v6, a.min(b)), address(v6, a.max(b)), protocol).unwrap()
        })
}

fn small_prefix() -> impl Strategy<Value = IpNet> {
    (any::<bool>(), any::<u8>(), 0..=8u8).prop_map(|(v6, low, bits)| {
        let length = if v6 { 128 - bits } else { 32 - bits };
        IpNet::new(address(v6, low), length).unwrap().trunc()
    })
}

proptest! {
    #[test]
    fn n53_from_prefixes_covers_exactly_and_is_accepted(
        set in prop::collection::vec(small_prefix(), 0..20),
        protocol in any::<Option<u8>>(),
    ) {
        let ranges = from_prefixes(&set, protocol);
        prop_assert_eq!(check_order(&ranges), Ok(()));
        for pair in ranges.windows(2) {
            let apart = !touches(pair[0].end, pair[1].start);
            prop_assert!(apart || pair[0].group() != pair[1].group());
        }
        for v6 in [false, true] {
            for low in 0..=255 {
                let address = address(v6, low);
                let wanted = set.iter().any(|prefix| prefix.contains(&address));
                prop_assert_eq!(ranges.iter().any(|r| r.contains(address)), wanted, "{}", address);
            }
        }
        // And back: a routing table made of the ranges holds the same addresses.
        let back: Vec<IpNet> = ranges.iter().flat_map(IpRange::prefixes).collect();
        prop_assert_eq!(from_prefixes(&back, protocol), ranges);
    }

    #[test]
    fn n53_normalize_keeps_what_is_permitted(
        ranges in prop::collection::vec(small_range(), 0..20),
    ) {
        let normal = normalize(ranges.clone());
        prop_assert_eq!(check_order(&normal), Ok(()));
        prop_assert_eq!(normalize(normal.clone()), normal.clone());
        for v6 in [false, true] {
            for low in (0..=255).step_by(3) {
                for protocol in [6, 17, 132] {
                    let address = address(v6, low);
                    let before = covers(&ranges, address, protocol);
                    prop_assert_eq!(covers(&normal, address, protocol), before);
                }
            }
        }
    }

    #[test]
    fn n53_mutations_are_rejected(
        ranges in prop::collection::vec(small_range(), 2..20),
        at in any::<prop::sample::Index>(),
        kind in 0..3u8,
    ) {
        let normal = normalize(ranges);
        prop_assume!(normal.len() >= 2);
        let index = at.index(normal.len() - 1);
        let mut bad = normal.clone();
        match kind {
            0 => bad.swap(index, index + 1),
            1 => bad.insert(index, normal[index]),
            _ => {
                // The same addresses for all protocols, where one protocol has them already.
                prop_assume!(normal[index].protocol != 0);
                let all = IpRange { protocol: 0, ..normal[index] };
                let position = bad.iter().position(|r| r.group() >= all.group()).unwrap_or(0);
                prop_assume!(bad.iter().all(|r| r.protocol != 0 || r.group() != all.group()));
                bad.insert(position, all);
            }
        }
        prop_assert!(decode(&bad).is_err());
    }
}
