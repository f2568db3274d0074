//! The folder that the gateway runs on.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Most rules of one VPCAccessPolicy, as its schema says.
const RULES_OF_A_POLICY: usize = 64;
const API: &str = "apiVersion: networking.datumapis.com/v1alpha1";

/// Written manifests.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    pub(crate) folder: PathBuf,
}

impl Manifests {
    /// One VPC, one connector with the public key `id` (hexadecimal), and `rules` rules of which
    /// only two let the traffic of this program pass.
    pub(crate) fn write(folder: &Path, id: &str, rules: u32) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        let files = [
            ("vpc.yaml", vpc()),
            ("connector.yaml", connector(id)),
            ("policies.yaml", policies(rules)),
        ];
        for (name, text) in files {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Failure::file(&path))?;
        }
        Ok(Self {
            folder: folder.into(),
        })
    }
}

fn vpc() -> String {
    format!(
        "{API}
kind: VPCIngressPoint
metadata: {{name: bench}}
spec:
  vpcRef: {{name: bench-vpc}}
  listeners:
    - {{name: public, protocol: HTTP3, port: 4433}}
  addressPools:
    - cidr: 10.40.0.0/24
    - cidr: fd20:40:0:100::/64
  routes: [10.40.1.0/24, \"fd20:40:0:1::/64\"]
  fabric:
    provider: Static
    static:
      localSID: \"fd00:0:1:3:e001::\"
      localSIDIPv4: \"fd00:0:1:3:d001::\"
      sourceAddress: \"fd00:0:1:3::1\"
      routes:
        - {{prefix: 10.40.1.0/24, sid: \"fd00:0:1:1:d001::\"}}
        - {{prefix: \"fd20:40:0:1::/64\", sid: \"fd00:0:1:1:e001::\"}}
"
    )
}

fn connector(id: &str) -> String {
    format!(
        "{API}
kind: Connector
metadata: {{name: bench}}
spec: {{connectorClassName: datum-connect}}
status: {{connectionDetails: {{type: PublicKey, publicKey: {{id: \"{id}\"}}}}}}
---
{API}
kind: ConnectorAttachment
metadata: {{name: bench}}
spec:
  connectorRef: {{name: bench}}
  vpcRef: {{name: bench-vpc}}
"
    )
}

/// Rules in policies of [`RULES_OF_A_POLICY`]. The two that matter come first and last: their order
/// has no meaning, and a matcher that goes through them one by one would show.
fn policies(rules: u32) -> String {
    let rules = rules.max(2);
    let mut all = vec![
        "    - {name: ping-and-iperf, ports: [{protocol: ICMP}, {protocol: TCP, port: 5201}]}"
            .to_owned(),
    ];
    for i in 0..rules - 2 {
        let (a, b) = (i / 250 % 250, i % 250);
        let (action, port) = (
            if i % 4 == 0 { "Deny" } else { "Allow" },
            10_000 + i % 20_000,
        );
        all.push(format!(
            "    - {{name: r{i}, action: {action}, prefixes: [{{cidr: 10.41.{a}.{b}/32}}], \
             ports: [{{protocol: TCP, port: {port}}}]}}"
        ));
    }
    all.push("    - {name: echo-and-sink, ports: [{protocol: UDP, port: 7007}, {protocol: UDP, port: 7008}]}".into());
    let mut text = String::new();
    for (i, rules) in all.chunks(RULES_OF_A_POLICY).enumerate() {
        let _ = write!(
            text,
            "---\n{API}\nkind: VPCAccessPolicy\nmetadata: {{name: p{i}}}\nspec:\n  \
             targetRefs: [{{kind: VPCIngressPoint, name: bench}}]\n  rules:\n{}\n",
            rules.join("\n")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_as_many_rules_as_asked_in_policies_of_legal_size() {
        let text = policies(1000);
        assert_eq!(text.matches("- {name: ").count(), 1000);
        assert_eq!(text.matches("kind: VPCAccessPolicy").count(), 16);
        for policy in text.split("---").skip(1) {
            assert!(policy.matches("- {name: ").count() <= RULES_OF_A_POLICY);
        }
        assert!(text.contains("port: 5201") && text.contains("port: 7007"));
    }
}
