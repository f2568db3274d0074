//! The gateway's own route: keeps our packets to it out of the tunnel.
//!
//! Each attachment to a gateway has one, told from the others' by its metric, and deletes that alone.
//! Attachments need not know of each other: root's and a user's have notes in different folders.

use std::{iter, net::IpAddr};

use masque_netlink::{HostRoute, NetlinkError};

use super::{HostNetwork, note, routes};

/// The gateway's route, as it is or was wanted last.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    pub(super) route: HostRoute,
    /// Whether a rule or another table chose the way, which a look past our routes cannot see.
    by_rule: bool,
}

impl HostNetwork {
    /// When a route of the tunnel covers the gateway, the gateway gets one of its own: the way that
    /// it has beside all tunnels. Whether anything was changed.
    pub(super) fn pin_gateway(
        &mut self,
        gateway: IpAddr,
        wanted: &[HostRoute],
        held: &[HostRoute],
    ) -> Result<bool, NetlinkError> {
        let is_covered = wanted
            .iter()
            .any(|route| route.destination.contains(&gateway));
        let stays = |pin: &Pin| is_covered && pin.route.destination == gateway.into();
        let mut changed = false;
        if let Some(old) = self.pin.take_if(|pin| !stays(pin)) {
            let deleted = self.unpin(&old);
            self.write_note();
            deleted?;
            changed = true;
        }
        if !is_covered {
            return Ok(changed);
        }
        // Without a way the old one is as good as any.
        let Some(pin) = self.way_to(gateway, held)?.or_else(|| self.pin.clone()) else {
            return Ok(changed);
        };
        Ok(self.set_pin(pin, held)? || changed)
    }

    /// Deletes our route to the gateway.
    pub(super) fn unpin(&self, pin: &Pin) -> Result<(), NetlinkError> {
        note::unpin(&self.kernel, &pin.route, &self.note)
    }

    fn set_pin(&mut self, pin: Pin, held: &[HostRoute]) -> Result<bool, NetlinkError> {
        let known = self.pin.as_ref().map(|pin| pin.route.clone());
        let ours = known.as_ref().map(|route| route.metric);
        let (own, others): (Vec<_>, Vec<_>) = held
            .iter()
            .filter(|route| is_pin(route, &pin.route))
            .partition(|route| Some(route.metric) == ours);
        let mut changed = self.lead_others(&others, &pin.route);
        let route = HostRoute {
            metric: ours.unwrap_or(*routes::METRICS.start()),
            ..pin.route
        };
        let is_there = own.contains(&&route);
        if is_there && known.as_ref() == Some(&route) {
            return Ok(changed);
        }
        // Noted before it is there, so that a crash in between leaves nothing.
        self.pin = Some(Pin {
            route: route.clone(),
            ..pin
        });
        let set = if own.is_empty() {
            let taken: Vec<u32> = others.iter().map(|other| other.metric).collect();
            self.claim_pin(&route, &taken)
        } else {
            self.write_note();
            self.kernel.replace_route(&route)
        };
        match set {
            Ok(()) => changed |= !is_there,
            // An interface that is gone: the next change of the network tries again.
            Err(error) if known.is_some() => {
                tracing::debug!(%error, "the way to the gateway is not there now");
            }
            Err(error) => {
                self.pin = None;
                self.write_note();
                return Err(error);
            }
        }
        Ok(changed)
    }

    /// The routes of other attachments to this gateway lead where ours does, for one of them may come
    /// before ours, and whoever made it may have crashed. Whether anything was changed.
    fn lead_others(&self, others: &[&HostRoute], pin: &HostRoute) -> bool {
        let mut changed = false;
        for other in others.iter().filter(|other| !is_same_hop(other, pin)) {
            let route = HostRoute {
                metric: other.metric,
                ..pin.clone()
            };
            match self.kernel.replace_route(&route) {
                Ok(()) => changed = true,
                Err(error) => tracing::debug!(%error, "another way to the gateway stays"),
            }
        }
        changed
    }

    /// Takes the metric of `route`, or the first that no route to the gateway has; `taken` are those
    /// of other attachments.
    fn claim_pin(&mut self, route: &HostRoute, taken: &[u32]) -> Result<(), NetlinkError> {
        let rest = routes::METRICS.filter(|metric| *metric != route.metric);
        let metrics = iter::once(route.metric).chain(rest);
        for metric in metrics.filter(|metric| !taken.contains(metric)) {
            let route = HostRoute {
                metric,
                ..route.clone()
            };
            if let Some(pin) = &mut self.pin {
                pin.route = route.clone();
            }
            self.write_note();
            if self.kernel.claim_route(&route)? {
                return Ok(());
            }
        }
        // As many routes to this one host lead past the tunnel already, and none is ours.
        self.pin = None;
        self.write_note();
        Ok(())
    }

    /// The way to the gateway past every tunnel: what the kernel chooses while no client's route
    /// hides that, else what the main table says.
    fn way_to(&self, gateway: IpAddr, held: &[HostRoute]) -> Result<Option<Pin>, NetlinkError> {
        let lookup = self.kernel.route_to(gateway)?;
        // A gateway on this very machine needs none.
        if lookup.as_ref().is_some_and(|lookup| lookup.link == "lo") {
            return Ok(None);
        }
        let ways = self.kernel.way_beside_clients(gateway)?;
        if held
            .iter()
            .any(|route| route.destination.contains(&gateway))
        {
            let old = self.pin.as_ref();
            if let Some(old) = old.filter(|old| old.by_rule) {
                return Ok(Some(old.clone()));
            }
            let same = ways
                .iter()
                .find(|way| old.is_some_and(|old| is_same_hop(way, &old.route)));
            let way = same.or(ways.first()).cloned();
            return Ok(way.map(|route| Pin {
                route,
                by_rule: false,
            }));
        }
        Ok(lookup.map(|lookup| {
            let route = HostRoute {
                gateway: lookup.gateway,
                ..HostRoute::on_link(gateway.into(), &lookup.link)
            };
            let by_rule = !ways.iter().any(|way| is_same_hop(way, &route));
            Pin { route, by_rule }
        }))
    }
}

/// Whether a client's route is the gateway's own, of whichever attachment and way.
pub(super) fn is_pin(route: &HostRoute, pin: &HostRoute) -> bool {
    // Those of tunnels have a source address.
    route.destination == pin.destination && route.source.is_none()
}

fn is_same_hop(a: &HostRoute, b: &HostRoute) -> bool {
    a.link == b.link && a.gateway == b.gateway
}
