//! ConnectorAttachment by itself.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use masque_api::{AllocationMode, ConnectorAttachment, IpFamily};
use masque_model::{AttachmentLimits, ObjectName};

use super::{Report, net, vpc_name};
use crate::{Sourced, compile::defaults};

/// An attachment that makes sense by itself.
#[derive(Clone, Debug)]
pub(crate) struct CheckedAttachment {
    pub(crate) name: ObjectName,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) connector: ObjectName,
    pub(crate) vpc: ObjectName,
    /// Fixed addresses, in the order written.
    pub(crate) addresses: Vec<IpAddr>,
    /// Wanted families (IPv4, IPv6); `None` means those of the pools.
    pub(crate) families: Option<(bool, bool)>,
    /// What it may reach, in the order written; empty means everything.
    pub(crate) allowed_routes: Vec<IpNet>,
    pub(crate) suspended: bool,
    pub(crate) limits: AttachmentLimits,
}

/// Checks an attachment by itself. `None` when it cannot be in force.
pub(crate) fn attachment(
    sourced: &Sourced<ConnectorAttachment>,
    report: &mut Report<'_>,
) -> Option<CheckedAttachment> {
    let name = sourced.name();
    let spec = &sourced.object.spec;
    let addresses = addresses(sourced, report);
    let families = families(sourced, &addresses, report);
    let allowed_routes = net::prefixes(&spec.allowed_routes, "spec.allowedRoutes", report);
    let limits = limits(sourced, report);
    if report.failed() {
        return None;
    }
    Some(CheckedAttachment {
        labels: sourced.object.metadata.labels.clone().unwrap_or_default(),
        connector: ObjectName::new(&name.namespace, &spec.connector_ref.name),
        vpc: vpc_name(&spec.vpc_ref, &name.namespace),
        name,
        addresses,
        families,
        allowed_routes,
        suspended: spec.suspend,
        limits,
    })
}

fn addresses(sourced: &Sourced<ConnectorAttachment>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let allocation = &sourced.object.spec.ip_allocation;
    let field = "spec.ipAllocation.addresses";
    let (there, fixed) = (!allocation.addresses.is_empty(), AllocationMode::Static);
    match (allocation.mode == fixed, there) {
        (true, false) => {
            let hint = "add addresses, or write mode: Dynamic";
            report.invalid(field, "mode Static needs addresses", hint);
        }
        (false, true) => {
            let hint = "write mode: Static, or remove them";
            report.invalid(field, "addresses belong to mode Static", hint);
        }
        _ => {}
    }
    let mut addresses = Vec::new();
    for (i, text) in allocation.addresses.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let Some(address) = net::address(text, &field, report) else {
            continue;
        };
        if addresses.contains(&address) {
            report.invalid(
                &field,
                format_args!("{address} is there twice"),
                "remove one of them",
            );
        }
        addresses.push(address);
    }
    addresses
}

fn families(
    sourced: &Sourced<ConnectorAttachment>,
    addresses: &[IpAddr],
    report: &mut Report<'_>,
) -> Option<(bool, bool)> {
    let wanted = &sourced.object.spec.ip_allocation.families;
    if wanted.is_empty() {
        // Fixed addresses say by themselves which families are wanted.
        let fixed = (
            addresses.iter().any(IpAddr::is_ipv4),
            addresses.iter().any(IpAddr::is_ipv6),
        );
        return (!addresses.is_empty()).then_some(fixed);
    }
    let wants = (
        wanted.contains(&IpFamily::IPv4),
        wanted.contains(&IpFamily::IPv6),
    );
    for (i, address) in addresses.iter().enumerate() {
        let listed = if address.is_ipv4() { wants.0 } else { wants.1 };
        if !listed {
            let message = format_args!("{address} is of a family that families leaves out");
            let field = format!("spec.ipAllocation.addresses[{i}]");
            report.invalid(&field, message, "add the family, or remove the address");
        }
    }
    Some(wants)
}

fn limits(sourced: &Sourced<ConnectorAttachment>, report: &mut Report<'_>) -> AttachmentLimits {
    let limits = sourced.object.spec.limits.unwrap_or_default();
    let sessions = limits
        .sessions
        .map_or(Ok(defaults::ATTACHMENT_SESSIONS), u32::try_from);
    if !sessions.is_ok_and(|sessions| sessions > 0) {
        let hint = "write 1 to 64, or suspend: true to keep the connector out";
        report.invalid("spec.limits.sessions", "not a number of sessions", hint);
    }
    let bits_per_second = limits.bits_per_second.map(u64::try_from).transpose();
    if bits_per_second.is_err() || bits_per_second == Ok(Some(0)) {
        let hint = "write bits in a second, such as 100000000";
        report.invalid("spec.limits.bitsPerSecond", "not a rate", hint);
    }
    AttachmentLimits {
        sessions: sessions.unwrap_or(defaults::ATTACHMENT_SESSIONS),
        bits_per_second: bits_per_second.unwrap_or_default(),
    }
}
