//! The header sections of a CONNECT-IP request and its answer (RFC 9484 §4.4, §4.5; RFC 9297 §3).

use masque_http3::{Code, Field, RequestHead, ResponseHead};

use crate::structured::{Item, Parser};
use crate::{Expanded, ProxyStatus};

/// The upgrade token of CONNECT-IP (RFC 9484 §12.1).
pub const CONNECT_IP: &str = "connect-ip";

const CAPSULE_PROTOCOL: &str = "capsule-protocol";
const PROXY_STATUS: &str = "proxy-status";

/// RFC 9297 §3.2: "The Capsule Protocol MUST NOT be used with messages that contain Content-Length,
/// Content-Type, or Transfer-Encoding header fields."
const FORBIDDEN: [&str; 3] = ["content-length", "content-type", "transfer-encoding"];

/// The longest structured field that is parsed.
const MAX_FIELD_BYTES: usize = 256;

/// Why a request is no CONNECT-IP request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No `:authority`.
    #[error("the request has no :authority")]
    Authority,
    /// A field that may not go with capsules.
    #[error("a CONNECT-IP request must not carry {0}")]
    ForbiddenField(&'static str),
    /// Not CONNECT.
    #[error("the method is {0:?}, not CONNECT")]
    Method(String),
    /// No `:path`, or one that does not begin with `/`.
    #[error("the :path does not begin with \"/\"")]
    Path,
    /// Another `:protocol`, or none.
    #[error("the :protocol is {0:?}, not connect-ip")]
    Protocol(Option<String>),
    /// Not `https`: RFC 9484 §4 asks for TLS or QUIC.
    #[error("the :scheme is {0:?}, not https")]
    Scheme(Option<String>),
}

impl RequestError {
    /// The status to answer with: 405 for another method, 501 for an unknown upgrade token
    /// (RFC 9220 §3), 400 for the malformed rest.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Method(_) => 405,
            Self::Protocol(_) => 501,
            Self::Authority | Self::ForbiddenField(_) | Self::Path | Self::Scheme(_) => 400,
        }
    }
}

/// What a response means to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// 1xx: the final response is still to come.
    Interim,
    /// 2xx: the tunnel is open.
    Open,
}

/// Why the tunnel did not come about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// A 2xx answer that breaks the rules of the Capsule Protocol.
    #[error("the proxy's answer {status} is malformed: {problem}")]
    Malformed {
        /// Its status.
        status: u16,
        /// Which rule.
        problem: &'static str,
    },
    /// The proxy said no.
    #[error("the proxy refused with status {status}{}", cause(proxy_status))]
    Refused {
        /// Its status.
        status: u16,
        /// What it and those before it say of the cause (RFC 9209); the last member is the nearest.
        proxy_status: Vec<ProxyStatus>,
    },
}

impl ResponseError {
    /// The code to abort the request stream with.
    pub const fn code(&self) -> Code {
        match self {
            Self::Malformed { .. } => Code::H3_MESSAGE_ERROR,
            Self::Refused { .. } => Code::H3_REQUEST_CANCELLED,
        }
    }
}

/// The request for an expanded template. `extra` follows the fields of CONNECT-IP (authorization
/// and the like; lowercase names).
pub fn connect_ip_request(target: &Expanded, extra: Vec<Field>) -> RequestHead {
    let mut fields = vec![Field::new(CAPSULE_PROTOCOL, "?1")];
    fields.extend(extra);
    RequestHead {
        method: "CONNECT".to_owned(),
        protocol: Some(CONNECT_IP.to_owned()),
        scheme: Some(target.scheme.clone()),
        authority: Some(target.authority.clone()),
        path: Some(target.path.clone()),
        fields,
    }
}

/// Checks everything of a request but its path's variables and its authority's meaning. A missing
/// `Capsule-Protocol` is no error: RFC 9484 §4.4 gives the request its meaning by `:protocol`.
///
/// # Errors
/// [`RequestError`]: answer with its [`status`](RequestError::status).
pub fn check_connect_ip(head: &RequestHead) -> Result<(), RequestError> {
    if head.method != "CONNECT" {
        return Err(RequestError::Method(head.method.clone()));
    }
    if head.protocol.as_deref() != Some(CONNECT_IP) {
        return Err(RequestError::Protocol(head.protocol.clone()));
    }
    if head.scheme.as_deref() != Some("https") {
        return Err(RequestError::Scheme(head.scheme.clone()));
    }
    if head.authority.as_deref().is_none_or(str::is_empty) {
        return Err(RequestError::Authority);
    }
    if !head
        .path
        .as_deref()
        .is_some_and(|path| path.starts_with('/'))
    {
        return Err(RequestError::Path);
    }
    match forbidden_field(&head.fields) {
        Some(name) => Err(RequestError::ForbiddenField(name)),
        None => Ok(()),
    }
}

/// The value of `Capsule-Protocol` (RFC 9297 §3.4). Parameters are ignored; a value of another
/// type, or several, count as absent, and absent counts as false.
pub fn capsule_protocol<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> bool {
    let (Some(value), None) = (values.next(), values.next()) else {
        return false;
    };
    if value.len() > MAX_FIELD_BYTES {
        return false;
    }
    let mut parser = Parser::new(value.trim_ascii());
    let item = parser.bare_item();
    let whole = parser.parameters(|_, _| {}).is_some() && parser.is_at_end();
    whole && item == Some(Item::Boolean(true))
}

/// The answer that opens a tunnel: exactly 200, which every client takes for success.
pub fn ok_response() -> ResponseHead {
    ResponseHead {
        status: 200,
        fields: vec![Field::new(CAPSULE_PROTOCOL, "?1")],
    }
}

/// The answer that refuses one. It carries no `Capsule-Protocol` (RFC 9297 §3.4).
pub fn refusal(status: u16, proxy_status: Option<&ProxyStatus>) -> ResponseHead {
    let fields = proxy_status
        .map(|proxy_status| Field::new(PROXY_STATUS, proxy_status.to_string()))
        .into_iter()
        .collect();
    ResponseHead { status, fields }
}

/// Reads a response at the client.
///
/// # Errors
/// [`ResponseError`]: "Any response other than a successful response indicates that the request has
/// failed; thus, the client MUST abort the request" (RFC 9484 §4).
pub fn check_response(head: &ResponseHead) -> Result<Verdict, ResponseError> {
    let status = head.status;
    match status {
        // RFC 9114 §4.5: HTTP/3 has no 101.
        101 => Err(ResponseError::Malformed {
            status,
            problem: "HTTP/3 has no upgrade",
        }),
        100..=199 => Ok(Verdict::Interim),
        // RFC 9297 §3.2: these "MUST NOT be sent on responses that use the Capsule Protocol".
        204..=206 => Err(ResponseError::Malformed {
            status,
            problem: "the status promises no stream",
        }),
        200..=299 => match forbidden_field(&head.fields) {
            Some(problem) => Err(ResponseError::Malformed { status, problem }),
            None => Ok(Verdict::Open),
        },
        _ => {
            let proxy_status = ProxyStatus::parse(head.values(PROXY_STATUS));
            Err(ResponseError::Refused {
                status,
                proxy_status,
            })
        }
    }
}

/// The cause as the nearest proxy tells it.
fn cause(proxy_status: &[ProxyStatus]) -> String {
    proxy_status
        .last()
        .map(|status| format!(" ({status})"))
        .unwrap_or_default()
}

fn forbidden_field(fields: &[Field]) -> Option<&'static str> {
    FORBIDDEN
        .into_iter()
        .find(|name| fields.iter().any(|field| field.name == *name))
}

#[cfg(test)]
mod tests;
