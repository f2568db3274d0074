//! Which header sections are malformed (RFC 9114 §4.2, §4.3; RFC 8441 §4; RFC 9110 §5).

use crate::{
    Field, RequestHead, ResponseHead,
    headers::{codec::Line, validate::syntax::*},
};

mod syntax;
#[cfg(test)]
mod tests;

/// The rule a message breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// Whether a value is well formed.
type Check = fn(&[u8]) -> bool;

/// The section a field stands in; the rules for TE differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Request,
    ResponseOrTrailers,
}

/// A request's header section (RFC 9114 §4.3.1, RFC 8441 §4).
pub(crate) fn request(lines: &[Line]) -> Result<RequestHead, Malformed> {
    let (pseudo, regular) = split_pseudo(lines);
    let mut head = RequestHead {
        fields: fields(regular, Section::Request)?,
        ..Default::default()
    };
    let mut method = None;
    for line in pseudo {
        let (slot, valid): (&mut Option<String>, Check) = match line.name.as_ref() {
            b":method" => (&mut method, is_token),
            b":protocol" => (&mut head.protocol, is_upgrade_token),
            b":scheme" => (&mut head.scheme, is_scheme),
            b":authority" => (&mut head.authority, is_visible),
            b":path" => (&mut head.path, is_visible),
            _ => return Err(Malformed("pseudo-header field not defined for requests")),
        };
        if slot.is_some() {
            return Err(Malformed("repeated pseudo-header field"));
        }
        if !valid(&line.value) {
            return Err(Malformed("invalid value of a pseudo-header field"));
        }
        *slot = Some(text(&line.value));
    }
    head.method = method.ok_or(Malformed("no :method"))?;
    authority(&mut head)?;
    if head.method == "CONNECT" && head.protocol.is_none() {
        classic_connect(&head)?;
    } else {
        target(&head)?;
    }
    Ok(head)
}

/// A response's header section (RFC 9114 §4.3.2).
pub(crate) fn response(lines: &[Line]) -> Result<ResponseHead, Malformed> {
    let (pseudo, regular) = split_pseudo(lines);
    let [status] = pseudo else {
        return Err(Malformed("a response has exactly one :status"));
    };
    if status.name.as_ref() != b":status" {
        return Err(Malformed("pseudo-header field not defined for responses"));
    }
    let [
        hundreds @ b'1'..=b'5',
        tens @ b'0'..=b'9',
        ones @ b'0'..=b'9',
    ] = *status.value
    else {
        return Err(Malformed("invalid :status"));
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    if status == 101 {
        // "HTTP/3 does not support (...) the 101 (Switching Protocols) informational status code"
        // (RFC 9114 §4.5)
        return Err(Malformed("status 101"));
    }
    Ok(ResponseHead {
        status,
        fields: fields(regular, Section::ResponseOrTrailers)?,
    })
}

/// A trailer section: "Pseudo-header fields MUST NOT appear in trailer sections" (RFC 9114 §4.3).
pub(crate) fn trailers(lines: &[Line]) -> Result<(), Malformed> {
    fields(lines, Section::ResponseOrTrailers).map(|_| ())
}

/// The value of Content-Length; repeated fields must agree (RFC 9110 §8.6).
pub(crate) fn content_length(fields: &[Field]) -> Result<Option<u64>, Malformed> {
    let mut length = None;
    for field in fields.iter().filter(|field| field.name == "content-length") {
        let digits = !field.value.is_empty() && field.value.iter().all(u8::is_ascii_digit);
        let value = std::str::from_utf8(&field.value)
            .ok()
            .and_then(|value| value.parse().ok());
        match (digits, value, length) {
            (true, Some(value), None) => length = Some(value),
            (true, Some(value), Some(earlier)) if value == earlier => {}
            _ => return Err(Malformed("invalid content-length")),
        }
    }
    Ok(length)
}

/// "All pseudo-header fields MUST appear in the header section before regular header fields"
/// (RFC 9114 §4.3): what follows the first regular field must be regular, which `fields` checks.
fn split_pseudo(lines: &[Line]) -> (&[Line], &[Line]) {
    let pseudo = lines
        .iter()
        .take_while(|line| line.name.first() == Some(&b':'))
        .count();
    lines.split_at(pseudo)
}

fn fields(lines: &[Line], section: Section) -> Result<Vec<Field>, Malformed> {
    let mut fields: Vec<Field> = Vec::with_capacity(lines.len());
    for line in lines {
        let field = field(line, section)?;
        // "If a decompressed field section contains multiple cookie field lines, these MUST be
        // concatenated into a single byte string using the two-byte delimiter of 0x3b, 0x20
        // (...) before being passed into (...) a generic HTTP server application." (RFC 9114
        // §4.2.1)
        if field.name == "cookie"
            && let Some(cookie) = fields.iter_mut().find(|earlier| earlier.name == "cookie")
        {
            // An empty line adds nothing; its delimiter would leave a space at an end of the value,
            // where none may be (RFC 9110 §5.5).
            if !cookie.value.is_empty() && !field.value.is_empty() {
                cookie.value.extend_from_slice(b"; ");
            }
            cookie.value.extend_from_slice(&field.value);
        } else {
            fields.push(field);
        }
    }
    Ok(fields)
}

fn field(line: &Line, section: Section) -> Result<Field, Malformed> {
    let (name, value) = (line.name.as_ref(), line.value.as_ref());
    // "characters in field names MUST be converted to lowercase prior to their encoding. A
    // request or response containing uppercase characters in field names MUST be treated as
    // malformed." (RFC 9114 §4.2); a colon, as of a late pseudo-header, is no token character.
    if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
        return Err(Malformed("invalid field name"));
    }
    if !is_field_value(value) {
        return Err(Malformed("invalid field value"));
    }
    match name {
        // "any message containing connection-specific fields MUST be treated as malformed"
        // (RFC 9114 §4.2)
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
            Err(Malformed("connection-specific field"))
        }
        // "The only exception to this is the TE header field, which MAY be present in an HTTP/3
        // request header; when it is, it MUST NOT contain any value other than "trailers"."
        b"te" if section != Section::Request || !value.eq_ignore_ascii_case(b"trailers") => {
            Err(Malformed("te"))
        }
        _ => Ok(Field {
            name: text(name),
            value: value.to_vec(),
        }),
    }
}

/// "the request MUST contain either an ":authority" pseudo-header field or a "Host" header field. If
/// these fields are present, they MUST NOT be empty. If both fields are present, they MUST contain
/// the same value." (RFC 9114 §4.3.1) A classic CONNECT has an :authority in any case (§4.4).
fn authority(head: &mut RequestHead) -> Result<(), Malformed> {
    let mut hosts = head.fields.iter().filter(|field| field.name == "host");
    let host = hosts.next().map(|field| field.value.clone());
    if hosts.next().is_some() {
        return Err(Malformed("repeated host"));
    }
    match (&head.authority, host) {
        (_, Some(host)) if !is_visible(&host) => Err(Malformed("invalid host")),
        (Some(authority), Some(host)) if !authority.as_bytes().eq_ignore_ascii_case(&host) => {
            Err(Malformed(":authority and host differ"))
        }
        (None, Some(host)) if head.method != "CONNECT" || head.protocol.is_some() => {
            head.authority = Some(text(&host));
            Ok(())
        }
        _ => Ok(()),
    }
}

/// "The ":scheme" and ":path" pseudo-header fields are omitted", "The ":authority" pseudo-header
/// field contains the host and port to connect to" (RFC 9114 §4.4).
fn classic_connect(head: &RequestHead) -> Result<(), Malformed> {
    if head.scheme.is_some() || head.path.is_some() {
        return Err(Malformed("CONNECT with :scheme or :path"));
    }
    match &head.authority {
        Some(authority) if is_host_and_port(authority) => Ok(()),
        _ => Err(Malformed("CONNECT without host and port")),
    }
}

/// Every other request has a scheme and a path (RFC 9114 §4.3.1); an extended CONNECT has an
/// authority too (RFC 8441 §4), and so has any request with an http(s) URI.
fn target(head: &RequestHead) -> Result<(), Malformed> {
    if head.protocol.is_some() && head.method != "CONNECT" {
        return Err(Malformed(":protocol with a method other than CONNECT"));
    }
    let scheme = head.scheme.as_deref().ok_or(Malformed("no :scheme"))?;
    let path = head.path.as_deref().ok_or(Malformed("no :path"))?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    match &head.authority {
        // "The authority MUST NOT include the deprecated "userinfo" subcomponent for URIs of scheme
        // "http" or "https"." (RFC 9114 §4.3.1)
        Some(authority) if is_http && authority.contains('@') => {
            Err(Malformed("userinfo in :authority"))
        }
        None if is_http || head.protocol.is_some() => Err(Malformed("no :authority")),
        _ if is_http && !path.starts_with('/') && !(path == "*" && head.method == "OPTIONS") => {
            Err(Malformed("invalid :path"))
        }
        _ => Ok(()),
    }
}
