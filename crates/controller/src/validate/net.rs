//! Prefixes, addresses and durations in fields.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use masque_api::{Cidr, Duration, Ip};
use masque_model::Sid;

use super::Report;

/// A prefix without host bits.
pub(super) fn prefix(text: &Cidr, field: &str, report: &mut Report<'_>) -> Option<IpNet> {
    let text = text.as_str();
    let Ok(prefix) = text.parse::<IpNet>() else {
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("write {text}/32 for one address"),
            Ok(IpAddr::V6(_)) => format!("write {text}/128 for one address"),
            Err(_) => "write it like 10.0.0.0/16 or fd20::/64".to_owned(),
        };
        report.invalid(field, format_args!("{text:?} is not a CIDR"), hint);
        return None;
    };
    if prefix != prefix.trunc() {
        let hint = format!("write {}", prefix.trunc());
        report.invalid(field, format_args!("{text} has host bits set"), hint);
        return None;
    }
    if let IpAddr::V6(address) = prefix.addr()
        && let Some(v4) = address.to_ipv4_mapped()
    {
        report.invalid(
            field,
            format_args!("{text} is IPv4 in IPv6 form"),
            format!("write {v4}"),
        );
        return None;
    }
    Some(prefix)
}

/// A list of prefixes; those that are wrong are left out and reported.
pub(super) fn prefixes(list: &[Cidr], field: &str, report: &mut Report<'_>) -> Vec<IpNet> {
    let entries = list.iter().enumerate();
    entries
        .filter_map(|(i, text)| prefix(text, &format!("{field}[{i}]"), report))
        .collect()
}

/// A unicast address.
pub(super) fn address(text: &Ip, field: &str, report: &mut Report<'_>) -> Option<IpAddr> {
    let Ok(address) = text.as_str().parse::<IpAddr>() else {
        let hint = match text.as_str().parse::<IpNet>() {
            Ok(prefix) => format!("write {} without the length", prefix.addr()),
            Err(_) => "write it like 10.0.100.50 or fd20::50".to_owned(),
        };
        report.invalid(
            field,
            format_args!("{:?} is not an IP address", text.as_str()),
            hint,
        );
        return None;
    };
    match not_unicast(&address) {
        Some(what) => {
            report.invalid(
                field,
                format_args!("{text} is {what}"),
                "use a unicast address",
            );
            None
        }
        None => Some(address),
    }
}

/// A routable IPv6 address.
pub(super) fn ipv6(text: &Ip, field: &str, report: &mut Report<'_>) -> Option<Ipv6Addr> {
    match address(text, field, report)? {
        IpAddr::V6(address) if address.to_ipv4_mapped().is_none() => Some(address),
        _ => {
            report.invalid(
                field,
                format_args!("{text} is not IPv6"),
                "SRv6 needs IPv6 here",
            );
            None
        }
    }
}

/// An SRv6 SID.
pub(super) fn sid(text: &Ip, field: &str, report: &mut Report<'_>) -> Option<Sid> {
    ipv6(text, field, report).map(Sid)
}

/// A duration in milliseconds, or the default.
pub(super) fn duration_ms(
    text: Option<&Duration>,
    default_ms: u64,
    field: &str,
    report: &mut Report<'_>,
) -> u64 {
    match text.map(Duration::as_millis) {
        None => default_ms,
        Some(Ok(ms)) => ms,
        Some(Err(error)) => {
            report.invalid(field, error, "write it like 30s, 5m or 1h30m");
            default_ms
        }
    }
}

/// Why an address or the first address of a prefix is not unicast.
pub(super) fn not_unicast(address: &IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    match address {
        address if address.is_unspecified() => Some("unspecified"),
        address if address.is_loopback() => Some("a loopback address"),
        address if address.is_multicast() => Some("a multicast address"),
        _ if link_local => Some("a link-local address"),
        _ => None,
    }
}
