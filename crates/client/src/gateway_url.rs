//! Where a gateway is, and the URI template (RFC 9484 §3) that names the tunnel there.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use crate::VpcName;

/// Port of an `https` URL without one (RFC 9110 §4.2.2).
const HTTPS_PORT: u16 = 443;

/// What `--gateway` takes: `https://gw.example:4433`, whose path follows from the VPC, or a whole
/// URI template, which is used as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayUrl {
    host: String,
    port: u16,
    /// Path of a template or of a fixed resource; `None`: derived from the VPC.
    path: Option<String>,
}

/// Why a text names no gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no gateway: {reason}; write it as https://gw.example:4433")]
pub struct GatewayUrlError {
    text: String,
    reason: &'static str,
}

impl GatewayUrl {
    /// The host, without the brackets of an IPv6 literal: the name that the certificate must hold.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port`, as `:authority` carries it.
    pub fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(_) => format!("[{}]:{}", self.host, self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }

    /// The template of the tunnel into `vpc`.
    pub fn template(&self, vpc: &VpcName) -> String {
        let authority = self.authority();
        match &self.path {
            Some(path) => format!("https://{authority}{path}"),
            None => format!("https://{authority}/vpc/{vpc}/masque/ip/{{target}}/{{ipproto}}/"),
        }
    }
}

impl FromStr for GatewayUrl {
    type Err = GatewayUrlError;

    fn from_str(text: &str) -> Result<Self, GatewayUrlError> {
        let bad = |reason| GatewayUrlError {
            text: text.to_owned(),
            reason,
        };
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
            Some(_) => return Err(bad("CONNECT-IP runs over https only")),
            None => text,
        };
        let (authority, path) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = split_authority(authority).map_err(bad)?;
        let path = match path {
            "" | "/" => None,
            path if path.starts_with('/') => Some(path.to_owned()),
            _ => return Err(bad("the path begins with /")),
        };
        if path
            .as_deref()
            .is_some_and(|p| !p.bytes().all(|b| (0x21..=0x7e).contains(&b)))
        {
            return Err(bad("the path is printable ASCII (RFC 9484 §3)"));
        }
        Ok(Self { host, port, path })
    }
}

/// The text that reads back as the same value.
impl fmt::Display for GatewayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "https://{}{}",
            self.authority(),
            self.path.as_deref().unwrap_or_default()
        )
    }
}

fn split_authority(authority: &str) -> Result<(String, u16), &'static str> {
    if authority.contains('@') {
        return Err("credentials do not belong into the URL");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest
                .split_once(']')
                .ok_or("the bracket of [IPv6] is not closed")?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| "what is in the brackets is no IPv6 address")?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let port = match port {
        "" => HTTPS_PORT,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or("the port is 1 to 65535")?,
    };
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    if host.is_empty() || !host.bytes().all(is_host) {
        return Err("the host is missing or no host name");
    }
    Ok((host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(url: &str, vpc: &str) -> String {
        url.parse::<GatewayUrl>()
            .unwrap()
            .template(&vpc.parse().unwrap())
    }

    #[test]
    fn the_path_follows_from_the_vpc() {
        assert_eq!(
            template("https://gw.example:4433", "production-vpc"),
            "https://gw.example:4433/vpc/production-vpc/masque/ip/{target}/{ipproto}/"
        );
        assert_eq!(
            template("gw.example", "team/production-vpc"),
            "https://gw.example:443/vpc/team/production-vpc/masque/ip/{target}/{ipproto}/"
        );
        assert_eq!(
            template("https://[2001:db8::1]:4433/", "v"),
            "https://[2001:db8::1]:4433/vpc/v/masque/ip/{target}/{ipproto}/"
        );
    }

    #[test]
    fn a_template_is_used_as_given() {
        for path in [
            "/.well-known/masque/ip/{target}/{ipproto}/",
            "/t?t={target}&i={ipproto}",
        ] {
            let url = format!("https://gw.example:443{path}");
            assert_eq!(template(&url, "v"), url);
            assert_eq!(url.parse::<GatewayUrl>().unwrap().to_string(), url);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, part) in [
            ("http://gw.example", "https only"),
            ("https://", "host"),
            ("https://gw.example:0", "port"),
            ("https://gw.example:70000", "port"),
            ("https://u:p@gw.example", "credentials"),
            ("https://[::1", "bracket"),
            ("https://[gw]", "IPv6"),
            ("https://gw example", "host"),
            ("https://gw.example/a b", "ASCII"),
            ("https://gw.example?x", "path"),
        ] {
            let error = text.parse::<GatewayUrl>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains(text), "{error}");
        }
    }
}
