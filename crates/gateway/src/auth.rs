//! Who sends a request: the connector's key, proved by RFC 9729 or by a TLS client certificate.

use masque_http3::RequestHead;
use masque_model::{AuthMethods, ConnectorKey};
use masque_protocol::concealed::{
    self, Credentials, EXPORTER_LABEL, EXPORTER_OUTPUT_BYTES, ExportContext, ExporterOutput,
};
use masque_transport::{ConnId, Machine};

/// How a key was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// RFC 9729 Concealed authentication.
    ConcealedKey,
    /// A TLS client certificate with the connector's key.
    ClientCertificate,
}

impl Method {
    /// Whether an ingress point with these methods takes it.
    pub(crate) fn allowed_by(self, methods: AuthMethods) -> bool {
        match self {
            Self::ConcealedKey => methods.concealed_key,
            Self::ClientCertificate => methods.client_certificate,
        }
    }
}

/// A proved identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The connector's key.
    pub(crate) key: ConnectorKey,
    /// How it was proved.
    pub(crate) method: Method,
}

impl Identity {
    /// Whether the ingress point takes this proof.
    pub(crate) fn allowed_by(&self, methods: AuthMethods) -> bool {
        self.method.allowed_by(methods)
    }
}

/// The identity behind a request; `None` is a stranger. The Authorization field counts before the
/// certificate: it is about this request.
pub(crate) fn identify(machine: &Machine, conn: ConnId, head: &RequestHead) -> Option<Identity> {
    concealed(machine, conn, head)
        .map(|key| Identity {
            key,
            method: Method::ConcealedKey,
        })
        .or_else(|| {
            let key = machine.peer_certificate_key(conn)?;
            Some(Identity {
                key: ConnectorKey::from_bytes(key),
                method: Method::ClientCertificate,
            })
        })
}

/// RFC 9729 §6.3: the key is proved for this TLS connection, scheme, host and port.
fn concealed(machine: &Machine, conn: ConnId, head: &RequestHead) -> Option<ConnectorKey> {
    let mut values = head.values("authorization");
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let credentials = concealed::parse(value).filter(is_registered)?;
    let (host, port) = authority(head.authority.as_deref()?)?;
    let context = concealed::export_context(&ExportContext {
        key_id: &credentials.key_id,
        public_key: &credentials.public_key,
        scheme: head.scheme.as_deref()?,
        host,
        port,
        realm: &credentials.realm,
    });
    let mut output: ExporterOutput = [0; EXPORTER_OUTPUT_BYTES];
    machine
        .export_keying_material(conn, EXPORTER_LABEL, &context, &mut output)
        .ok()?;
    concealed::verify(&credentials, &output)
        .then(|| ConnectorKey::from_bytes(credentials.public_key))
}

/// RFC 9729 §6.3: the server checks that "the key ID is present in its database", that it "maps to"
/// a public key, and that this key is the one sent. A connector's key is registered under itself as
/// its key id, in no realm.
fn is_registered(credentials: &Credentials) -> bool {
    credentials.key_id == credentials.public_key && credentials.realm.is_empty()
}

/// Host (an IPv6 literal keeps its brackets) and port, 443 by default (RFC 3986 §3.2).
pub(crate) fn authority(text: &str) -> Option<(&str, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, 443),
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        assert_eq!(authority("gw.example:4433"), Some(("gw.example", 4433)));
        assert_eq!(authority("gw.example"), Some(("gw.example", 443)));
        assert_eq!(authority("[fd00::1]:4433"), Some(("[fd00::1]", 4433)));
        assert_eq!(authority("[fd00::1]"), Some(("[fd00::1]", 443)));
        assert_eq!(authority(":4433"), None);
        assert_eq!(authority("gw.example:x"), None);
    }

    #[test]
    fn an_ingress_point_may_refuse_a_method() {
        let identity = Identity {
            key: ConnectorKey::from_bytes([1; 32]),
            method: Method::ClientCertificate,
        };
        let only_concealed = AuthMethods {
            concealed_key: true,
            client_certificate: false,
        };
        assert!(!identity.allowed_by(only_concealed));
    }
}
