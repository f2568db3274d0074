//! Why an attachment failed, in words, and whether trying again can help.

use std::{net::SocketAddr, time::Duration};

use crate::{PublicId, VpcName};

/// Whether the same attempt can succeed later without anybody changing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The cause passes by itself: a restart, a lost path, a full pool.
    Helps,
    /// Somebody has to apply or mend something, at the gateway or on the way to it; trying again now
    /// and then notices.
    AfterChange,
    /// This machine's configuration or the gateway's kind is wrong. Another gateway may take its place,
    /// so it is tried again soon, and then ever less often.
    Useless,
}

/// The side of the gateway's certificate that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFault {
    /// No trusted authority signed it.
    UntrustedAuthority,
    /// It is for another name.
    NameMismatch,
    /// Its time is over.
    Expired,
    /// Its time has not begun: usually this machine's clock is wrong.
    NotYetValid,
    /// Anything else.
    Other,
}

/// Why an attachment could not be made or did not last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The gateway's name has no address.
    #[error("the gateway's name {host} has no address: {reason}")]
    NameResolution {
        /// What was looked up.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// An ICMP error or the local routing table says that nobody is there.
    #[error("the gateway {gateway} cannot be reached: {reason}")]
    Unreachable {
        /// The gateway's address.
        gateway: SocketAddr,
        /// `connection refused`, `network is unreachable`…
        reason: String,
    },
    /// Not a single datagram came back: UDP is filtered, or the gateway is off.
    #[error(
        "no answer from {gateway} over UDP in {} s: a firewall drops it, or the gateway is off",
        waited.as_secs_f32().ceil()
    )]
    NoAnswer {
        /// The gateway's address.
        gateway: SocketAddr,
        /// How long was waited.
        waited: Duration,
    },
    /// The gateway's certificate is not acceptable.
    #[error("{}", certificate_words(*fault, host, reason))]
    Certificate {
        /// Which check failed.
        fault: CertificateFault,
        /// The name that was wanted.
        host: String,
        /// The TLS library's words.
        reason: String,
    },
    /// The TLS or QUIC handshake failed otherwise (RFC 9001 §4.8).
    #[error("the QUIC handshake failed: {reason}")]
    Handshake {
        /// What failed.
        reason: String,
    },
    /// 401 or 407: the gateway does not take this kind of credential.
    #[error("{}", offers_words(offers))]
    AuthenticationRequired {
        /// What it offers (`WWW-Authenticate`).
        offers: String,
    },
    /// 404: no such VPC, or this key may not know of it. A gateway tells no difference
    /// (RFC 9729 §6: a failed authentication looks like a missing resource).
    #[error("the gateway knows no VPC named {vpc} for this key (HTTP 404); the key is {key}")]
    UnknownVpcOrKey {
        /// The VPC that was asked for.
        vpc: VpcName,
        /// The key that asked.
        key: PublicId,
    },
    /// 403: the attachment is suspended or a policy denies the tunnel.
    #[error(
        "the gateway denies this key the VPC {vpc} (HTTP 403){}",
        words(details)
    )]
    Denied {
        /// The VPC that was asked for.
        vpc: VpcName,
        /// The `details` of Proxy-Status (RFC 9209 §2.1.5), or its error type.
        details: Option<String>,
    },
    /// 400: the gateway rejects what was asked for, say a target outside of the VPC.
    #[error("the gateway rejects the request (HTTP 400){}", words(details))]
    BadRequest {
        /// The gateway's words.
        details: Option<String>,
    },
    /// 503: no free address, or more sessions than allowed.
    #[error("{}", unavailable_words(details))]
    Unavailable {
        /// The gateway's words.
        details: Option<String>,
        /// `Retry-After`, when it was given.
        retry_after: Option<Duration>,
    },
    /// Any other status.
    #[error("the gateway answered HTTP {status}{}", words(details))]
    Status {
        /// The status code.
        status: u16,
        /// The gateway's words.
        details: Option<String>,
    },
    /// The peer speaks HTTP/3, but not what CONNECT-IP needs.
    #[error("the server speaks HTTP/3 but not CONNECT-IP: {missing}")]
    NotAGateway {
        /// What is missing.
        missing: &'static str,
    },
    /// The path's datagrams are too small for IPv6 (RFC 9484 §7.2: a tunnel has 1280 bytes).
    #[error(
        "the path to the gateway carries IP packets of {available_bytes} bytes inside the tunnel, \
         and IPv6 needs {needed_bytes} (RFC 9484 §7.2)"
    )]
    MtuTooSmall {
        /// Inner bytes that fit.
        available_bytes: usize,
        /// Inner bytes that are needed.
        needed_bytes: usize,
    },
    /// Small packets reach the gateway, those that a tunnel needs do not: RFC 9484 §7.2 has a tunnel
    /// carry IPv6, and so does every Initial show that the path does.
    #[error(
        "the path to the gateway {gateway} is too narrow: {}, and a tunnel for IPv6 needs \
         {needed_bytes} (RFC 9484 §7.2)",
        narrow_words(*mtu_bytes, *is_exact)
    )]
    PathTooNarrow {
        /// The gateway's address.
        gateway: SocketAddr,
        /// The MTU found; `None` when an open tunnel's large packets began to be lost without a word.
        mtu_bytes: Option<u32>,
        /// A router or this machine told it; else it is the largest probe that got through, and up
        /// to 20 bytes less than the path carries.
        is_exact: bool,
        /// The MTU that is needed.
        needed_bytes: u32,
    },
    /// The gateway opened the tunnel and assigned nothing in time.
    #[error(
        "the gateway opened the tunnel but assigned no address in {} s",
        waited.as_secs_f32().ceil()
    )]
    NoAddress {
        /// How long was waited.
        waited: Duration,
    },
    /// The gateway declined every address that was asked for.
    #[error("the gateway has no free address left")]
    PoolExhausted,
    /// The gateway broke the protocol.
    #[error("the gateway broke the protocol: {reason}")]
    Protocol {
        /// Which rule.
        reason: String,
    },
    /// The gateway closed the connection or the request stream.
    #[error("the gateway closed the tunnel: {reason}")]
    Closed {
        /// Its words.
        reason: String,
    },
    /// The gateway asks to come back elsewhere or later (GOAWAY, RFC 9114 §5.2).
    #[error("the gateway is going away and asks to reconnect")]
    GoingAway,
    /// Packets went unanswered: the path or the gateway is gone.
    #[error("nothing came back from the gateway for {:.1} s", silent.as_secs_f32())]
    PeerLost {
        /// For how long.
        silent: Duration,
    },
    /// This machine's configuration is wrong.
    #[error("{reason}")]
    Config {
        /// What and why.
        reason: String,
    },
    /// A socket or device of this machine failed.
    #[error("{reason}")]
    Local {
        /// What and why.
        reason: String,
    },
}

impl AttachError {
    /// Whether the same attempt can succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::NameResolution { .. }
            | Self::Unreachable { .. }
            | Self::NoAnswer { .. }
            | Self::Unavailable { .. }
            | Self::NoAddress { .. }
            | Self::PoolExhausted
            | Self::Closed { .. }
            | Self::GoingAway
            | Self::PeerLost { .. }
            | Self::Local { .. } => Retry::Helps,
            Self::Status { status, .. } if *status >= 500 || *status == 429 => Retry::Helps,
            Self::UnknownVpcOrKey { .. }
            | Self::Denied { .. }
            | Self::Handshake { .. }
            | Self::MtuTooSmall { .. }
            | Self::PathTooNarrow { .. } => Retry::AfterChange,
            Self::Certificate { .. }
            | Self::AuthenticationRequired { .. }
            | Self::BadRequest { .. }
            | Self::Status { .. }
            | Self::NotAGateway { .. }
            | Self::Protocol { .. }
            | Self::Config { .. } => Retry::Useless,
        }
    }

    /// A stable word for scripts and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NameResolution { .. } => "name-resolution",
            Self::Unreachable { .. } => "unreachable",
            Self::NoAnswer { .. } => "no-answer",
            Self::Certificate { fault, .. } => match fault {
                CertificateFault::UntrustedAuthority => "untrusted-authority",
                CertificateFault::NameMismatch => "name-mismatch",
                CertificateFault::Expired => "certificate-expired",
                CertificateFault::NotYetValid => "certificate-not-yet-valid",
                CertificateFault::Other => "certificate",
            },
            Self::Handshake { .. } => "handshake",
            Self::AuthenticationRequired { .. } => "authentication-required",
            Self::UnknownVpcOrKey { .. } => "unknown-vpc-or-key",
            Self::Denied { .. } => "denied",
            Self::BadRequest { .. } => "bad-request",
            Self::Unavailable { .. } => "unavailable",
            Self::Status { .. } => "status",
            Self::NotAGateway { .. } => "not-a-gateway",
            Self::MtuTooSmall { .. } => "mtu-too-small",
            Self::PathTooNarrow { .. } => "path-too-narrow",
            Self::NoAddress { .. } => "no-address",
            Self::PoolExhausted => "pool-exhausted",
            Self::Protocol { .. } => "protocol",
            Self::Closed { .. } => "closed",
            Self::GoingAway => "going-away",
            Self::PeerLost { .. } => "peer-lost",
            Self::Config { .. } => "config",
            Self::Local { .. } => "local",
        }
    }

    /// Whether the gateway's machine answered that nothing listens there (ICMP port unreachable).
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self, Self::Unreachable { reason, .. } if reason.starts_with("connection refused"))
    }

    /// What mends it: a command or a step, without a full stop.
    pub fn advice(&self) -> String {
        match self {
            Self::NameResolution { host, .. } => {
                format!("check the name and this machine's resolver: `getent ahosts {host}`")
            }
            Self::Unreachable { gateway, .. } if self.is_refused() => {
                format!(
                    "check that the gateway runs and that its UDP port is {}",
                    gateway.port()
                )
            }
            Self::Unreachable { gateway, .. } => {
                format!(
                    "check this machine's network: `ip route get {}`",
                    gateway.ip()
                )
            }
            Self::NoAnswer { gateway, .. } => format!(
                "let UDP port {} out of this network, or check that the gateway runs: \
                 `datum-connect doctor`",
                gateway.port()
            ),
            Self::Certificate { fault, .. } => certificate_advice(*fault).to_owned(),
            Self::UnknownVpcOrKey { vpc, .. } => format!(
                "apply this manifest: `datum-connect key --vpc {vpc} | kubectl apply -f -`, or save it \
                 in the gateway's folder of manifests"
            ),
            Self::Denied { vpc, .. } => format!(
                "ask who owns the VPC: `kubectl get connectorattachments,vpcaccesspolicies`, or the \
                 gateway's folder of manifests; then `datum-connect attach --vpc {vpc}`"
            ),
            Self::AuthenticationRequired { .. } => {
                "choose another method: `datum-connect attach --auth client-certificate`".to_owned()
            }
            Self::BadRequest { .. } => {
                "leave --target and --protocol out, or give a prefix of the VPC".to_owned()
            }
            Self::Unavailable { .. } | Self::NoAddress { .. } | Self::PoolExhausted => {
                "free an attachment or enlarge the pool: `kubectl describe vpcingresspoints`, or the \
                 VPCIngressPoint in the gateway's folder of manifests"
                    .to_owned()
            }
            Self::NotAGateway { .. } | Self::Status { .. } | Self::Protocol { .. } => {
                "check that --gateway names a MASQUE gateway: `datum-connect doctor`".to_owned()
            }
            Self::MtuTooSmall { needed_bytes, .. } => format!(
                "let IP packets of {} bytes through to the gateway",
                needed_bytes + OUTER_OVERHEAD_BYTES
            ),
            Self::PathTooNarrow {
                gateway,
                needed_bytes,
                ..
            } => {
                let host = gateway.ip();
                format!(
                    "raise the MTU to {needed_bytes} or more where it shrinks: \
                     `tracepath -n {host}` shows the place, `ip route get {host}` this machine's \
                     link (another VPN?)"
                )
            }
            Self::Config { .. } => {
                "`datum-connect attach --help` shows what is expected".to_owned()
            }
            Self::Handshake { .. }
            | Self::Closed { .. }
            | Self::GoingAway
            | Self::PeerLost { .. }
            | Self::Local { .. } => "`datum-connect doctor` looks further".to_owned(),
        }
    }
}

/// IPv6 and UDP headers, QUIC short header with a 20-byte connection id, tag, frame header, Quarter
/// Stream ID and Context ID at their longest.
const OUTER_OVERHEAD_BYTES: usize = 40 + 8 + 51;

fn certificate_advice(fault: CertificateFault) -> &'static str {
    match fault {
        CertificateFault::UntrustedAuthority => "name the gateway's authority: `--ca FILE`",
        CertificateFault::NameMismatch => {
            "give --gateway the name that is in the certificate, or renew it with this name"
        }
        CertificateFault::Expired => {
            "renew the gateway's certificate; if `date` is wrong here, set the clock"
        }
        CertificateFault::NotYetValid => "set this machine's clock: `timedatectl set-ntp true`",
        CertificateFault::Other => "`datum-connect doctor` looks further",
    }
}

/// The gateway's words, when there are some.
fn words(details: &Option<String>) -> String {
    details
        .as_ref()
        .map_or_else(String::new, |details| format!(": {details}"))
}

fn offers_words(offers: &str) -> String {
    if offers.is_empty() {
        return "the gateway did not take this key as an authentication (HTTP 401)".to_owned();
    }
    format!("the gateway wants another authentication (HTTP 401): {offers}")
}

fn narrow_words(mtu_bytes: Option<u32>, is_exact: bool) -> String {
    let about = if is_exact { "" } else { "about " };
    mtu_bytes.map_or_else(
        || "small packets pass and large ones are lost".to_owned(),
        |mtu_bytes| format!("its MTU is {about}{mtu_bytes} bytes"),
    )
}

fn unavailable_words(details: &Option<String>) -> String {
    match details {
        None => "the gateway has no address or session left for this connector (HTTP 503)".into(),
        Some(details) => {
            format!("the gateway cannot take this connector now (HTTP 503): {details}")
        }
    }
}

fn certificate_words(fault: CertificateFault, host: &str, reason: &str) -> String {
    match fault {
        CertificateFault::UntrustedAuthority => {
            format!("no authority this machine trusts signed the certificate of {host}")
        }
        CertificateFault::NameMismatch => {
            format!("the gateway's certificate is not for {host}: {reason}")
        }
        CertificateFault::Expired => {
            format!("the certificate of {host} has expired, or this machine's clock is ahead")
        }
        CertificateFault::NotYetValid => format!(
            "the certificate of {host} is not valid yet: this machine's clock is probably behind"
        ),
        CertificateFault::Other => {
            format!("the certificate of {host} is not acceptable: {reason}")
        }
    }
}

#[cfg(test)]
mod tests;
