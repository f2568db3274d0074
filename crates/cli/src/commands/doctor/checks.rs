//! The checks themselves.

use std::{
    net::ToSocketAddrs,
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipnet::IpNet;
use masque_client::{
    Assignment, AttachConfig, AttachError, ConnectorIdentity, GatewayUrl, PacketAttachment, Stage,
    TunnelEvent, attach,
};
use masque_netlink::Kernel;
use masque_tun::{TunConfig, TunDevice};

use super::report::Report;
use crate::{
    commands::attach::device_failure,
    control::{Answer, Attachment, Request, Running},
    failure::{Exit, Failure},
};

/// Longer than the SDK waits for anything.
const PATIENCE: Duration = Duration::from_secs(25);
/// For one echo.
const ECHO_TIMEOUT: Duration = Duration::from_secs(2);
/// The data of an ICMPv6 echo that fills 1280 bytes: what RFC 9484 §7.2 has endpoints probe with.
const PROBE_BYTES: u16 = 1232;
/// No certificate of a gateway is older than this software: 2026-01-01.
const CLOCK_MIN_UNIX_S: u64 = 1_767_225_600;

/// A session made for the examination.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) assignment: Assignment,
    attached: PacketAttachment,
}

/// A tunnel to look at.
#[derive(Debug)]
pub(super) enum Found {
    Probe(Probe),
    Running(Box<Running>, Attachment),
}

impl Found {
    fn routes(&self) -> &[IpNet] {
        match self {
            Self::Probe(probe) => probe.routes(),
            Self::Running(running, _) => &running.status.routes,
        }
    }

    fn mtu_bytes(&self) -> u16 {
        match self {
            Self::Probe(probe) => probe.attached.attachment.handle().status().mtu_bytes,
            Self::Running(running, _) => running.status.mtu_bytes,
        }
    }

    fn device(&self) -> &str {
        match self {
            Self::Probe(_) => "",
            Self::Running(running, _) => &running.device,
        }
    }

    fn has_ipv6(&self) -> bool {
        let addresses = match self {
            Self::Probe(probe) => &probe.assignment.addresses,
            Self::Running(running, _) => &running.status.addresses,
        };
        addresses.iter().any(|address| address.addr().is_ipv6())
    }

    fn echo(&mut self, size_bytes: u16) -> Result<Duration, String> {
        match self {
            Self::Probe(probe) => {
                let handle = probe.attached.attachment.handle();
                let pong = handle.ping(None, size_bytes.into(), ECHO_TIMEOUT);
                pong.map(|pong| pong.rtt).map_err(|error| error.to_string())
            }
            Self::Running(_, attachment) => {
                let timeout_ms = u32::try_from(ECHO_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
                let request = Request::Ping {
                    address: None,
                    size_bytes,
                    timeout_ms,
                };
                match attachment.ask(&request, ECHO_TIMEOUT) {
                    Ok(Answer::Pong { rtt_us, .. }) => Ok(Duration::from_micros(rtt_us)),
                    Ok(Answer::Error { reason }) => Err(reason),
                    Ok(other) => Err(format!("unexpected answer {other:?}")),
                    Err(failure) => Err(failure.to_string()),
                }
            }
        }
    }
}

/// Is there a key, and only ours to read?
pub(super) fn key(report: &mut Report, path: &Path) -> bool {
    match ConnectorIdentity::load(path) {
        Ok(identity) => {
            let detail = format!("{} of {}", path.display(), identity.public_id());
            report.ok("key", detail);
            true
        }
        Err(error) => {
            report.fail("key", &error.into());
            false
        }
    }
}

/// Is this machine's clock at all plausible?
pub(super) fn clock(report: &mut Report) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    if now < CLOCK_MIN_UNIX_S {
        let what = format!("this machine's clock says {now} s since 1970, which is long ago");
        let advice = "set it: `timedatectl set-ntp true`";
        return report.fail("clock", &Failure::new(Exit::Config, what, advice));
    }
    report.ok(
        "clock",
        "plausible; the certificate's dates are checked below",
    );
}

/// May we make a TUN device? It vanishes again at once.
pub(super) fn device(report: &mut Report) {
    let config = TunConfig {
        name: String::new(),
        queues: 1,
        offload: true,
    };
    match TunDevice::open(&config) {
        Ok((device, _queues)) => {
            let udp = if device.offloads.udp {
                ", UDP segmentation too"
            } else {
                ""
            };
            report.ok(
                "device",
                format!("a TUN device can be made (tried {}{udp})", device.name),
            );
        }
        Err(error) => report.fail("device", &device_failure(&error)),
    }
}

/// Does the gateway's name have an address?
pub(super) fn name(report: &mut Report, gateway: &GatewayUrl) -> bool {
    let started = Instant::now();
    let host = gateway.host();
    let reason = match (host, gateway.port()).to_socket_addrs() {
        Ok(found) => {
            let addresses: Vec<String> = found.map(|address| address.ip().to_string()).collect();
            if !addresses.is_empty() {
                let ms = started.elapsed().as_millis();
                report.ok(
                    "name",
                    format!("{host} is {} ({ms} ms)", addresses.join(", ")),
                );
                return true;
            }
            "the resolver gave none".to_owned()
        }
        Err(error) => error.to_string(),
    };
    let error = AttachError::NameResolution {
        host: host.to_owned(),
        reason,
    };
    report.fail("name", &error.into());
    false
}

/// Does QUIC get through, and is the certificate good? Asks for no session.
pub(super) fn handshake(report: &mut Report, config: &AttachConfig) -> bool {
    let only_handshake = AttachConfig {
        stop_at: Some(Stage::Authenticate),
        ..config.clone()
    };
    let started = Instant::now();
    match stop(&only_handshake) {
        Ok(()) => {
            let ms = started.elapsed().as_millis();
            report.ok(
                "udp",
                format!("QUIC handshake in {ms} ms, with packets large enough for IPv6"),
            );
            report.ok(
                "tls",
                format!("the certificate of {} is good", config.gateway.host()),
            );
            true
        }
        Err(error @ AttachError::Certificate { .. }) => {
            report.ok("udp", "QUIC gets through");
            report.fail("tls", &error.into());
            false
        }
        Err(error) => {
            report.fail("udp", &error.into());
            false
        }
    }
}

/// Runs an attachment that ends by itself.
fn stop(config: &AttachConfig) -> Result<(), AttachError> {
    let attached = attach(config)?;
    let deadline = Instant::now() + PATIENCE;
    while let Some(left) = deadline.checked_duration_since(Instant::now()) {
        match attached.events.next_timeout(left) {
            Some(TunnelEvent::Closed(None)) => return Ok(()),
            Some(TunnelEvent::Closed(Some(error))) => return Err(error),
            Some(_) => {}
            None => break,
        }
    }
    Err(AttachError::NoAddress { waited: PATIENCE })
}

/// Does the gateway let this key in, and give it an address?
pub(super) fn session(report: &mut Report, config: &AttachConfig) -> Option<Probe> {
    let attached = match attach(config) {
        Ok(attached) => attached,
        Err(error) => {
            report.fail("auth", &error.into());
            return None;
        }
    };
    match attached.events.wait_up(PATIENCE) {
        Ok(assignment) => {
            let addresses: Vec<String> = assignment
                .addresses
                .iter()
                .map(|a| a.addr().to_string())
                .collect();
            report.ok(
                "auth",
                format!("authenticated; address {}", addresses.join(", ")),
            );
            Some(Probe {
                assignment,
                attached,
            })
        }
        Err(error) => {
            report.fail("auth", &error.into());
            None
        }
    }
}

/// Are the VPC's prefixes also networks of this machine?
pub(super) fn routes(report: &mut Report, found: &Found) {
    let kernel = match Kernel::open() {
        Ok(kernel) => kernel,
        Err(error) => return report.warn("routes", error.to_string()),
    };
    let mut conflicts = 0;
    for route in found.routes() {
        let probe = route.hosts().next().unwrap_or(route.addr());
        let Ok(Some(lookup)) = kernel.route_to(probe) else {
            continue;
        };
        let direct = lookup.gateway.is_none() && lookup.link != "lo";
        if direct && lookup.link != found.device() {
            conflicts += 1;
            let link = lookup.link;
            let detail = format!(
                "{route} is also this machine's own network on {link}: hosts there cannot be \
                 reached while attached; renumber one of the two"
            );
            report.warn("routes", detail);
        }
    }
    if conflicts == 0 {
        let count = found.routes().len();
        report.ok(
            "routes",
            format!("{count} advertised, none is a network of this machine"),
        );
    }
}

/// How large may packets be?
pub(super) fn mtu(report: &mut Report, found: &Found) {
    report.ok(
        "mtu",
        format!("{} bytes inside the tunnel", found.mtu_bytes()),
    );
}

/// Do packets go there and back, also large ones?
pub(super) fn echo(report: &mut Report, found: &mut Found) {
    if !found.has_ipv6() {
        return report.warn(
            "echo",
            "no IPv6 address is assigned, and the gateway's end answers to IPv6 only: \
             try `datum-connect ping ADDRESS`",
        );
    }
    for size_bytes in [8, PROBE_BYTES] {
        match found.echo(size_bytes) {
            Ok(rtt) => {
                let (packet_bytes, us) = (size_bytes + 48, rtt.as_micros());
                report.ok(
                    "echo",
                    format!("{packet_bytes} bytes to the gateway and back in {us} µs"),
                );
            }
            Err(reason) => {
                let what = format!("{} bytes to the gateway: {reason}", size_bytes + 48);
                let advice = "look at the gateway's drops: `masque-gateway sessions`";
                return report.fail("echo", &Failure::new(Exit::Unavailable, what, advice));
            }
        }
    }
}
