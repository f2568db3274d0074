//! Sessions come and go.

use std::net::IpAddr;

use ipnet::IpNet;
use masque_model::{Attachment, ListenerProtocol, ObjectName, Snapshot};

use super::{
    AdmitRequest, Admitted, EndReason, Ended, Grant, Point, Refusal, Registry, Released, Session,
};
use crate::address::Demand;
use crate::id::{Now, SessionId, VpcIndex};
use crate::prefix::intersection;
use crate::tables::is_called;

impl Registry {
    /// Admits a session, or says why not.
    ///
    /// The new session carries the attachment's traffic ("newest wins"); the one that did is
    /// deactivated, and the oldest ones end if the attachment has more than `limits.sessions`.
    /// The addresses are those of the attachment, whatever gateway or shard served it before.
    ///
    /// # Errors
    /// [`Refusal`]; nothing has changed then for any other session.
    pub fn admit(&mut self, now: Now, request: &AdmitRequest<'_>) -> Result<Admitted, Refusal> {
        let point = self.find(request)?;
        let snapshot = point.snapshot.clone();
        let place = point.by_key.get(&request.key).ok_or(Refusal::NotFound)?;
        let attachment = snapshot.attachments.get(*place).ok_or(Refusal::NotFound)?;
        let id = *point.ids.get(&attachment.name).ok_or(Refusal::NotFound)?;
        if attachment.suspended {
            return Err(Refusal::Suspended);
        }
        let routes = routes(attachment, request.scope.targets.as_deref());
        if routes.is_empty() && request.scope.targets.is_some() {
            return Err(Refusal::TargetOutsideRoutes);
        }
        let others = self.by_attachment.get(&id).map_or(&[][..], Vec::as_slice);
        let keep = usize::try_from(attachment.limits.sessions.max(1)).unwrap_or(usize::MAX) - 1;
        let surplus: Vec<SessionId> = others
            .get(..others.len().saturating_sub(keep))
            .unwrap_or_default()
            .to_vec();
        self.check_room(point, surplus.len())?;

        let owner = point.owner(attachment);
        let index = point.index;
        let addresses = self
            .book
            .bind(now, &snapshot.vpc, &owner, &demand(attachment))?;
        let addresses = host_prefixes(&addresses, request.ipv4, request.ipv6);
        if addresses.is_empty() {
            return Err(Refusal::NoFamily);
        }
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let grant = Grant {
            session,
            shard: request.shard,
            index,
            attachment: id,
            ingress_point: owner.ingress_point.clone(),
            vpc: snapshot.vpc.clone(),
            name: attachment.name.clone(),
            connector: attachment.connector.clone(),
            addresses,
            routes,
            scope: request.scope.clone(),
            active: true,
            bits_per_second: attachment.limits.bits_per_second,
            mtu_bytes: snapshot.mtu_bytes,
            generation: 0,
        };
        let (ipv4, ipv6, since_unix_s) = (request.ipv4, request.ipv6, now.unix_s);
        let session = Session {
            grant,
            owner,
            ipv4,
            ipv6,
            since_unix_s,
        };
        Ok(self.insert(now, session, &surplus))
    }

    /// Forgets a session whose tunnel has ended. `None` if it is forgotten already.
    ///
    /// The attachment keeps its addresses.
    pub fn release(&mut self, now: Now, id: SessionId, reason: EndReason) -> Option<Released> {
        let (session, activated) = self.remove(now, id)?;
        Some(Released {
            ended: session.ended(reason),
            activated,
        })
    }

    fn insert(&mut self, now: Now, session: Session, surplus: &[SessionId]) -> Admitted {
        let grant = session.grant.clone();
        let deactivated = self
            .by_attachment
            .get(&grant.attachment)
            .and_then(|ids| ids.last())
            .filter(|id| !surplus.contains(id))
            .and_then(|id| self.sessions.get_mut(id))
            .map(|session| {
                session.grant.active = false;
                session.grant.generation += 1;
                session.reference()
            });
        self.by_attachment
            .entry(grant.attachment)
            .or_default()
            .push(grant.session);
        if let Some(point) = self.points.get_mut(&grant.ingress_point) {
            point.sessions += 1;
        }
        self.book.set_present(now, &grant.vpc, &session.owner, true);
        self.sessions.insert(grant.session, session);
        let ended = self.end_all(now, surplus, EndReason::Replaced);
        Admitted {
            grant,
            deactivated,
            ended,
        }
    }

    pub(super) fn end_all(
        &mut self,
        now: Now,
        sessions: &[SessionId],
        reason: EndReason,
    ) -> Vec<Ended> {
        let ended = sessions.iter().filter_map(|id| self.remove(now, *id));
        ended.map(|(session, _)| session.ended(reason)).collect()
    }

    /// The one ingress point that the request can mean.
    fn find(&self, request: &AdmitRequest<'_>) -> Result<&Point, Refusal> {
        // A full name of an ingress point means it, though a VPC may be called the same.
        let exact = request.vpc.filter(|name| {
            name.contains('/') && self.points.keys().any(|point| is_called(point, name))
        });
        let mut found = self.points.values().filter(|point| {
            let snapshot = &point.snapshot;
            if exact.is_some_and(|name| !is_called(&snapshot.ingress_point, name)) {
                return false;
            }
            point.by_key.contains_key(&request.key)
                && request.vpc.is_none_or(|name| {
                    is_called(&snapshot.vpc, name) || is_called(&snapshot.ingress_point, name)
                })
                && request
                    .listener
                    .is_none_or(|listener| has_listener(snapshot, listener))
        });
        let point = found.next().ok_or(Refusal::NotFound)?;
        match found.count() {
            0 => Ok(point),
            others => Err(Refusal::SeveralVpcs(others + 1)),
        }
    }

    /// Whether one session more fits once `freed` have ended.
    fn check_room(&self, point: &Point, freed: usize) -> Result<(), Refusal> {
        if self.sessions.len().saturating_sub(freed) >= self.config.sessions_max {
            return Err(Refusal::GatewayFull);
        }
        let max_total = point.snapshot.sessions.max_total;
        let freed = u32::try_from(freed).unwrap_or(u32::MAX);
        if point.sessions.saturating_sub(freed) >= max_total {
            return Err(Refusal::TooManySessions(max_total));
        }
        Ok(())
    }

    /// Which ingress point an index stands for.
    #[must_use]
    pub fn ingress_point(&self, index: VpcIndex) -> Option<&ObjectName> {
        self.tables.vpc(index).map(|vpc| vpc.ingress_point())
    }
}

/// The part of the attachment's routes that the scope leaves.
pub(super) fn routes(attachment: &Attachment, targets: Option<&[IpNet]>) -> Vec<IpNet> {
    match targets {
        Some(targets) => intersection(&attachment.routes, targets),
        None => IpNet::aggregate(&attachment.routes),
    }
}

pub(super) fn demand(attachment: &Attachment) -> Demand<'_> {
    Demand {
        fixed: &attachment.addresses,
        ipv4: attachment.ipv4,
        ipv6: attachment.ipv6,
    }
}

/// The addresses as prefixes of one host, of the families that the client can use.
pub(super) fn host_prefixes(addresses: &[IpAddr], ipv4: bool, ipv6: bool) -> Vec<IpNet> {
    let usable = addresses
        .iter()
        .filter(|address| if address.is_ipv4() { ipv4 } else { ipv6 });
    usable.copied().map(IpNet::from).collect()
}

fn has_listener(snapshot: &Snapshot, (protocol, port): (ListenerProtocol, u16)) -> bool {
    snapshot.listeners.iter().any(|listener| {
        listener.protocol == protocol
            && (protocol == ListenerProtocol::Iroh || listener.port == port)
    })
}
