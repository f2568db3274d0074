//! What a gateway runs, for tests of those that run it.

use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, Mode, ObjectName, Rule, SessionLimits, Sid, Snapshot,
    StaticFabric,
};

/// The key of the attachment of this number.
pub fn key(number: u8) -> ConnectorKey {
    ConnectorKey::from_bytes([number; 32])
}

/// An attachment with one IPv4 address and one session, that may open everything in 10.0.0.0/16.
pub fn attachment(number: u8, address: [u8; 4]) -> Attachment {
    Attachment {
        name: ObjectName::new("default", format!("a{number}")),
        connector: "laptop".to_owned(),
        key: key(number),
        ipv4: true,
        ipv6: false,
        addresses: vec![address.into()],
        routes: vec![net("10.0.0.0/16")],
        suspended: false,
        limits: AttachmentLimits {
            sessions: 1,
            bits_per_second: None,
        },
    }
}

/// A rule that allows everything in one direction.
pub fn allow(direction: Direction) -> Rule {
    Rule {
        policy: ObjectName::new("default", "policy"),
        name: "all".to_owned(),
        mode: Mode::Enforce,
        action: Action::Allow,
        direction,
        attachments: AttachmentSet::All,
        prefixes: Vec::new(),
        ports: Vec::new(),
        not_after_unix_s: None,
    }
}

/// An ingress point with the pool 10.200.0.0/24 to a VPC of 10.0.0.0/16. Addresses do not rest.
pub fn snapshot(attachments: Vec<Attachment>, rules: Vec<Rule>) -> Snapshot {
    Snapshot {
        version: 1,
        ingress_point: ObjectName::new("default", "gateway"),
        vpc: ObjectName::new("default", "vpc"),
        listeners: Vec::new(),
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![AddressPool {
            prefix: net("10.200.0.0/24"),
            reserved: Vec::new(),
        }],
        routes: vec![net("10.0.0.0/16")],
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid(address("2001:db8:ff03:1:e001::")),
            local_sid_ipv4: None,
            source_address: address("2001:db8:ff03:1::1"),
            routes: Vec::new(),
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 60_000,
            resume_window_ms: 0,
            address_quarantine_ms: 0,
            max_total: 100,
        },
        attachments,
        rules,
        drain_deadline_ms: 0,
    }
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().expect("a prefix")
}

fn address(text: &str) -> std::net::Ipv6Addr {
    text.parse().expect("an address")
}
