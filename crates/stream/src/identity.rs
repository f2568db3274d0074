//! Who a pod is: its certificate names the ingress point, its token proves the pod.

use masque_model::ObjectName;

/// Every pod certificate's URI begins so.
const PREFIX: &str = "spiffe://masque-gateway/ns/";
const KIND: &str = "/vpcingresspoint/";
/// Namespaces and names are at most DNS subdomains.
const MAX_NAME_BYTES: usize = 253;

/// The URI in the certificate of an ingress point's pods:
/// `spiffe://masque-gateway/ns/NAMESPACE/vpcingresspoint/NAME`.
pub fn point_uri(ingress_point: &ObjectName) -> String {
    let ObjectName { namespace, name } = ingress_point;
    format!("{PREFIX}{namespace}{KIND}{name}")
}

/// A certificate does not say which ingress point it is for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not one of ours.
    #[error("{0:?} is not spiffe://masque-gateway/ns/NAMESPACE/vpcingresspoint/NAME")]
    Uri(String),
    /// It must have exactly one such URI.
    #[error("the certificate has no URI of the form {PREFIX}NAMESPACE{KIND}NAME, or several")]
    None,
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
}

/// The ingress point that such a URI names.
///
/// # Errors
/// [`IdentityError::Uri`].
pub fn point_of_uri(uri: &str) -> Result<ObjectName, IdentityError> {
    let wrong = || IdentityError::Uri(uri.chars().take(MAX_NAME_BYTES).collect());
    let rest = uri.strip_prefix(PREFIX).ok_or_else(wrong)?;
    let (namespace, name) = rest.split_once(KIND).ok_or_else(wrong)?;
    if [namespace, name].iter().all(|part| is_name(part)) {
        Ok(ObjectName::new(namespace, name))
    } else {
        Err(wrong())
    }
}

/// What Kubernetes takes as a name (RFC 1123 subdomain); above all no slash.
fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    !text.is_empty() && text.len() <= MAX_NAME_BYTES && text.bytes().all(allowed)
}

/// The ingress point of a certificate, from its one URI (DER).
///
/// # Errors
/// [`IdentityError`].
pub(crate) fn point_of_certificate(der: &[u8]) -> Result<ObjectName, IdentityError> {
    use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| IdentityError::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Unreadable)?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => point_of_uri(uri),
        _ => Err(IdentityError::None),
    }
}

/// Who a pod was found to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodIdentity {
    /// The VPCIngressPoint whose ServiceAccount the token is of.
    pub ingress_point: ObjectName,
    /// `metadata.name` of the Pod that the token is bound to.
    pub pod: String,
}

/// Why a pod was not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The token is no proof; the text says why, without the token.
    #[error("not authenticated: {0}")]
    Refused(String),
    /// It could not be checked now.
    #[error("cannot authenticate at present: {0}")]
    Unavailable(String),
}

/// Checks a pod's token. The stream itself then checks that the token and the certificate name the
/// same ingress point.
#[tonic::async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Who holds `token`. `certificate_uri` is the URI of the client certificate, already verified
    /// to be signed by the operator's CA.
    ///
    /// # Errors
    /// [`AuthError`].
    async fn authenticate(
        &self,
        token: &str,
        certificate_uri: &str,
    ) -> Result<PodIdentity, AuthError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_points_and_nothing_else() {
        let point = ObjectName::new("team-a", "edge.1");
        assert_eq!(point_of_uri(&point_uri(&point)), Ok(point));
        for wrong in [
            "",
            "spiffe://masque-gateway/ns/a/vpcingresspoint/",
            "spiffe://masque-gateway/ns//vpcingresspoint/b",
            "spiffe://masque-gateway/ns/a/b/vpcingresspoint/c",
            "spiffe://masque-gateway/ns/a/vpcingresspoint/b/vpcingresspoint/c",
            "spiffe://masque-gateway/ns/a/vpcingresspoint/b/",
            "spiffe://other/ns/a/vpcingresspoint/b",
            "spiffe://masque-gateway/ns/A/vpcingresspoint/b",
        ] {
            assert!(point_of_uri(wrong).is_err(), "{wrong}");
        }
    }
}
