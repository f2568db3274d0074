//! What a gateway's refusal means to a person.

use std::{net::SocketAddr, time::Duration};

use masque_http3::ResponseHead;
use masque_protocol::{ProxyStatus, request::ResponseError};
use masque_transport::{CloseReason, tls::PeerCertificateError};

use crate::{AttachError, CertificateFault, PublicId, VpcName};

/// Words of a peer that are shown to a person.
const WORDS_MAX_CHARS: usize = 200;
/// TLS alerts as QUIC carries them (RFC 9001 §4.8).
const ALERT_FIRST: u64 = 0x100;
const ALERT_LAST: u64 = 0x1ff;
/// `no_application_protocol` (RFC 7301 §3.2).
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x178;
/// CONNECTION_REFUSED (RFC 9000 §20.1).
const CONNECTION_REFUSED: u64 = 0x02;

/// Who asked for what, for the words of an error.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) host: String,
    pub(crate) vpc: VpcName,
    pub(crate) key: PublicId,
}

/// Why the request was refused.
pub(crate) fn response(error: ResponseError, head: &ResponseHead, asked: &Asked) -> AttachError {
    let (status, proxy_status) = match error {
        ResponseError::Malformed { status, problem } => {
            let reason = format!("its answer {status} is malformed: {problem}");
            return AttachError::Protocol { reason };
        }
        ResponseError::Refused {
            status,
            proxy_status,
        } => (status, proxy_status),
    };
    let details = proxy_status.last().and_then(words);
    match status {
        400 => AttachError::BadRequest { details },
        401 | 407 => AttachError::AuthenticationRequired {
            offers: offers(head),
        },
        403 => AttachError::Denied {
            vpc: asked.vpc.clone(),
            details,
        },
        404 => AttachError::UnknownVpcOrKey {
            vpc: asked.vpc.clone(),
            key: asked.key,
        },
        429 | 503 => AttachError::Unavailable {
            details,
            retry_after: retry_after(head),
        },
        300..=399 => {
            let target = head.values("location").next().map(printable);
            let details = details.or(target.map(|to| format!("it redirects to {to}")));
            AttachError::Status { status, details }
        }
        _ => AttachError::Status { status, details },
    }
}

/// Why a connection ended. `waited` is how long the attempt lasted.
pub(crate) fn close(
    reason: CloseReason,
    gateway: SocketAddr,
    waited: Duration,
    asked: &Asked,
) -> AttachError {
    match reason {
        CloseReason::Certificate(error) => certificate(&error, asked),
        CloseReason::HandshakeTimeout { heard: false } => AttachError::NoAnswer { gateway, waited },
        CloseReason::HandshakeTimeout { heard: true } => AttachError::Handshake {
            reason: "the gateway answered, but not to the end; large packets may be lost".into(),
        },
        CloseReason::PeerTransport {
            code: ALERT_NO_APPLICATION_PROTOCOL,
            ..
        } => AttachError::NotAGateway {
            missing: "it offers no HTTP/3 (ALPN h3)",
        },
        CloseReason::PeerTransport {
            code: CONNECTION_REFUSED,
            ..
        } => AttachError::Unavailable {
            details: Some("it takes no new connections now".into()),
            retry_after: None,
        },
        CloseReason::PeerTransport { code, reason } => peer_transport(code, &reason),
        CloseReason::Protocol { code, reason } if (ALERT_FIRST..=ALERT_LAST).contains(&code) => {
            AttachError::Handshake { reason }
        }
        CloseReason::Protocol { reason, .. } => AttachError::Protocol { reason },
        CloseReason::IdleTimeout => AttachError::PeerLost { silent: waited },
        CloseReason::Reset => AttachError::Closed {
            reason: "it was restarted".into(),
        },
        CloseReason::VersionMismatch => AttachError::NotAGateway {
            missing: "it speaks no common version of QUIC",
        },
        CloseReason::Peer { reason, .. } | CloseReason::Local { reason, .. } => {
            let reason = printable(reason.as_bytes());
            let said_nothing = reason.is_empty();
            AttachError::Closed {
                reason: if said_nothing {
                    "it gave no reason".into()
                } else {
                    reason
                },
            }
        }
    }
}

fn peer_transport(code: u64, reason: &str) -> AttachError {
    let reason = printable(reason.as_bytes());
    // 42 to 49 and 116: the alerts about a client's certificate (RFC 8446 §6.2).
    match code.checked_sub(ALERT_FIRST) {
        Some(42..=49 | 116) => AttachError::AuthenticationRequired {
            offers: "a client certificate, which --auth client-certificate sends".into(),
        },
        Some(alert) if code <= ALERT_LAST => AttachError::Handshake {
            reason: format!("the gateway sent TLS alert {alert}"),
        },
        _ if reason.is_empty() => AttachError::Closed {
            reason: format!("QUIC transport error {code:#x}"),
        },
        _ => AttachError::Closed {
            reason: format!("QUIC transport error {code:#x}: {reason}"),
        },
    }
}

fn certificate(error: &PeerCertificateError, asked: &Asked) -> AttachError {
    let fault = match error {
        PeerCertificateError::UntrustedIssuer => CertificateFault::UntrustedAuthority,
        PeerCertificateError::Expired => CertificateFault::Expired,
        PeerCertificateError::NotYetValid => CertificateFault::NotYetValid,
        PeerCertificateError::NameMismatch { .. } => CertificateFault::NameMismatch,
        PeerCertificateError::Revoked
        | PeerCertificateError::NotEd25519
        | PeerCertificateError::Other(_) => CertificateFault::Other,
    };
    AttachError::Certificate {
        fault,
        host: asked.host.clone(),
        reason: error.to_string(),
    }
}

fn words(status: &ProxyStatus) -> Option<String> {
    let words = status
        .details
        .clone()
        .or(status.error.as_ref().map(|e| e.as_str().to_owned()))?;
    Some(printable(words.as_bytes()))
}

fn offers(head: &ResponseHead) -> String {
    let offers: Vec<String> = head.values("www-authenticate").map(printable).collect();
    offers.join(", ")
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); a date is not read.
fn retry_after(head: &ResponseHead) -> Option<Duration> {
    let text = std::str::from_utf8(head.values("retry-after").next()?).ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// A peer's bytes are shown in a terminal: nothing in them may move its cursor.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX_CHARS)
        .collect::<String>()
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use masque_http3::Field;
    use masque_protocol::{ProxyError, request};

    use super::*;
    use crate::ConnectorIdentity;

    fn asked() -> Asked {
        Asked {
            host: "gw.example".into(),
            vpc: "production-vpc".parse().unwrap(),
            key: ConnectorIdentity::generate().unwrap().public_id(),
        }
    }

    fn refused(status: u16, details: Option<&str>) -> AttachError {
        let proxy_status = details.map(|details| {
            ProxyStatus::new("gw", ProxyError::HttpRequestDenied).with_details(details)
        });
        answer(&request::refusal(status, proxy_status.as_ref()))
    }

    fn answer(head: &ResponseHead) -> AttachError {
        response(request::check_response(head).unwrap_err(), head, &asked())
    }

    #[test]
    fn each_status_has_its_meaning() {
        for (status, code) in [
            (400, "bad-request"),
            (401, "authentication-required"),
            (403, "denied"),
            (404, "unknown-vpc-or-key"),
            (429, "unavailable"),
            (503, "unavailable"),
            (302, "status"),
            (500, "status"),
        ] {
            assert_eq!(refused(status, None).code(), code, "{status}");
        }
    }

    #[test]
    fn a_suspended_attachment_is_told_in_the_gateways_words() {
        let error = refused(403, Some("the attachment laptop is suspended"));
        assert_eq!(
            error.to_string(),
            "the gateway denies this key the VPC production-vpc (HTTP 403): the attachment laptop \
             is suspended"
        );
    }

    #[test]
    fn words_of_a_peer_cannot_write_over_the_terminal() {
        let mut head = request::refusal(302, None);
        head.fields
            .push(Field::new("location", b"\x1b[2Jhttps://evil/".to_vec()));
        let text = answer(&head).to_string();
        assert!(
            text.contains("[2Jhttps://evil/") && !text.contains('\x1b'),
            "{text:?}"
        );
        assert!(printable(&[b'x'; 5000]).len() <= WORDS_MAX_CHARS);
    }

    #[test]
    fn retry_after_is_read() {
        let mut head = request::refusal(503, None);
        head.fields.push(Field::new("retry-after", "7"));
        let AttachError::Unavailable { retry_after, .. } = answer(&head) else {
            panic!("not unavailable")
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn ends_of_connections_are_told_apart() {
        let gateway = SocketAddr::from(([192, 0, 2, 1], 4433));
        let code = |reason| close(reason, gateway, Duration::from_secs(10), &asked()).code();
        let peer = |code| CloseReason::PeerTransport {
            code,
            reason: String::new(),
        };
        assert_eq!(
            code(CloseReason::HandshakeTimeout { heard: false }),
            "no-answer"
        );
        assert_eq!(
            code(CloseReason::HandshakeTimeout { heard: true }),
            "handshake"
        );
        assert_eq!(code(peer(0x178)), "not-a-gateway");
        assert_eq!(code(peer(0x100 + 42)), "authentication-required");
        assert_eq!(code(peer(0x02)), "unavailable");
        assert_eq!(code(CloseReason::Reset), "closed");
        assert_eq!(code(CloseReason::IdleTimeout), "peer-lost");
        for (error, wanted) in [
            (PeerCertificateError::UntrustedIssuer, "untrusted-authority"),
            (PeerCertificateError::Expired, "certificate-expired"),
            (
                PeerCertificateError::NotYetValid,
                "certificate-not-yet-valid",
            ),
            (
                PeerCertificateError::NameMismatch {
                    expected: "x".into(),
                },
                "name-mismatch",
            ),
        ] {
            assert_eq!(code(CloseReason::Certificate(error)), wanted);
        }
    }
}
