//! What a CONNECT-IP request is limited to (RFC 9484 §4.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{IpRange, from_prefixes};

/// The wildcard value of both variables.
const WILDCARD: &str = "*";
/// The longest DNS name (RFC 1035 §2.3.4), written with dots.
const MAX_HOST_BYTES: usize = 253;
const MAX_LABEL_BYTES: usize = 63;

/// The scope of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// Where packets may go.
    pub target: Target,
    /// The only upper-layer protocol, or `None` for all; no IPv6 extension header. ICMP is always
    /// allowed.
    pub protocol: Option<u8>,
}

/// The `target` variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// Any host: `*`, or no such variable.
    Any,
    /// An address or prefix without host bits.
    Prefix(IpNet),
    /// A DNS name in lower case. RFC 9484 §4.1: the proxy resolves it before it answers.
    Host(String),
}

/// Why the variables of a request make no scope; the request is malformed (RFC 9484 §4.1), status
/// 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// A `%` without two hexadecimal digits, or bytes that are not visible ASCII.
    #[error("{variable} is not percent-encoded visible ASCII")]
    Encoding {
        /// `target` or `ipproto`.
        variable: &'static str,
    },
    /// RFC 9484 §4.6: "the colons (":") MUST be percent-encoded".
    #[error("write the colons of target as %3A")]
    ColonNotEncoded,
    /// An empty variable; the wildcard is `*`.
    #[error("{variable} is empty; the wildcard is *")]
    Empty {
        /// `target` or `ipproto`.
        variable: &'static str,
    },
    /// RFC 9484 §4.8: "IP proxies MAY reject requests to scope to protocol numbers that are used for
    /// extension headers": no packet would be within the scope.
    #[error("ipproto {0} is an IPv6 extension header; name the upper-layer protocol, or * for all")]
    ExtensionHeader(u8),
    /// Neither an IP prefix nor a DNS name.
    #[error("target {0:?} is neither an IP address, an IP prefix nor a DNS name")]
    Host(String),
    /// Bits below the prefix length are set.
    #[error("target {0} has bits set below its prefix length")]
    HostBits(IpNet),
    /// The prefix length is not a number from 0 to 32, or 128 for IPv6.
    #[error("target {0:?} has a wrong prefix length")]
    PrefixLength(String),
    /// Not a number from 0 to 255 nor `*`.
    #[error("ipproto {0:?} is neither a number from 0 to 255 nor *")]
    Protocol(String),
    /// A variable that occurs twice.
    #[error("{variable} occurs twice")]
    Repeated {
        /// `target` or `ipproto`.
        variable: &'static str,
    },
    /// RFC 9484 §4.6: the slash before the prefix length is percent-encoded.
    #[error("write the slash of target as %2F")]
    SlashNotEncoded,
    /// RFC 9484 §4.6: "IPv6 scoped addressing zone identifiers are not supported".
    #[error("target {0:?} has a zone identifier")]
    ZoneId(String),
}

impl ScopeError {
    /// The status to answer with.
    pub const fn status(&self) -> u16 {
        400
    }
}

impl Scope {
    /// Everything.
    pub const ANY: Self = Self {
        target: Target::Any,
        protocol: None,
    };

    /// Reads the variables as they stand in a request's path; `None` for a variable that the
    /// template lacks.
    ///
    /// # Errors
    /// [`ScopeError`]: the request is malformed.
    pub fn parse(target: Option<&str>, ipproto: Option<&str>) -> Result<Self, ScopeError> {
        Ok(Self {
            target: target.map_or(Ok(Target::Any), parse_target)?,
            protocol: ipproto.map_or(Ok(None), parse_protocol)?,
        })
    }

    /// The value of the `target` variable, percent-encoded.
    pub fn target_variable(&self) -> String {
        match &self.target {
            Target::Any => WILDCARD.to_owned(),
            Target::Prefix(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {
                percent_encode(&prefix.addr().to_string())
            }
            Target::Prefix(prefix) => percent_encode(&prefix.trunc().to_string()),
            Target::Host(host) => percent_encode(host),
        }
    }

    /// The value of the `ipproto` variable.
    pub fn protocol_variable(&self) -> String {
        self.protocol
            .map_or_else(|| WILDCARD.to_owned(), |protocol| protocol.to_string())
    }

    /// The part of `offered` inside this scope, as it may be advertised. `resolved` are the
    /// addresses of a host target; others ignore it.
    pub fn narrow(&self, offered: &[IpNet], resolved: &[IpAddr]) -> Vec<IpRange> {
        let wanted: Vec<IpNet> = match &self.target {
            Target::Any => return from_prefixes(offered, self.protocol),
            Target::Prefix(prefix) => vec![*prefix],
            Target::Host(_) => resolved.iter().copied().map(IpNet::from).collect(),
        };
        // Two prefixes are disjoint, or the longer one is what they share.
        let shared: Vec<IpNet> = wanted
            .iter()
            .flat_map(|wanted| {
                offered.iter().filter_map(move |offered| match () {
                    () if offered.contains(wanted) => Some(*wanted),
                    () if wanted.contains(offered) => Some(*offered),
                    () => None,
                })
            })
            .collect();
        from_prefixes(&shared, self.protocol)
    }
}

fn parse_target(raw: &str) -> Result<Target, ScopeError> {
    let variable = "target";
    if raw.is_empty() {
        return Err(ScopeError::Empty { variable });
    }
    if raw.contains(':') {
        return Err(ScopeError::ColonNotEncoded);
    }
    if raw.contains('/') {
        return Err(ScopeError::SlashNotEncoded);
    }
    let value = percent_decode(raw).ok_or(ScopeError::Encoding { variable })?;
    if value == WILDCARD {
        return Ok(Target::Any);
    }
    if value.contains('%') {
        return Err(ScopeError::ZoneId(value));
    }
    let (address, length) = match value.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (value.as_str(), None),
    };
    let address = if address.contains(':') {
        address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
    } else {
        address.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    };
    match (address, length) {
        (Some(address), None) => Ok(Target::Prefix(IpNet::from(address))),
        (Some(address), Some(length)) => parse_prefix(address, length, &value),
        (None, None) if is_dns_name(&value) => Ok(Target::Host(value.to_ascii_lowercase())),
        (None, _) => Err(ScopeError::Host(value)),
    }
}

fn parse_prefix(address: IpAddr, length: &str, value: &str) -> Result<Target, ScopeError> {
    // IPv6prefix = IPv6address ["%2F" 1*3DIGIT], IPv4prefix = IPv4address ["%2F" 1*2DIGIT]
    let max_digits = if address.is_ipv4() { 2 } else { 3 };
    let prefix = decimal(length, max_digits)
        .and_then(|length| u8::try_from(length).ok())
        .and_then(|length| IpNet::new(address, length).ok())
        .ok_or_else(|| ScopeError::PrefixLength(value.to_owned()))?;
    if prefix.network() != address {
        return Err(ScopeError::HostBits(prefix));
    }
    Ok(Target::Prefix(prefix))
}

fn parse_protocol(raw: &str) -> Result<Option<u8>, ScopeError> {
    let variable = "ipproto";
    if raw.is_empty() {
        return Err(ScopeError::Empty { variable });
    }
    let value = percent_decode(raw).ok_or(ScopeError::Encoding { variable })?;
    if value == WILDCARD {
        return Ok(None);
    }
    match decimal(&value, 3).and_then(|number| u8::try_from(number).ok()) {
        Some(number) if is_extension_header(number) => Err(ScopeError::ExtensionHeader(number)),
        Some(protocol) => Ok(Some(protocol)),
        None => Err(ScopeError::Protocol(value)),
    }
}

/// Whether packets are looked at behind this header (the IANA list of IPv6 extension headers).
/// Nothing can be read behind ESP (50), so that one is an upper-layer protocol.
const fn is_extension_header(protocol: u8) -> bool {
    matches!(
        protocol,
        0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254
    )
}

/// One to `max_digits` decimal digits.
fn decimal(text: &str, max_digits: usize) -> Option<u16> {
    let digits = (1..=max_digits).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A DNS name whose last label is no number: `10.1` and `0x7f.1` are names to nobody, but addresses
/// to some resolvers, and would slip past rules on addresses.
fn is_dns_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    name.len() <= MAX_HOST_BYTES && name.split('.').all(is_label) && !is_number
}

/// Encodes everything but unreserved characters (RFC 3986 §2.3), as simple expansion does.
pub(crate) fn percent_encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
        }
    }
    out
}

pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes into visible ASCII, or `None`.
fn percent_decode(raw: &str) -> Option<String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let byte = if first == b'%' {
            let (digits, tail) = tail.split_first_chunk::<2>()?;
            rest = tail;
            *data_encoding::HEXUPPER_PERMISSIVE
                .decode(digits)
                .ok()?
                .first()?
        } else {
            rest = tail;
            first
        };
        if !byte.is_ascii_graphic() {
            return None;
        }
        out.push(char::from(byte));
    }
    Some(out)
}

#[cfg(test)]
mod tests;
