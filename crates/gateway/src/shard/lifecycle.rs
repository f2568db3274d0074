//! A tunnel from its 200 to its end.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use masque_gateway_core::{EndReason, Grant, MovedFlows, Now, SessionId};
use masque_http3::{Code, Field, ResponseHead};
use masque_model::IpNet;
use masque_protocol::{
    Event, RequestedAddress, Role, Session, SessionError, capsule_type, from_prefixes, request,
};
use masque_transport::ConnId;

use super::{
    Shard,
    requests::{CONTEXT_BYTES, MIN_MTU_BYTES},
    tunnels::{Origin, Tunnel, TunnelKey},
};
use crate::{
    command::Command,
    report::{SessionReport, Traffic},
};

impl Shard {
    /// Answers 200 and says at once what the client has: many never ask (ADDRESS_ASSIGN and
    /// ROUTE_ADVERTISEMENT unasked, RFC 9484 §4.7.1).
    pub(super) fn open_tunnel(
        &mut self,
        index: usize,
        key: TunnelKey,
        (grant, origin): (Grant, Origin),
        at: Instant,
    ) {
        let now = self.now(at);
        let session = grant.session;
        let head = self.ok_response(&grant);
        let accepted = self.ports[index]
            .machine
            .http(key.conn)
            .is_some_and(|http| {
                let whole = http.takes_response(&head);
                let head = if whole { head } else { request::ok_response() };
                let sent = http.send_response(key.stream, &head, false).is_ok();
                http.accept_datagrams(key.stream);
                sent
            });
        if !accepted {
            self.reset_stream(key, Code::H3_INTERNAL_ERROR);
            self.control
                .release(now, grant.attachment, session, EndReason::ConnectionLost);
            return;
        }
        let mtu_bytes = self.mtu(index, key, &grant);
        let Some(slot) = self.plane.attach(now, &grant, mtu_bytes) else {
            tracing::error!(
                shard = self.id,
                "a packet thread has as many sessions as it can hold"
            );
            self.reset_stream(key, Code::H3_EXCESSIVE_LOAD);
            self.control
                .release(now, grant.attachment, session, EndReason::ConnectionLost);
            return;
        };
        tracing::info!(
            shard = self.id, %session, attachment = %grant.name, vpc = %grant.vpc, mtu_bytes,
            addresses = ?grant.addresses, "session accepted"
        );
        let mut protocol = Session::new(Role::Proxy).with_wrap_up_capsule(capsule_type::WRAP_UP);
        tell(&mut protocol, &grant);
        let grant = Arc::new(grant);
        self.tunnels.insert(Tunnel {
            key,
            protocol,
            grant,
            origin,
            slot,
            since: at,
            mtu_bytes,
        });
        self.tell_use(key);
        self.pump_tunnel(key, now);
    }

    /// Acts on what a tunnel's capsules say, and sends what we say.
    pub(super) fn pump_tunnel(&mut self, key: TunnelKey, now: Now) {
        loop {
            let Some(tunnel) = self.tunnels.at(key) else {
                return;
            };
            match tunnel.protocol.poll_event() {
                Ok(None) => break,
                Ok(Some(Event::AddressRequested(requests))) => {
                    answer(&mut tunnel.protocol, &tunnel.grant.addresses, &requests);
                }
                Ok(Some(Event::DatagramCapsule(packet))) => self.capsule_packet(key, &packet, now),
                Ok(Some(Event::Finished)) => {
                    self.finish_tunnel(key, now);
                    return;
                }
                // A client may offer addresses and routes of its own (site to site); this gateway
                // routes to what it assigned itself, and nothing else.
                Ok(Some(
                    Event::Assigned(_)
                    | Event::Routes(_)
                    | Event::UnknownCapsule { .. }
                    | Event::WrapUp,
                )) => {}
                Err(error) => {
                    self.fail_tunnel(key, &error, now);
                    return;
                }
            }
        }
        let Some(tunnel) = self.tunnels.at(key) else {
            return;
        };
        let Some(port) = self.ports.iter_mut().find(|p| p.number() == key.port) else {
            return;
        };
        let Some(http) = port.machine.http(key.conn) else {
            return;
        };
        while let Some(capsule) = tunnel.protocol.poll_transmit() {
            if let Err(error) = http.send_data(key.stream, capsule, false) {
                tracing::debug!(%error, "a capsule could not be sent");
                return;
            }
        }
    }

    /// Tells on every tunnel's stream that it will end (draft-ietf-httpbis-wrap-up §2.1), besides
    /// GOAWAY, which an intermediary keeps to itself. Only clients hear it that have sent an unknown
    /// capsule; one that does so later hears it then.
    pub(super) fn wrap_up_tunnels(&mut self, now: Now) {
        for key in self.tunnels.keys() {
            if let Some(tunnel) = self.tunnels.at(key) {
                tunnel.protocol.wrap_up();
            }
            self.pump_tunnel(key, now);
        }
    }

    /// The client finished its side: RFC 9484 §4.1, the tunnel lives as long as its stream.
    fn finish_tunnel(&mut self, key: TunnelKey, now: Now) {
        if let Some(port) = self.ports.iter_mut().find(|p| p.number() == key.port)
            && let Some(http) = port.machine.http(key.conn)
        {
            // A stream that is closed already needs no end.
            let _closed_already = http.send_data(key.stream, bytes::Bytes::new(), true);
        }
        self.drop_tunnel(key, EndReason::ClientClosed, now);
    }

    fn fail_tunnel(&mut self, key: TunnelKey, error: &SessionError, now: Now) {
        tracing::info!(shard = self.id, %error, "a client broke the capsule protocol");
        self.reset_stream(key, error.code());
        self.drop_tunnel(key, EndReason::ProtocolError, now);
    }

    /// Ends a tunnel from our side.
    pub(super) fn abort_tunnel(&mut self, key: TunnelKey, reason: EndReason, now: Now) {
        let code = match reason {
            EndReason::ProtocolError => Code::H3_MESSAGE_ERROR,
            EndReason::MtuTooLow | EndReason::NoDatagrams => Code::H3_REQUEST_CANCELLED,
            _ => Code::H3_NO_ERROR,
        };
        self.reset_stream(key, code);
        self.drop_tunnel(key, reason, now);
    }

    pub(super) fn reset_stream(&mut self, key: TunnelKey, code: Code) {
        if let Some(port) = self.ports.iter_mut().find(|p| p.number() == key.port)
            && let Some(http) = port.machine.http(key.conn)
        {
            http.abort(key.stream, code);
        }
    }

    /// Forgets a tunnel that is over.
    pub(super) fn drop_tunnel(&mut self, key: TunnelKey, reason: EndReason, now: Now) {
        let Some(tunnel) = self.tunnels.remove(key) else {
            return;
        };
        let session = tunnel.grant.session;
        let moved = self.plane.detach(tunnel.slot);
        self.waiting.resume(tunnel.slot);
        self.figures.count_end(reason);
        tracing::info!(
            shard = self.id, %session, attachment = %tunnel.grant.name, reason = reason.as_str(),
            "session ended"
        );
        self.control
            .release(now, tunnel.grant.attachment, session, reason);
        self.tell_use(key);
        // Only now does the other shard know that it carries the traffic again.
        self.send_flows(moved);
    }

    /// Tells the machine whether a connection is in use: it has a tunnel, or a request that waits, for
    /// its target's addresses or for what its path carries.
    pub(super) fn tell_use(&mut self, TunnelKey { port, conn, .. }: TunnelKey) {
        let in_use = !self.tunnels.keys_of(port, conn).is_empty()
            || self.held.has(port, conn)
            || self
                .resolving
                .keys()
                .any(|key| key.port == port && key.conn == conn);
        if let Some(port) = self.ports.iter_mut().find(|p| p.number() == port) {
            port.machine.set_in_use(conn, in_use);
        }
    }

    /// Flows follow their attachment to the shard that carries its traffic.
    pub(super) fn send_flows(&self, moved: Option<MovedFlows>) {
        let Some(moved) = moved else {
            return;
        };
        tracing::debug!(
            shard = self.id,
            to = moved.shard(),
            flows = moved.count(),
            "flows move"
        );
        let to = moved.shard();
        self.control.send(to, Command::Flows(Box::new(moved)));
    }

    /// The registry ended a session of this shard.
    pub(super) fn end_session(&mut self, session: SessionId, reason: EndReason, now: Now) {
        if let Some(key) = self.tunnels.by_session(session).map(|tunnel| tunnel.key) {
            self.abort_tunnel(key, reason, now);
        }
    }

    /// A session of this shard is judged by another grant, and its client is told.
    pub(super) fn update(&mut self, grant: Arc<Grant>, now: Now) {
        let Some(tunnel) = self.tunnels.by_session(grant.session) else {
            return;
        };
        if grant.generation < tunnel.grant.generation {
            return;
        }
        self.plane.update(now, &grant);
        tell(&mut tunnel.protocol, &grant);
        tunnel.grant = grant;
        let key = tunnel.key;
        if let Some(index) = self.ports.iter().position(|p| p.number() == key.port) {
            self.update_mtu(index, key.conn);
        }
        self.pump_tunnel(key, now);
    }

    /// Listeners or authentication methods changed: ends the sessions that could not begin now.
    pub(super) fn recheck(&mut self, now: Now) {
        let sites = self.control.sites();
        let over: Vec<(TunnelKey, EndReason)> = self
            .tunnels
            .iter()
            .filter_map(|tunnel| {
                let (key, origin) = (tunnel.key, &tunnel.origin);
                let point = &tunnel.grant.ingress_point;
                let reason = sites.refuses(key.port, &origin.authority, point, origin.method)?;
                Some((key, reason))
            })
            .collect();
        for (key, reason) in over {
            self.abort_tunnel(key, reason, now);
        }
    }

    /// The fabric carries packets of another length: judge by it, and by the tunnels' MTUs that follow
    /// from it.
    pub(super) fn set_fabric_mtu(&mut self, bytes: usize) {
        self.plane
            .set_fabric_mtu(u16::try_from(bytes).unwrap_or(u16::MAX));
        for key in self.tunnels.keys() {
            if let Some(index) = self.ports.iter().position(|p| p.number() == key.port) {
                self.update_mtu(index, key.conn);
            }
        }
    }

    /// A connection's datagrams have another size.
    pub(super) fn update_mtu(&mut self, index: usize, conn: ConnId) {
        let port = self.ports[index].number();
        for key in self.tunnels.keys_of(port, conn) {
            let Some(grant) = self.tunnels.at(key).map(|t| Arc::clone(&t.grant)) else {
                continue;
            };
            let mtu_bytes = self.mtu(index, key, &grant);
            if let Some(tunnel) = self.tunnels.at(key)
                && tunnel.mtu_bytes != mtu_bytes
            {
                tunnel.mtu_bytes = mtu_bytes;
                self.plane.set_mtu(tunnel.slot, mtu_bytes);
                tracing::debug!(shard = self.id, session = %grant.session, mtu_bytes, "inner MTU");
            }
        }
    }

    /// 200, with the longest packet that manifest and fabric let through: a client whose link has
    /// jumbo frames would else learn it packet by packet.
    fn ok_response(&self, grant: &Grant) -> ResponseHead {
        let manifest = grant.mtu_bytes.map_or(usize::MAX, usize::from);
        let bytes = manifest
            .min(self.control.fabric_mtu_bytes())
            .max(MIN_MTU_BYTES);
        let mut head = request::ok_response();
        head.fields
            .push(Field::new("x-datum-ip-mtu", bytes.to_string()));
        head
    }

    /// The inner MTU: what the datagrams, the fabric and the manifest allow. With IPv6 never below
    /// 1280 (such a tunnel ends before that, [`masque_transport::Event::PathTooSmall`]); without, the
    /// path decides.
    fn mtu(&self, index: usize, key: TunnelKey, grant: &Grant) -> u16 {
        let datagram = self.ports[index]
            .machine
            .max_datagram_payload(key.conn, key.stream)
            .unwrap_or(0)
            .saturating_sub(CONTEXT_BYTES);
        let manifest = grant.mtu_bytes.map_or(usize::MAX, usize::from);
        let bytes = datagram.min(manifest).min(self.control.fabric_mtu_bytes());
        inner_mtu_bytes(bytes, &grant.addresses)
    }

    /// A session, for people.
    pub(super) fn session_report(&self, tunnel: &Tunnel, at: Instant) -> Option<SessionReport> {
        let port = self.ports.iter().find(|p| p.number() == tunnel.key.port)?;
        let counters = self.plane.counters(tunnel.slot)?;
        let traffic = |t: masque_gateway_core::Traffic| Traffic {
            packets: t.packets,
            bytes: t.bytes,
        };
        let rtt = port.machine.rtt(tunnel.key.conn).unwrap_or_default();
        Some(SessionReport {
            id: tunnel.grant.session.0,
            attachment: tunnel.grant.name.to_string(),
            connector: tunnel.grant.connector.clone(),
            vpc: tunnel.grant.vpc.to_string(),
            addresses: tunnel.grant.addresses.clone(),
            transport: "h3".to_owned(),
            remote: plain(port.machine.remote_address(tunnel.key.conn)?),
            shard: self.id,
            active: self.plane.is_active(tunnel.slot),
            age_s: at.saturating_duration_since(tunnel.since).as_secs(),
            mtu_bytes: tunnel.mtu_bytes,
            rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX),
            to_vpc: traffic(counters.to_vpc),
            from_vpc: traffic(counters.to_client),
            drops: masque_gateway_core::DropReason::ALL
                .iter()
                .map(|reason| (reason.as_str().to_owned(), counters.dropped(*reason)))
                .filter(|(_, count)| *count > 0)
                .collect(),
        })
    }
}

/// The smallest MTU that a link of IPv4 may have (RFC 791 §3.2: every module "must be able to forward
/// a datagram of 68 octets without further fragmentation").
const MIN_IPV4_MTU_BYTES: usize = 68;

/// The MTU of a tunnel with these addresses over a path with room for packets of `room_bytes`.
fn inner_mtu_bytes(room_bytes: usize, addresses: &[IpNet]) -> u16 {
    let has_ipv6 = addresses.iter().any(|address| address.addr().is_ipv6());
    let floor = if has_ipv6 {
        MIN_MTU_BYTES
    } else {
        MIN_IPV4_MTU_BYTES
    };
    u16::try_from(room_bytes.max(floor)).unwrap_or(u16::MAX)
}

/// A client's IPv4 address as it is written, though the socket takes both families.
fn plain(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}

/// What the client has, as capsules; only what changed is sent.
fn tell(protocol: &mut Session, grant: &Grant) {
    let routes = from_prefixes(&grant.routes, grant.scope.protocol);
    let told = protocol
        .assign(&grant.addresses)
        .and_then(|()| protocol.advertise(routes));
    if let Err(error) = told {
        tracing::warn!(session = %grant.session, %error, "the client cannot be told everything");
    }
}

/// RFC 9484 §4.7.2: every request is answered; with what the session has of its family, or not at
/// all. A preference for another address is not met: the address is the attachment's.
fn answer(protocol: &mut Session, addresses: &[IpNet], requests: &[RequestedAddress]) {
    let have = |request: &RequestedAddress| {
        let wanted_ipv4 = request.prefix.addr().is_ipv4();
        let found = addresses.iter().find(|a| a.addr().is_ipv4() == wanted_ipv4);
        found.copied()
    };
    let granted: Vec<_> = requests.iter().map(|r| (r.request_id, have(r))).collect();
    let Err(error) = protocol.answer_requests(&granted) else {
        return;
    };
    tracing::warn!(%error, "address requests are refused");
    let refused: Vec<_> = requests.iter().map(|r| (r.request_id, None)).collect();
    if let Err(error) = protocol.answer_requests(&refused) {
        tracing::error!(%error, "address requests stay without an answer");
    }
}

#[cfg(test)]
mod tests;
