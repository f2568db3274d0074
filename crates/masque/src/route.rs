//! Ranges of ROUTE_ADVERTISEMENT (RFC 9484 §4.7.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::BufMut;
use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::CapsuleError;
use crate::address::{put_address, read_address};
use crate::capsule::Reader;

/// IP Protocol value that stands for every protocol.
const ALL_PROTOCOLS: u8 = 0;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Inclusive addresses of one family that the sender of the capsule routes, for one IP protocol or
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpRange {
    start: IpAddr,
    end: IpAddr,
    protocol: u8,
}

/// Why two addresses make no range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// One is IPv4, the other IPv6.
    #[error("{0} and {1} are not of one address family")]
    Families(IpAddr, IpAddr),
    /// The start lies behind the end.
    #[error("{0} lies behind {1}; give the lower address first")]
    Reversed(IpAddr, IpAddr),
}

impl IpRange {
    /// The range from `start` to `end`, both included; `protocol` 0 means all.
    ///
    /// # Errors
    /// [`RangeError`] when the addresses are of two families or reversed.
    pub fn new(start: IpAddr, end: IpAddr, protocol: u8) -> Result<Self, RangeError> {
        if start.is_ipv4() != end.is_ipv4() {
            return Err(RangeError::Families(start, end));
        }
        if start > end {
            return Err(RangeError::Reversed(start, end));
        }
        Ok(Self {
            start,
            end,
            protocol,
        })
    }

    /// Every address of `prefix`.
    pub fn from_prefix(prefix: &IpNet, protocol: u8) -> Self {
        Self {
            start: prefix.network(),
            end: prefix.broadcast(),
            protocol,
        }
    }

    /// The lowest address.
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// The highest address.
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// The IP protocol number; 0 means all.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether `address` lies in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        // IpAddr orders every IPv4 address before every IPv6 address.
        self.start <= address && address <= self.end
    }

    /// Whether a packet to `destination` of the upper-layer `protocol` may be sent to this range:
    /// "ICMP traffic is always allowed, regardless of the value of this field" (RFC 9484 §4.7.3).
    pub fn permits(&self, destination: IpAddr, protocol: u8) -> bool {
        let icmp = if self.start.is_ipv4() { ICMP } else { ICMPV6 };
        self.contains(destination)
            && (self.protocol == ALL_PROTOCOLS || self.protocol == protocol || protocol == icmp)
    }

    /// The fewest prefixes that cover the range exactly, in ascending order (for a routing table).
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => IpSubnets::V4(Ipv4Subnets::new(start, end, 0)),
            (start, end) => {
                let (start, end) = (to_v6(start), to_v6(end));
                IpSubnets::V6(Ipv6Subnets::new(start, end, 0))
            }
        }
    }

    /// The part of this range inside `prefix`.
    pub fn intersect(&self, prefix: &IpNet) -> Option<Self> {
        let start = self.start.max(prefix.network());
        let end = self.end.min(prefix.broadcast());
        Self::new(start, end, self.protocol).ok()
    }

    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        put_address(self.start, out);
        match self.end {
            IpAddr::V4(end) => out.put_slice(&end.octets()),
            IpAddr::V6(end) => out.put_slice(&end.octets()),
        }
        out.put_u8(self.protocol);
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self, CapsuleError> {
        let version = reader.u8()?;
        let start = read_address(reader, version)?;
        let end = read_address(reader, version)?;
        let protocol = reader.u8()?;
        // RFC 9484 §4.7.3: "The Start IP Address MUST be less than or equal to the End IP Address."
        Self::new(start, end, protocol).map_err(|_| CapsuleError::RangeReversed { start, end })
    }

    /// What RFC 9484 §4.7.3 orders ranges by, before their addresses.
    const fn group(&self) -> (bool, u8) {
        (self.start.is_ipv6(), self.protocol)
    }
}

/// Whether one of `ranges` permits a packet to `destination` of the upper-layer `protocol`.
pub fn covers(ranges: &[IpRange], destination: IpAddr, protocol: u8) -> bool {
    ranges
        .iter()
        .any(|range| range.permits(destination, protocol))
}

/// The ranges that cover exactly the addresses of `prefixes`, for one protocol or (`None`) all:
/// sorted, merged and disjoint, as ROUTE_ADVERTISEMENT demands.
pub fn from_prefixes(prefixes: &[IpNet], protocol: Option<u8>) -> Vec<IpRange> {
    let protocol = protocol.unwrap_or(ALL_PROTOCOLS);
    normalize(
        prefixes
            .iter()
            .map(|prefix| IpRange::from_prefix(prefix, protocol))
            .collect(),
    )
}

/// The same routes in the one form that may be sent: in the order of RFC 9484 §4.7.3, merged, and
/// with no range of a single protocol where a range of all protocols lies ("Endpoints MUST NOT send
/// a ROUTE_ADVERTISEMENT capsule with routes that overlap in such a way").
pub fn normalize(mut ranges: Vec<IpRange>) -> Vec<IpRange> {
    ranges.sort_unstable_by_key(|range| (range.group(), range.start));
    let mut merged: Vec<IpRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.group() == range.group() && touches(last.end, range.start) => {
                last.end = last.end.max(range.end);
            }
            _ => merged.push(range),
        }
    }
    if merged.iter().all(|range| range.protocol == ALL_PROTOCOLS) {
        return merged;
    }
    let all: Vec<IpRange> = merged
        .iter()
        .filter(|range| range.protocol == ALL_PROTOCOLS)
        .copied()
        .collect();
    let mut normal = Vec::with_capacity(merged.len());
    for range in merged {
        if range.protocol == ALL_PROTOCOLS {
            normal.push(range);
        } else {
            subtract(range, &all, &mut normal);
        }
    }
    normal
}

/// Checks what a receiver must: RFC 9484 §4.7.3, "If an endpoint receives a ROUTE_ADVERTISEMENT
/// capsule that does not meet these requirements, it MUST abort the IP proxying request stream."
pub(crate) fn check_order(ranges: &[IpRange]) -> Result<(), CapsuleError> {
    for (index, pair) in ranges.windows(2).enumerate() {
        let [before, after] = pair else { continue };
        let ordered = match before.group().cmp(&after.group()) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Equal => before.end < after.start,
            std::cmp::Ordering::Greater => false,
        };
        if !ordered {
            return Err(CapsuleError::RangeOrder { index: index + 1 });
        }
    }
    // Within a group the ranges are disjoint and ascending, so a binary search finds an overlap.
    let all: Vec<IpRange> = ranges
        .iter()
        .filter(|range| range.protocol == ALL_PROTOCOLS)
        .copied()
        .collect();
    for (index, range) in ranges.iter().enumerate() {
        let candidate = all.get(all.partition_point(|other| other.end < range.start));
        let overlaps = candidate.is_some_and(|other| other.start <= range.end);
        if range.protocol != ALL_PROTOCOLS && overlaps {
            return Err(CapsuleError::RangeOverlap { index });
        }
    }
    Ok(())
}

/// Appends the parts of `range` outside `holes`, which are disjoint and ascending.
fn subtract(range: IpRange, holes: &[IpRange], out: &mut Vec<IpRange>) {
    let mut start = range.start;
    let first = holes.partition_point(|hole| hole.end < range.start);
    for hole in holes[first..]
        .iter()
        .take_while(|hole| hole.start <= range.end)
    {
        if start < hole.start
            && let Some(end) = neighbour(hole.start, Direction::Down)
        {
            out.push(IpRange {
                start,
                end,
                ..range
            });
        }
        match neighbour(hole.end, Direction::Up) {
            Some(next) if next <= range.end => start = next,
            _ => return,
        }
    }
    out.push(IpRange { start, ..range });
}

#[derive(Clone, Copy)]
enum Direction {
    Up,
    Down,
}

/// The next address of the same family, if there is one.
fn neighbour(address: IpAddr, direction: Direction) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            let next = match direction {
                Direction::Up => bits.checked_add(1),
                Direction::Down => bits.checked_sub(1),
            };
            next.map(|bits| IpAddr::V4(Ipv4Addr::from(bits)))
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            let next = match direction {
                Direction::Up => bits.checked_add(1),
                Direction::Down => bits.checked_sub(1),
            };
            next.map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
        }
    }
}

/// Whether a range that begins at `start` overlaps or directly follows one that ends at `end`,
/// given that it does not begin before it.
fn touches(end: IpAddr, start: IpAddr) -> bool {
    start <= end || neighbour(end, Direction::Up) == Some(start)
}

const fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests;
