//! The `Proxy-Status` response field (RFC 9209).

use std::fmt;

use crate::structured::{Item, Parser, is_token, put_string};

/// The longest details that are written or kept, in bytes.
const MAX_DETAILS_BYTES: usize = 256;
/// The longest field value that is parsed.
const MAX_FIELD_BYTES: usize = 4096;
/// The most members that are kept of a field.
const MAX_MEMBERS: usize = 8;

/// What one intermediary says of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyStatus {
    /// Who says it.
    pub proxy: String,
    /// The proxy error type (RFC 9209 §2.1.1).
    pub error: Option<ProxyError>,
    /// More about it, for people (RFC 9209 §2.1.5).
    pub details: Option<String>,
}

/// A proxy error type (RFC 9209 §2.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProxyError {
    /// `dns_timeout` (§2.3.1).
    DnsTimeout,
    /// `dns_error` (§2.3.2).
    DnsError,
    /// `destination_not_found` (§2.3.3).
    DestinationNotFound,
    /// `destination_unavailable` (§2.3.4).
    DestinationUnavailable,
    /// `destination_ip_prohibited` (§2.3.5).
    DestinationIpProhibited,
    /// `destination_ip_unroutable` (§2.3.6).
    DestinationIpUnroutable,
    /// `connection_refused` (§2.3.7).
    ConnectionRefused,
    /// `connection_terminated` (§2.3.8).
    ConnectionTerminated,
    /// `connection_timeout` (§2.3.9).
    ConnectionTimeout,
    /// `connection_limit_reached` (§2.3.12).
    ConnectionLimitReached,
    /// `http_request_error` (§2.3.16).
    HttpRequestError,
    /// `http_request_denied` (§2.3.17).
    HttpRequestDenied,
    /// `http_protocol_error` (§2.3.28).
    HttpProtocolError,
    /// `proxy_internal_error` (§2.3.30).
    ProxyInternalError,
    /// `proxy_configuration_error` (§2.3.31).
    ProxyConfigurationError,
    /// `proxy_loop_detected` (§2.3.32).
    ProxyLoopDetected,
    /// A token that is none of these. RFC 9209 §2.1.1 lets the registry grow.
    Other(String),
}

const NAMES: [(ProxyError, &str, u16); 16] = [
    (ProxyError::DnsTimeout, "dns_timeout", 504),
    (ProxyError::DnsError, "dns_error", 502),
    (
        ProxyError::DestinationNotFound,
        "destination_not_found",
        500,
    ),
    (
        ProxyError::DestinationUnavailable,
        "destination_unavailable",
        503,
    ),
    (
        ProxyError::DestinationIpProhibited,
        "destination_ip_prohibited",
        502,
    ),
    (
        ProxyError::DestinationIpUnroutable,
        "destination_ip_unroutable",
        502,
    ),
    (ProxyError::ConnectionRefused, "connection_refused", 502),
    (
        ProxyError::ConnectionTerminated,
        "connection_terminated",
        502,
    ),
    (ProxyError::ConnectionTimeout, "connection_timeout", 504),
    (
        ProxyError::ConnectionLimitReached,
        "connection_limit_reached",
        503,
    ),
    (ProxyError::HttpRequestError, "http_request_error", 400),
    (ProxyError::HttpRequestDenied, "http_request_denied", 403),
    (ProxyError::HttpProtocolError, "http_protocol_error", 502),
    (ProxyError::ProxyInternalError, "proxy_internal_error", 500),
    (
        ProxyError::ProxyConfigurationError,
        "proxy_configuration_error",
        500,
    ),
    (ProxyError::ProxyLoopDetected, "proxy_loop_detected", 502),
];

impl ProxyError {
    /// The token on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(token) => token,
            known => NAMES
                .iter()
                .find(|(error, ..)| error == known)
                .map_or("", |(_, name, _)| name),
        }
    }

    /// The status that RFC 9209 §2.3 recommends for it; 500 for an unknown one. A proxy may answer
    /// otherwise: a destination that policy prohibits is better told by 403.
    pub fn recommended_status(&self) -> u16 {
        NAMES
            .iter()
            .find(|(error, ..)| error == self)
            .map_or(500, |(.., status)| *status)
    }

    fn from_token(token: String) -> Self {
        match NAMES.iter().find(|(_, name, _)| *name == token) {
            Some((error, ..)) => error.clone(),
            None => Self::Other(token),
        }
    }
}

impl ProxyStatus {
    /// What `proxy` says of an error it found.
    pub fn new(proxy: impl Into<String>, error: ProxyError) -> Self {
        Self {
            proxy: proxy.into(),
            error: Some(error),
            details: None,
        }
    }

    /// The same with details for people; what exceeds the bound is cut.
    pub fn with_details(self, details: impl Into<String>) -> Self {
        let mut details = details.into();
        truncate(&mut details);
        Self {
            details: Some(details),
            ..self
        }
    }

    /// Reads the field; the members in order, the one nearest to the client last. A malformed field
    /// gives no member (RFC 9651 §4.2), members beyond the bound are dropped.
    pub fn parse<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<Self> {
        let mut members = Vec::new();
        for value in values {
            // Several field lines are one list.
            if value.len() > MAX_FIELD_BYTES || parse_line(value, &mut members).is_none() {
                return Vec::new();
            }
        }
        members
    }
}

impl fmt::Display for ProxyStatus {
    /// The field value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = String::new();
        if is_token(&self.proxy) {
            out.push_str(&self.proxy);
        } else {
            put_string(&mut out, &self.proxy);
        }
        if let Some(error) = self
            .error
            .as_ref()
            .map(ProxyError::as_str)
            .filter(|e| is_token(e))
        {
            out.push_str("; error=");
            out.push_str(error);
        }
        if let Some(details) = &self.details {
            let mut details = details.clone();
            truncate(&mut details);
            out.push_str("; details=");
            put_string(&mut out, &details);
        }
        f.write_str(&out)
    }
}

fn parse_line(value: &[u8], members: &mut Vec<ProxyStatus>) -> Option<()> {
    let mut parser = Parser::new(value.trim_ascii());
    while !parser.is_at_end() {
        let proxy = match parser.bare_item()? {
            Item::String(name) | Item::Token(name) => name,
            Item::Boolean(_) | Item::Other => return None,
        };
        let mut member = ProxyStatus {
            proxy,
            error: None,
            details: None,
        };
        parser.parameters(|key, value| match (key, value) {
            ("error", Item::Token(token)) => member.error = Some(ProxyError::from_token(token)),
            ("details", Item::String(mut details)) => {
                truncate(&mut details);
                member.details = Some(details);
            }
            _ => {}
        })?;
        if members.len() < MAX_MEMBERS {
            members.push(member);
        }
        parser.skip_space();
        if parser.is_at_end() {
            return Some(());
        }
        if !parser.take(b',') {
            return None;
        }
        parser.skip_space();
        // RFC 9651 §4.2.1: a trailing comma is an error.
        if parser.is_at_end() {
            return None;
        }
    }
    Some(())
}

fn truncate(details: &mut String) {
    let mut end = MAX_DETAILS_BYTES.min(details.len());
    while !details.is_char_boundary(end) {
        end -= 1;
    }
    details.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Vec<ProxyStatus> {
        ProxyStatus::parse(std::iter::once(value.as_bytes()))
    }

    #[test]
    fn n43_writes_and_reads_errors() {
        let status = ProxyStatus::new("gateway.example", ProxyError::DnsError)
            .with_details("no such \"name\" \\ café");
        let text = r#"gateway.example; error=dns_error; details="no such \"name\" \\ caf?""#;
        assert_eq!(status.to_string(), text);
        let back = parse(text);
        assert_eq!(back.len(), 1);
        assert_eq!(back[0].error, Some(ProxyError::DnsError));
        assert_eq!(back[0].details.as_deref(), Some("no such \"name\" \\ caf?"));
        assert_eq!(
            ProxyStatus::new("a b", ProxyError::DnsError).to_string(),
            "\"a b\"; error=dns_error"
        );
    }

    #[test]
    fn n43_every_error_has_its_token() {
        for (error, name, status) in NAMES {
            assert_eq!(error.as_str(), name);
            assert_eq!(ProxyError::from_token(name.to_owned()), error);
            assert_eq!(error.recommended_status(), status);
        }
        assert_eq!(ProxyError::from_token("quota".into()).as_str(), "quota");
    }

    #[test]
    fn n43_reads_the_lists_of_rfc_9209() {
        let list = parse(
            r#"FooCDN; received-status=503; next-hop="1.net", "Bar";error=dns_timeout;x=?0;y=:AQ==:;z=1.5"#,
        );
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].proxy.as_str(), &list[0].error), ("FooCDN", &None));
        assert_eq!(
            (list[1].proxy.as_str(), &list[1].error),
            ("Bar", &Some(ProxyError::DnsTimeout))
        );
    }

    #[test]
    fn n43_malformed_fields_say_nothing() {
        for bad in [
            "a;",
            "a b",
            "a,",
            "\"a",
            "a; details=\"x",
            "?1",
            "a;Error=x",
            "\"\\x\"",
            "1",
        ] {
            assert_eq!(parse(bad), [], "{bad}");
        }
        assert_eq!(parse(&"a".repeat(MAX_FIELD_BYTES + 1)), []);
    }

    #[test]
    fn n43_everything_is_bounded() {
        let long = ProxyStatus::new("p", ProxyError::DnsError).with_details("é".repeat(1000));
        assert!(long.details.unwrap().len() <= MAX_DETAILS_BYTES);
        let many = vec!["a"; 100].join(", ");
        assert_eq!(parse(&many).len(), MAX_MEMBERS);
    }
}
