//! The grammar of names and values (RFC 9110 §5, RFC 3986 §3).

/// A token (RFC 9110 §5.6.2).
pub(super) fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| is_token_byte(*byte))
}

/// A value of the Upgrade header field, whose registry :protocol uses (RFC 8441 §4): a token, or
/// two joined by a slash (RFC 9110 §7.8).
pub(super) fn is_upgrade_token(text: &[u8]) -> bool {
    text.splitn(2, |byte| *byte == b'/').all(is_token)
}

/// A URI scheme (RFC 3986 §3.1).
pub(super) fn is_scheme(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphabetic)
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte))
}

/// Not empty, and visible ASCII throughout, as every part of a URI is (RFC 3986 §2).
pub(super) fn is_visible(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_graphic)
}

/// The host and port of a CONNECT (RFC 9110 §9.3.6): both are present, and the port is a number
/// other than 0. "A server MUST reject a CONNECT request that targets an empty or invalid port
/// number".
pub(super) fn is_host_and_port(authority: &str) -> bool {
    let Some((host, port)) = authority.rsplit_once(':') else {
        return false;
    };
    let bracketed = host.starts_with('[') && host.ends_with(']') && host.len() > 2;
    let bare = !host.is_empty() && !host.contains([':', '[', ']', '@', '/']);
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    (bracketed || bare) && digits && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A field value (RFC 9110 §5.5): visible characters and obs-text, with spaces and tabs between
/// them only. Control characters could smuggle a field into another HTTP version (RFC 9114
/// §10.3).
pub(super) fn is_field_value(value: &[u8]) -> bool {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_allowed = |byte: &u8| matches!(byte, b'\t' | b' '..=b'~' | 0x80..);
    value.iter().all(is_allowed) && !is_blank(value.first()) && !is_blank(value.last())
}

/// Text that was checked to be ASCII.
pub(super) fn text(ascii: &[u8]) -> String {
    ascii.iter().copied().map(char::from).collect()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
