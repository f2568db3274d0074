//! The gateway's own route: keeps our packets to it out of the tunnel.
//!
//! Attachments to one gateway share it: whoever ends last, by the notes, deletes it.

use std::net::IpAddr;

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
            // Noted first, so that of two that leave it at once one deletes it.
            self.write_note();
            self.unpin(&old)?;
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

    /// Deletes the gateway's route, unless other attachments need it.
    pub(super) fn unpin(&self, pin: &Pin) -> Result<(), NetlinkError> {
        note::unpin(&self.kernel, &pin.route, &self.note)
    }

    fn set_pin(&mut self, pin: Pin, held: &[HostRoute]) -> Result<bool, NetlinkError> {
        let there = held.iter().find(|route| is_pin(route, &pin.route));
        let metric = there.map(|route| route.metric);
        let route = HostRoute {
            metric: metric.unwrap_or(*routes::METRICS.start()),
            ..pin.route
        };
        let is_there = there == Some(&route);
        let known = self.pin.as_ref().map(|pin| &pin.route);
        if is_there && known == Some(&route) {
            return Ok(false);
        }
        // Noted before it is there, so that a crash in between leaves nothing.
        let former = self.pin.replace(Pin {
            route: route.clone(),
            ..pin
        });
        self.write_note();
        let set = match metric {
            Some(_) if is_there => Ok(()),
            Some(_) => self.kernel.replace_route(&route),
            None => self.claim_pin(route),
        };
        match set {
            Ok(()) => Ok(!is_there),
            // An interface that is gone: the next change of the network tries again.
            Err(error) if former.is_some() => {
                tracing::debug!(%error, "the way to the gateway is not there now");
                Ok(false)
            }
            Err(error) => {
                self.pin = None;
                self.write_note();
                Err(error)
            }
        }
    }

    /// Takes the first metric that nobody else's route to the gateway has.
    fn claim_pin(&mut self, route: HostRoute) -> Result<(), NetlinkError> {
        for metric in routes::METRICS {
            let route = HostRoute {
                metric,
                ..route.clone()
            };
            if metric != *routes::METRICS.start()
                && let Some(pin) = &mut self.pin
            {
                pin.route = route.clone();
                self.write_note();
            }
            if self.kernel.claim_route(&route)? {
                return Ok(());
            }
        }
        // As many routes to this one host lead past the tunnel already.
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
