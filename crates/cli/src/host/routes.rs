//! The routes into the tunnel. Attachments may have the same destination: each has a route of its
//! own with a metric of its own, and the one that came first gets the packets.

use std::ops::RangeInclusive;

use ipnet::IpNet;
use masque_netlink::{HostRoute, NetlinkError};

use super::{Applied, HostError, HostNetwork, applied::Waiting, first_host, halves, is_broad};

/// Metrics of our routes: behind what an administrator gave a metric of 0 (a route we must never
/// replace), before what DHCP brings (100 and more). As many attachments can share a destination.
pub(super) const METRICS: RangeInclusive<u32> = 50..=99;

impl HostNetwork {
    /// What the assignment asks for, without metrics.
    pub(super) fn wanted_routes(
        &self,
        prefixes: &[IpNet],
        applied: &mut Applied,
    ) -> Vec<HostRoute> {
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
                // The gateway itself is not behind the gateway.
                if self
                    .gateway
                    .is_some_and(|gateway| destination == gateway.into())
                {
                    continue;
                }
                wanted.push(HostRoute {
                    source: Some(source.addr()),
                    ..HostRoute::on_link(destination, &self.device)
                });
            }
        }
        wanted
    }

    /// Sets these routes through the device and no others; `held` are those of all clients.
    pub(super) fn set_routes(
        &mut self,
        wanted: Vec<HostRoute>,
        held: &[HostRoute],
        applied: &mut Applied,
    ) -> Result<(), HostError> {
        let (ours, others): (Vec<_>, Vec<_>) = held
            .iter()
            .cloned()
            .partition(|route| route.link == self.device);
        for gone in ours
            .iter()
            .filter(|old| !wanted.iter().any(|new| is_same(old, new)))
        {
            if let Err(error) = self.kernel.delete_route(gone) {
                applied.refuse(&error);
            }
        }
        self.routes.clear();
        let some_wanted = !wanted.is_empty();
        let mut first = None;
        for route in wanted {
            let set = match ours.iter().find(|old| is_same(old, &route)) {
                Some(old) => self.correct(old, route),
                None => {
                    if let Ok(Some(conflict)) = self.conflict(&route, &others) {
                        applied.conflicts.push(conflict);
                    }
                    self.claim(&route, &others).map(|(route, waiting)| {
                        applied.waiting.extend(waiting);
                        route
                    })
                }
            };
            match set {
                Ok(route) => self.routes.push(route),
                Err(error) if first.is_none() => first = Some(error),
                Err(error) => applied.refuse(&error),
            }
        }
        match first {
            Some(error) if some_wanted && self.routes.is_empty() => return Err(error),
            Some(error) => applied.refuse(&error),
            None => {}
        }
        Ok(())
    }

    /// A route of ours that is there, maybe from another address.
    fn correct(&self, old: &HostRoute, new: HostRoute) -> Result<HostRoute, HostError> {
        let new = HostRoute {
            metric: old.metric,
            ..new
        };
        if *old != new {
            self.kernel.replace_route(&new)?;
        }
        Ok(new)
    }

    /// Makes a route with a metric behind those of the attachments that came before; it replaces
    /// nobody's.
    fn claim(
        &self,
        route: &HostRoute,
        held: &[HostRoute],
    ) -> Result<(HostRoute, Option<Waiting>), HostError> {
        let others = || {
            let others = held.iter().filter(|held| held.link != self.device);
            others.filter(|held| is_same(held, route))
        };
        let (start, end) = (*METRICS.start(), *METRICS.end());
        let behind = others().map(|other| other.metric + 1).max();
        let behind = behind.map_or(start, |metric| metric.clamp(start, end + 1));
        let mut is_taken = false;
        for metric in (behind..=end).chain(start..behind) {
            let route = HostRoute {
                metric,
                ..route.clone()
            };
            if !self.kernel.claim_route(&route)? {
                is_taken |= !others().any(|other| other.metric == metric);
                continue;
            }
            let before = others().filter(|other| other.metric < metric);
            let first = before
                .min_by_key(|other| other.metric)
                .map(|other| other.link.clone());
            let waiting = (first.is_some() || is_taken).then_some(Waiting {
                destination: route.destination,
                metric,
                first,
            });
            return Ok((route, waiting));
        }
        Err(HostError::NoMetric(route.destination))
    }

    /// Whether the destination is reached directly over another interface: a network of ours.
    fn conflict(
        &self,
        route: &HostRoute,
        others: &[HostRoute],
    ) -> Result<Option<(IpNet, String)>, NetlinkError> {
        let probe = first_host(&route.destination);
        let lookup = self.kernel.route_to(probe)?;
        let is_tunnel = |link: &str| {
            let mut tunnels = others.iter().filter(|other| other.source.is_some());
            link == self.device || tunnels.any(|other| other.link == link)
        };
        let other = lookup.filter(|l| l.gateway.is_none() && l.link != "lo" && !is_tunnel(&l.link));
        Ok(other.map(|lookup| (route.destination, lookup.link)))
    }
}

fn is_same(a: &HostRoute, b: &HostRoute) -> bool {
    a.destination == b.destination
}
