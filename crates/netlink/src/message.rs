//! Routes and rules to netlink messages and back.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use masque_srv6::{Behaviour, Family, Route, RouteAction, Rule};
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteLwEnCapType, RouteLwTunnelEncap, RouteMessage,
        RouteProtocol, RouteScope, RouteSeg6IpTunnel, RouteSeg6LocalTunnel, RouteType, Seg6Header,
        Seg6LocalAction, Seg6Mode,
    },
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{kernel::ROUTE_PROTOCOL, observe::RouteKey};

/// `SEG6_IPTUN_MODE_ENCAP_RED`: no segment routing header for a single segment.
const ENCAP_RED: Seg6Mode = Seg6Mode::Other(3);
/// `RTPROT_KERNEL`, which owns the rules that every namespace is born with.
const PROTOCOL_KERNEL: RouteProtocol = RouteProtocol::Kernel;

/// The message that makes `route`; `link` is the index of the interface that it names.
pub(crate) fn route_message(route: &Route, link: Option<u32>) -> RouteMessage {
    let key = RouteKey::of(route);
    let mut message = key_message(&key, ROUTE_PROTOCOL);
    message.header.kind = match route.action {
        RouteAction::Blackhole => RouteType::BlackHole,
        _ => RouteType::Unicast,
    };
    // IPv4 wants the scope said: a route without a gateway reaches hosts on the link.
    message.header.scope = match (&route.action, Family::of(&route.destination)) {
        (RouteAction::Blackhole, _) | (_, Family::Ipv6) => RouteScope::Universe,
        _ => RouteScope::Link,
    };
    message.attributes.extend(link.map(RouteAttribute::Oif));
    let encap = match &route.action {
        RouteAction::Blackhole | RouteAction::Device { .. } => return message,
        RouteAction::Encapsulate { sid, .. } => {
            let mut header = Seg6Header::default();
            header.mode = ENCAP_RED;
            header.segments = vec![sid.0];
            message
                .attributes
                .push(RouteAttribute::EncapType(RouteLwEnCapType::Seg6));
            vec![RouteLwTunnelEncap::Seg6(RouteSeg6IpTunnel::Seg6(header))]
        }
        RouteAction::Decapsulate { behaviour, .. } => {
            message
                .attributes
                .push(RouteAttribute::EncapType(RouteLwEnCapType::Seg6Local));
            local_attributes(*behaviour)
                .map(RouteLwTunnelEncap::Seg6Local)
                .into()
        }
    };
    message.attributes.push(RouteAttribute::Encap(encap));
    message
}

fn local_attributes(behaviour: Behaviour) -> [RouteSeg6LocalTunnel; 2] {
    use RouteSeg6LocalTunnel as Local;
    match behaviour {
        Behaviour::EndDt46 { vrf_table } => [
            Local::Action(Seg6LocalAction::EndDt46),
            Local::VrfTable(vrf_table),
        ],
        Behaviour::EndDt6 { table } => {
            [Local::Action(Seg6LocalAction::EndDt6), Local::Table(table)]
        }
        Behaviour::EndDx4 { next_hop } => {
            [Local::Action(Seg6LocalAction::EndDx4), Local::Nh4(next_hop)]
        }
    }
}

/// What every message about a route begins with.
pub(crate) fn key_message(key: &RouteKey, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(&key.destination));
    message.header.destination_prefix_length = key.destination.prefix_len();
    message.header.protocol = RouteProtocol::from(protocol);
    if key.destination.prefix_len() > 0 {
        let address = RouteAddress::from(key.destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(address));
    }
    message.attributes.push(RouteAttribute::Table(key.table));
    message
        .attributes
        .push(RouteAttribute::Priority(key.metric));
    message
}

/// The message that deletes the route of that key.
pub(crate) fn delete_message(key: &RouteKey, protocol: u8) -> RouteMessage {
    let mut message = key_message(key, protocol);
    // IPv4 compares the scope unless it is this.
    message.header.scope = RouteScope::NoWhere;
    message
}

/// A route of ours as the kernel tells it; `None` for one of anybody else. The action is `None` if
/// it is not one that this crate makes.
pub(crate) fn route_of(
    message: &RouteMessage,
    links: &BTreeMap<u32, String>,
) -> Option<(RouteKey, Option<RouteAction>)> {
    if message.header.protocol != RouteProtocol::from(ROUTE_PROTOCOL) {
        return None;
    }
    let mut address = unspecified(message.header.address_family)?;
    let mut table = u32::from(message.header.table);
    let (mut metric, mut link, mut encap, mut plain) = (0, None, None, true);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(a)) => address = (*a).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(a)) => address = (*a).into(),
            RouteAttribute::Table(t) => table = *t,
            RouteAttribute::Priority(m) => metric = *m,
            RouteAttribute::Oif(index) => link = links.get(index).cloned(),
            RouteAttribute::Encap(e) => encap = Some(e.as_slice()),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                plain = false;
            }
            _ => {}
        }
    }
    let destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    let action = match (message.header.kind, encap) {
        (RouteType::BlackHole, _) => Some(RouteAction::Blackhole),
        (RouteType::Unicast, None) => link.map(|link| RouteAction::Device { link }),
        (RouteType::Unicast, Some(encap)) => link.and_then(|link| encap_action(encap, link)),
        _ => None,
    };
    Some((
        RouteKey {
            table,
            destination,
            metric,
        },
        action.filter(|_| plain),
    ))
}

fn encap_action(encap: &[RouteLwTunnelEncap], link: String) -> Option<RouteAction> {
    use RouteSeg6LocalTunnel as Local;
    if let [RouteLwTunnelEncap::Seg6(RouteSeg6IpTunnel::Seg6(header))] = encap {
        let [segment] = header.segments[..] else {
            return None;
        };
        let ours = header.mode == ENCAP_RED && header.hmac.is_none();
        return ours.then_some(RouteAction::Encapsulate {
            sid: masque_srv6::Sid(segment),
            link,
        });
    }
    let (mut action, mut parameter) = (None, None);
    for attribute in encap {
        match attribute {
            RouteLwTunnelEncap::Seg6Local(Local::Action(a)) => action = Some(*a),
            RouteLwTunnelEncap::Seg6Local(
                p @ (Local::Table(_) | Local::VrfTable(_) | Local::Nh4(_)),
            ) => parameter = Some(p),
            _ => {}
        }
    }
    let behaviour = match (action?, parameter?) {
        (Seg6LocalAction::EndDt46, Local::VrfTable(t)) => Behaviour::EndDt46 { vrf_table: *t },
        (Seg6LocalAction::EndDt6, Local::Table(t)) => Behaviour::EndDt6 { table: *t },
        (Seg6LocalAction::EndDx4, Local::Nh4(a)) => Behaviour::EndDx4 { next_hop: *a },
        _ => return None,
    };
    Some(RouteAction::Decapsulate { behaviour, link })
}

/// The message that makes or deletes `rule`.
pub(crate) fn rule_message(rule: &Rule) -> RuleMessage {
    rule_message_of(rule, RouteProtocol::from(ROUTE_PROTOCOL))
}

/// The rule of the local table as the kernel itself makes it, at priority 0.
pub(crate) fn kernel_local_rule(family: Family) -> RuleMessage {
    let table = u32::from(libc::RT_TABLE_LOCAL);
    rule_message_of(
        &Rule {
            family,
            priority: 0,
            from: None,
            iif: None,
            table,
        },
        PROTOCOL_KERNEL,
    )
}

fn rule_message_of(rule: &Rule, protocol: RouteProtocol) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.action = RuleAction::ToTable;
    message
        .attributes
        .push(RuleAttribute::Priority(rule.priority));
    message.attributes.push(RuleAttribute::Table(rule.table));
    message.attributes.push(RuleAttribute::Protocol(protocol));
    if let Some(from) = &rule.from {
        message.header.src_len = from.prefix_len();
        message
            .attributes
            .push(RuleAttribute::Source(from.network()));
    }
    message
        .attributes
        .extend(rule.iif.clone().map(RuleAttribute::Iifname));
    message
}

/// A rule as the kernel tells it, with its protocol number.
pub(crate) fn rule_of(message: &RuleMessage) -> Option<(Rule, u8)> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let table = u32::from(message.header.table);
    let mut rule = Rule {
        family,
        priority: 0,
        from: None,
        iif: None,
        table,
    };
    let mut protocol = RouteProtocol::Unspec;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(p) => protocol = *p,
            RuleAttribute::Iifname(name) => rule.iif = Some(name.clone()),
            RuleAttribute::Source(from) => {
                rule.from = IpNet::new(*from, message.header.src_len).ok();
            }
            _ => {}
        }
    }
    Some((rule, protocol.into()))
}

/// Whether it is the local table's rule in its first place.
pub(crate) fn is_kernel_local_rule(rule: &Rule) -> bool {
    let anything = rule.from.is_none() && rule.iif.is_none();
    rule.priority == 0 && rule.table == u32::from(libc::RT_TABLE_LOCAL) && anything
}

pub(crate) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
