//! Requests: who asks, for which VPC, and what is answered.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use masque_gateway_core::{AdmitRequest, EndReason, Grant, Now, Refusal};
use masque_http3::{self as http3, Code, RequestHead, ResponseHead, StreamId};
use masque_model::{IpNet, ListenerProtocol, ObjectName};
use masque_protocol::{ProxyError, ProxyStatus, Scope, Target, request};
use masque_transport::{CloseReason, ConnId, Event};

use super::{
    Drain, Shard,
    held::{Held, is_narrow},
    resolving::{RESOLVE_TIMEOUT, Resolving},
    tunnels::{Origin, TunnelKey},
};
use crate::{
    auth::{self, Identity},
    sites::Destination,
};

/// The smallest MTU a tunnel that carries IPv6 may have (RFC 9484 §7.2).
pub(super) const MIN_MTU_BYTES: usize = 1280;
/// The Context ID in front of every packet.
pub(super) const CONTEXT_BYTES: usize = 1;
/// The name in Proxy-Status (RFC 9209 §2).
const PROXY_NAME: &str = "masque-gateway";

/// What is done with a request.
pub(super) enum Decision {
    /// A tunnel.
    Accept(Box<(Grant, Origin)>),
    /// This answer; the label counts it.
    Refuse(ResponseHead, &'static str),
    /// Not even 200 fits in the client's SETTINGS_MAX_FIELD_SECTION_SIZE; the label counts it.
    Abort(&'static str),
    /// The name is resolved first (RFC 9484 §4.1), for one of these ingress points.
    Resolve(String, BTreeSet<ObjectName>),
    /// It waits until the path to one of these ingress points is known to carry a tunnel.
    Hold(BTreeSet<ObjectName>),
}

pub(super) fn refuse(
    status: u16,
    error: ProxyError,
    details: &str,
    label: &'static str,
) -> Decision {
    let proxy_status = ProxyStatus::new(PROXY_NAME, error).with_details(details);
    Decision::Refuse(request::refusal(status, Some(&proxy_status)), label)
}

/// RFC 9729 §6.3: a failure "MUST" look like the resource did not exist; so does every other thing
/// that a stranger may not learn.
fn not_found(label: &'static str) -> Decision {
    Decision::Refuse(request::refusal(404, None), label)
}

impl Shard {
    /// Acts on everything that the machines report.
    pub(super) fn handle_events(&mut self, at: Instant, now: Now) {
        for index in 0..self.ports.len() {
            while let Some(event) = self.ports[index].machine.poll_event() {
                self.handle_event(index, event, at, now);
            }
        }
    }

    fn handle_event(&mut self, index: usize, event: Event, at: Instant, now: Now) {
        let port = self.ports[index].number();
        match event {
            Event::Http { conn, event } => self.handle_http(index, conn, event, at, now),
            Event::DatagramSize { conn, .. } => {
                self.update_mtu(index, conn);
                self.release_held(index, conn, at, now);
            }
            Event::PathTooSmall {
                conn,
                udp_payload_bytes,
            } => {
                tracing::info!(
                    shard = self.id,
                    udp_payload_bytes,
                    "a client's path cannot carry 1280 bytes; its IPv6 tunnels end"
                );
                for key in self.tunnels.keys_of(port, conn) {
                    let ipv6 = self.tunnels.at(key).is_some_and(|t| t.has_ipv6());
                    if ipv6 {
                        self.abort_tunnel(key, EndReason::MtuTooLow, now);
                    }
                }
            }
            Event::Migrated { conn, remote } => {
                tracing::debug!(shard = self.id, %remote, index = conn.index(), "client moved");
            }
            Event::Closed { conn, reason } => {
                for key in self.tunnels.keys_of(port, conn) {
                    tracing::info!(shard = self.id, %reason, "connection closed");
                    self.drop_tunnel(key, end_reason(&reason), now);
                }
                self.resolving
                    .retain(|key, _| key.port != port || key.conn != conn);
                self.held.remove_connection(port, conn);
                self.ports[index].closed(conn);
            }
            Event::Connected { conn } => {
                let port = &mut self.ports[index];
                port.connected(conn);
                if self.drain != Drain::No {
                    port.turn_away(conn);
                }
            }
            Event::StreamWritable { .. } => {}
        }
    }

    fn handle_http(
        &mut self,
        index: usize,
        conn: ConnId,
        event: http3::Event,
        at: Instant,
        now: Now,
    ) {
        let port = self.ports[index].number();
        let key = |stream: StreamId| TunnelKey { port, conn, stream };
        match event {
            http3::Event::Request { stream, head } => {
                self.handle_request(index, key(stream), head, at, now);
            }
            http3::Event::Data { stream, data } => {
                let key = key(stream);
                if let Some(tunnel) = self.tunnels.at(key) {
                    tunnel.protocol.handle_data(data, now.mono_ms);
                    self.pump_tunnel(key, now);
                } else if let Some(waiting) = self.resolving.get_mut(&key) {
                    if !waiting.keep(&data) {
                        self.resolving.remove(&key);
                        self.reset_stream(key, Code::H3_EXCESSIVE_LOAD);
                        self.tell_use(key);
                    }
                } else {
                    self.keep_early(key, &data);
                }
            }
            http3::Event::Finished { stream } => {
                let key = key(stream);
                if self.resolving.remove(&key).is_some() || self.held.remove(key) {
                    self.reset_stream(key, Code::H3_REQUEST_CANCELLED);
                    self.tell_use(key);
                }
                if let Some(tunnel) = self.tunnels.at(key) {
                    tunnel.protocol.handle_finished();
                    self.pump_tunnel(key, now);
                }
            }
            http3::Event::Reset { stream, .. } => {
                self.resolving.remove(&key(stream));
                self.held.remove(key(stream));
                self.drop_tunnel(key(stream), EndReason::ClientClosed, now);
                self.tell_use(key(stream));
            }
            http3::Event::Settings(_) => {
                if self.refuses_datagrams(index, conn) {
                    for key in self.tunnels.keys_of(port, conn) {
                        self.abort_tunnel(key, EndReason::NoDatagrams, now);
                    }
                }
            }
            http3::Event::Response { .. } | http3::Event::GoAway { .. } => {}
        }
    }

    /// Whether a client's SETTINGS came and take no HTTP Datagrams: "QUIC DATAGRAM frames MUST NOT be
    /// sent until the SETTINGS_H3_DATAGRAM setting has been both sent and received with a value of 1"
    /// (RFC 9297 §2.1.1).
    fn refuses_datagrams(&self, index: usize, conn: ConnId) -> bool {
        let http = self.ports[index].machine.http_ref(conn);
        http.and_then(http3::Connection::peer_takes_datagrams) == Some(false)
    }

    /// What a datagram may hold, if gateway and connection can carry a tunnel, as far as is known.
    fn room_bytes(&self, index: usize, key: TunnelKey) -> Result<usize, Decision> {
        if self.drain != Drain::No {
            let details = "the gateway is shutting down; connect again";
            let error = ProxyError::ProxyInternalError;
            return Err(refuse(503, error, details, "draining"));
        }
        let machine = &self.ports[index].machine;
        let room = machine.max_datagram_payload(key.conn, key.stream);
        let Some(room) = room.filter(|_| !self.refuses_datagrams(index, key.conn)) else {
            let details = "the tunnel needs QUIC datagrams (RFC 9221), which the client lacks";
            let error = ProxyError::HttpRequestError;
            return Err(refuse(400, error, details, "no_datagrams"));
        };
        // Asked before the session begins: it would take the place of the attachment's present one.
        let http = machine.http_ref(key.conn);
        if !http.is_some_and(|http| http.takes_response(&request::ok_response())) {
            return Err(Decision::Abort("answer_too_large"));
        }
        Ok(room)
    }

    fn handle_request(
        &mut self,
        index: usize,
        key: TunnelKey,
        head: RequestHead,
        at: Instant,
        now: Now,
    ) {
        let decision = match self.identify(index, key, &head) {
            Ok(identity) => {
                let decision = self.decide(index, key, &head, identity, None, now);
                if let Decision::Resolve(name, points) = decision {
                    self.resolve(index, key, (identity, head), (name, points), at);
                    return;
                }
                if let Decision::Hold(points) = decision {
                    let held = Held::new((identity, head), None, points, at);
                    return self.hold(index, key, held, at);
                }
                decision
            }
            Err(refused) => refused,
        };
        self.carry_out(index, key, decision, at);
    }

    /// The addresses of a request's target are known, or that it has none.
    pub(super) fn resolved(
        &mut self,
        key: TunnelKey,
        addresses: Result<Vec<IpAddr>, ProxyError>,
        at: Instant,
        now: Now,
    ) {
        // The client may have given up meanwhile.
        let Some(mut waiting) = self.resolving.remove(&key) else {
            self.tell_use(key);
            return;
        };
        let early = waiting.take_early();
        let Some(index) = self.ports.iter().position(|p| p.number() == key.port) else {
            return;
        };
        let decision = match addresses {
            // RFC 9484 §4.1: failure to resolve "MUST" fail the request, "SHOULD" say so.
            Err(error) => {
                let status = error.recommended_status();
                refuse(
                    status,
                    error,
                    "the target's name does not resolve",
                    "dns_error",
                )
            }
            Ok(addresses) => {
                let Resolving { identity, head, .. } = waiting;
                let decision = self.decide(index, key, &head, identity, Some(&addresses), now);
                if let Decision::Hold(points) = decision {
                    let held = Held::new((identity, head), Some(addresses), points, at);
                    return self.hold(index, key, held.with_early(early), at);
                }
                decision
            }
        };
        self.carry_out(index, key, decision, at);
        self.tell_use(key);
        if let Some(tunnel) = self.tunnels.at(key) {
            tunnel.protocol.handle_data(early, now.mono_ms);
            self.pump_tunnel(key, now);
        }
    }

    /// Who asks; a stranger learns no more than a plain web server without that page would tell.
    fn identify(
        &self,
        index: usize,
        key: TunnelKey,
        head: &RequestHead,
    ) -> Result<Identity, Decision> {
        // RFC 8441 §4: an unknown :protocol is answered by 501, whoever asks.
        if head
            .protocol
            .as_deref()
            .is_some_and(|protocol| protocol != "connect-ip")
        {
            return Err(Decision::Refuse(
                request::refusal(501, None),
                "unknown_protocol",
            ));
        }
        let authority = head.authority.as_deref().unwrap_or_default();
        let sites = self.control.sites();
        let path = head.path.as_deref().unwrap_or_default();
        if sites.destination(key.port, authority, path) == Destination::Misdirected {
            return Err(Decision::Refuse(request::refusal(421, None), "misdirected"));
        }
        auth::identify(&self.ports[index].machine, key.conn, head)
            .ok_or_else(|| not_found("unauthenticated"))
    }

    pub(super) fn decide(
        &self,
        index: usize,
        key: TunnelKey,
        head: &RequestHead,
        identity: Identity,
        resolved: Option<&[IpAddr]>,
        now: Now,
    ) -> Decision {
        let sites = self.control.sites();
        let authority = head.authority.as_deref().unwrap_or_default();
        let path = head.path.as_deref().unwrap_or_default();
        let Destination::Vpcs { candidates, scope } = sites.destination(key.port, authority, path)
        else {
            return not_found("unknown_path");
        };
        let points: BTreeSet<_> = candidates
            .into_iter()
            .filter(|candidate| identity.allowed_by(candidate.auth))
            .map(|candidate| candidate.ingress_point)
            .collect();
        // A path that several VPCs share means the one that the key may enter.
        let points = self.control.serving(&identity.key, points);
        if points.is_empty() {
            return not_found("unknown_key");
        }
        // From here on the asker is somebody, and is told what is wrong.
        if let Err(error) = request::check_connect_ip(head) {
            let details = error.to_string();
            return refuse(
                error.status(),
                ProxyError::HttpRequestError,
                &details,
                "malformed",
            );
        }
        let scope = match scope {
            Ok(scope) => scope,
            Err(error) => {
                let details = error.to_string();
                return refuse(400, ProxyError::HttpRequestError, &details, "malformed");
            }
        };
        let room = match self.room_bytes(index, key) {
            Ok(room) => room,
            Err(refused) => return refused,
        };
        let targets = match (&scope.target, resolved) {
            (Target::Host(name), None) => return Decision::Resolve(name.clone(), points),
            (Target::Host(_), Some(addresses)) => {
                Some(addresses.iter().copied().map(IpNet::from).collect())
            }
            (Target::Prefix(prefix), _) => Some(vec![*prefix]),
            (Target::Any, _) => None,
        };
        if is_narrow(room) {
            return self.narrow(index, key.conn, points);
        }
        match self.admit(&identity, &points, key.port, &scope, targets, now) {
            Ok(grant) => {
                let (method, authority) = (identity.method, authority.to_owned());
                Decision::Accept(Box::new((grant, Origin { method, authority })))
            }
            Err(refused) => refused,
        }
    }

    fn admit(
        &self,
        identity: &Identity,
        points: &BTreeSet<ObjectName>,
        port: u16,
        scope: &Scope,
        targets: Option<Vec<IpNet>>,
        now: Now,
    ) -> Result<Grant, Decision> {
        let only = if points.len() == 1 {
            points.first().map(ToString::to_string)
        } else {
            None
        };
        let request = AdmitRequest {
            key: identity.key,
            vpc: only.as_deref(),
            listener: Some((ListenerProtocol::Http3, port)),
            scope: &masque_gateway_core::Scope {
                targets,
                protocol: scope.protocol,
            },
            shard: self.id,
            ipv4: true,
            ipv6: true,
        };
        self.control
            .admit(now, &request)
            .map_err(|refusal| refused(&refusal))
    }

    fn resolve(
        &mut self,
        index: usize,
        key: TunnelKey,
        (identity, head): (Identity, RequestHead),
        (name, points): (String, BTreeSet<ObjectName>),
        at: Instant,
    ) {
        // An answer comes for each, a little after the timeout at the latest.
        self.resolving
            .retain(|_, other| at.duration_since(other.since) < 2 * RESOLVE_TIMEOUT);
        let Some(lookup) = self.control.begin_lookup(identity.key, points) else {
            let details = "too many names are being resolved; try again";
            let decision = refuse(
                503,
                ProxyError::ConnectionLimitReached,
                details,
                "resolving",
            );
            self.carry_out(index, key, decision, at);
            return;
        };
        let waiting = Resolving::new(identity, head, at, Arc::clone(&lookup));
        self.resolving.insert(key, waiting);
        self.tell_use(key);
        self.control.resolve(name, lookup, self.id, key);
    }

    pub(super) fn carry_out(
        &mut self,
        index: usize,
        key: TunnelKey,
        decision: Decision,
        at: Instant,
    ) {
        match decision {
            Decision::Accept(accepted) => {
                self.figures.count_request("accepted");
                self.open_tunnel(index, key, *accepted, at);
            }
            Decision::Refuse(head, label) => {
                self.figures.count_request(label);
                self.send_refusal(index, key, head);
            }
            Decision::Abort(label) => {
                self.figures.count_request(label);
                self.reset_stream(key, Code::H3_INTERNAL_ERROR);
            }
            // A name is resolved once, and held is what is not wide enough: neither comes here.
            Decision::Resolve(..) | Decision::Hold(_) => {}
        }
    }

    /// Sends a refusal; its status alone to a client that takes no more (RFC 9114 §4.2.2), and none
    /// to one that does not take that either: its request must not hang.
    fn send_refusal(&mut self, index: usize, key: TunnelKey, mut head: ResponseHead) {
        let Some(http) = self.ports[index].machine.http(key.conn) else {
            return;
        };
        if !http.takes_response(&head) {
            head.fields.clear();
        }
        if let Err(error) = http.send_response(key.stream, &head, true) {
            tracing::debug!(%error, "a refusal could not be sent");
            http.abort(key.stream, Code::H3_INTERNAL_ERROR);
        }
    }
}

/// Why a connection's sessions are over.
fn end_reason(reason: &CloseReason) -> EndReason {
    match reason {
        CloseReason::Peer { code, .. } if *code == Code::H3_NO_ERROR => EndReason::ClientClosed,
        _ => EndReason::ConnectionLost,
    }
}

/// What a client is told when it gets no session.
fn refused(refusal: &Refusal) -> Decision {
    let (status, error) = match refusal {
        Refusal::NotFound => return not_found("not_found"),
        Refusal::SeveralVpcs(_) => (400, ProxyError::HttpRequestError),
        Refusal::Suspended => (403, ProxyError::HttpRequestDenied),
        Refusal::TooManySessions(_)
        | Refusal::GatewayFull
        | Refusal::PoolExhausted
        | Refusal::AddressTaken(_) => (503, ProxyError::ConnectionLimitReached),
        Refusal::AddressOutsidePools(_) | Refusal::NoFamily => {
            (500, ProxyError::ProxyConfigurationError)
        }
        Refusal::TargetOutsideRoutes => (403, ProxyError::DestinationIpProhibited),
    };
    refuse(status, error, &refusal.to_string(), refusal.as_str())
}
