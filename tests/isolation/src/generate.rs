//! Snapshots, edits and packets.

use std::net::IpAddr;

use ipnet::IpNet;
use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, Mode, ObjectName, PortMatch, PrefixMatch, ProtocolMatch, Rule,
    SessionLimits, Sid, Snapshot, StaticFabric,
};
use masque_packet::build::{TcpFields, build_icmp_echo, build_ip, build_tcp, build_udp, tcp_flag};
use masque_packet::icmp::{IcmpError, Unreachable, build_error};
use masque_packet::protocol;

use crate::random::Random;

/// Attachments of each VPC.
pub(crate) const ATTACHMENTS: usize = 6;

/// The time at which everything happens.
pub(crate) const UNIX_S: u64 = 1_000_000;

fn parse<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn parse_one<T: std::str::FromStr>(random: &mut Random, texts: &[&str]) -> T {
    let text: &&str = random.pick(texts);
    parse(text)
}

/// The prefixes that attachments have routes to: workloads and the other clients.
const ROUTES: [&str; 4] = [
    "10.0.0.0/16",
    "10.200.0.0/28",
    "fd00:1::/32",
    "fd00:200::/124",
];

const RULE_PREFIXES: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/16",
    "10.0.1.0/24",
    "10.0.1.5/32",
    "10.200.0.0/28",
    "::/0",
    "fd00:1::/64",
    "fd00:1::5/128",
    "fd00:200::/124",
];

/// Workloads, other VPC addresses, places that nobody may reach.
const REMOTES: [&str; 18] = [
    "10.0.0.5",
    "10.0.1.5",
    "10.0.1.6",
    "10.0.2.9",
    "10.0.255.1",
    "10.1.0.1",
    "192.0.2.1",
    "10.200.0.1",
    "169.254.1.1",
    "224.0.0.5",
    "127.0.0.1",
    "fd00:1::5",
    "fd00:1::6",
    "fd00:1:0:1::5",
    "fd00:2::1",
    "fd00:200::1",
    "fe80::5",
    "2001:db8:ff03:1:e001::",
];

/// A key that attachments of all VPCs have: the same client may be in several.
pub(crate) fn key(number: u64) -> ConnectorKey {
    let mut bytes = [9; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    ConnectorKey::from_bytes(bytes)
}

pub(crate) fn vpc_name(vpc: usize) -> String {
    format!("vpc-{vpc}")
}

pub(crate) fn snapshot(random: &mut Random, vpc: usize) -> Snapshot {
    let attachments = (0..ATTACHMENTS).map(|number| Attachment {
        name: ObjectName::new("default", format!("a{number}")),
        connector: String::new(),
        key: key(number as u64 + 2),
        ipv4: true,
        ipv6: true,
        addresses: Vec::new(),
        routes: ROUTES.map(parse).to_vec(),
        suspended: false,
        limits: AttachmentLimits {
            sessions: 2,
            bits_per_second: None,
        },
    });
    let pool = |prefix| AddressPool {
        prefix: parse(prefix),
        reserved: Vec::new(),
    };
    Snapshot {
        version: 1,
        ingress_point: ObjectName::new("default", format!("gateway-{vpc}")),
        vpc: ObjectName::new("default", vpc_name(vpc)),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![pool("10.200.0.0/28"), pool("fd00:200::/124")],
        routes: ROUTES.map(parse).to_vec(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid(parse("2001:db8:ff03:1:e001::")),
            local_sid_ipv4: None,
            source_address: parse("2001:db8:ff03:1::1"),
            routes: Vec::new(),
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 0,
            resume_window_ms: 0,
            address_quarantine_ms: 0,
            max_total: 100,
        },
        attachments: attachments.collect(),
        rules: rules(random),
        drain_deadline_ms: 0,
    }
}

/// Changes one thing of a Snapshot.
pub(crate) fn edit(random: &mut Random, snapshot: &mut Snapshot, keys: &mut u64) {
    snapshot.version += 1;
    let who = random.below(snapshot.attachments.len());
    match random.below(8) {
        0..=3 => snapshot.rules = rules(random),
        4 => snapshot.attachments[who].suspended ^= true,
        5 => {
            let routes: Vec<IpNet> = ROUTES.map(parse).to_vec();
            snapshot.attachments[who].routes =
                routes.into_iter().filter(|_| !random.one_in(3)).collect();
        }
        6 => {
            *keys += 1;
            snapshot.attachments[who].key = key(*keys);
        }
        _ => {
            *keys += 1;
            let mut other = snapshot.attachments.remove(who);
            other.name.name = format!("a{keys}");
            other.key = key(*keys);
            snapshot.attachments.push(other);
            snapshot
                .attachments
                .sort_by(|one, two| one.name.cmp(&two.name));
        }
    }
}

fn rules(random: &mut Random) -> Vec<Rule> {
    let mut rules: Vec<Rule> = (0..random.below(14))
        .map(|number| rule(random, number))
        .collect();
    for (direction, times) in [(Direction::ToVpc, 2), (Direction::FromVpc, 3)] {
        if random.one_in(times) {
            rules.push(Rule {
                mode: Mode::Enforce,
                action: Action::Allow,
                direction,
                attachments: AttachmentSet::All,
                prefixes: Vec::new(),
                ports: Vec::new(),
                not_after_unix_s: None,
                ..rule(random, rules.len())
            });
        }
    }
    rules
}

fn rule(random: &mut Random, number: usize) -> Rule {
    let attachments = if random.one_in(2) {
        AttachmentSet::All
    } else {
        let names = (0..ATTACHMENTS).filter(|_| random.one_in(2));
        AttachmentSet::Some(
            names
                .map(|number| ObjectName::new("default", format!("a{number}")))
                .collect(),
        )
    };
    let prefixes = (0..random.below(4)).map(|_| {
        let except = (0..random.below(2)).map(|_| parse_one(random, &RULE_PREFIXES[2..]));
        let except = except.collect();
        PrefixMatch {
            prefix: parse_one(random, &RULE_PREFIXES),
            except,
        }
    });
    let prefixes = prefixes.collect();
    let ports = (0..random.below(3)).map(|_| {
        let protocol = *random.pick(&[
            ProtocolMatch::Any,
            ProtocolMatch::Icmp,
            ProtocolMatch::Number(6),
            ProtocolMatch::Number(17),
        ]);
        let ports = *random.pick(&[None, Some((53, 53)), Some((80, 443)), Some((53, 80))]);
        PortMatch { protocol, ports }
    });
    let ports = ports.collect();
    Rule {
        policy: ObjectName::new("default", "policy"),
        name: format!("rule-{number}"),
        mode: if random.one_in(6) {
            Mode::Audit
        } else {
            Mode::Enforce
        },
        action: if random.one_in(7) {
            Action::Deny
        } else {
            Action::Allow
        },
        direction: *random.pick(&[Direction::ToVpc, Direction::FromVpc]),
        attachments,
        prefixes,
        ports,
        not_after_unix_s: *random.pick(&[None, None, None, Some(UNIX_S), Some(UNIX_S + 1)]),
    }
}

/// What a packet is, for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Udp,
    Tcp {
        syn: bool,
    },
    EchoRequest,
    EchoReply,
    /// With a Routing header.
    Routing,
}

/// A packet as the model sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Both the identifier of an echo.
    pub(crate) ports: (u16, u16),
    pub(crate) kind: Kind,
    /// This packet is an ICMP error about the one above, sent by this router to its source.
    pub(crate) error_from: Option<IpAddr>,
}

impl Probe {
    /// Where the packet comes from.
    pub(crate) fn sender(&self) -> IpAddr {
        self.error_from.unwrap_or(self.source)
    }

    /// Where the packet goes.
    pub(crate) fn receiver(&self) -> IpAddr {
        if self.error_from.is_some() {
            self.source
        } else {
            self.destination
        }
    }

    /// The bytes; `None` if no such packet may exist.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        let (source, destination, (from, to)) = (self.source, self.destination, self.ports);
        let packet = match self.kind {
            Kind::Udp => build_udp(source, destination, from, to, b"isolation"),
            Kind::Tcp { syn } => {
                let flags = if syn { tcp_flag::SYN } else { tcp_flag::ACK };
                let fields = TcpFields {
                    flags,
                    ..TcpFields::default()
                };
                build_tcp(source, destination, from, to, &fields, b"isolation")
            }
            Kind::EchoRequest => build_icmp_echo(source, destination, from, 1, b"isolation"),
            Kind::EchoReply => {
                let mut packet = build_icmp_echo(source, destination, from, 1, b"isolation");
                let (at, reply) = if source.is_ipv4() { (20, 0) } else { (40, 129) };
                packet[at] = reply;
                packet
            }
            Kind::Routing => {
                let mut payload = vec![protocol::UDP, 2, 4, 1, 0, 0, 0, 0];
                payload.extend([0xfd; 16]);
                payload.extend([0; 8]);
                build_ip(source, destination, protocol::ROUTING, &payload)
            }
        };
        let Some(router) = self.error_from else {
            return Some(packet);
        };
        let mut error = vec![0; 1_280];
        let why = IcmpError::DestinationUnreachable(Unreachable::AddressUnreachable);
        let length = build_error(&mut error, &packet, router, why)?;
        error.truncate(length);
        Some(error)
    }
}

/// A packet between `ours`, or one of the other `clients`, and somewhere; often right, often not.
pub(crate) fn probe(
    random: &mut Random,
    ours: &[IpAddr],
    clients: &[IpAddr],
    direction: Direction,
) -> Probe {
    let client = match random.below(10) {
        0 if !clients.is_empty() => *random.pick(clients),
        1 => parse_one(random, &REMOTES),
        _ if ours.is_empty() => parse("10.200.0.9"),
        _ => *random.pick(ours),
    };
    let remote = loop {
        let remote: IpAddr = match random.below(8) {
            0 if !clients.is_empty() => *random.pick(clients),
            1..=5 => parse_one(random, &["10.0.0.5", "10.0.1.5", "10.0.1.6", "fd00:1::5"]),
            _ => parse_one(random, &REMOTES),
        };
        if remote.is_ipv4() == client.is_ipv4() {
            break remote;
        }
    };
    let kind = match random.below(10) {
        0..=3 => Kind::Udp,
        4..=6 => Kind::Tcp {
            syn: random.one_in(2),
        },
        7 => Kind::EchoRequest,
        8 => Kind::EchoReply,
        _ if random.one_in(8) && client.is_ipv6() => Kind::Routing,
        _ => Kind::Udp,
    };
    let (client_port, remote_port) = match kind {
        Kind::EchoRequest | Kind::EchoReply => {
            let identifier = *random.pick(&[1, 53]);
            (identifier, identifier)
        }
        Kind::Routing => (0, 0),
        Kind::Udp | Kind::Tcp { .. } => (
            *random.pick(&[53, 1_000, 1_001]),
            *random.pick(&[22, 53, 80, 443]),
        ),
    };
    let error = random.one_in(12) && !matches!(kind, Kind::Routing);
    // The packet that an error quotes went the other way.
    let upwards = (direction == Direction::ToVpc) != error;
    let (source, destination, ports) = if upwards {
        (client, remote, (client_port, remote_port))
    } else {
        (remote, client, (remote_port, client_port))
    };
    let error_from = error.then(|| match random.below(3) {
        0 if client.is_ipv4() && direction == Direction::FromVpc => parse("172.16.0.1"),
        1 if !clients.is_empty() => {
            let other: IpAddr = *random.pick(clients);
            if other.is_ipv4() == client.is_ipv4() {
                other
            } else {
                destination
            }
        }
        _ => destination,
    });
    Probe {
        source,
        destination,
        ports,
        kind,
        error_from,
    }
}
