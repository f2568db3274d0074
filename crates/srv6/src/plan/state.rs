//! Kernel state as plain data: links, rules, routes, sysctls. Interfaces go by name, since indexes
//! are the kernel's business.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use masque_model::Sid;

use super::Slot;

/// What the running kernel can do; found out by trying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCapabilities {
    /// IPv6 is on.
    pub ipv6: bool,
    /// `encap seg6 mode encap.red` (Linux 6.0).
    pub encap_red: bool,
    /// VRF interfaces can be made.
    pub vrf: bool,
    /// End.DT46 in a VRF (Linux 5.14).
    pub end_dt46: bool,
    /// End.DT6 with a table.
    pub end_dt6: bool,
    /// End.DX4.
    pub end_dx4: bool,
}

/// How packets from the fabric find their VPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decapsulation {
    /// One SID for both families: End.DT46 (RFC 8986 §4.8) in a VRF.
    EndDt46,
    /// End.DT6 (§4.6) with a table for IPv6, End.DX4 (§4.5) to the TUN for IPv4.
    EndDt6AndDx4,
}

/// All kernel state of one gateway. Sets, because the order of applying is a matter of kind only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelPlan {
    /// How packets from the fabric find their VPC.
    pub decapsulation: Decapsulation,
    /// The outer source address, one for the namespace (`ip sr tunsrc`).
    pub tunnel_source: Option<Ipv6Addr>,
    /// VRF interfaces to make.
    pub vrfs: BTreeSet<VrfLink>,
    /// TUN interfaces that exist and are to be set up.
    pub tuns: BTreeSet<TunLink>,
    /// Policy rules.
    pub rules: BTreeSet<Rule>,
    /// Routes of all tables.
    pub routes: BTreeSet<Route>,
    /// Kernel settings that must hold.
    pub sysctls: BTreeSet<Sysctl>,
}

impl KernelPlan {
    /// Nothing at all.
    pub fn empty(decapsulation: Decapsulation) -> Self {
        Self {
            decapsulation,
            tunnel_source: None,
            vrfs: BTreeSet::new(),
            tuns: BTreeSet::new(),
            rules: BTreeSet::new(),
            routes: BTreeSet::new(),
            sysctls: BTreeSet::new(),
        }
    }

    /// Adds the state of one more VPC, which has the same decapsulation and outer source address.
    pub(super) fn merge(&mut self, mut other: Self) {
        self.tunnel_source = self.tunnel_source.or(other.tunnel_source);
        self.vrfs.append(&mut other.vrfs);
        self.tuns.append(&mut other.tuns);
        self.rules.append(&mut other.rules);
        self.routes.append(&mut other.routes);
        self.sysctls.append(&mut other.sysctls);
    }
}

/// A VRF interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VrfLink {
    /// Its name.
    pub name: String,
    /// Its routing table.
    pub table: u32,
}

/// A TUN interface as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunLink {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu_bytes: u32,
    /// The place of its VPC.
    pub slot: Slot,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both families.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        if prefix.addr().is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }

    /// The prefix of length 0.
    pub fn any(self) -> IpNet {
        let address: IpAddr = match self {
            Self::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        IpNet::new_assert(address, 0)
    }
}

/// A policy rule: packets that match `iif` and `from` are looked up in `table`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Lower ones come first.
    pub priority: u32,
    /// Source prefix, or any.
    pub from: Option<IpNet>,
    /// Interface the packet came in by, or any.
    pub iif: Option<String>,
    /// The table to look in.
    pub table: u32,
}

/// A route. Table, destination and metric are its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The table it is in.
    pub table: u32,
    /// What it matches.
    pub destination: IpNet,
    /// Lower ones win.
    pub metric: u32,
    /// What it does.
    pub action: RouteAction,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// Drop silently.
    Blackhole,
    /// Out of an interface.
    Device {
        /// The interface.
        link: String,
    },
    /// H.Encaps.Red with one segment (RFC 8986 §5.2).
    Encapsulate {
        /// The segment.
        sid: Sid,
        /// An interface towards it; the real one is found by looking the SID up.
        link: String,
    },
    /// A local SID.
    Decapsulate {
        /// What happens to packets that come to it.
        behaviour: Behaviour,
        /// The interface the kernel wants to see named.
        link: String,
    },
}

/// An endpoint behaviour (RFC 8986 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Behaviour {
    /// Decapsulate and look up in the table of a VRF, both families.
    EndDt46 {
        /// The VRF's table.
        vrf_table: u32,
    },
    /// Decapsulate IPv6 and look up in a table.
    EndDt6 {
        /// The table.
        table: u32,
    },
    /// Decapsulate IPv4 and send to a next hop.
    EndDx4 {
        /// The next hop.
        next_hop: Ipv4Addr,
    },
}

/// A file below `/proc/sys` and what it must say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sysctl {
    /// Path below `/proc/sys`; with slashes, since interface names may hold dots.
    pub path: String,
    /// The value.
    pub value: String,
    /// Only to be changed where it says this now.
    pub only_from: Option<String>,
}
