//! What an attachment changes on this machine: the device's addresses, routes and MTU, and the way
//! to the gateway. Everything is undone at the end; what a crash leaves is noted in a file.

mod note;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use masque_client::Assignment;
use masque_netlink::{Gro, GroState, HostRoute, Kernel, NetlinkError};

use note::Note;
pub(crate) use note::recover;

/// Metric of our routes: behind what an administrator gave a metric of 0 (a route we must never
/// replace), before what DHCP brings (100 and more).
const METRIC: u32 = 50;
/// Prefixes shorter than this (bits) hold a good part of the Internet.
const BROAD_PREFIX_BITS: u8 = 8;

/// The changes of one attachment.
#[derive(Debug)]
pub(crate) struct HostNetwork {
    kernel: Kernel,
    device: String,
    default_route: bool,
    addresses: Vec<IpNet>,
    routes: Vec<HostRoute>,
    /// Keeps our own packets to the gateway out of the tunnel.
    pin: Option<(IpAddr, HostRoute)>,
    /// Merges what the gateway's packets arrive in; `None` if it cannot be asked for.
    gro: Option<Gro>,
    note: PathBuf,
}

/// What became of an assignment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Applied {
    /// Routes that were left out because they would take the default route.
    pub(crate) left_out: Vec<IpNet>,
    /// Routes that are also networks of this machine, with its interface.
    pub(crate) conflicts: Vec<(IpNet, String)>,
}

impl HostNetwork {
    /// For a device; `note` is where leftovers are written down.
    pub(crate) fn new(
        device: &str,
        default_route: bool,
        note: PathBuf,
    ) -> Result<Self, NetlinkError> {
        Ok(Self {
            kernel: Kernel::open()?,
            device: device.to_owned(),
            default_route,
            addresses: Vec::new(),
            routes: Vec::new(),
            pin: None,
            gro: Gro::new().ok(),
            note,
        })
    }

    /// Makes the machine as the assignment says, from whatever it was before.
    pub(crate) fn apply(&mut self, assignment: &Assignment) -> Result<Applied, NetlinkError> {
        self.set_mtu(assignment.mtu_bytes)?;
        let addresses: Vec<IpNet> = assignment.addresses.iter().map(host_address).collect();
        for gone in self.addresses.iter().filter(|old| !addresses.contains(old)) {
            self.kernel.remove_address(&self.device, *gone)?;
        }
        for address in &addresses {
            self.kernel.add_address(&self.device, *address)?;
        }
        self.addresses = addresses;

        let mut applied = Applied::default();
        let wanted = self.wanted_routes(&assignment.routes, &mut applied);
        self.pin_gateway(assignment.remote, &wanted)?;
        self.merge_arrivals(assignment.remote.ip());
        for gone in self.routes.iter().filter(|old| !wanted.contains(old)) {
            self.kernel.delete_route(gone)?;
        }
        for route in &wanted {
            if !self.routes.contains(route) {
                applied.conflicts.extend(self.conflict(route)?);
            }
            self.kernel.replace_route(route)?;
        }
        self.routes = wanted;
        Ok(applied)
    }

    /// Sets the device up with this MTU.
    pub(crate) fn set_mtu(&self, mtu_bytes: u16) -> Result<(), NetlinkError> {
        self.kernel.set_link_up(&self.device, mtu_bytes.into())
    }

    /// The tunnel was lost, maybe with the network it ran over: finds the way to the gateway anew.
    pub(crate) fn refresh_pin(&mut self) -> Result<(), NetlinkError> {
        let Some((gateway, pin)) = self.pin.take() else {
            return Ok(());
        };
        let covering: Vec<&HostRoute> = self
            .routes
            .iter()
            .filter(|route| route.destination.contains(&gateway))
            .collect();
        // The lookup must see neither the old pin nor the tunnel.
        self.kernel.delete_route(&pin)?;
        for route in &covering {
            self.kernel.delete_route(route)?;
        }
        let found = self.pin_route(gateway);
        let pin = found?.unwrap_or(pin);
        // Without a way the old one is as good as any, and it keeps the loop closed.
        let pinned = self.kernel.replace_route(&pin);
        for route in covering {
            self.kernel.replace_route(route)?;
        }
        self.pin = Some((gateway, pin));
        self.write_note();
        // An interface that is gone: the next change of the network tries again.
        if let Err(error) = pinned {
            tracing::debug!(%error, "the way to the gateway is not there now");
        }
        Ok(())
    }

    /// Takes everything back; goes on after an error and gives the first.
    pub(crate) fn undo(&mut self) -> Result<(), NetlinkError> {
        // Addresses and the routes through the device vanish with it.
        self.routes.clear();
        let undone = match self.pin.take() {
            Some((_, pin)) => self.kernel.delete_route(&pin),
            None => Ok(()),
        };
        // Before GRO, so that of two that end at once one finds no other, and turns it off.
        let _ = fs::remove_file(&self.note);
        if let Some(gro) = &mut self.gro {
            let needed = note::merged_for_others(&self.note);
            needed.iter().for_each(|link| gro.forget(link));
            gro.restore();
        }
        undone
    }

    fn wanted_routes(&self, prefixes: &[IpNet], applied: &mut Applied) -> Vec<HostRoute> {
        let mut wanted = Vec::new();
        for prefix in prefixes {
            let same = |address: &&IpNet| address.addr().is_ipv4() == prefix.addr().is_ipv4();
            let Some(source) = self.addresses.iter().find(same) else {
                continue;
            };
            if is_broad(prefix) && !self.default_route {
                applied.left_out.push(*prefix);
                continue;
            }
            for destination in halves(prefix) {
                let route = HostRoute::on_link(destination, &self.device);
                wanted.push(HostRoute {
                    source: Some(source.addr()),
                    metric: METRIC,
                    ..route
                });
            }
        }
        wanted
    }

    /// When a route of the tunnel covers the gateway, the gateway gets a route of its own: the one
    /// that leads to it now.
    fn pin_gateway(
        &mut self,
        remote: SocketAddr,
        wanted: &[HostRoute],
    ) -> Result<(), NetlinkError> {
        let gateway = remote.ip();
        if self
            .pin
            .as_ref()
            .is_some_and(|(pinned, _)| *pinned == gateway)
        {
            return Ok(());
        }
        if let Some((_, old)) = self.pin.take() {
            self.kernel.delete_route(&old)?;
            self.write_note();
        }
        if !wanted
            .iter()
            .any(|route| route.destination.contains(&gateway))
        {
            return Ok(());
        }
        let Some(pin) = self.pin_route(gateway)? else {
            return Ok(());
        };
        // Noted before it is there, so that a crash in between leaves nothing.
        self.pin = Some((gateway, pin.clone()));
        self.write_note();
        let pinned = self.kernel.replace_route(&pin);
        if pinned.is_err() {
            self.pin = None;
            self.write_note();
        }
        pinned
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

    fn pin_route(&self, gateway: IpAddr) -> Result<Option<HostRoute>, NetlinkError> {
        let Some(lookup) = self.kernel.route_to(gateway)? else {
            return Ok(None);
        };
        // A gateway on this very machine needs none; through the tunnel would be no way.
        if lookup.link == self.device || lookup.link == "lo" {
            return Ok(None);
        }
        let route = HostRoute::on_link(gateway.into(), &lookup.link);
        Ok(Some(HostRoute {
            gateway: lookup.gateway,
            metric: METRIC,
            ..route
        }))
    }

    /// Whether the destination is reached directly over another interface: a network of ours.
    fn conflict(&self, route: &HostRoute) -> Result<Option<(IpNet, String)>, NetlinkError> {
        let probe = first_host(&route.destination);
        let lookup = self.kernel.route_to(probe)?;
        let other =
            lookup.filter(|l| l.gateway.is_none() && l.link != self.device && l.link != "lo");
        Ok(other.map(|lookup| (route.destination, lookup.link)))
    }

    /// Writes down what a crash would leave.
    fn write_note(&self) {
        let pin = self.pin.as_ref().map(|(_, route)| route);
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
