//! A protocol by name or by number.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The protocols that have names.
pub const PROTOCOL_PATTERN: &str = "^(TCP|UDP|SCTP|ICMP|Any)$";

/// A protocol by name or by number.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum PortProtocol {
    /// By name.
    Name(ProtocolName),
    /// By IANA protocol number.
    Number(u8),
}

/// The protocols that have names here.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolName {
    /// Protocol 6.
    TCP,
    /// Protocol 17.
    UDP,
    /// Protocol 132.
    SCTP,
    /// Protocol 1 in IPv4 and 58 in IPv6.
    ICMP,
    /// Every protocol.
    Any,
}

impl JsonSchema for PortProtocol {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "PortProtocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": PROTOCOL_PATTERN,
            "minimum": 0,
            "maximum": 255,
        })
    }
}
