//! Listeners of one ingress point.

use std::collections::BTreeSet;

use masque_api::VPCIngressPointSpec;
use masque_api::{Listener as ApiListener, ListenerProtocol as ApiProtocol, Reason};
use masque_model::{Listener, ListenerProtocol, ObjectName};

use super::Report;
use crate::{Options, suggest};

/// Paths that the gateway serves by itself.
const OWN_PATHS: [&str; 2] = ["/.well-known/masque/", "/vpc/"];

/// The variables of a CONNECT-IP template (RFC 9484 §3).
const VARIABLES: [&str; 2] = ["target", "ipproto"];

/// Checks the listeners of one ingress point.
pub(super) fn listeners(
    spec: &VPCIngressPointSpec,
    point: &ObjectName,
    options: &Options,
    report: &mut Report<'_>,
) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    if spec.listeners.is_empty() {
        report.invalid(
            "spec.listeners",
            "there is no listener",
            "add one, such as HTTP3 on 443",
        );
    }
    for (i, listener) in spec.listeners.iter().enumerate() {
        let field = format!("spec.listeners[{i}]");
        let checked = check(listener, &field, point, options, report);
        if listeners.iter().any(|other| other.name == checked.name) {
            let message = format_args!("{:?} is there twice", checked.name);
            report.invalid(&format!("{field}.name"), message, "give it another name");
        }
        if let Some(other) = listeners.iter().find(|other| same_port(other, &checked)) {
            if other.protocol != checked.protocol {
                let message = format_args!(
                    "port {} speaks another protocol in the listener {}",
                    checked.port, other.name
                );
                report.invalid(&format!("{field}.port"), message, "use another port");
            } else if other.hostname == checked.hostname {
                let message = format_args!(
                    "port {} belongs to the listener {}",
                    checked.port, other.name
                );
                let hint = "use another port, or another hostname in each";
                report.invalid(&format!("{field}.port"), message, hint);
            }
        }
        listeners.push(checked);
    }
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    listeners
}

/// Whether two listeners need the same socket: HTTP/2 is on TCP, the others are on UDP.
pub(crate) fn same_port(a: &Listener, b: &Listener) -> bool {
    let tcp = |listener: &Listener| listener.protocol == ListenerProtocol::Http2;
    a.port == b.port && tcp(a) == tcp(b)
}

fn check(
    listener: &ApiListener,
    field: &str,
    point: &ObjectName,
    options: &Options,
    report: &mut Report<'_>,
) -> Listener {
    if !options
        .built
        .listener_protocols
        .contains(&listener.protocol)
    {
        let name = listener.protocol.as_str();
        let message = format_args!("the protocol {name} is not built into this version");
        let built = &options.built.listener_protocols;
        let built: Vec<_> = built.iter().map(|protocol| protocol.as_str()).collect();
        let hint = format!("write {}", built.join(" or "));
        report.invalid(&format!("{field}.protocol"), message, hint);
    }
    if listener.port == 0 {
        report.invalid(&format!("{field}.port"), "0 is not a port", "write 443");
    }
    let mut path_templates = BTreeSet::new();
    for (i, template) in listener.path_templates.iter().enumerate() {
        let field = format!("{field}.pathTemplates[{i}]");
        if let Err((message, hint)) = check_template(template) {
            report.invalid(&field, message, hint);
        }
        path_templates.insert(template.clone());
    }
    let certificates = certificates(listener, field, point, options, report);
    Listener {
        name: listener.name.clone(),
        protocol: match listener.protocol {
            ApiProtocol::HTTP3 => ListenerProtocol::Http3,
            ApiProtocol::HTTP2 => ListenerProtocol::Http2,
            ApiProtocol::Iroh => ListenerProtocol::Iroh,
        },
        port: listener.port,
        hostname: listener
            .hostname
            .as_ref()
            .map(|name| name.to_ascii_lowercase()),
        certificates,
        path_templates: path_templates.into_iter().collect(),
    }
}

fn certificates(
    listener: &ApiListener,
    field: &str,
    point: &ObjectName,
    options: &Options,
    report: &mut Report<'_>,
) -> Vec<String> {
    let Some(tls) = &listener.tls else {
        return Vec::new();
    };
    if !tls.client_ca_refs.is_empty() {
        let message = "client certificates are recognized by their key, not by a CA";
        report.invalid(&format!("{field}.tls.clientCARefs"), message, "remove it");
    }
    let there = |name: &str| {
        options
            .secrets
            .contains(&ObjectName::new(&point.namespace, name))
    };
    let (found, missing): (Vec<_>, Vec<_>) = tls
        .certificate_refs
        .iter()
        .enumerate()
        .partition(|(_, secret)| there(&secret.name));
    for (i, secret) in missing {
        let name = &secret.name;
        let known = options
            .secrets
            .iter()
            .filter(|known| known.namespace == point.namespace);
        let hint = match suggest::closest(name, known.map(|known| known.name.as_str())) {
            Some(meant) => format!("did you mean {meant}?"),
            None => "add a Secret of type kubernetes.io/tls, or remove tls for a certificate \
                     that the gateway makes itself"
                .to_owned(),
        };
        let field = format!("{field}.tls.certificateRefs[{i}].name");
        let message = format_args!("there is no Secret {}/{name}", point.namespace);
        if found.is_empty() {
            report.error(&field, Reason::CertificateNotFound, message, hint);
        } else {
            report.warn(&field, Reason::CertificateNotFound, message, hint);
        }
    }
    found
        .into_iter()
        .map(|(_, secret)| secret.name.clone())
        .collect()
}

/// Checks the path of a URI template: RFC 9484 §3 allows only simple expansion of `target` and
/// `ipproto`.
fn check_template(template: &str) -> Result<(), (String, String)> {
    if !template.starts_with('/') || !template.bytes().all(|b| b.is_ascii_graphic()) {
        let hint = "begin it with / and use visible ASCII";
        return Err((format!("{template:?} is not a path"), hint.to_owned()));
    }
    if let Some(own) = OWN_PATHS.iter().find(|own| template.starts_with(*own)) {
        let message = format!("paths under {own} belong to the gateway");
        return Err((message, "choose another path".to_owned()));
    }
    let mut rest = template;
    let mut seen = BTreeSet::new();
    while let Some(brace) = rest.find(['{', '}']) {
        let expression = rest[brace..]
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let Some((name, tail)) = expression else {
            return Err((format!("{template:?} has an odd brace"), String::new()));
        };
        if !VARIABLES.contains(&name) || !seen.insert(name) {
            let message = format!("{{{name}}} is not expected");
            return Err((
                message,
                "use {target} and {ipproto}, each once at most".to_owned(),
            ));
        }
        rest = tail;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_have_two_variables() {
        for good in [
            "/vpn",
            "/vpn/{target}/{ipproto}/",
            "/x?t={target}&p={ipproto}",
        ] {
            assert_eq!(check_template(good), Ok(()), "{good}");
        }
        for bad in [
            "vpn",
            "/v pn",
            "/{+target}",
            "/{host}",
            "/{target",
            "/target}",
            "/{target}/{target}",
            "/vpc/production-vpc/x",
            "/.well-known/masque/ip/{target}/{ipproto}/",
        ] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}
