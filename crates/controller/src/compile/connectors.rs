//! From a reference to a Connector's key.

use std::collections::BTreeMap;

use masque_api::{Connector, Reason};
use masque_model::{ConnectorKey, KeyError, ObjectName};

use crate::{Resources, Sourced, suggest, validate::Report};

/// Connectors by name.
pub(super) type Connectors<'a> = BTreeMap<ObjectName, &'a Sourced<Connector>>;

/// Every connector by its name.
pub(super) fn by_name(resources: &Resources) -> Connectors<'_> {
    resources
        .connectors
        .iter()
        .map(|connector| (connector.name(), connector))
        .collect()
}

/// The key of the connector that an attachment names.
pub(super) fn key(
    name: &ObjectName,
    connectors: &Connectors<'_>,
    report: &mut Report<'_>,
) -> Option<ConnectorKey> {
    let field = "spec.connectorRef.name";
    let Some(connector) = connectors.get(name) else {
        let hint = meant(name, connectors.keys(), "add it, or correct the name");
        let message = format_args!("there is no Connector {name}");
        report.error(field, Reason::ConnectorNotFound, message, hint);
        return None;
    };
    let status = connector.object.status.as_ref();
    let details = status.and_then(|status| status.connection_details.as_ref());
    let id = details
        .and_then(|details| details.public_key.as_ref())
        .map(|key| key.id.trim());
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        let message = format_args!("the Connector {name}{} has no key", place(connector));
        let hint =
            "write it as status.connectionDetails.publicKey.id; a running agent does so itself";
        report.error(field, Reason::ConnectorKeyMissing, message, hint);
        return None;
    };
    let wrong = match id.parse() {
        Ok(key) if !has_small_order(&key) => return Some(key),
        Ok(_) => "it is a placeholder that anybody can sign for; write the connector's own key"
            .to_owned(),
        Err(error) => KeyError::to_string(&error),
    };
    let message = format_args!("the key of the Connector {name}{}", place(connector));
    report.error(field, Reason::ConnectorKeyMalformed, message, wrong);
    None
}

/// The points of small order by the y coordinate of their encodings (RFC 8032 §5.1.2), in order;
/// 0, 1 and -1 also as they are beyond the prime. One of them is what people write when they have
/// no key yet.
const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

/// Whether a key is a point of small order: signatures that verify with it can be made without any
/// secret, so that everybody would be this connector.
fn has_small_order(key: &ConnectorKey) -> bool {
    let mut bytes = *key.as_bytes();
    // The sign of x is in the highest bit.
    bytes[31] &= 0x7f;
    let text = ConnectorKey::from_bytes(bytes).to_string();
    SMALL_ORDER.contains(&text.as_str())
}

/// The name among `known` that was probably meant, as a hint.
pub(super) fn meant<'a>(
    name: &ObjectName,
    known: impl Iterator<Item = &'a ObjectName>,
    otherwise: &str,
) -> String {
    let mut elsewhere = None;
    let here = known.filter(|known| {
        if known.name == name.name {
            elsewhere = Some(*known);
        }
        known.namespace == name.namespace
    });
    match (
        suggest::closest(&name.name, here.map(|known| known.name.as_str())),
        elsewhere,
    ) {
        (Some(meant), _) => format!("did you mean {meant}?"),
        (None, Some(elsewhere)) => format!("there is a {elsewhere}; namespaces must match"),
        (None, None) => otherwise.to_owned(),
    }
}

fn place(connector: &Sourced<Connector>) -> String {
    let origin = connector.origin.as_ref();
    origin.map_or_else(String::new, |origin| {
        format!(" ({}:{})", origin.file, origin.line)
    })
}
