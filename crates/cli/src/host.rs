//! What an attachment changes on this machine: the device's addresses, routes and MTU, and the way
//! to the gateway. Everything is undone at the end; what a crash leaves is noted in a file.

mod applied;
mod note;
mod pin;
mod routes;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use masque_client::Assignment;
use masque_netlink::{Gro, GroState, HostRoute, Kernel, NetlinkError};

pub(crate) use applied::{Applied, HostError};
use note::Note;
pub(crate) use note::recover;
use pin::Pin;

/// Prefixes shorter than this (bits) hold a good part of the Internet.
const BROAD_PREFIX_BITS: u8 = 8;

/// The changes of one attachment.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    kernel: Kernel,
    device: String,
    default_route: bool,
    /// Those that could be set.
    addresses: Vec<IpNet>,
    /// Those that could be set, each with its metric.
    routes: Vec<HostRoute>,
    /// The gateway's address, once there was a tunnel.
    gateway: Option<IpAddr>,
    /// Keeps our own packets to the gateway out of the tunnel.
    pin: Option<Pin>,
    /// Merges what the gateway's packets arrive in; `None` if it cannot be asked for.
    gro: Option<Gro>,
    /// Whether a person was told that this machine lacks IPv6.
    told_of_ipv6: bool,
    note: PathBuf,
}

impl HostNetwork {
    /// For a device; `note` is where leftovers are written down.
    pub(crate) fn new(
        device: &str,
        default_route: bool,
        note: PathBuf,
    ) -> Result<Self, NetlinkError> {
        let kernel = Kernel::open()?;
        kernel.set_noqueue(device);
        Ok(Self {
            kernel,
            device: device.to_owned(),
            default_route,
            addresses: Vec::new(),
            routes: Vec::new(),
            gateway: None,
            pin: None,
            gro: Gro::new().ok(),
            told_of_ipv6: false,
            note,
        })
    }

    /// Makes the machine as the assignment says, from whatever it was before. Each address and route
    /// is set by itself: one that is refused costs no other.
    ///
    /// # Errors
    /// The device cannot be set up, or not one address or not one route could be set.
    pub(crate) fn apply(&mut self, assignment: &Assignment) -> Result<Applied, HostError> {
        self.set_mtu(assignment.mtu_bytes)?;
        let mut applied = Applied::default();
        self.set_addresses(&assignment.addresses, &mut applied)?;
        let held = self.kernel.client_routes()?;
        let gateway = assignment.remote.ip();
        self.gateway = Some(gateway);
        let mut wanted = self.wanted_routes(&assignment.routes, &mut applied);
        if let Err(error) = self.pin_gateway(gateway, &wanted, &held) {
            // The gateway would be looked for inside of the tunnel.
            wanted.retain(|route| !route.destination.contains(&gateway));
            applied.refuse(&error);
        }
        self.merge_arrivals(gateway);
        self.set_routes(wanted, &held, &mut applied)?;
        Ok(applied)
    }

    /// Sets the device up with this MTU.
    pub(crate) fn set_mtu(&self, mtu_bytes: u16) -> Result<(), NetlinkError> {
        self.kernel.set_link_up(&self.device, mtu_bytes.into())
    }

    /// The network of this machine changed: finds the way to the gateway anew, where the tunnel's
    /// routes would hide it. They stay as they are, so that nothing passes beside the tunnel. Whether
    /// anything was changed.
    pub(crate) fn renew(&mut self) -> Result<bool, NetlinkError> {
        let covers = |gateway: &IpAddr| {
            let mut routes = self.routes.iter();
            routes.any(|route| route.destination.contains(gateway))
        };
        let Some(gateway) = self.gateway.filter(covers) else {
            return Ok(false);
        };
        let held = self.kernel.client_routes()?;
        let routes = std::mem::take(&mut self.routes);
        let changed = self.pin_gateway(gateway, &routes, &held);
        self.routes = routes;
        changed
    }

    /// Takes everything back; goes on after an error and gives the first.
    pub(crate) fn undo(&mut self) -> Result<(), NetlinkError> {
        // Addresses and the routes through the device vanish with it.
        self.routes.clear();
        self.gateway = None;
        let undone = self.pin.take().map_or(Ok(()), |pin| self.unpin(&pin));
        // Before the look at the others' notes, so that of two that end at once one finds no other,
        // and takes back what they share.
        let _ = fs::remove_file(&self.note);
        if let Some(gro) = &mut self.gro {
            let needed = note::merged_for_others(&self.note);
            needed.iter().for_each(|link| gro.forget(link));
            gro.restore();
        }
        undone
    }

    fn set_addresses(
        &mut self,
        assigned: &[IpNet],
        applied: &mut Applied,
    ) -> Result<(), HostError> {
        let addresses: Vec<IpNet> = assigned.iter().map(host_address).collect();
        for gone in self.addresses.iter().filter(|old| !addresses.contains(old)) {
            if let Err(error) = self.kernel.remove_address(&self.device, *gone) {
                applied.refuse(&error);
            }
        }
        self.addresses.clear();
        let mut first = None;
        for address in addresses {
            match self.kernel.add_address(&self.device, address) {
                Ok(()) => self.addresses.push(address),
                Err(error) => {
                    let error = HostError::of_address(error, &address, &self.device);
                    applied.leave_out(&error, address, &mut self.told_of_ipv6);
                    first.get_or_insert(error);
                }
            }
        }
        match first {
            Some(error) if self.addresses.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Lets the kernel merge the frames that come from the gateway where nobody else does: in a
    /// container. What fails costs speed, and nothing else.
    fn merge_arrivals(&mut self, gateway: IpAddr) {
        let (Some(gro), Ok(Some(way))) = (&mut self.gro, self.kernel.route_to(gateway)) else {
            return;
        };
        match gro.turn_on(&way.link) {
            Ok(GroState::TurnedOn) => {
                tracing::info!(device = way.link, "GRO turned on");
                self.write_note();
            }
            // Whoever detaches last turns it off.
            Ok(GroState::On) if note::merged_for_others(&self.note).contains(&way.link) => {
                gro.adopt(&way.link);
                self.write_note();
            }
            Ok(GroState::On | GroState::Off) => {}
            Err(error) => tracing::debug!(device = way.link, %error, "GRO is left as it is"),
        }
    }

    /// Writes down what a crash would leave.
    fn write_note(&self) {
        let pin = self.pin.as_ref().map(|pin| &pin.route);
        let gro = self.gro.iter().flat_map(Gro::turned_on);
        Note::new(pin, gro).save(&self.note);
    }
}

/// The one address of a prefix that this machine takes: itself, or the first host.
fn host_address(prefix: &IpNet) -> IpNet {
    IpNet::from(match prefix.prefix_len() == prefix.max_prefix_len() {
        true => prefix.addr(),
        false => first_host(prefix),
    })
}

fn first_host(prefix: &IpNet) -> IpAddr {
    prefix.hosts().next().unwrap_or(prefix.addr())
}

/// Whether taking this prefix means taking the default route or most of it.
fn is_broad(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(prefix) => prefix.prefix_len() < BROAD_PREFIX_BITS,
        IpNet::V6(prefix) => {
            // Unique local addresses (RFC 4193) are nobody's Internet.
            let local =
                prefix.prefix_len() >= 7 && prefix.network().segments()[0] & 0xfe00 == 0xfc00;
            prefix.prefix_len() < BROAD_PREFIX_BITS && !local
        }
    }
}

/// The default route as two halves, so that the machine's own default route stays as it is.
fn halves(prefix: &IpNet) -> Vec<IpNet> {
    if prefix.prefix_len() > 0 {
        return vec![*prefix];
    }
    match prefix {
        IpNet::V4(_) => [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(128, 0, 0, 0)]
            .map(|start| IpNet::V4(Ipv4Net::new_assert(start, 1)))
            .to_vec(),
        IpNet::V6(_) => [
            Ipv6Addr::UNSPECIFIED,
            Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0),
        ]
        .map(|start| IpNet::V6(Ipv6Net::new_assert(start, 1)))
        .to_vec(),
    }
}

/// The SDK does not take what changes in routes of this number for a change of the network.
const _: () = assert!(masque_client::OWN_ROUTE_PROTOCOL == masque_netlink::CLIENT_ROUTE_PROTOCOL);

#[cfg(test)]
mod tests;
