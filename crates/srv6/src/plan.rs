//! The kernel state that a set of VPCs needs, computed from their Snapshots.
//!
//! Every VPC gets a slot, and from it two routing tables:
//! - the **egress** table routes what the gateway wrote into the VPC's TUN: one encapsulating route
//!   for each prefix of the fabric, and nothing else;
//! - the **ingress** table routes what was decapsulated from the VPC's SID: the client pools to the
//!   TUN, and nothing else.
//!
//! Both end in a blackhole default, so a packet of a VPC never falls through to another table, and
//! a packet from the fabric is never sent back to it (one table for both would let two gateways
//! with each other's routes bounce it for ever: seg6 encapsulation lowers no inner hop limit).
//! Blackhole, not unreachable: the kernel would send the ICMP error, with an excerpt of a tenant's
//! packet, through the main table.
//!
//! ```text
//! TUN ── rule iif TUN from TUNSRC ──► main          (the outer packet, looked up once more)
//!     └─ rule iif TUN ──► egress table ── encap.red SID ──► outer packet, as if from TUN
//! underlay ── main: SID/128 ── End.DT46 (VRF of the ingress table), or End.DT6 ingress table
//!          │                                                            └──► pool dev TUN
//!          └─ main: IPv4 SID/128 ── End.DX4 next hop ── main: next hop/32 dev TUN
//! ```
//! End.DT46 looks the inner packet up by the VRF's table and needs a kernel with VRF. Without, IPv6
//! is End.DT6 and IPv4 is End.DX4, to a link-local next hop that stands for the TUN, so that the
//! inner destination never meets the main table.
//!
//! **The local table.** By default its rule comes first, and a packet from a TUN to an address that
//! the gateway's own host happens to have would be delivered to the host. So the rule moves behind
//! ours and VRF's; nothing else changes by that.
//!
//! **Multicast and broadcast** bypass IPv4 routing tables: the packet loop must not write such
//! packets into a TUN.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net};
use masque_model::{Fabric, ObjectName, Sid, Snapshot, StaticFabric};

mod state;

pub use state::{
    Behaviour, Decapsulation, Family, KernelCapabilities, KernelPlan, Route, RouteAction, Rule,
    Sysctl, TunLink, VrfLink,
};

/// First of the tables in use, two for each slot. High and odd enough to be nobody else's ("MQ").
pub const TABLE_BASE: u32 = 0x4d51_0000;
/// Most VPCs in one network namespace: what [`NEXT_HOP_NETWORK`] has room for.
pub const SLOTS_MAX: u16 = 4096;
/// The End.DX4 next hops, one for each slot: a corner of the link-local range (RFC 3927) away from
/// the addresses that clouds and cluster networks use there.
pub const NEXT_HOP_NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 240, 0), 20);
/// MTU of every TUN, the largest there is: a packet too big for a session is answered inside the
/// tunnel by the gateway, and must not be by the kernel, whose ICMP error would leave by the main
/// table.
pub const TUN_MTU_BYTES: u32 = 65_535;
/// Priority of the rules for outer packets.
pub const OUTER_RULE_PRIORITY: u32 = 900;
/// Priority of the rules that tie a TUN to its egress table. Lower than 1000, where the kernel puts
/// VRF's own rule.
pub const GATEWAY_RULE_PRIORITY: u32 = 910;
/// Where the rule of the local table moves to.
pub const LOCAL_RULE_PRIORITY: u32 = 2000;

/// Routing tables that every namespace has.
const MAIN_TABLE: u32 = 254;
const LOCAL_TABLE: u32 = 255;
/// What IPv6 uses by default, here for both families.
const METRIC: u32 = 1024;
/// Loses to any other default route of the table.
const BLACKHOLE_METRIC: u32 = u32::MAX - 1;

/// The place of one VPC among those of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

impl Slot {
    /// The slot that a table belongs to; `None` for a table of somebody else.
    pub fn of_table(table: u32) -> Option<Self> {
        let place = table.checked_sub(TABLE_BASE)? / 2;
        u16::try_from(place)
            .ok()
            .map(Self)
            .filter(|slot| slot.0 < SLOTS_MAX)
    }

    /// The slot that an End.DX4 next hop stands for.
    pub fn of_next_hop(next_hop: Ipv4Addr) -> Option<Self> {
        if !NEXT_HOP_NETWORK.contains(&next_hop) {
            return None;
        }
        let place = next_hop.to_bits() - NEXT_HOP_NETWORK.network().to_bits();
        u16::try_from(place).ok().map(Self)
    }

    /// The table for packets from the TUN.
    pub fn egress_table(self) -> u32 {
        TABLE_BASE + 2 * u32::from(self.0)
    }

    /// The table for packets from the fabric; the VRF's table where there is one.
    pub fn ingress_table(self) -> u32 {
        self.egress_table() + 1
    }

    /// The End.DX4 next hop that stands for the TUN.
    pub fn next_hop(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(NEXT_HOP_NETWORK.network().to_bits() + u32::from(self.0))
    }

    /// Name of the VRF, if the plan has one.
    pub fn vrf_name(self) -> String {
        format!("mqvrf{}", self.0)
    }
}

/// One VPC to plan for.
#[derive(Clone, Copy, Debug)]
pub struct VpcLinks<'a> {
    /// What it shall be.
    pub snapshot: &'a Snapshot,
    /// Its place; unique in the network namespace, below [`SLOTS_MAX`].
    pub slot: Slot,
    /// Name of its TUN interface, which the gateway opened.
    pub tun: &'a str,
    /// Name of an interface towards the SIDs.
    pub underlay: &'a str,
}

/// Why there is no kernel state that does what the Snapshots ask for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// IPv6 is off.
    #[error(
        "IPv6 is off in this network namespace: turn it on (`sysctl -w \
         net.ipv6.conf.all.disable_ipv6=0`); a kernel that was booted with ipv6.disable=1 must be \
         booted without it"
    )]
    NoIpv6,
    /// No reduced encapsulation.
    #[error(
        "the kernel cannot encapsulate without a segment routing header (encap.red): boot Linux 6.0 \
         or newer with CONFIG_IPV6_SEG6_LWTUNNEL=y (`grep SEG6 /boot/config-$(uname -r)` shows it)"
    )]
    NoEncapRed,
    /// Neither End.DT46 nor End.DT6 with End.DX4.
    #[error(
        "the kernel has neither End.DT46 (Linux 5.14 with CONFIG_NET_VRF) nor End.DT6 and End.DX4 \
         (CONFIG_IPV6_SEG6_LWTUNNEL): load the module (`modprobe vrf`), or boot a kernel that has \
         them (`grep -E 'SEG6|NET_VRF' /boot/config-$(uname -r)` shows it)"
    )]
    NoDecapsulation,
    /// One SID, two families, no VRF.
    #[error(
        "{vpc} uses IPv4, and this kernel has no VRF, where one SID serves both families \
         (End.DT46): load it (`modprobe vrf`) and start the gateway again, or give the fabric a \
         second local SID for IPv4 (spec.fabric.static.localSIDIPv4)"
    )]
    NoIpv4Sid {
        /// The VPC.
        vpc: ObjectName,
    },
    /// The outer source address belongs to the namespace, not to a route.
    #[error(
        "{first} wants the outer source address {first_source} and {second} wants {second_source}, \
         but the kernel has one for all: run them in different pods, or give both the same"
    )]
    TunnelSource {
        /// One ingress point.
        first: Box<ObjectName>,
        /// Its `sourceAddress`.
        first_source: Ipv6Addr,
        /// Another.
        second: Box<ObjectName>,
        /// Its `sourceAddress`.
        second_source: Ipv6Addr,
    },
    /// A SID can lead to one VPC only.
    #[error("local SID {sid} is used by {first} and by {second}: every VPC needs its own")]
    DuplicateSid {
        /// The SID.
        sid: Sid,
        /// One ingress point.
        first: ObjectName,
        /// Another, or the same if it uses the SID for both families.
        second: ObjectName,
    },
    /// Two places for one prefix.
    #[error("{ingress_point} has two SIDs for {prefix}: a prefix lives in one place")]
    DuplicateRoute {
        /// The ingress point.
        ingress_point: ObjectName,
        /// The prefix.
        prefix: IpNet,
    },
    /// A slot or a TUN used twice, or a slot out of range: the caller's mistake.
    #[error("{ingress_point} has slot {slot} and TUN {tun:?}, which is out of range or taken")]
    Slot {
        /// The ingress point.
        ingress_point: ObjectName,
        /// Its slot.
        slot: u16,
        /// Its TUN.
        tun: String,
    },
}

/// What [`plan`] made of the VPCs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The state of all that go together.
    pub state: KernelPlan,
    /// Ingress points that the state has nothing of, and why: the others do not wait for them.
    pub left_out: BTreeMap<ObjectName, PlanError>,
}

/// Computes the kernel state for the VPCs of one network namespace. The result does not depend on
/// their order: of two that exclude each other the first by name stays, but the outer source address
/// is the one that most of them ask for.
///
/// # Errors
/// [`PlanError`] when the kernel can do it for no VPC at all.
pub fn plan(vpcs: &[VpcLinks<'_>], kernel: &KernelCapabilities) -> Result<Planned, PlanError> {
    let mut state = KernelPlan::empty(decapsulation(kernel)?);
    let mut left_out = BTreeMap::new();
    let mut by_name: Vec<&VpcLinks<'_>> = vpcs.iter().collect();
    by_name.sort_by_key(|vpc| &vpc.snapshot.ingress_point);
    // Whole or not at all: part of a VPC would lead its packets astray.
    let alone = |vpc| {
        let mut alone = KernelPlan::empty(state.decapsulation);
        (vpc, plan_vpc(&mut alone, vpc).map(|()| alone))
    };
    let alone: Vec<(&VpcLinks<'_>, _)> = by_name.into_iter().map(alone).collect();
    let possible = alone.iter().filter(|(_, planned)| planned.is_ok());
    let mut taken = Taken {
        source: source_of_most(possible.map(|(vpc, _)| *vpc)),
        ..Taken::default()
    };
    for (vpc, planned) in alone {
        match planned.and_then(|alone| taken.check(vpc).map(|()| alone)) {
            Ok(alone) => {
                taken.take(vpc);
                state.merge(alone);
            }
            Err(error) => {
                left_out.insert(vpc.snapshot.ingress_point.clone(), error);
            }
        }
    }
    if !state.tuns.is_empty() {
        for family in Family::BOTH {
            state.rules.insert(Rule {
                family,
                priority: LOCAL_RULE_PRIORITY,
                from: None,
                iif: None,
                table: LOCAL_TABLE,
            });
        }
    }
    Ok(Planned { state, left_out })
}

/// How packets leave SRv6 on this kernel.
///
/// # Errors
/// [`PlanError`] when it cannot carry any VPC, with the command that mends it.
pub fn decapsulation(kernel: &KernelCapabilities) -> Result<Decapsulation, PlanError> {
    if !kernel.ipv6 {
        return Err(PlanError::NoIpv6);
    }
    if !kernel.encap_red {
        return Err(PlanError::NoEncapRed);
    }
    if kernel.vrf && kernel.end_dt46 {
        return Ok(Decapsulation::EndDt46);
    }
    if kernel.end_dt6 && kernel.end_dx4 {
        return Ok(Decapsulation::EndDt6AndDx4);
    }
    Err(PlanError::NoDecapsulation)
}

/// What only one VPC of a namespace can have, and who has it.
#[derive(Default)]
struct Taken<'a> {
    sids: BTreeMap<Sid, &'a ObjectName>,
    slots: BTreeSet<Slot>,
    tuns: BTreeSet<&'a str>,
    /// The outer source address of all, and who came with it.
    source: Option<Source<'a>>,
}

/// An outer source address, and one ingress point that asks for it.
type Source<'a> = (Ipv6Addr, &'a ObjectName);

impl<'a> Taken<'a> {
    fn check(&self, vpc: &VpcLinks<'_>) -> Result<(), PlanError> {
        let name = &vpc.snapshot.ingress_point;
        let out_of_range = vpc.slot.0 >= SLOTS_MAX;
        if out_of_range || self.slots.contains(&vpc.slot) || self.tuns.contains(vpc.tun) {
            return Err(PlanError::Slot {
                ingress_point: name.clone(),
                slot: vpc.slot.0,
                tun: vpc.tun.to_owned(),
            });
        }
        let fabric = fabric(vpc.snapshot);
        for sid in local_sids(fabric) {
            if let Some(first) = self.sids.get(&sid) {
                let (first, second) = ((*first).clone(), name.clone());
                return Err(PlanError::DuplicateSid { sid, first, second });
            }
        }
        if fabric.local_sid_ipv4 == Some(fabric.local_sid) {
            let (first, second) = (name.clone(), name.clone());
            let sid = fabric.local_sid;
            return Err(PlanError::DuplicateSid { sid, first, second });
        }
        match self.source {
            Some((first_source, first)) if first_source != fabric.source_address => {
                Err(PlanError::TunnelSource {
                    first: Box::new(first.clone()),
                    first_source,
                    second: Box::new(name.clone()),
                    second_source: fabric.source_address,
                })
            }
            _ => Ok(()),
        }
    }

    fn take(&mut self, vpc: &VpcLinks<'a>) {
        let name = &vpc.snapshot.ingress_point;
        let fabric = fabric(vpc.snapshot);
        self.slots.insert(vpc.slot);
        self.tuns.insert(vpc.tun);
        self.sids.extend(local_sids(fabric).map(|sid| (sid, name)));
    }
}

/// The outer source address that the fewest are left out for, and the first by name that asks for it;
/// of several such addresses, that of the first by name.
fn source_of_most<'a>(by_name: impl Iterator<Item = &'a VpcLinks<'a>>) -> Option<Source<'a>> {
    let mut asked: Vec<(Source<'a>, usize)> = Vec::new();
    for vpc in by_name {
        let source = fabric(vpc.snapshot).source_address;
        match asked.iter_mut().find(|((other, _), _)| *other == source) {
            Some((_, times)) => *times += 1,
            None => asked.push(((source, &vpc.snapshot.ingress_point), 1)),
        }
    }
    let most = asked.iter().map(|(_, times)| *times).max()?;
    asked
        .into_iter()
        .find(|(_, times)| *times == most)
        .map(|(source, _)| source)
}

fn local_sids(fabric: &StaticFabric) -> impl Iterator<Item = Sid> {
    std::iter::once(fabric.local_sid).chain(fabric.local_sid_ipv4)
}

fn plan_vpc(plan: &mut KernelPlan, vpc: &VpcLinks<'_>) -> Result<(), PlanError> {
    let fabric = fabric(vpc.snapshot);
    plan.tunnel_source = Some(fabric.source_address);
    plan.tuns.insert(TunLink {
        name: vpc.tun.to_owned(),
        mtu_bytes: TUN_MTU_BYTES,
        slot: vpc.slot,
    });
    plan_egress(plan, vpc, fabric)?;
    plan_ingress(plan, vpc);
    plan_sids(plan, vpc, fabric)?;
    plan_sysctls(plan, vpc);
    Ok(())
}

fn plan_egress(
    plan: &mut KernelPlan,
    vpc: &VpcLinks<'_>,
    fabric: &StaticFabric,
) -> Result<(), PlanError> {
    let table = vpc.slot.egress_table();
    let rule = |family, priority, from, table| Rule {
        family,
        priority,
        from,
        iif: Some(vpc.tun.to_owned()),
        table,
    };
    for family in Family::BOTH {
        plan.rules
            .insert(rule(family, GATEWAY_RULE_PRIORITY, None, table));
        plan.routes.insert(blackhole(table, family));
    }
    // seg6 looks the outer packet up as if it had come from the TUN. Its source tells it apart from
    // the packets of clients, whose source the packet loop has checked.
    let from = Some(IpNet::from(std::net::IpAddr::from(fabric.source_address)));
    plan.rules
        .insert(rule(Family::Ipv6, OUTER_RULE_PRIORITY, from, MAIN_TABLE));
    let mut prefixes = BTreeSet::new();
    for route in &fabric.routes {
        let destination = route.prefix.trunc();
        if !prefixes.insert(destination) {
            return Err(PlanError::DuplicateRoute {
                ingress_point: vpc.snapshot.ingress_point.clone(),
                prefix: destination,
            });
        }
        let action = RouteAction::Encapsulate {
            sid: route.sid,
            link: vpc.underlay.to_owned(),
        };
        plan.routes.insert(Route {
            table,
            destination,
            metric: METRIC,
            action,
        });
    }
    Ok(())
}

fn plan_ingress(plan: &mut KernelPlan, vpc: &VpcLinks<'_>) {
    let table = vpc.slot.ingress_table();
    for family in Family::BOTH {
        plan.routes.insert(blackhole(table, family));
    }
    for pool in &vpc.snapshot.pools {
        plan.routes.insert(to_tun(vpc, table, pool.prefix.trunc()));
    }
    if plan.decapsulation == Decapsulation::EndDt46 {
        plan.vrfs.insert(VrfLink {
            name: vpc.slot.vrf_name(),
            table,
        });
    }
}

fn plan_sids(
    plan: &mut KernelPlan,
    vpc: &VpcLinks<'_>,
    fabric: &StaticFabric,
) -> Result<(), PlanError> {
    let table = vpc.slot.ingress_table();
    let local = |sid: Sid, behaviour, link: &str| Route {
        table: MAIN_TABLE,
        destination: IpNet::from(std::net::IpAddr::from(sid.0)),
        metric: METRIC,
        action: RouteAction::Decapsulate {
            behaviour,
            link: link.to_owned(),
        },
    };
    match plan.decapsulation {
        Decapsulation::EndDt46 => {
            let vrf = vpc.slot.vrf_name();
            // A second SID is for kernels without VRF; the fabric may use it all the same.
            for sid in local_sids(fabric) {
                plan.routes
                    .insert(local(sid, Behaviour::EndDt46 { vrf_table: table }, &vrf));
            }
        }
        Decapsulation::EndDt6AndDx4 => {
            let behaviour = Behaviour::EndDt6 { table };
            plan.routes
                .insert(local(fabric.local_sid, behaviour, vpc.underlay));
            if let Some(sid) = fabric.local_sid_ipv4 {
                let next_hop = vpc.slot.next_hop();
                let behaviour = Behaviour::EndDx4 { next_hop };
                plan.routes.insert(local(sid, behaviour, vpc.underlay));
                let host = IpNet::from(std::net::IpAddr::from(next_hop));
                plan.routes.insert(to_tun(vpc, MAIN_TABLE, host));
            } else if uses_ipv4(vpc.snapshot) {
                return Err(PlanError::NoIpv4Sid {
                    vpc: vpc.snapshot.vpc.clone(),
                });
            }
        }
    }
    Ok(())
}

fn plan_sysctls(plan: &mut KernelPlan, vpc: &VpcLinks<'_>) {
    let mut set = |path: String, value: &str, only_from: Option<&str>| {
        let (value, only_from) = (value.to_owned(), only_from.map(str::to_owned));
        plan.sysctls.insert(Sysctl {
            path,
            value,
            only_from,
        });
    };
    // A host that forwards ignores router advertisements unless told otherwise, and would lose the
    // default route that it may have from one.
    set(
        format!("net/ipv6/conf/{}/accept_ra", vpc.underlay),
        "2",
        Some("1"),
    );
    set("net/ipv6/conf/all/forwarding".into(), "1", None);
    if plan.decapsulation == Decapsulation::EndDt46 {
        // End.DT46 wants a table to belong to exactly one VRF.
        set("net/vrf/strict_mode".into(), "1", None);
    }
    // No link-local address on the TUN: the kernel would solicit routers there. Its multicast
    // reports (RFC 3810, from `::`) come all the same; they are for no client.
    set(
        format!("net/ipv6/conf/{}/addr_gen_mode", vpc.tun),
        "1",
        None,
    );
    if !uses_ipv4(vpc.snapshot) {
        return;
    }
    let mut interfaces = vec![vpc.tun.to_owned(), vpc.underlay.to_owned()];
    if plan.decapsulation == Decapsulation::EndDt46 {
        interfaces.push(vpc.slot.vrf_name());
    }
    // The kernel takes the larger of `all` and the interface's own; the reverse path of a client
    // address is never in the main table.
    set("net/ipv4/conf/all/rp_filter".into(), "0", None);
    for interface in interfaces {
        set(format!("net/ipv4/conf/{interface}/rp_filter"), "0", None);
        set(format!("net/ipv4/conf/{interface}/forwarding"), "1", None);
    }
}

fn blackhole(table: u32, family: Family) -> Route {
    let metric = BLACKHOLE_METRIC;
    Route {
        table,
        destination: family.any(),
        metric,
        action: RouteAction::Blackhole,
    }
}

fn to_tun(vpc: &VpcLinks<'_>, table: u32, destination: IpNet) -> Route {
    let action = RouteAction::Device {
        link: vpc.tun.to_owned(),
    };
    Route {
        table,
        destination,
        metric: METRIC,
        action,
    }
}

fn uses_ipv4(snapshot: &Snapshot) -> bool {
    let is_ipv4 = |prefix: &IpNet| prefix.addr().is_ipv4();
    snapshot.pools.iter().any(|pool| is_ipv4(&pool.prefix))
        || fabric(snapshot)
            .routes
            .iter()
            .any(|route| is_ipv4(&route.prefix))
}

fn fabric(snapshot: &Snapshot) -> &StaticFabric {
    let Fabric::Static(fabric) = &snapshot.fabric;
    fabric
}

#[cfg(test)]
mod tests;
