//! What ought to happen, as plainly as it can be written.

use std::collections::BTreeMap;
use std::net::IpAddr;

use masque_model::{
    Action, AttachmentSet, ConnectorKey, Direction, Mode, ObjectName, ProtocolMatch, Snapshot,
};

use crate::generate::{Kind, Probe, UNIX_S};

/// A session that is open.
#[derive(Clone, Debug)]
pub(crate) struct Open {
    pub(crate) number: u64,
    pub(crate) vpc: usize,
    pub(crate) attachment: ObjectName,
    pub(crate) key: ConnectorKey,
    pub(crate) shard: u16,
    pub(crate) addresses: Vec<IpAddr>,
}

/// A flow as the gateway remembers it, the client's side first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flow {
    vpc: usize,
    attachment: ObjectName,
    key: ConnectorKey,
    protocol: u8,
    client: (IpAddr, u16),
    remote: (IpAddr, u16),
    /// Who asks, of an echo.
    asker: Option<bool>,
}

/// The reference. See the [crate].
#[derive(Debug)]
pub struct Model {
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) open: Vec<Open>,
    /// The flows that were opened; true if by the client.
    flows: BTreeMap<Flow, bool>,
}

impl Model {
    /// A gateway that runs these Snapshots, without sessions.
    pub(crate) fn new(snapshots: Vec<Snapshot>) -> Self {
        Self {
            snapshots,
            open: Vec::new(),
            flows: BTreeMap::new(),
        }
    }

    /// The session that carries the traffic of the attachment which has `address` in a VPC.
    pub(crate) fn carrier(&self, vpc: usize, address: IpAddr) -> Option<&Open> {
        let holder = self
            .open
            .iter()
            .find(|open| open.vpc == vpc && open.addresses.contains(&address))?;
        self.newest(holder)
    }

    fn newest(&self, open: &Open) -> Option<&Open> {
        let same = |other: &&Open| {
            other.vpc == open.vpc && other.attachment == open.attachment && other.key == open.key
        };
        self.open
            .iter()
            .filter(same)
            .max_by_key(|other| other.number)
    }

    pub(crate) fn close(&mut self, number: u64) {
        let Some(place) = self.open.iter().position(|open| open.number == number) else {
            return;
        };
        let closed = self.open.remove(place);
        // The flows of an attachment go with its last session; until then they follow the newest one.
        let stays = self.open.iter().any(|other| {
            other.vpc == closed.vpc
                && other.attachment == closed.attachment
                && other.key == closed.key
        });
        if !stays {
            self.flows.retain(|flow, _| {
                flow.vpc != closed.vpc
                    || flow.attachment != closed.attachment
                    || flow.key != closed.key
            });
        }
    }

    /// Whether a packet from the client of a session goes into its VPC.
    pub(crate) fn goes_up(&mut self, session: u64, probe: &Probe) -> bool {
        let Some(open) = self
            .open
            .iter()
            .find(|open| open.number == session)
            .cloned()
        else {
            return false;
        };
        self.newest(&open)
            .is_some_and(|newest| newest.number == session)
            && open.addresses.contains(&probe.sender())
            && is_elsewhere(probe.receiver())
            && !is_fabric(probe.receiver())
            && !self.is_gateway(open.vpc, probe.receiver())
            && self.passes(&open, true, probe)
    }

    /// The session that a packet from a VPC goes to.
    pub(crate) fn goes_down(&mut self, vpc: usize, probe: &Probe) -> Option<u64> {
        if !self.may_come_down(vpc, probe) {
            return None;
        }
        let carrier = self.carrier(vpc, probe.receiver())?.clone();
        self.passes(&carrier, false, probe)
            .then_some(carrier.number)
    }

    /// Whether anybody looks for the session of a packet from a VPC.
    pub(crate) fn may_come_down(&self, vpc: usize, probe: &Probe) -> bool {
        is_elsewhere(probe.receiver())
            && is_elsewhere(probe.sender())
            && !self.is_gateway(vpc, probe.receiver())
    }

    fn is_gateway(&self, vpc: usize, address: IpAddr) -> bool {
        // The first host of each pool.
        self.snapshots[vpc]
            .pools
            .iter()
            .any(|pool| pool.prefix.hosts().nth(pool_first(pool)) == Some(address))
    }

    fn passes(&mut self, open: &Open, up: bool, probe: &Probe) -> bool {
        if probe.kind == Kind::Routing && up {
            return false;
        }
        let quoted_up = up != probe.error_from.is_some();
        let (client, remote) = if quoted_up {
            (
                (probe.source, probe.ports.0),
                (probe.destination, probe.ports.1),
            )
        } else {
            (
                (probe.destination, probe.ports.1),
                (probe.source, probe.ports.0),
            )
        };
        let asker = match probe.kind {
            Kind::EchoRequest => Some(quoted_up),
            Kind::EchoReply => Some(!quoted_up),
            Kind::Udp | Kind::Tcp { .. } | Kind::Routing => None,
        };
        let flow = Flow {
            vpc: open.vpc,
            attachment: open.attachment.clone(),
            key: open.key,
            protocol: protocol_of(probe.kind, client.0),
            client,
            remote,
            asker,
        };
        if probe.error_from.is_some() {
            return self.error_passes(&flow);
        }
        let opens = match probe.kind {
            Kind::Tcp { syn } => syn,
            Kind::EchoRequest => true,
            Kind::Udp | Kind::EchoReply | Kind::Routing => false,
        };
        if let Some(by_client) = self.flows.get(&flow).copied() {
            if !self.may_open(&flow, by_client) {
                self.flows.remove(&flow);
                if by_client == up {
                    return false;
                }
            } else if by_client == up || !opens {
                return true;
            }
        }
        // The first packet of a flow, or an attempt to take one over.
        if probe.kind == Kind::EchoReply || !self.may_open(&flow, up) {
            return false;
        }
        self.flows.insert(flow, up);
        true
    }

    /// An error passes if a flow that the quoted packet may belong to is known and allowed; of an
    /// echo, whoever asked.
    fn error_passes(&mut self, quoted: &Flow) -> bool {
        let askers: &[Option<bool>] = if quoted.asker.is_some() {
            &[Some(true), Some(false)]
        } else {
            &[None]
        };
        for asker in askers {
            let flow = Flow {
                asker: *asker,
                ..quoted.clone()
            };
            if let Some(by_client) = self.flows.get(&flow).copied() {
                if self.may_open(&flow, by_client) {
                    return true;
                }
                self.flows.remove(&flow);
            }
        }
        false
    }

    /// Whether the routes and rules of now let the client, or the VPC, open a flow.
    fn may_open(&self, flow: &Flow, by_client: bool) -> bool {
        let snapshot = &self.snapshots[flow.vpc];
        let attachment = snapshot
            .attachments
            .iter()
            .find(|a| a.name == flow.attachment && a.key == flow.key && !a.suspended);
        let Some(attachment) = attachment else {
            return false;
        };
        let remote = flow.remote.0;
        if !attachment
            .routes
            .iter()
            .any(|route| route.contains(&remote))
        {
            return false;
        }
        let direction = if by_client {
            Direction::ToVpc
        } else {
            Direction::FromVpc
        };
        let port = if by_client {
            flow.remote.1
        } else {
            flow.client.1
        };
        let matching = |action: Action| {
            snapshot.rules.iter().any(|rule| {
                rule.mode == Mode::Enforce
                    && rule.action == action
                    && rule.direction == direction
                    && rule.not_after_unix_s.is_none_or(|end| UNIX_S < end)
                    && match &rule.attachments {
                        AttachmentSet::All => true,
                        AttachmentSet::Some(names) => names.contains(&flow.attachment),
                    }
                    && (rule.prefixes.is_empty()
                        || rule.prefixes.iter().any(|matched| {
                            matched.prefix.contains(&remote)
                                && matched.except.iter().all(|hole| !hole.contains(&remote))
                        }))
                    && (rule.ports.is_empty()
                        || rule.ports.iter().any(|wanted| {
                            let icmp = if remote.is_ipv4() { 1 } else { 58 };
                            let protocol = match wanted.protocol {
                                ProtocolMatch::Any => true,
                                ProtocolMatch::Icmp => flow.protocol == icmp,
                                ProtocolMatch::Number(number) => flow.protocol == number,
                            };
                            let in_range = wanted.ports.is_none_or(|(first, last)| {
                                matches!(flow.protocol, 6 | 17) && first <= port && port <= last
                            });
                            protocol && in_range
                        }))
            })
        };
        matching(Action::Allow) && !matching(Action::Deny)
    }
}

fn protocol_of(kind: Kind, client: IpAddr) -> u8 {
    match kind {
        Kind::Udp | Kind::Routing => 17,
        Kind::Tcp { .. } => 6,
        Kind::EchoRequest | Kind::EchoReply if client.is_ipv4() => 1,
        Kind::EchoRequest | Kind::EchoReply => 58,
    }
}

/// `hosts` of `ipnet` begins with the network address in IPv6, not in IPv4.
fn pool_first(pool: &masque_model::AddressPool) -> usize {
    usize::from(pool.prefix.addr().is_ipv6())
}

/// An address of one host that is not on the tunnel's own link.
fn is_elsewhere(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_multicast()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_broadcast()
                || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_multicast()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified())
        }
    }
}

fn is_fabric(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.segments()[..4] == [0x2001, 0xdb8, 0xff03, 1],
    }
}
