//! The fabric of one ingress point.

use std::collections::BTreeSet;

use ipnet::IpNet;
use masque_api::{Fabric as ApiFabric, FabricProvider, Reason, StaticFabric as ApiStaticFabric};
use masque_model::{Fabric, FabricRoute, Sid, StaticFabric};

use super::{Report, net};
use crate::prefixes;

/// Checks the fabric; `routes` is what the VPC offers, and a prefix without any SID leads nowhere.
pub(super) fn fabric(
    fabric: &ApiFabric,
    routes: &[IpNet],
    report: &mut Report<'_>,
) -> Option<Fabric> {
    let unbuilt = match fabric.provider {
        FabricProvider::Static => None,
        FabricProvider::Galactic => Some("Galactic"),
        FabricProvider::BGP => Some("BGP"),
    };
    if let Some(name) = unbuilt {
        let message = format_args!("the provider {name} is not built into this version");
        report.invalid("spec.fabric.provider", message, "write Static");
        return None;
    }
    for (block, there) in [
        ("galactic", fabric.galactic.is_some()),
        ("bgp", fabric.bgp.is_some()),
    ] {
        if there {
            let message = "this block belongs to another provider";
            report.invalid(&format!("spec.fabric.{block}"), message, "remove it");
        }
    }
    let Some(block) = &fabric.static_ else {
        let message = "the provider Static needs the block static";
        let hint = "write localSID, sourceAddress and routes under spec.fabric.static";
        report.invalid("spec.fabric", message, hint);
        return None;
    };
    static_fabric(block, routes, report).map(Fabric::Static)
}

fn static_fabric(
    block: &ApiStaticFabric,
    offered: &[IpNet],
    report: &mut Report<'_>,
) -> Option<StaticFabric> {
    let local_sid = net::sid(&block.local_sid, "spec.fabric.static.localSID", report);
    let field_ipv4 = "spec.fabric.static.localSIDIPv4";
    let local_sid_ipv4 = block
        .local_sid_ipv4
        .as_ref()
        .map(|text| net::sid(text, field_ipv4, report));
    let source_address = net::ipv6(
        &block.source_address,
        "spec.fabric.static.sourceAddress",
        report,
    );
    if local_sid.is_some() && local_sid_ipv4 == Some(local_sid) {
        let hint = "give End.DX4 a SID of its own, or remove it where the kernel has VRFs";
        report.invalid(field_ipv4, "the same SID as localSID", hint);
    }
    let own: Vec<Sid> = local_sid
        .into_iter()
        .chain(local_sid_ipv4.flatten())
        .collect();
    peers(block, report);
    let routes = routes(block, &own, report);
    let known: Vec<_> = routes.iter().map(|route| route.prefix).collect();
    for route in prefixes::normalize(offered) {
        if prefixes::intersect(&known, std::slice::from_ref(&route)).is_empty() {
            let message = format_args!("no SID for any part of {route}, which spec.routes offers");
            let hint = "add a route to every node of the VPC";
            let field = "spec.fabric.static.routes";
            report.warn(field, Reason::SIDNotRegistered, message, hint);
        }
    }
    Some(StaticFabric {
        local_sid: local_sid?,
        local_sid_ipv4: local_sid_ipv4.flatten(),
        source_address: source_address?,
        routes,
    })
}

/// Only the NetworkPolicy has them; the same rules as in the schema.
fn peers(block: &ApiStaticFabric, report: &mut Report<'_>) {
    let field = "spec.fabric.static.peers";
    for (i, text) in block.peers.iter().enumerate() {
        let field = format!("{field}[{i}]");
        if let Some(prefix @ IpNet::V4(_)) = net::prefix(text, &field, report) {
            let message = format_args!("{prefix} is not IPv6");
            let hint = "write where the outer IPv6 headers of SRv6 come from";
            report.invalid(&field, message, hint);
        }
    }
}

fn routes(block: &ApiStaticFabric, own: &[Sid], report: &mut Report<'_>) -> Vec<FabricRoute> {
    let mut routes = Vec::new();
    let mut seen = BTreeSet::new();
    if block.routes.is_empty() {
        let hint = "add the prefix and the SID of every node of the VPC";
        report.invalid("spec.fabric.static.routes", "there is no route", hint);
    }
    for (i, route) in block.routes.iter().enumerate() {
        let field = format!("spec.fabric.static.routes[{i}]");
        let prefix = net::prefix(&route.prefix, &format!("{field}.prefix"), report);
        let sid = net::sid(&route.sid, &format!("{field}.sid"), report);
        let (Some(prefix), Some(sid)) = (prefix, sid) else {
            continue;
        };
        if own.contains(&sid) {
            let message = format_args!("{sid} is this gateway's own SID: packets would come back");
            let hint = "write the SID of the node where the prefix lives";
            report.invalid(&format!("{field}.sid"), message, hint);
        }
        if !seen.insert(prefix) {
            let message = format_args!("{prefix} is there twice");
            report.invalid(&format!("{field}.prefix"), message, "remove one of them");
        }
        routes.push(FabricRoute { prefix, sid });
    }
    routes.sort_by_key(|route| route.prefix);
    routes
}
