//! The folder that the gateway runs on.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Client addresses: room for more sessions than any run asks for.
pub(crate) const POOL: &str = "10.40.128.0/17";
/// Most rules of one VPCAccessPolicy, as its schema says.
const RULES_OF_A_POLICY: usize = 64;
/// Policies in one file, and connectors in one: files have a largest size.
const POLICIES_OF_A_FILE: usize = 50;
const CONNECTORS_OF_A_FILE: usize = 250;
const API: &str = "apiVersion: networking.datumapis.com/v1alpha1";
/// Where the gateway puts the authority of a certificate it made itself.
const DEVELOPMENT_CA: &str = ".state/development-tls/ca.crt";
/// The policy that lets pings and the sink through, apart so that it can be edited alone.
const ECHO_FILE: &str = "policy-echo.yaml";
/// Rules that are not fillers.
const REAL_RULES: u32 = 2;

/// Written manifests.
#[derive(Clone, Debug)]
pub(crate) struct Manifests {
    pub(crate) folder: PathBuf,
}

impl Manifests {
    /// One VPC, a connector for each public key (hexadecimal), and `rules` rules of which only two
    /// let the traffic of this program pass.
    pub(crate) fn write(folder: &Path, connectors: &[String], rules: u32) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(Failure::file(folder))?;
        let manifests = Self {
            folder: folder.into(),
        };
        manifests.put("vpc.yaml", &vpc())?;
        for (i, ids) in connectors.chunks(CONNECTORS_OF_A_FILE).enumerate() {
            let first = i * CONNECTORS_OF_A_FILE;
            let text: String = ids
                .iter()
                .enumerate()
                .map(|(n, id)| connector(first + n, id))
                .collect();
            manifests.put(&format!("connectors-{i}.yaml"), &text)?;
        }
        manifests.allow_echo(true)?;
        manifests.set_rules(rules)?;
        Ok(manifests)
    }

    /// Replaces the fillers; what the real rules allow stays.
    pub(crate) fn set_rules(&self, rules: u32) -> Result<(), Failure> {
        let fillers = fillers(rules.saturating_sub(REAL_RULES));
        let policies: Vec<String> = fillers
            .chunks(RULES_OF_A_POLICY)
            .enumerate()
            .map(|(i, rules)| policy(&format!("filler-{i}"), rules))
            .collect();
        let files: Vec<String> = policies
            .chunks(POLICIES_OF_A_FILE)
            .map(|p| p.concat())
            .collect();
        let name = |i| format!("policies-{i}.yaml");
        for (i, text) in files.iter().enumerate() {
            self.put(&name(i), text)?;
        }
        for i in files.len().. {
            if fs::remove_file(self.folder.join(name(i))).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Lets the echo and the sink through, or not.
    pub(crate) fn allow_echo(&self, allowed: bool) -> Result<(), Failure> {
        let mut rules = vec![
            "    - {name: ping-and-iperf, ports: [{protocol: ICMP}, {protocol: TCP, port: 5201, endPort: 5202}]}"
                .to_owned(),
        ];
        if allowed {
            rules.push(
                "    - {name: echo-and-sink, ports: [{protocol: UDP, port: 7007}, {protocol: UDP, port: 7008}]}".into(),
            );
        }
        self.put(ECHO_FILE, &policy("traffic", &rules))
    }

    /// The authority to give to clients.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.join(DEVELOPMENT_CA)
    }

    /// Replaces a file whole: the gateway may be reading.
    fn put(&self, name: &str, text: &str) -> Result<(), Failure> {
        let (path, new) = (self.folder.join(name), self.folder.with_extension("new"));
        fs::write(&new, text).map_err(Failure::file(&new))?;
        fs::rename(&new, &path).map_err(Failure::file(&path))
    }
}

fn vpc() -> String {
    format!(
        "{API}
kind: VPCIngressPoint
metadata: {{name: bench}}
spec:
  vpcRef: {{name: {}}}
  listeners:
    - {{name: public, protocol: HTTP3, port: 4433}}
  addressPools:
    - cidr: {POOL}
    - cidr: fd20:40:0:100::/64
  routes: [10.40.1.0/24, 10.41.0.0/16, \"fd20:40:0:1::/64\"]
  sessions: {{maxTotal: 100000}}
  fabric:
    provider: Static
    static:
      localSID: \"fd00:0:1:3:e001::\"
      localSIDIPv4: \"fd00:0:1:3:d001::\"
      sourceAddress: \"fd00:0:1:3::1\"
      routes:
        - {{prefix: 10.40.1.0/24, sid: \"fd00:0:1:1:d001::\"}}
        - {{prefix: 10.41.0.0/16, sid: \"fd00:0:1:1:d001::\"}}
        - {{prefix: \"fd20:40:0:1::/64\", sid: \"fd00:0:1:1:e001::\"}}
",
        super::VPC
    )
}

fn connector(number: usize, id: &str) -> String {
    format!(
        "---
{API}
kind: Connector
metadata: {{name: c{number}}}
spec: {{connectorClassName: datum-connect}}
status: {{connectionDetails: {{type: PublicKey, publicKey: {{id: \"{id}\"}}}}}}
---
{API}
kind: ConnectorAttachment
metadata: {{name: c{number}}}
spec:
  connectorRef: {{name: c{number}}}
  vpcRef: {{name: {}}}
",
        super::VPC
    )
}

/// Rules about other addresses and ports than ours.
fn fillers(count: u32) -> Vec<String> {
    let filler = |i: u32| {
        let (a, b) = (i / 250 % 250, i % 250);
        let (action, port) = (
            if i.is_multiple_of(4) { "Deny" } else { "Allow" },
            10_000 + i % 20_000,
        );
        let name = i as usize % RULES_OF_A_POLICY;
        format!(
            "    - {{name: r{name}, action: {action}, prefixes: [{{cidr: 10.41.{a}.{b}/32}}], \
             ports: [{{protocol: TCP, port: {port}}}]}}"
        )
    };
    (0..count).map(filler).collect()
}

fn policy(name: &str, rules: &[String]) -> String {
    let mut text = String::new();
    let _ = write!(
        text,
        "---\n{API}\nkind: VPCAccessPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
         targetRefs: [{{kind: VPCIngressPoint, name: bench}}]\n  rules:\n{}\n",
        rules.join("\n")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path, what: &str) -> usize {
        let files = fs::read_dir(folder)
            .unwrap()
            .map(|f| f.unwrap().path())
            .filter(|p| p.is_file());
        files
            .map(|f| fs::read_to_string(f).unwrap().matches(what).count())
            .sum()
    }

    #[test]
    fn has_as_many_rules_as_asked_in_policies_of_legal_size() {
        let folder = std::env::temp_dir().join(format!("masque-perf-test-{}", std::process::id()));
        let manifests = Manifests::write(&folder, &["ab".repeat(32)], 10_000).unwrap();
        assert_eq!(
            count(&folder, "- {name: r") + count(&folder, "-and-"),
            10_000
        );
        manifests.set_rules(66).unwrap();
        assert_eq!(count(&folder, "kind: VPCAccessPolicy"), 2);
        assert_eq!(count(&folder, "port: 7007"), 1);
        manifests.allow_echo(false).unwrap();
        assert_eq!(count(&folder, "port: 7007"), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
