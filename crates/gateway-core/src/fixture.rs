//! Snapshots and sessions for tests.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use masque_model::{
    Action, AddressPool, Attachment, AttachmentLimits, AttachmentSet, AuthMethods, BridgeMode,
    ConnectorKey, Direction, Fabric, FabricRoute, Listener, ListenerProtocol, Mode, ObjectName,
    PortMatch, PrefixMatch, ProtocolMatch, Rule, SessionLimits, Sid, Snapshot, StaticFabric,
};

use crate::registry::{AdmitRequest, Scope};

pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn key(number: u32) -> ConnectorKey {
    let mut bytes = [0; 32];
    // The first eight bytes choose the place in a pool.
    bytes[4..8].copy_from_slice(&number.to_be_bytes());
    bytes[31] = 1;
    ConnectorKey::from_bytes(bytes)
}

pub(crate) fn attachment(number: u32) -> Attachment {
    Attachment {
        name: name(&format!("attachment-{number}")),
        connector: format!("connector-{number}"),
        key: key(number),
        ipv4: true,
        ipv6: true,
        addresses: Vec::new(),
        routes: vec![net("10.0.0.0/16"), net("fd00:1::/32")],
        suspended: false,
        limits: AttachmentLimits {
            sessions: 4,
            bits_per_second: None,
        },
    }
}

pub(crate) fn pool(prefix: &str) -> AddressPool {
    AddressPool {
        prefix: net(prefix),
        reserved: Vec::new(),
    }
}

/// An ingress point `<vpc>-gateway` of the VPC with attachments 1 to `attachments` that may open
/// everything. Gateway addresses 10.200.0.1 and fd00:200::1; attachment 5 gets 10.200.0.5 and
/// fd00:200::5.
pub(crate) fn snapshot(vpc: &str, attachments: u32) -> Snapshot {
    Snapshot {
        version: 1,
        ingress_point: name(&format!("{vpc}-gateway")),
        vpc: name(vpc),
        listeners: vec![Listener {
            name: "h3".into(),
            protocol: ListenerProtocol::Http3,
            port: 443,
            hostname: None,
            certificates: Vec::new(),
            path_templates: Vec::new(),
        }],
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: true,
        },
        pools: vec![pool("10.200.0.0/24"), pool("fd00:200::/120")],
        routes: vec![net("10.0.0.0/16"), net("fd00:1::/32")],
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid("2001:db8:ff03:1:e001::".parse().unwrap()),
            local_sid_ipv4: None,
            source_address: "2001:db8:ff03:1::1".parse().unwrap(),
            routes: vec![FabricRoute {
                prefix: net("10.0.0.0/16"),
                sid: Sid("2001:db8:ff03:3:e02a::".parse().unwrap()),
            }],
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 60_000,
            resume_window_ms: 30_000,
            address_quarantine_ms: 10_000,
            max_total: 100,
        },
        attachments: (1..=attachments).map(attachment).collect(),
        rules: vec![rule("all", Action::Allow, Direction::ToVpc)],
        drain_deadline_ms: 0,
    }
}

pub(crate) fn rule(rule: &str, action: Action, direction: Direction) -> Rule {
    Rule {
        policy: name("policy"),
        name: rule.into(),
        mode: Mode::Enforce,
        action,
        direction,
        attachments: AttachmentSet::All,
        prefixes: Vec::new(),
        ports: Vec::new(),
        not_after_unix_s: None,
    }
}

pub(crate) fn prefixes(texts: &[&str]) -> Vec<PrefixMatch> {
    texts
        .iter()
        .map(|text| PrefixMatch {
            prefix: net(text),
            except: Vec::new(),
        })
        .collect()
}

pub(crate) fn port(protocol: u8, port: u16) -> PortMatch {
    PortMatch {
        protocol: ProtocolMatch::Number(protocol),
        ports: Some((port, port)),
    }
}

/// A scope without bounds.
pub(crate) static ANY: Scope = Scope {
    targets: None,
    protocol: None,
};

pub(crate) fn request(number: u32, shard: u16) -> AdmitRequest<'static> {
    AdmitRequest {
        key: key(number),
        vpc: None,
        listener: None,
        scope: &ANY,
        shard,
        ipv4: true,
        ipv6: true,
    }
}

/// The same Snapshot as its next version.
pub(crate) fn next(snapshot: &Snapshot, edit: impl FnOnce(&mut Snapshot)) -> Arc<Snapshot> {
    let mut next = snapshot.clone();
    next.version += 1;
    edit(&mut next);
    Arc::new(next)
}
