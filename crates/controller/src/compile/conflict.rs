//! Two ingress points that want the same thing: the one that came first keeps it.

use std::net::Ipv6Addr;

use masque_api::{Reason, VPCIngressPointSpec};
use masque_model::{Fabric, Listener, Sid, Snapshot};

use crate::{
    Options, prefixes,
    validate::{Draft, Report, same_port},
};

/// Reports what `draft` (of `spec`) wants and `winner` has already.
pub(super) fn ingress_points(
    draft: &Draft,
    spec: &VPCIngressPointSpec,
    winner: &Draft,
    options: &Options,
    report: &mut Report<'_>,
) {
    let (ours, theirs) = (&draft.snapshot, &winner.snapshot);
    if ours.vpc == theirs.vpc {
        pools(ours, spec, theirs, report);
    }
    sids(ours, theirs, report);
    if options.shared_host {
        source_address(ours, theirs, report);
        listeners(ours, spec, theirs, report);
    }
}

fn pools(ours: &Snapshot, spec: &VPCIngressPointSpec, theirs: &Snapshot, report: &mut Report<'_>) {
    for pool in &ours.pools {
        let clash = theirs
            .pools
            .iter()
            .find(|other| prefixes::overlap(&other.prefix, &pool.prefix));
        let Some(clash) = clash else { continue };
        let text = pool.prefix.to_string();
        let index = spec.address_pools.iter().position(|pool| {
            pool.cidr.as_str().parse() == Ok(clash.prefix) || pool.cidr.as_str() == text
        });
        let field = match index {
            Some(index) => format!("spec.addressPools[{index}].cidr"),
            None => "spec.addressPools".to_owned(),
        };
        let message = format_args!(
            "{} overlaps the pool {} of VPCIngressPoint {}, which has precedence",
            pool.prefix, clash.prefix, theirs.ingress_point
        );
        let hint = "give every ingress point of a VPC a range of its own";
        report.error(&field, Reason::Conflicted, message, hint);
    }
}

/// A SID belongs to one VPC on one gateway: packets for another one would end up in the wrong VPC.
fn sids(ours: &Snapshot, theirs: &Snapshot, report: &mut Report<'_>) {
    let own = |snapshot: &Snapshot| -> Vec<(&str, Sid)> {
        let Fabric::Static(fabric) = &snapshot.fabric;
        let ipv4 = fabric.local_sid_ipv4.map(|sid| ("localSIDIPv4", sid));
        ipv4.into_iter()
            .chain([("localSID", fabric.local_sid)])
            .collect()
    };
    for (name, sid) in own(ours) {
        if own(theirs).iter().any(|(_, other)| *other == sid) {
            let message = format_args!(
                "{sid} is a SID of VPCIngressPoint {}, which has precedence",
                theirs.ingress_point
            );
            let hint = "give every ingress point a SID of its own";
            let field = format!("spec.fabric.static.{name}");
            report.error(&field, Reason::Conflicted, message, hint);
        }
    }
    if ours.vpc == theirs.vpc {
        return;
    }
    let Fabric::Static(fabric) = &ours.fabric;
    let Fabric::Static(other) = &theirs.fabric;
    for route in &fabric.routes {
        if other.routes.iter().any(|other| other.sid == route.sid) {
            let message = format_args!(
                "{} gets packets of the VPC {} as well, from VPCIngressPoint {}",
                route.sid, theirs.vpc, theirs.ingress_point
            );
            let hint = "a node needs one SID for each VPC";
            report.warn(
                "spec.fabric.static.routes",
                Reason::Conflicted,
                message,
                hint,
            );
            return;
        }
    }
}

/// The outer source address that an ingress point asks for.
pub(super) fn source_of(snapshot: &Snapshot) -> Ipv6Addr {
    let Fabric::Static(fabric) = &snapshot.fabric;
    fabric.source_address
}

/// The kernel has one outer source address for a network namespace, not one for a route.
pub(super) fn source_address(ours: &Snapshot, theirs: &Snapshot, report: &mut Report<'_>) {
    let (source, other) = (source_of(ours), source_of(theirs));
    if source == other {
        return;
    }
    let message = format_args!(
        "{source} is not the outer source address of VPCIngressPoint {}, which has precedence with \
         {other}; a host has one for all",
        theirs.ingress_point
    );
    let hint = "give both the same, or run them on different hosts";
    report.error(
        "spec.fabric.static.sourceAddress",
        Reason::Conflicted,
        message,
        hint,
    );
}

fn listeners(
    ours: &Snapshot,
    spec: &VPCIngressPointSpec,
    theirs: &Snapshot,
    report: &mut Report<'_>,
) {
    for listener in &ours.listeners {
        let index = spec
            .listeners
            .iter()
            .position(|other| other.name == listener.name);
        let field = index.map_or("spec.listeners".into(), |i| format!("spec.listeners[{i}]"));
        for other in theirs
            .listeners
            .iter()
            .filter(|other| same_port(other, listener))
        {
            listener_pair(listener, theirs, other, &field, report);
        }
    }
}

/// Two listeners of different ingress points on one port speak the same protocol, and no path of
/// one is a path of the other under the same host name. (The default path leads to the VPC that the
/// client's key is attached to, and every VPC has a path of its own.)
fn listener_pair(
    listener: &Listener,
    theirs: &Snapshot,
    other: &Listener,
    field: &str,
    report: &mut Report<'_>,
) {
    let winner = &theirs.ingress_point;
    if listener.protocol != other.protocol {
        let message = format_args!(
            "port {} speaks another protocol in VPCIngressPoint {winner}, which has precedence",
            listener.port
        );
        report.error(
            &format!("{field}.port"),
            Reason::Conflicted,
            message,
            "use another port",
        );
        return;
    }
    let same_host = match (&listener.hostname, &other.hostname) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => true,
    };
    if !same_host {
        return;
    }
    let taken = listener
        .path_templates
        .iter()
        .find(|path| other.path_templates.contains(path));
    if let Some(path) = taken {
        let message = format_args!(
            "{path} on port {} belongs to VPCIngressPoint {winner}, which has precedence",
            listener.port
        );
        let hint = "use another path, port or hostname";
        report.error(
            &format!("{field}.pathTemplates"),
            Reason::Conflicted,
            message,
            hint,
        );
    }
}
