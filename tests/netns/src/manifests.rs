//! The manifests a gateway runs on, as data; written whole, each file by a rename.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// Rules of production that most tests use: the ports 80 and 8080 and echo from clients, port 7000
/// to them, and port 9999 denied.
pub const PRODUCTION_RULES: &[&str] = &[
    "{name: web, ports: [{protocol: TCP, port: 80}, {protocol: TCP, port: 8080}]}",
    "{name: ping, ports: [{protocol: ICMP}]}",
    "{name: callback, direction: FromVPC, ports: [{protocol: TCP, port: 7000}]}",
    "{name: no-debugger, action: Deny, ports: [{protocol: TCP, port: 9999}]}",
];
const GROUP: &str = "apiVersion: networking.datumapis.com/v1alpha1";

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// Where they are written.
    pub dir: PathBuf,
    /// Public keys by the connector's name.
    pub connectors: BTreeMap<String, String>,
    /// Who is attached to what.
    pub attachments: Vec<Attachment>,
    /// One for each VPC, production first.
    pub points: Vec<IngressPoint>,
}

/// A ConnectorAttachment.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// Name of the connector.
    pub connector: String,
    /// Name of the VPC.
    pub vpc: String,
    /// Further lines of the spec, each one flow of YAML such as `suspend: true`.
    pub more: Vec<String>,
}

/// A VPCIngressPoint and its VPCAccessPolicy.
#[derive(Clone, Debug)]
pub struct IngressPoint {
    /// `production` or `staging`; the VPC is `NAME-vpc`.
    pub name: String,
    /// 1 or 2: the argument of its SIDs, and a tenth of the second group of its prefixes.
    pub number: u16,
    /// UDP port of the listener.
    pub port: u16,
    /// Name of the listener's certificate; one for development without.
    pub certificate: Option<String>,
    /// The pools' prefixes.
    pub pools: Vec<String>,
    /// Prefixes that clients get routes for, beside those of the nodes.
    pub routes: Vec<String>,
    /// The policy's rules, each one flow of YAML; no policy without any.
    pub rules: Vec<String>,
    /// One SID for both families (End.DT46) instead of one for each.
    pub one_sid: bool,
    /// Fields of `sessions`, each one flow of YAML such as `maxTotal: 1`.
    pub sessions: Vec<String>,
    /// How long a drain waits for clients, in seconds.
    pub drain_s: u32,
}

impl Manifests {
    /// Production and staging, to which nobody is attached yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            connectors: BTreeMap::new(),
            attachments: Vec::new(),
            points: vec![
                IngressPoint::new("production", 1),
                IngressPoint::new("staging", 2),
            ],
        }
    }

    /// Attaches a connector to a VPC.
    pub fn attach(&mut self, connector: &str, vpc: &str) -> &mut Attachment {
        self.attachments.push(Attachment {
            connector: connector.to_owned(),
            vpc: vpc.to_owned(),
            more: Vec::new(),
        });
        self.attachments.last_mut().expect("just pushed")
    }

    /// The ingress point of production.
    pub fn production(&mut self) -> &mut IngressPoint {
        &mut self.points[0]
    }

    /// The authority of the certificate that a gateway makes when it was given none.
    pub fn development_ca(&self) -> PathBuf {
        self.dir.join(".state/development-tls/ca.crt")
    }

    /// Writes every file.
    #[track_caller]
    pub fn write(&self) {
        let mut connectors = String::new();
        for (name, id) in &self.connectors {
            write!(
                connectors,
                "---\n{GROUP}\nkind: Connector\nmetadata: {{name: {name}}}\n\
                 spec: {{connectorClassName: datum-connect}}\n\
                 status: {{connectionDetails: {{type: PublicKey, publicKey: {{id: \"{id}\"}}}}}}\n"
            )
            .expect("a string grows");
        }
        let mut attachments = String::new();
        for attachment in &self.attachments {
            attachments.push_str(&attachment.yaml());
        }
        self.replace("connectors.yaml", &connectors);
        self.replace("attachments.yaml", &attachments);
        for point in &self.points {
            self.replace(&format!("{}.yaml", point.name), &point.yaml());
            self.replace(&format!("{}-policy.yaml", point.name), &point.policy_yaml());
        }
    }

    /// Writes one file whole.
    #[track_caller]
    pub fn replace(&self, name: &str, text: &str) {
        fs::create_dir_all(&self.dir).expect("the folder of manifests");
        let beside = self.dir.join(format!(".{name}"));
        fs::write(&beside, text).expect("a manifest");
        fs::rename(beside, self.dir.join(name)).expect("a manifest in its place");
    }
}

impl Attachment {
    fn yaml(&self) -> String {
        let Self {
            connector,
            vpc,
            more,
        } = self;
        let mut text = format!(
            "---\n{GROUP}\nkind: ConnectorAttachment\nmetadata: {{name: {connector}-{vpc}}}\nspec:\n  \
             connectorRef: {{name: {connector}}}\n  vpcRef: {{name: {vpc}}}\n"
        );
        for line in more {
            writeln!(text, "  {line}").expect("a string grows");
        }
        text
    }
}

impl IngressPoint {
    fn new(name: &str, number: u16) -> Self {
        Self {
            name: name.to_owned(),
            number,
            port: 4433,
            certificate: None,
            pools: vec![
                "10.0.100.0/24".to_owned(),
                format!("\"fd20:{number}0:0:100::/64\""),
            ],
            routes: Vec::new(),
            rules: PRODUCTION_RULES.iter().map(|&r| r.to_owned()).collect(),
            one_sid: false,
            sessions: Vec::new(),
            drain_s: 5,
        }
    }

    fn yaml(&self) -> String {
        let Self {
            name,
            number,
            port,
            drain_s,
            ..
        } = self;
        let tls = self
            .certificate
            .as_ref()
            .map_or_else(String::new, |certificate| {
                format!(", tls: {{certificateRefs: [{{name: {certificate}}}]}}")
            });
        let pools: String = self.pools.iter().fold(String::new(), |text, cidr| {
            text + "    - {cidr: " + cidr + "}\n"
        });
        let routes: String = self
            .routes
            .iter()
            .fold(String::new(), |text, cidr| text + "    - " + cidr + "\n");
        let ipv4 = if self.one_sid { 'e' } else { 'd' };
        let local = if self.one_sid {
            String::new()
        } else {
            format!("      localSIDIPv4: \"fd00:0:1:3:d00{number}::\"\n")
        };
        let sessions = self.sessions.join(", ");
        format!(
            "{GROUP}
kind: VPCIngressPoint
metadata: {{name: {name}}}
spec:
  vpcRef: {{name: {name}-vpc}}
  listeners:
    - {{name: public, protocol: HTTP3, port: {port}{tls}}}
  addressPools:
{pools}  routes:
    - 10.0.1.0/24
    - 10.0.2.0/24
    - fd20:{number}0:0:1::/64
    - fd20:{number}0:0:2::/64
{routes}  fabric:
    provider: Static
    static:
      localSID: \"fd00:0:1:3:e00{number}::\"
{local}      sourceAddress: fd00:0:1:3::1
      routes:
        - {{prefix: 10.0.1.0/24, sid: \"fd00:0:1:1:{ipv4}00{number}::\"}}
        - {{prefix: \"fd20:{number}0:0:1::/64\", sid: \"fd00:0:1:1:e00{number}::\"}}
        - {{prefix: 10.0.2.0/24, sid: \"fd00:0:1:2:{ipv4}00{number}::\"}}
        - {{prefix: \"fd20:{number}0:0:2::/64\", sid: \"fd00:0:1:2:e00{number}::\"}}
  sessions: {{{sessions}}}
  drain: {{deadline: {drain_s}s}}
"
        )
    }

    fn policy_yaml(&self) -> String {
        if self.rules.is_empty() {
            return String::new();
        }
        let name = &self.name;
        let rules = self
            .rules
            .iter()
            .fold(String::new(), |text, rule| text + "    - " + rule + "\n");
        format!(
            "{GROUP}\nkind: VPCAccessPolicy\nmetadata: {{name: {name}}}\nspec:\n  \
             targetRefs: [{{kind: VPCIngressPoint, name: {name}}}]\n  rules:\n{rules}"
        )
    }
}
