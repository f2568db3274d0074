//! What an address or an option means, without any table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether `address` never leaves its link: RFC 9484 §7.2 forbids to forward it. 169.254.0.0/16
/// (RFC 3927), 224.0.0.0/24 (RFC 5771 §4), fe80::/10, and multicast of interface-local and
/// link-local scope (RFC 7346 §2).
#[inline]
pub(super) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            (first, second) == (169, 254) || (first, second, third) == (224, 0, 0)
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            first & 0xffc0 == 0xfe80 || first & 0xff0f == 0xff02 || first & 0xff0f == 0xff01
        }
    }
}

/// Whether `address` stands for one host that can be elsewhere: no multicast, broadcast, loopback,
/// "this network", class E or unspecified address, and no IPv4 address in IPv6 clothes (RFC 4291
/// §2.5.5), which another layer may undress.
#[inline]
pub(super) fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            first != 0 && first != 127 && first < 224
        }
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            // ::/96 holds the unspecified and the loopback address and the IPv4-compatible ones.
            bits >> 32 != 0 && bits >> 32 != 0xffff && bits >> 120 != 0xff
        }
    }
}

/// Groups on the link that the gateway is a member of: all nodes and all routers (RFC 4291 §2.7.1).
pub(super) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// All hosts and all routers of IPv4 (RFC 1112 §4, RFC 1256 §5).
pub(super) const ALL_HOSTS_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);

/// Whether an IPv4 header has a Loose or Strict Source Route option (RFC 791 §3.1), or options that
/// cannot be read. RFC 7126 §4.3, §4.4 have routers drop these by default.
#[cold]
pub(super) fn has_source_route(header: &[u8]) -> bool {
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    let mut options = header.get(20..).unwrap_or_default();
    // Every turn takes at least one of at most 40 bytes.
    while let Some((kind, rest)) = options.split_first() {
        options = match *kind {
            0 => return false,
            1 => rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return true,
            _ => {
                let length = rest.first().map_or(0, |length| usize::from(*length));
                match options.get(length..) {
                    Some(behind) if length >= 2 => behind,
                    _ => return true,
                }
            }
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_link_local_and_unicast() {
        let table = [
            ("169.254.1.1", true, true),
            ("224.0.0.251", true, false),
            ("224.0.1.1", false, false),
            ("fe80::1", true, true),
            ("febf::1", true, true),
            ("fec0::1", false, true),
            ("ff02::1", true, false),
            ("ff12::1", true, false),
            ("ff05::1", false, false),
            ("0.0.0.0", false, false),
            ("0.1.2.3", false, false),
            ("127.9.9.9", false, false),
            ("240.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("223.255.255.255", false, true),
            ("::", false, false),
            ("::1", false, false),
            ("::10.0.0.1", false, false),
            ("::ffff:10.0.0.1", false, false),
            ("64:ff9b::a00:1", false, true),
            ("2001:db8::1", false, true),
            ("fd00::1", false, true),
        ];
        for (address, link_local, unicast) in table {
            let parsed = address.parse().unwrap();
            assert_eq!(is_link_local(parsed), link_local, "{address}");
            assert_eq!(is_unicast(parsed), unicast, "{address}");
        }
    }

    #[test]
    fn finds_source_routes_behind_other_options() {
        let header = |options: &[u8]| [&[0; 20][..], options].concat();
        for (options, found) in [
            (&[][..], false),
            (&[0, 131, 0, 0], false),
            (&[1, 1, 1, 131], true),
            (&[137, 3, 4, 0], true),
            (&[148, 4, 0, 0, 131, 3, 4, 0], true),
            (&[148, 4, 0, 0, 1, 0, 0, 0], false),
            (&[7, 0, 0, 0], true),
            (&[7, 9, 0, 0], true),
            (&[1, 1, 1, 7], true),
        ] {
            assert_eq!(has_source_route(&header(options)), found, "{options:?}");
        }
    }
}
