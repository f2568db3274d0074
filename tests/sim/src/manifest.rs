//! The manifests that the gateway runs on.

use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, FabricRoute, Mode, ObjectName, Rule, SessionLimits, Snapshot,
    StaticFabric,
};

/// What VPC number `index` runs on, with these clients.
pub(crate) fn snapshot(index: usize, vpc: &str, clients: &[(usize, ConnectorKey)]) -> Snapshot {
    let name = |name: &str| ObjectName::new("default", name);
    let routes = vec![
        "10.0.0.0/16".parse().unwrap(),
        format!("fd20:{}::/32", index + 1).parse().unwrap(),
    ];
    let pool = |prefix: String| AddressPool {
        prefix: prefix.parse().unwrap(),
        reserved: Vec::new(),
    };
    let attachment = |(number, key): &(usize, ConnectorKey)| Attachment {
        name: name(&format!("client-{number}")),
        connector: format!("client-{number}"),
        key: *key,
        ipv4: true,
        ipv6: true,
        addresses: Vec::new(),
        routes: routes.clone(),
        suspended: false,
        limits: AttachmentLimits {
            sessions: 4,
            bits_per_second: None,
        },
    };
    Snapshot {
        version: 1,
        ingress_point: name(vpc),
        vpc: name(vpc),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![
            pool("10.0.100.0/24".to_owned()),
            pool(format!("fd20:{}:0:100::/64", index + 1)),
        ],
        routes: routes.clone(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: format!("fd00:0:1:3:e00{}::", index + 1).parse().unwrap(),
            local_sid_ipv4: None,
            source_address: "fd00:0:1:3::1".parse().unwrap(),
            routes: vec![FabricRoute {
                prefix: "10.0.1.0/24".parse().unwrap(),
                sid: "fd00:0:1:1:e001::".parse().unwrap(),
            }],
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 600_000,
            resume_window_ms: 3_600_000,
            address_quarantine_ms: 600_000,
            max_total: 100,
        },
        attachments: clients.iter().map(attachment).collect(),
        rules: vec![allow_all()],
        drain_deadline_ms: 1000,
    }
}

/// Clients may open anything.
pub fn allow_all() -> Rule {
    Rule {
        policy: ObjectName::new("default", "all"),
        name: "all".to_owned(),
        mode: Mode::Enforce,
        action: Action::Allow,
        direction: Direction::ToVpc,
        attachments: AttachmentSet::All,
        prefixes: Vec::new(),
        ports: Vec::new(),
        not_after_unix_s: None,
    }
}
