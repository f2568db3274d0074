//! What the listeners serve: which authority and which path lead to which VPC.

use std::collections::BTreeMap;

use masque_gateway_core::EndReason;
use masque_model::{AuthMethods, ListenerProtocol, ObjectName, Snapshot};
use masque_protocol::{PathTemplate, Scope, ScopeError, WELL_KNOWN_PATH};

use crate::auth::{Method, authority};

/// One ingress point on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    ingress_point: ObjectName,
    hostname: Option<String>,
    auth: AuthMethods,
    /// Paths that mean this VPC and no other.
    own: Vec<PathTemplate>,
    /// Paths that may mean several VPCs of the port: the default template, and user templates.
    shared: Vec<PathTemplate>,
}

/// Every port's sites; immutable, replaced whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sites {
    ports: BTreeMap<u16, Vec<Site>>,
}

/// An ingress point that a path may mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The VPCIngressPoint.
    pub(crate) ingress_point: ObjectName,
    /// How its clients may prove who they are.
    pub(crate) auth: AuthMethods,
}

/// Where a request's authority and path lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// RFC 9110 §15.5.20: no listener of this port has that name.
    Misdirected,
    /// No such path.
    Nowhere,
    /// One of these VPCs (several only on a shared path), in this scope.
    Vpcs {
        /// The ingress points that serve the path.
        candidates: Vec<Candidate>,
        /// What the path's variables say; an error is a malformed request.
        scope: Result<Scope, ScopeError>,
    },
}

impl Sites {
    /// The sites of these snapshots.
    pub(crate) fn new<'a>(snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Self {
        let mut ports: BTreeMap<u16, Vec<Site>> = BTreeMap::new();
        for snapshot in snapshots {
            for listener in &snapshot.listeners {
                if listener.protocol != ListenerProtocol::Http3 {
                    continue;
                }
                ports.entry(listener.port).or_default().push(Site {
                    ingress_point: snapshot.ingress_point.clone(),
                    hostname: listener.hostname.clone(),
                    auth: snapshot.auth,
                    own: own_paths(&snapshot.vpc),
                    shared: std::iter::once(WELL_KNOWN_PATH)
                        .chain(listener.path_templates.iter().map(String::as_str))
                        .filter_map(|path| PathTemplate::parse(path).ok())
                        .collect(),
                });
            }
        }
        Self { ports }
    }

    /// Every port.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> {
        self.ports.keys().copied()
    }

    /// Where `path` on `authority` leads.
    pub(crate) fn destination(&self, port: u16, authority: &str, path: &str) -> Destination {
        let sites = self.ports.get(&port).map_or(&[][..], Vec::as_slice);
        let mut named = sites
            .iter()
            .filter(|site| site.answers_to(authority))
            .peekable();
        if named.peek().is_none() {
            return Destination::Misdirected;
        }
        let mut candidates = Vec::new();
        let mut scope = None;
        for site in named {
            let of = |paths: &[PathTemplate]| paths.iter().find_map(|p| p.match_path(path));
            if let Some(found) = of(&site.own).or_else(|| of(&site.shared)) {
                candidates.push(Candidate {
                    ingress_point: site.ingress_point.clone(),
                    auth: site.auth,
                });
                scope.get_or_insert(found);
            }
        }
        match scope {
            Some(scope) => Destination::Vpcs { candidates, scope },
            None => Destination::Nowhere,
        }
    }
}

impl Sites {
    /// Why a session that began on `authority` with this proof could not begin now; `None` if it
    /// could. The path is only how it was found, and has no say.
    pub(crate) fn refuses(
        &self,
        port: u16,
        authority: &str,
        point: &ObjectName,
        method: Method,
    ) -> Option<EndReason> {
        let mut sites = self
            .ports
            .get(&port)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .filter(|site| site.ingress_point == *point && site.answers_to(authority))
            .peekable();
        if sites.peek().is_none() {
            return Some(EndReason::ListenerRemoved);
        }
        let allowed = sites.any(|site| method.allowed_by(site.auth));
        (!allowed).then_some(EndReason::MethodRefused)
    }
}

impl Site {
    fn answers_to(&self, text: &str) -> bool {
        match (&self.hostname, authority(text)) {
            (None, host) => host.is_some(),
            (Some(name), Some((host, _))) => name.eq_ignore_ascii_case(host),
            (Some(_), None) => false,
        }
    }
}

/// `docs/decisions/0004-vpc-in-the-path.md`.
fn own_paths(vpc: &ObjectName) -> Vec<PathTemplate> {
    let short = format!("/vpc/{}/masque/ip/{{target}}/{{ipproto}}/", vpc.name);
    let long = format!(
        "/vpc/{}/{}/masque/ip/{{target}}/{{ipproto}}/",
        vpc.namespace, vpc.name
    );
    [short, long]
        .iter()
        .filter_map(|path| PathTemplate::parse(path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(points: &[(&str, &str, Option<&str>)]) -> Sites {
        let site = |(name, vpc, hostname): &(&str, &str, Option<&str>)| Site {
            ingress_point: ObjectName::new("default", *name),
            hostname: hostname.map(str::to_owned),
            auth: AuthMethods {
                concealed_key: true,
                client_certificate: true,
            },
            own: own_paths(&ObjectName::new("default", *vpc)),
            shared: vec![PathTemplate::parse(WELL_KNOWN_PATH).unwrap()],
        };
        Sites {
            ports: BTreeMap::from([(4433, points.iter().map(site).collect())]),
        }
    }

    fn names(destination: Destination) -> Vec<String> {
        match destination {
            Destination::Vpcs { candidates, .. } => candidates
                .into_iter()
                .map(|c| c.ingress_point.name)
                .collect(),
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn n37_paths_lead_to_vpcs() {
        let sites = sites(&[("p", "prod", None), ("s", "stag", None)]);
        let at = |path: &str| names(sites.destination(4433, "gw.example:4433", path));
        assert_eq!(at("/vpc/prod/masque/ip/*/*/"), ["p"]);
        assert_eq!(at("/vpc/default/stag/masque/ip/10.0.0.0%2F8/6/"), ["s"]);
        assert_eq!(at("/.well-known/masque/ip/*/*/"), ["p", "s"]);
        assert_eq!(at("/vpc/other/masque/ip/*/*/"), ["Nowhere"]);
        assert_eq!(at("/"), ["Nowhere"]);
    }

    #[test]
    fn n16_a_wrong_authority_is_misdirected() {
        let sites = sites(&[("p", "prod", Some("gw.example"))]);
        let to =
            |authority: &str| names(sites.destination(4433, authority, "/vpc/prod/masque/ip/*/*/"));
        assert_eq!(to("GW.example:4433"), ["p"]);
        assert_eq!(to("other.example:4433"), ["Misdirected"]);
        assert_eq!(to(""), ["Misdirected"]);
    }

    #[test]
    fn a_session_needs_its_listener_and_its_method() {
        let point = ObjectName::new("default", "p");
        let at = |sites: &Sites, authority, method| sites.refuses(4433, authority, &point, method);
        let mut now = sites(&[("p", "prod", Some("gw.example")), ("s", "stag", None)]);
        let (key, certificate) = (Method::ConcealedKey, Method::ClientCertificate);
        assert_eq!(at(&now, "gw.example:4433", key), None);
        let removed = Some(EndReason::ListenerRemoved);
        assert_eq!(at(&now, "former.example:4433", key), removed);
        assert_eq!(now.refuses(4434, "gw.example", &point, key), removed);
        for site in now.ports.get_mut(&4433).unwrap() {
            site.auth.client_certificate = false;
        }
        assert_eq!(at(&now, "gw.example:4433", key), None);
        let refused = Some(EndReason::MethodRefused);
        assert_eq!(at(&now, "gw.example:4433", certificate), refused);
    }
}
