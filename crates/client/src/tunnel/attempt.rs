//! One connection on its way to a tunnel: handshake, settings, request, addresses.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::Bytes;
use ipnet::IpNet;
use masque_http3::{Field, ResponseHead, StreamId, settings};
use masque_protocol::{
    AssignedAddress, Event, IpRange, RequestedAddress, Role, Session, capsule_type, concealed,
    request::{self, Verdict},
};
use masque_transport::{ConnId, Machine, OpenError};

use super::{event::ROUTE_PREFIXES_MAX, outer::PROBE_AFTER, refusal};
use crate::{
    AttachError, Auth, Stage,
    config::{MTU_MIN_BYTES, Plan},
};

/// A gateway that assigns by itself does so with its answer or within a round trip; then we ask
/// (RFC 9484 §4.7.1: an endpoint that needs an address sends ADDRESS_REQUEST).
const ASK_AFTER_MIN: Duration = Duration::from_millis(50);
/// A gateway that assigned addresses advertises routes at once; one that never does leaves a tunnel
/// without routes.
const ROUTES_AFTER: Duration = Duration::from_secs(1);
/// How long to wait for the gateway's SETTINGS, and for its answer to the request.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for addresses.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// What precedes the packet in an HTTP Datagram's payload: Context ID 0 (RFC 9484 §6).
pub(crate) const CONTEXT_BYTES: usize = 1;

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) conn: ConnId,
    pub(crate) remote: SocketAddr,
    pub(crate) started: Instant,
    /// When small packets are tried beside, unless an answer comes before.
    pub(crate) probe_at: Option<Instant>,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Until QUIC and TLS are done.
    Handshake,
    /// Until the gateway's SETTINGS are there.
    Settings { since: Instant },
    /// Until the answer to our request.
    Response { stream: StreamId, since: Instant },
    /// Until addresses and routes.
    Configure(Box<Configured>),
}

/// An accepted request.
#[derive(Debug)]
pub(crate) struct Configured {
    pub(crate) stream: StreamId,
    pub(crate) session: Session,
    opened: Instant,
    asked: bool,
    /// No sooner than [`Event::Routes`] is this true.
    pub(crate) has_routes: bool,
    /// What the gateway said that it takes, if it did.
    pub(crate) mtu_max_bytes: usize,
}

/// What an attempt came to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing worth telling.
    None,
    Stage(Stage),
}

impl Attempt {
    pub(crate) fn new(conn: ConnId, remote: SocketAddr, now: Instant) -> Self {
        Self {
            conn,
            remote,
            started: now,
            probe_at: Some(now + PROBE_AFTER),
            step: Step::Handshake,
        }
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        matches!(self.step, Step::Handshake)
    }

    /// QUIC and TLS are done.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.step = Step::Settings { since: now };
    }

    /// The gateway's SETTINGS arrived: the request may go out (RFC 9220 §3).
    pub(crate) fn settings(
        &mut self,
        machine: &mut Machine,
        plan: &Plan,
        now: Instant,
    ) -> Result<Progress, AttachError> {
        if !matches!(self.step, Step::Settings { .. }) {
            return Ok(Progress::None);
        }
        let http = machine.http_ref(self.conn);
        let setting = |id| http.and_then(|http| http.peer_setting(id)).unwrap_or(0);
        if setting(settings::ENABLE_CONNECT_PROTOCOL) != 1 {
            return Err(AttachError::NotAGateway {
                missing: "no extended CONNECT (RFC 9220)",
            });
        }
        if setting(settings::H3_DATAGRAM) != 1 {
            return Err(AttachError::NotAGateway {
                missing: "no HTTP Datagrams (RFC 9297)",
            });
        }
        let mut extra = Vec::new();
        if plan.auth == Auth::ConcealedKey {
            extra.push(Field::new(
                "authorization",
                self.credentials(machine, plan)?,
            ));
        }
        let head = request::connect_ip_request(&plan.target, extra);
        let stream = machine
            .request(self.conn, &head, false)
            .map_err(open_error)?;
        if let Some(http) = machine.http(self.conn) {
            http.accept_datagrams(stream);
        }
        self.step = Step::Response { stream, since: now };
        Ok(Progress::None)
    }

    /// RFC 9729 §3: signs what TLS exports for this connection.
    fn credentials(&self, machine: &Machine, plan: &Plan) -> Result<String, AttachError> {
        let public_key = plan.asked.key;
        let host = match plan.asked.host.contains(':') {
            true => format!("[{}]", plan.asked.host),
            false => plan.asked.host.clone(),
        };
        let context = concealed::export_context(&concealed::ExportContext {
            key_id: public_key.as_bytes(),
            public_key: public_key.as_bytes(),
            scheme: "https",
            host: &host,
            port: plan.port,
            realm: "",
        });
        let mut output = [0; concealed::EXPORTER_OUTPUT_BYTES];
        machine
            .export_keying_material(self.conn, concealed::EXPORTER_LABEL, &context, &mut output)
            .map_err(|error| AttachError::Handshake {
                reason: error.to_string(),
            })?;
        Ok(concealed::sign(
            plan.identity.pair(),
            public_key.as_bytes(),
            &output,
        ))
    }

    /// The gateway answered.
    pub(crate) fn response(
        &mut self,
        stream: StreamId,
        head: &ResponseHead,
        plan: &Plan,
        now: Instant,
    ) -> Result<Progress, AttachError> {
        match self.step {
            Step::Response { stream: ours, .. } if ours == stream => {}
            _ => return Ok(Progress::None),
        }
        match request::check_response(head) {
            Ok(Verdict::Interim) => Ok(Progress::None),
            Ok(Verdict::Open) => {
                self.step = Step::Configure(Box::new(Configured {
                    stream,
                    session: Session::new(Role::Client).with_wrap_up_capsule(capsule_type::WRAP_UP),
                    opened: now,
                    asked: false,
                    has_routes: false,
                    mtu_max_bytes: announced_mtu_bytes(head).min(plan.mtu_max_bytes.into()),
                }));
                Ok(Progress::Stage(Stage::Address))
            }
            Err(error) => Err(refusal::response(error, head, &plan.asked)),
        }
    }

    /// Bytes of the request stream.
    pub(crate) fn data(
        &mut self,
        stream: StreamId,
        data: Bytes,
        now_ms: u64,
    ) -> Result<(), AttachError> {
        let Step::Configure(configured) = &mut self.step else {
            return Ok(());
        };
        if configured.stream != stream {
            return Ok(());
        }
        configured.session.handle_data(data, now_ms);
        while let Some(event) = configured.session.poll_event().map_err(protocol)? {
            match event {
                Event::Assigned(list) => check_refusals(configured, &list)?,
                Event::Routes(_) => configured.has_routes = true,
                Event::Finished => return Err(ended()),
                Event::AddressRequested(requests) => refuse(&mut configured.session, &requests)?,
                // As at a GOAWAY: what opens now would end at once.
                Event::WrapUp => return Err(AttachError::GoingAway),
                // Packets before addresses belong to nobody yet.
                Event::DatagramCapsule(_) | Event::UnknownCapsule { .. } => {}
            }
        }
        Ok(())
    }

    /// The gateway finished the request stream.
    pub(crate) fn finished(&mut self, stream: StreamId) -> Option<AttachError> {
        match &mut self.step {
            Step::Configure(configured) if configured.stream == stream => {
                Some(finished(&mut configured.session))
            }
            _ => self.ended(stream),
        }
    }

    /// The request stream ended.
    pub(crate) fn ended(&self, stream: StreamId) -> Option<AttachError> {
        match &self.step {
            Step::Response { stream: ours, .. } if *ours == stream => {
                let reason = "it ended the request without an answer".to_owned();
                Some(AttachError::Closed { reason })
            }
            Step::Configure(configured) if configured.stream == stream => Some(ended()),
            _ => None,
        }
    }

    /// Whether addresses and routes are there; asks for addresses when it is time.
    pub(crate) fn poll_ready(&mut self, now: Instant, rtt: Duration) -> Result<bool, AttachError> {
        let configured = match &mut self.step {
            Step::Handshake => return Ok(false),
            Step::Settings { since } | Step::Response { since, .. } => {
                let waited = now.saturating_duration_since(*since);
                return match waited < ANSWER_TIMEOUT {
                    true => Ok(false),
                    false => Err(unanswered(waited)),
                };
            }
            Step::Configure(configured) => configured,
        };
        let elapsed = now.saturating_duration_since(configured.opened);
        if !configured.session.assigned().is_empty() {
            return Ok(configured.has_routes || elapsed >= ROUTES_AFTER);
        }
        if elapsed >= ADDRESS_TIMEOUT {
            return Err(AttachError::NoAddress { waited: elapsed });
        }
        if !configured.asked && elapsed >= rtt.max(ASK_AFTER_MIN) {
            configured.asked = true;
            let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            let any = any.map(IpNet::from);
            configured
                .session
                .request_addresses(&any)
                .map_err(|error| AttachError::Protocol {
                    reason: error.to_string(),
                })?;
        }
        Ok(false)
    }

    /// When [`poll_ready`](Self::poll_ready) changes its answer by itself.
    pub(crate) fn deadline(&self, rtt: Duration) -> Option<Instant> {
        let configured = match &self.step {
            // The handshake's own timer is QUIC's.
            Step::Handshake => return self.probe_at,
            Step::Settings { since } | Step::Response { since, .. } => {
                return Some(*since + ANSWER_TIMEOUT);
            }
            Step::Configure(configured) => configured,
        };
        let after = if !configured.session.assigned().is_empty() {
            ROUTES_AFTER
        } else if configured.asked {
            ADDRESS_TIMEOUT
        } else {
            rtt.max(ASK_AFTER_MIN)
        };
        Some(configured.opened + after)
    }

    /// The session, once the request is accepted.
    pub(crate) fn session(&mut self) -> Option<(StreamId, &mut Session)> {
        match &mut self.step {
            Step::Configure(configured) => Some((configured.stream, &mut configured.session)),
            _ => None,
        }
    }

    pub(crate) fn into_configured(self) -> Option<Box<Configured>> {
        match self.step {
            Step::Configure(configured) => Some(configured),
            _ => None,
        }
    }
}

/// RFC 9484 §4.7.2: the receiver of an ADDRESS_REQUEST must answer each request; a client that is no
/// router has nothing to give.
pub(crate) fn refuse(
    session: &mut Session,
    requests: &[RequestedAddress],
) -> Result<(), AttachError> {
    let answers: Vec<_> = requests
        .iter()
        .map(|request| (request.request_id, None))
        .collect();
    session
        .answer_requests(&answers)
        .map_err(|error| AttachError::Protocol {
            reason: error.to_string(),
        })
}

/// Every family that was asked for was declined, and nothing came unasked.
fn check_refusals(configured: &Configured, list: &[AssignedAddress]) -> Result<(), AttachError> {
    let declined = list.iter().filter(|entry| entry.is_refusal()).count();
    if configured.asked && declined >= 2 && configured.session.assigned().is_empty() {
        return Err(AttachError::PoolExhausted);
    }
    Ok(())
}

/// What inner packets may be, from what one datagram carries.
///
/// RFC 9484 §7.2: IPv6 needs 1280 bytes; with less the request "MUST" be aborted. We ask as much of
/// IPv4 too: a TUN device below 1280 loses its IPv6 addresses, and peers rely on it.
pub(crate) fn inner_mtu_bytes(
    datagram_payload_bytes: Option<usize>,
    max_bytes: usize,
) -> Result<usize, AttachError> {
    let available_bytes = datagram_payload_bytes
        .unwrap_or(0)
        .saturating_sub(CONTEXT_BYTES);
    let needed_bytes = usize::from(MTU_MIN_BYTES);
    let mtu_bytes = available_bytes.min(max_bytes);
    if mtu_bytes < needed_bytes {
        return Err(AttachError::MtuTooSmall {
            available_bytes: mtu_bytes,
            needed_bytes,
        });
    }
    Ok(mtu_bytes)
}

/// Some gateways of this kind say what they take in a response field; RFC 9484 has none.
fn announced_mtu_bytes(head: &ResponseHead) -> usize {
    let text = head
        .values("x-datum-ip-mtu")
        .next()
        .and_then(|v| std::str::from_utf8(v).ok());
    text.and_then(|text| text.trim().parse().ok())
        .unwrap_or(usize::MAX)
}

fn unanswered(waited: Duration) -> AttachError {
    let seconds = waited.as_secs();
    AttachError::Closed {
        reason: format!("it did not answer the request in {seconds} s"),
    }
}

pub(crate) fn ended() -> AttachError {
    AttachError::Closed {
        reason: "it ended the tunnel's request stream".to_owned(),
    }
}

/// What the end of the request stream is: RFC 9297 §3.3 calls it malformed in the middle of a capsule.
pub(crate) fn finished(session: &mut Session) -> AttachError {
    session.handle_finished();
    loop {
        match session.poll_event() {
            Ok(Some(Event::Finished) | None) => return ended(),
            Ok(Some(_)) => {}
            Err(error) => return protocol(error),
        }
    }
}

pub(crate) fn protocol(error: masque_protocol::SessionError) -> AttachError {
    AttachError::Protocol {
        reason: error.to_string(),
    }
}

fn open_error(error: OpenError) -> AttachError {
    match error {
        OpenError::Send(masque_http3::SendError::GoingAway) => AttachError::GoingAway,
        other => AttachError::Closed {
            reason: other.to_string(),
        },
    }
}

/// Everything the peer routes, as its ranges say it; [`ROUTE_PREFIXES_MAX`] at most.
pub(crate) fn prefixes(ranges: &[IpRange]) -> Vec<IpNet> {
    ranges
        .iter()
        .flat_map(IpRange::prefixes)
        .take(ROUTE_PREFIXES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_prefixes_of_scattered_ranges_are_bounded() {
        // From .0.0.1 to .255.255.254 a range needs 46 prefixes.
        let range = |first| {
            let (start, end) = ([first, 0, 0, 1], [first, 255, 255, 254]);
            IpRange::new(Ipv4Addr::from(start).into(), Ipv4Addr::from(end).into(), 0).unwrap()
        };
        let few: Vec<_> = (1..=2).map(range).collect();
        assert_eq!(prefixes(&few).len(), 92);
        let many: Vec<_> = (1..=100).map(range).collect();
        let cut = prefixes(&many);
        assert_eq!(cut.len(), ROUTE_PREFIXES_MAX);
        assert_eq!(cut[..92], prefixes(&few));
    }
}
