//! The resources that a platform team applies to let a connector in.

use crate::{PublicId, VpcName};

/// A name that Kubernetes accepts (RFC 1123 label): lowercase letters, digits and `-`.
const NAME_MAX_CHARS: usize = 63;

/// What the manifests say.
#[derive(Clone, Debug)]
pub struct ManifestInput<'a> {
    /// Name of the Connector; see [`resource_name`].
    pub connector: &'a str,
    /// The connector's key.
    pub id: PublicId,
    /// The VPC, when an attachment is wanted too.
    pub vpc: Option<&'a VpcName>,
    /// Name of the attachment; [`attachment_name`] when absent.
    pub attachment: Option<&'a str>,
    /// Namespace, when another than kubectl's default.
    pub namespace: Option<&'a str>,
    /// `homeRelay` of the Connector's connection details; the upstream schema requires one.
    pub home_relay: &'a str,
    /// What the attachment may reach; empty: every route of the ingress point.
    pub allowed_routes: &'a [String],
}

/// The Connector, and with a VPC the ConnectorAttachment, as YAML.
pub fn manifests(input: &ManifestInput<'_>) -> String {
    let mut yaml = connector_manifest(input);
    if let Some(vpc) = input.vpc {
        yaml.push_str("---\n");
        yaml.push_str(&attachment_manifest(input, vpc));
    }
    yaml
}

/// The name of a connector's attachment to a VPC unless another is given.
pub fn attachment_name(connector: &str, vpc: &VpcName) -> String {
    format!("{connector}-{}", vpc.name())
}

/// The nearest name that Kubernetes accepts, say for a host name.
pub fn resource_name(text: &str) -> String {
    let mapped: String = text
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(NAME_MAX_CHARS)
        .collect();
    match mapped.trim_matches('-') {
        "" => "connector".to_owned(),
        name => name.to_owned(),
    }
}

/// The Connector as YAML.
pub fn connector_manifest(input: &ManifestInput<'_>) -> String {
    let ManifestInput {
        connector,
        id,
        namespace,
        home_relay,
        ..
    } = input;
    format!(
        "apiVersion: networking.datumapis.com/v1alpha1\n\
         kind: Connector\n\
         {metadata}\
         spec:\n  \
           connectorClassName: datum-connect\n\
         status:\n  \
           connectionDetails:\n    \
             type: PublicKey\n    \
             publicKey: {{id: {id}, homeRelay: \"{home_relay}\", addresses: []}}\n",
        metadata = metadata(connector, *namespace),
    )
}

/// The ConnectorAttachment to `vpc` as YAML.
pub fn attachment_manifest(input: &ManifestInput<'_>, vpc: &VpcName) -> String {
    let ManifestInput {
        connector,
        attachment,
        namespace,
        allowed_routes,
        ..
    } = input;
    let name = attachment.map_or_else(|| attachment_name(connector, vpc), str::to_owned);
    let routes: Vec<String> = allowed_routes
        .iter()
        .map(|route| format!("\"{route}\""))
        .collect();
    format!(
        "apiVersion: networking.datumapis.com/v1alpha1\n\
         kind: ConnectorAttachment\n\
         {metadata}\
         spec:\n  \
           connectorRef: {{name: {connector}}}\n  \
           vpcRef: {vpc_ref}\n  \
           ipAllocation: {{mode: Dynamic}}\n  \
           allowedRoutes: [{routes}]\n",
        metadata = metadata(&name, *namespace),
        vpc_ref = match vpc.namespace() {
            Some(namespace) => format!("{{name: {}, namespace: {namespace}}}", vpc.name()),
            None => format!("{{name: {}}}", vpc.name()),
        },
        routes = routes.join(", "),
    )
}

fn metadata(name: &str, namespace: Option<&str>) -> String {
    match namespace {
        Some(namespace) => format!("metadata: {{name: {name}, namespace: {namespace}}}\n"),
        None => format!("metadata: {{name: {name}}}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConnectorIdentity;

    #[test]
    fn names_become_acceptable() {
        for (given, wanted) in [
            ("developer-laptop", "developer-laptop"),
            ("Ada's MacBook.local", "ada-s-macbook-local"),
            ("..", "connector"),
        ] {
            assert_eq!(resource_name(given), wanted);
        }
        assert_eq!(resource_name(&"x".repeat(100)).len(), NAME_MAX_CHARS);
    }

    #[test]
    fn the_attachment_names_connector_and_vpc() {
        let id = ConnectorIdentity::generate().unwrap().public_id();
        let yaml = manifests(&ManifestInput {
            connector: "laptop",
            id,
            vpc: Some(&"net/production-vpc".parse().unwrap()),
            attachment: None,
            namespace: Some("team"),
            home_relay: "https://relay.datum.net",
            allowed_routes: &["10.0.0.0/16".to_owned()],
        });
        for line in [
            "kind: Connector\nmetadata: {name: laptop, namespace: team}\n".to_owned(),
            format!(
                "publicKey: {{id: {id}, homeRelay: \"https://relay.datum.net\", addresses: []}}"
            ),
            "metadata: {name: laptop-production-vpc, namespace: team}\n".to_owned(),
            "  connectorRef: {name: laptop}\n  vpcRef: {name: production-vpc, namespace: net}\n"
                .to_owned(),
            "  allowedRoutes: [\"10.0.0.0/16\"]\n".to_owned(),
        ] {
            assert!(yaml.contains(&line), "{line:?} is not in\n{yaml}");
        }
        assert_eq!(yaml.matches("apiVersion:").count(), 2);
    }
}
