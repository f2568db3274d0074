//! Snapshots and sessions for tests.

use std::net::Ipv6Addr;

use masque_model::{
    AuthMethods, BridgeMode, Fabric, Listener, ListenerProtocol, ObjectName, SessionLimits, Sid,
    Snapshot, StaticFabric,
};

use super::{SessionInfo, Sessions};

pub(crate) fn point(name: &str) -> ObjectName {
    ObjectName::new("team", name)
}

pub(crate) fn snapshot(name: &str, version: u64) -> Snapshot {
    Snapshot {
        version,
        ingress_point: point(name),
        vpc: point("vpc"),
        listeners: vec![Listener {
            name: "h3".to_owned(),
            protocol: ListenerProtocol::Http3,
            port: 443,
            hostname: None,
            certificates: Vec::new(),
            path_templates: Vec::new(),
        }],
        auth: AuthMethods {
            concealed_key: true,
            client_certificate: false,
        },
        pools: Vec::new(),
        routes: Vec::new(),
        fabric: Fabric::Static(StaticFabric {
            local_sid: Sid(Ipv6Addr::LOCALHOST),
            local_sid_ipv4: None,
            source_address: Ipv6Addr::LOCALHOST,
            routes: Vec::new(),
        }),
        bridge: BridgeMode::Kernel,
        mtu_bytes: None,
        sessions: SessionLimits {
            idle_timeout_ms: 0,
            resume_window_ms: 0,
            address_quarantine_ms: 0,
            max_total: 10,
        },
        attachments: Vec::new(),
        rules: Vec::new(),
        drain_deadline_ms: 0,
    }
}

/// Of the same ingress point and version, with another content.
pub(crate) fn with_content(name: &str, version: u64, content: u64) -> Snapshot {
    Snapshot {
        drain_deadline_ms: content,
        ..snapshot(name, version)
    }
}

pub(crate) fn session(id: u64) -> SessionInfo {
    SessionInfo {
        id,
        attachment: point("attachment"),
        transport: "h3".to_owned(),
        since_unix_s: id,
    }
}

pub(crate) fn sessions(ids: impl IntoIterator<Item = u64>) -> Sessions {
    ids.into_iter().map(|id| (id, session(id))).collect()
}
