//! Attachments: which ingress points take them, their keys, routes and addresses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use masque_api::Reason;
use masque_model::{Attachment, ConnectorKey, ObjectName, Snapshot};

use super::{Compiler, Drafts, MAX_ATTACHMENTS, connectors};
use crate::{
    Kind, labels, prefixes,
    validate::{self, CheckedAttachment, Draft, Report, Selection, has_family},
};

/// Ingress points that take one attachment: each may give it an address of either family, and
/// `status.assignedIPs` has 64 places.
const MAX_POINTS: usize = 32;

/// What attachments of one ingress point hold already, and who holds it.
#[derive(Default)]
struct Taken {
    keys: BTreeMap<ConnectorKey, ObjectName>,
    addresses: BTreeMap<IpAddr, ObjectName>,
}

impl Compiler<'_> {
    pub(super) fn attachments(&mut self, drafts: &mut Drafts) {
        let mut sources: Vec<_> = self.resources.attachments.iter().collect();
        sources.sort_by_cached_key(|sourced| sourced.precedence());
        let connectors = connectors::by_name(self.resources);
        let mut taken: BTreeMap<ObjectName, Taken> = BTreeMap::new();
        let mut problems = std::mem::take(&mut self.problems);
        let mut retained = BTreeSet::new();
        for sourced in sources {
            let mut report = Report::new(Kind::ConnectorAttachment, sourced, &mut problems);
            let Some(checked) = validate::attachment(sourced, &mut report) else {
                retained.insert(sourced.name());
                continue;
            };
            let points = self.points(&checked, drafts, &mut report);
            let Some(key) = connectors::key(&checked.connector, &connectors, &mut report) else {
                if self.unread(Kind::Connector, &checked.connector) && !checked.suspended {
                    retained.insert(checked.name);
                }
                continue;
            };
            for point in points {
                let Some(draft) = drafts.get_mut(&point) else {
                    continue;
                };
                let taken = taken.entry(point).or_default();
                place(&checked, key, &mut draft.snapshot, taken, &mut report);
            }
        }
        self.problems = problems;
        self.retain_attachments(&retained, drafts, &mut taken);
        for draft in drafts.values_mut() {
            draft
                .snapshot
                .attachments
                .sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    /// The ingress points that take this attachment.
    fn points(
        &self,
        checked: &CheckedAttachment,
        drafts: &Drafts,
        report: &mut Report<'_>,
    ) -> Vec<ObjectName> {
        let namespace = &checked.name.namespace;
        if checked.vpc.namespace != *namespace && !self.options.cross_namespace_vpcs {
            let message = format_args!("{} is in another namespace", checked.vpc);
            let hint = format!(
                "put the attachment into the namespace {}",
                checked.vpc.namespace
            );
            report.error(
                "spec.vpcRef.namespace",
                Reason::RefNotPermitted,
                message,
                hint,
            );
            return Vec::new();
        }
        let of_vpc: Vec<_> = drafts
            .iter()
            .filter(|(name, _)| name.namespace == *namespace)
            .filter(|(_, draft)| draft.snapshot.vpc == checked.vpc)
            .collect();
        if of_vpc.is_empty() {
            self.no_point(checked, drafts, report);
            return Vec::new();
        }
        let mut selected: Vec<_> = of_vpc
            .iter()
            .filter(|(_, draft)| selects(draft, checked))
            .map(|(name, _)| (*name).clone())
            .collect();
        if selected.is_empty() {
            let names: Vec<_> = of_vpc.iter().map(|(name, _)| name.to_string()).collect();
            let message = format!(
                "the attachmentSelector of {} leaves it out",
                names.join(", ")
            );
            let hint = "give it the labels that the selector asks for";
            report.error(
                "metadata.labels",
                Reason::NotAllowedByIngressPoint,
                message,
                hint,
            );
        }
        if selected.len() > MAX_POINTS {
            let message = format_args!(
                "{} ingress points select it, and the first {MAX_POINTS} by name take it",
                selected.len()
            );
            let hint = "give ingress points an attachmentSelector";
            report.warn(
                "metadata.labels",
                Reason::NotAllowedByIngressPoint,
                message,
                hint,
            );
            selected.truncate(MAX_POINTS);
        }
        selected
    }

    fn no_point(&self, checked: &CheckedAttachment, drafts: &Drafts, report: &mut Report<'_>) {
        let of_vpc = self.resources.ingress_points.iter().filter(|sourced| {
            let name = sourced.name();
            name.namespace == checked.name.namespace
                && validate::vpc_name(&sourced.object.spec.vpc_ref, &name.namespace) == checked.vpc
        });
        let refused = of_vpc.min_by_key(|sourced| sourced.name());
        let message = match refused {
            Some(sourced) => {
                format!(
                    "VPCIngressPoint {} of this VPC has problems itself",
                    sourced.name()
                )
            }
            None => format!(
                "the VPC {} has no VPCIngressPoint in this namespace",
                checked.vpc
            ),
        };
        let hint = match refused {
            Some(_) => "repair it first".to_owned(),
            None => {
                let known = drafts.values().map(|draft| &draft.snapshot.vpc);
                connectors::meant(&checked.vpc, known, "add one, or correct the name")
            }
        };
        report.error("spec.vpcRef.name", Reason::NoIngressPoint, message, hint);
    }

    /// Attachments that were in force and cannot be read now stay as they were, as far as nobody
    /// else has their key and addresses.
    fn retain_attachments(
        &self,
        refused: &BTreeSet<ObjectName>,
        drafts: &mut Drafts,
        taken: &mut BTreeMap<ObjectName, Taken>,
    ) {
        let present: BTreeSet<_> = self
            .resources
            .attachments
            .iter()
            .map(|sourced| sourced.name())
            .collect();
        for (point, draft) in drafts {
            let taken = taken.entry(point.clone()).or_default();
            let old = self
                .previous
                .get(point)
                .map_or(&[][..], |old| &old.attachments);
            for attachment in old {
                let keep = refused.contains(&attachment.name)
                    || !present.contains(&attachment.name)
                        && self.unread(Kind::ConnectorAttachment, &attachment.name);
                let free = !taken.keys.contains_key(&attachment.key)
                    && attachment.addresses.iter().all(|address| {
                        !taken.addresses.contains_key(address)
                            && unavailable(address, &draft.snapshot).is_none()
                    });
                if !keep || !free {
                    continue;
                }
                let mut attachment = attachment.clone();
                attachment.routes = prefixes::intersect(&attachment.routes, &draft.snapshot.routes);
                taken.keys.insert(attachment.key, attachment.name.clone());
                draft.snapshot.attachments.push(attachment);
            }
        }
    }
}

fn selects(draft: &Draft, checked: &CheckedAttachment) -> bool {
    match &draft.selection {
        Selection::All => true,
        Selection::Labels(selector) => labels::matches(selector, &checked.labels),
        Selection::Names(names) => names.contains(&checked.name),
    }
}

/// Puts an attachment into a snapshot, if its key and its addresses are free.
fn place(
    checked: &CheckedAttachment,
    key: ConnectorKey,
    snapshot: &mut Snapshot,
    taken: &mut Taken,
    report: &mut Report<'_>,
) {
    let point = &snapshot.ingress_point;
    if snapshot.attachments.len() >= MAX_ATTACHMENTS {
        let message = format_args!("{point} has {MAX_ATTACHMENTS} attachments already");
        let hint = "add an ingress point with a selector of its own";
        report.error("", Reason::SnapshotTooLarge, message, hint);
        return;
    }
    if let Some(winner) = taken.keys.get(&key) {
        let message = format_args!(
            "the key of {} is attached to this VPC by ConnectorAttachment {winner}, which has \
             precedence",
            checked.connector
        );
        let hint = "one key has one attachment in a VPC; remove one of them";
        report.error("spec.connectorRef.name", Reason::Conflicted, message, hint);
        return;
    }
    let Some((ipv4, ipv6)) = families(checked, snapshot, report) else {
        return;
    };
    if !addresses_free(checked, snapshot, taken, report) {
        return;
    }
    taken.keys.insert(key, checked.name.clone());
    for address in &checked.addresses {
        taken.addresses.insert(*address, checked.name.clone());
    }
    let routes = routes(checked, snapshot, report);
    snapshot.attachments.push(Attachment {
        name: checked.name.clone(),
        connector: checked.connector.name.clone(),
        key,
        ipv4,
        ipv6,
        addresses: checked.addresses.clone(),
        routes,
        suspended: checked.suspended,
        limits: checked.limits,
    });
}

fn families(
    checked: &CheckedAttachment,
    snapshot: &Snapshot,
    report: &mut Report<'_>,
) -> Option<(bool, bool)> {
    let pools = (
        has_family(&snapshot.pools, true),
        has_family(&snapshot.pools, false),
    );
    let Some(wanted) = checked.families else {
        return Some(pools);
    };
    let both = (wanted.0 && pools.0, wanted.1 && pools.1);
    let field = "spec.ipAllocation.families";
    let point = &snapshot.ingress_point;
    if both == (false, false) {
        let message = format_args!("{point} has no pool of a wanted family");
        let hint = "add a pool there, or ask for another family";
        report.error(field, Reason::AddressUnavailable, message, hint);
        return None;
    }
    if both != wanted {
        let missing = if wanted.0 && !pools.0 { "IPv4" } else { "IPv6" };
        let message = format_args!("{point} has no {missing} pool");
        let hint = "add a pool there, or remove the family here";
        report.warn(field, Reason::AddressUnavailable, message, hint);
    }
    Some(both)
}

fn addresses_free(
    checked: &CheckedAttachment,
    snapshot: &Snapshot,
    taken: &Taken,
    report: &mut Report<'_>,
) -> bool {
    let mut free = true;
    for (i, address) in checked.addresses.iter().enumerate() {
        let field = format!("spec.ipAllocation.addresses[{i}]");
        if let Some(winner) = taken.addresses.get(address) {
            let message = format_args!(
                "{address} belongs to ConnectorAttachment {winner}, which has precedence"
            );
            report.error(&field, Reason::Conflicted, message, "use another address");
            free = false;
        } else if let Some(why) = unavailable(address, snapshot) {
            let pools: Vec<_> = snapshot
                .pools
                .iter()
                .map(|p| p.prefix.to_string())
                .collect();
            let hint = format!("use a free address of {}", pools.join(" or "));
            let message = format!("{address} {why} of {}", snapshot.ingress_point);
            report.error(&field, Reason::AddressUnavailable, message, hint);
            free = false;
        }
    }
    free
}

/// Why an address cannot be given out.
pub(crate) fn unavailable(address: &IpAddr, snapshot: &Snapshot) -> Option<&'static str> {
    let mut pools = snapshot.pools.iter();
    let Some(pool) = pools.find(|pool| pool.prefix.contains(address)) else {
        return Some("is in no pool");
    };
    if pool.reserved.iter().any(|part| part.contains(address)) {
        return Some("is in a reserved part of a pool");
    }
    if gateway_address(&pool.prefix) == Some(*address) {
        return Some("is the gateway's own address in a pool");
    }
    let wide = pool.prefix.max_prefix_len() - pool.prefix.prefix_len() > 1;
    let edge = *address == pool.prefix.network()
        || address.is_ipv4() && *address == pool.prefix.broadcast();
    (wide && edge).then_some("is the network or broadcast address of a pool")
}

/// The address that a gateway answers on in a pool: its first host. None in a pool of
/// one address, which is a client's.
fn gateway_address(pool: &IpNet) -> Option<IpAddr> {
    match pool.max_prefix_len() - pool.prefix_len() {
        0 => None,
        // RFC 3021 and RFC 6164: the two addresses of a point-to-point prefix are both hosts.
        1 => Some(pool.network()),
        _ => pool.hosts().find(|host| *host != pool.network()),
    }
}

/// The part of the ingress point's routes that the attachment may reach. An empty result means
/// nothing, not everything.
fn routes(checked: &CheckedAttachment, snapshot: &Snapshot, report: &mut Report<'_>) -> Vec<IpNet> {
    if checked.allowed_routes.is_empty() {
        return snapshot.routes.clone();
    }
    for (i, route) in checked.allowed_routes.iter().enumerate() {
        // A wider prefix than what is offered is a way to say "all of it there".
        if !prefixes::intersect(&snapshot.routes, std::slice::from_ref(route)).is_empty() {
            continue;
        }
        let message = format_args!(
            "no part of {route} is in the routes of {}",
            snapshot.ingress_point
        );
        let offered: Vec<_> = snapshot.routes.iter().map(ToString::to_string).collect();
        let hint = format!("the routes are {}", offered.join(", "));
        let field = format!("spec.allowedRoutes[{i}]");
        report.warn(&field, Reason::RouteOutsideVPC, message, hint);
    }
    prefixes::intersect(&snapshot.routes, &checked.allowed_routes)
}
